package console

import (
	"io"
	"os"

	"golang.org/x/term"
)

// A Look is the width and colours of an output. The zero value is for a file or pipe.
type Look struct {
	Width   int  // of a line, in characters; 0: unlimited
	Colours bool // of a terminal
}

// LookOf returns the Look of w. Only a terminal has a width and colours; it has no colours when NO_COLOR is set
// (no-color.org) or TERM is dumb, and no width below 110 characters.
func LookOf(w io.Writer) Look {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return Look{}
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil || width < narrow {
		width = 0
	}
	return Look{Width: width, Colours: os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"}
}

// narrow is the width in characters below which lines are not cut: on a narrow terminal, wrapped lines are more
// useful than a table without its last column.
const narrow = 110
