package cli

import (
	"bufio"
	"fmt"
	"io"
	"sync"

	"weir/pkg/flowpb"
)

// A livePrinter prints connections as they come, as lines of a table or as JSON
// Lines. Each batch is written out at once.
type livePrinter struct {
	mu     sync.Mutex
	w      io.Writer
	buf    *bufio.Writer
	table  *table // nil: JSON Lines
	headed bool
	failed error // of the first write that failed; later ones are not tried
}

func newLivePrinter(w io.Writer, asJSON bool) *livePrinter {
	p := &livePrinter{w: w, buf: bufio.NewWriterSize(w, 1<<16)}
	if !asJSON {
		p.table = newTable(p.buf, nil)
	}
	return p
}

func (p *livePrinter) print(list []*flowpb.Connection) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failed != nil || len(list) == 0 {
		return
	}
	if p.table == nil {
		p.failed = writeConnectionsJSON(p.w, list)
		return
	}
	for _, c := range list {
		cells := row(c)
		p.table.widen(&cells)
	}
	if !p.headed {
		p.headed, p.failed = true, p.table.head()
	}
	for _, c := range list {
		if p.failed == nil {
			p.failed = p.table.row(c)
		}
	}
	if p.failed == nil {
		p.failed = p.buf.Flush()
	}
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
