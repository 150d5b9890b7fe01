// Package elements reads the operator's file of Information Elements
// (ELEMENTS_FILE), which extends the registry of the process.
package elements

import (
	"fmt"
	"os"

	"weir/internal/decode"
	"weir/internal/ie"
)

// Load reads the file and extends the registry of the process. An empty path means no
// file. It must be called once, before the first message is decoded: the decoder reads
// the registry without a lock. An error names the file and every wrong line; then the
// registry is unchanged.
func Load(path string) error {
	if path == "" {
		return nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("elements file: %w", err)
	}
	list, err := ie.ParseExtensions(string(text))
	if err == nil {
		err = decode.CheckExtensions(list)
	}
	if err != nil {
		return fmt.Errorf("elements file %s: %w", path, err)
	}
	ie.Extend(list)
	return nil
}
