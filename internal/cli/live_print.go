package cli

import (
	"bufio"
	"fmt"
	"io"
	"sync"

	"weir/pkg/flowpb"
)

// An outputForm is how connections are printed.
type outputForm uint8

const (
	asBrief     outputForm = iota // a table of what most people ask
	asWide                        // a table of what shows how each came about
	asJSONLines                   // JSON Lines
	asCSV
)

// A livePrinter prints connections as they come. Each batch is written out at
// once.
type livePrinter struct {
	mu     sync.Mutex
	buf    *bufio.Writer
	form   outputForm
	grid   *grid // of a table
	cells  func(*flowpb.Connection) []string
	line   jsonLine
	headed bool
	failed error // of the first write that failed; later ones are not tried
}

func newLivePrinter(w io.Writer, form outputForm) *livePrinter {
	p := &livePrinter{buf: bufio.NewWriterSize(w, 1<<16), form: form}
	switch form {
	case asBrief:
		p.grid, p.cells = newGrid(p.buf, briefColumns, lookOf(w)), brief
	case asWide:
		p.grid, p.cells = newGrid(p.buf, wideColumns, look{colours: lookOf(w).colours}), wide
	case asJSONLines, asCSV:
	}
	return p
}

// begin prints what comes before all connections, once.
func (p *livePrinter) begin() error {
	switch {
	case p.headed:
		return nil
	case p.grid != nil:
		p.headed = true
		return p.grid.head()
	case p.form == asCSV:
		p.headed = true
		return writeCSV(p.buf, csvHead())
	}
	return nil
}

func (p *livePrinter) print(list []*flowpb.Connection) {
	if len(list) > 0 {
		p.write(list)
	}
}

// write is print that prints a head over nothing too.
func (p *livePrinter) write(list []*flowpb.Connection) {
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

func (p *livePrinter) one(c *flowpb.Connection) error {
	switch p.form {
	case asJSONLines:
		p.line = p.line[:0]
		p.line.open('{')
		p.line.fields(c.ProtoReflect(), nil)
		p.line.close('}')
		_, err := p.buf.Write(append(p.line, '\n'))
		return err
	case asCSV:
		return writeCSV(p.buf, csvRow(c))
	case asBrief, asWide:
	}
	return p.grid.row(p.cells(c))
}

// err is what went wrong with the output, if anything.
func (p *livePrinter) err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failed != nil {
		return fmt.Errorf("standard output: %w", p.failed)
	}
	return nil
}
