package console

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"unicode/utf8"

	"golang.org/x/term"
)

// A Progress says on one line what goes on, for people who wait. On a terminal
// the line is written over; elsewhere each new text is a line of its own
// without control characters.
type Progress struct {
	w        io.Writer
	terminal bool
	mu       sync.Mutex
	shown    string // what stands on the line
}

func NewProgress(w io.Writer) *Progress {
	f, ok := w.(*os.File)
	return &Progress{w: w, terminal: ok && term.IsTerminal(int(f.Fd()))}
}

// AppendOnly makes p write each step as a line of its own, also on a terminal: where something else, a
// log, writes there too.
func (p *Progress) AppendOnly() { p.terminal = false }

// Step begins another part of the work: its text stays elsewhere than on a terminal.
func (p *Progress) Step(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	text := Escape(message(format, args))
	if text == p.shown {
		return
	}
	if !p.terminal {
		fmt.Fprintln(p.w, text)
	} else {
		p.over(text)
	}
	p.shown = text
}

// Count brings a number of the current step up to date; shown on a terminal only.
func (p *Progress) Count(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.terminal {
		return
	}
	if text := Escape(message(format, args)); text != p.shown {
		p.over(text)
		p.shown = text
	}
}

// Clear leaves the line free for other output.
func (p *Progress) Clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.terminal && p.shown != "" {
		p.over("")
		fmt.Fprint(p.w, "\r")
	}
	p.shown = ""
}

// over writes text over what is shown.
func (p *Progress) over(text string) {
	blank := max(0, utf8.RuneCountInString(p.shown)-utf8.RuneCountInString(text))
	fmt.Fprintf(p.w, "\r%s%s", text, strings.Repeat(" ", blank))
}
