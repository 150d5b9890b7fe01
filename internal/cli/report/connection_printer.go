package report

import (
	"bufio"
	"fmt"
	"io"
	"sync"

	"weir/internal/cli/console"
	"weir/pkg/flowpb"
)

// A Form is an output format of connections and flows.
type Form uint8

// The output formats.
const (
	Brief     Form = iota // a table of the most used columns
	Wide                  // connections: a table with both directions, state and direction method; flows: all fields
	JSONLines             // a JSON object a line, keys are the names of the protobuf fields
	CSV                   // connections only: RFC 4180 with a header line; lines end with LF instead of CRLF
)

// A ConnectionPrinter prints connections to a writer that the caller owns. It flushes after each batch. Its
// methods may be called concurrently.
type ConnectionPrinter struct {
	mu     sync.Mutex
	buf    *bufio.Writer
	form   Form
	grid   *grid // Brief and Wide only
	cells  func(*flowpb.Connection) []string
	line   jsonLine
	headed bool
	failed error // error of the first failed write; nothing is written after it
}

// NewConnectionPrinter returns a printer to w. On a terminal it prints colours and, in Brief, cuts lines to the
// width of the terminal.
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

// begin prints the header of a table or of CSV before the first connection. p.mu must be held.
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

// Print prints a batch of connections, preceded by the header on the first call. After a failed write it prints
// nothing; the error is returned by Err.
func (p *ConnectionPrinter) Print(list []*flowpb.Connection) {
	if len(list) > 0 {
		p.PrintAll(list)
	}
}

// PrintAll prints like Print, but prints the header even when list is empty.
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
			p.failed = p.printConnection(c)
		}
	}
	if p.failed == nil {
		p.failed = p.buf.Flush()
	}
}

// printConnection prints c in p.form. p.mu must be held.
func (p *ConnectionPrinter) printConnection(c *flowpb.Connection) error {
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

// Err returns the error of the first failed write, nil if all writes succeeded.
func (p *ConnectionPrinter) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failed != nil {
		return fmt.Errorf("standard output: %w", p.failed)
	}
	return nil
}
