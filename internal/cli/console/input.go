package console

import (
	"errors"
	"os"
)

func InputName(name string) string {
	if name == "-" {
		return "standard input"
	}
	return Escape(name)
}

// WithoutPath is err without the file name that the operating system adds.
func WithoutPath(err error) error {
	if path, ok := errors.AsType[*os.PathError](err); ok {
		return path.Err
	}
	return err
}
