package console

import (
	"errors"
	"os"
)

// InputName returns the name of an input for messages, escaped; "-" is standard input.
func InputName(name string) string {
	if name == "-" {
		return "standard input"
	}
	return Escape(name)
}

// WithoutPath returns the cause of an *os.PathError, for messages that name the file themselves; other errors
// are returned unchanged.
func WithoutPath(err error) error {
	if path, ok := errors.AsType[*os.PathError](err); ok {
		return path.Err
	}
	return err
}
