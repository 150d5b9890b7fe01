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

// A Progress shows the current step of the work. On a terminal it overwrites one line; elsewhere each step is a
// line without control characters. Its methods may be called concurrently.
type Progress struct {
	w        io.Writer
	terminal bool
	mu       sync.Mutex
	shown    string // text on the current line
}

// NewProgress returns a Progress on w, usually standard error.
func NewProgress(w io.Writer) *Progress {
	f, ok := w.(*os.File)
	return &Progress{w: w, terminal: ok && term.IsTerminal(int(f.Fd()))}
}

// AppendOnly makes p print each step as a line on a terminal too. It is for a terminal that a log is written to,
// and must be called before Step and Count.
func (p *Progress) AppendOnly() { p.terminal = false }

// Step shows the next step, formatted as by Linef.
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
		p.overwrite(text)
	}
	p.shown = text
}

// Count updates the text of the current step. It has no effect unless w is a terminal.
func (p *Progress) Count(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.terminal {
		return
	}
	if text := Escape(message(format, args)); text != p.shown {
		p.overwrite(text)
		p.shown = text
	}
}

// Clear empties the line, so that other output can be printed there.
func (p *Progress) Clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.terminal && p.shown != "" {
		p.overwrite("")
		fmt.Fprint(p.w, "\r")
	}
	p.shown = ""
}

// overwrite replaces the shown text by text. p.mu must be held.
func (p *Progress) overwrite(text string) {
	blank := max(0, utf8.RuneCountInString(p.shown)-utf8.RuneCountInString(text))
	fmt.Fprintf(p.w, "\r%s%s", text, strings.Repeat(" ", blank))
}
