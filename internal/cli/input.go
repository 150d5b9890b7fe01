package cli

import (
	"errors"
	"os"
)

func inputName(name string) string {
	if name == "-" {
		return "standard input"
	}
	return plain(name)
}

// reason is err without the file name that the operating system adds.
func reason(err error) error {
	if path, ok := errors.AsType[*os.PathError](err); ok {
		return path.Err
	}
	return err
}
