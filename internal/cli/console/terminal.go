package console

import (
	"io"
	"os"

	"golang.org/x/term"
)

// A Look is what of the output depends on where it goes. Its zero value is that
// of a file or pipe.
type Look struct {
	Width   int  // of a line, characters; 0: any
	Colours bool // of a terminal
}

// LookOf is the look for w: colours and the width only on a terminal, and no
// colours where NO_COLOR is set (no-color.org) or the terminal is dumb.
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

// narrow is a terminal that is better left to break lines than to cut what is in
// their last column, characters.
const narrow = 110
