package report

import (
	"bufio"
	"fmt"
	"io"
	"sync"

	"weir/internal/cli/console"
	"weir/pkg/flowpb"
)

// A Form is how connections and flows are printed.
type Form uint8

// The forms of output.
const (
	Brief     Form = iota // a table of the columns that most people need
	Wide                  // connections: a table with both directions, state and direction method; flows: all fields
	JSONLines             // a JSON object a line, keys are the names of the protobuf fields
	CSV                   // connections only: RFC 4180 with line feeds and a head
)

// A ConnectionPrinter prints connections. It flushes after each batch. Its methods may be called concurrently.
type ConnectionPrinter struct {
	mu     sync.Mutex
	buf    *bufio.Writer
	form   Form
	grid   *grid // of a table
	cells  func(*flowpb.Connection) []string
	line   jsonLine
	headed bool
	failed error // of the first write that failed; later ones are not tried
}

// NewConnectionPrinter returns a printer to w; a terminal gets colours and, in Brief, lines of its width.
func NewConnectionPrinter(w io.Writer, form Form) *ConnectionPrinter {
	p := &ConnectionPrinter{buf: bufio.NewWriterSize(w, 1<<16), form: form}
	switch form {
	case Brief:
		p.grid, p.cells = newGrid(p.buf, briefColumns, console.LookOf(w)), brief
	case Wide:
		p.grid, p.cells = newGrid(p.buf, wideColumns, console.Look{Colours: console.LookOf(w).Colours}), wide
	case JSONLines, CSV:
	}
	return p
}

// begin prints what comes before all connections, once.
func (p *ConnectionPrinter) begin() error {
	switch {
	case p.headed:
		return nil
	case p.grid != nil:
		p.headed = true
		return p.grid.head()
	case p.form == CSV:
		p.headed = true
		return writeCSV(p.buf, csvHead())
	}
	return nil
}

// Print prints a batch of connections, after the head of a table or CSV for the first one. Once a write has
// failed nothing more is written; see Err.
func (p *ConnectionPrinter) Print(list []*flowpb.Connection) {
	if len(list) > 0 {
		p.PrintAll(list)
	}
}

// PrintAll is Print that prints the head even when list is empty.
func (p *ConnectionPrinter) PrintAll(list []*flowpb.Connection) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failed != nil {
		return
	}
	if p.grid != nil {
		for _, c := range list {
			p.grid.widen(p.cells(c))
		}
	}
	p.failed = p.begin()
	for _, c := range list {
		if p.failed == nil {
			p.failed = p.one(c)
		}
	}
	if p.failed == nil {
		p.failed = p.buf.Flush()
	}
}

func (p *ConnectionPrinter) one(c *flowpb.Connection) error {
	switch p.form {
	case JSONLines:
		p.line = p.line[:0]
		p.line.open('{')
		p.line.fields(c.ProtoReflect(), nil)
		p.line.close('}')
		_, err := p.buf.Write(append(p.line, '\n'))
		return err
	case CSV:
		return writeCSV(p.buf, csvRow(c))
	case Brief, Wide:
	}
	return p.grid.row(p.cells(c))
}

// Err returns the first error of a write.
func (p *ConnectionPrinter) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failed != nil {
		return fmt.Errorf("standard output: %w", p.failed)
	}
	return nil
}
