// Package report prints flows, connections and the other records of datagrams as tables, text, JSON Lines and CSV,
// and selects the printed connections and their order. It writes to an io.Writer and must not do other I/O.
package report

import (
	"bufio"
	"io"
	"net/netip"

	"weir/internal/decode"
)

// An Origin describes the datagram that records were decoded from.
type Origin struct {
	Meta     decode.Meta
	Header   decode.Header
	Datagram int // number in the input, from 1
}

// exporterText formats the address of the exporter, "" when it is unknown (datagrams in hexadecimal text).
func exporterText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// A lines writes lines through a buffer and keeps the first error, which Flush returns.
type lines struct{ w *bufio.Writer }

func newLines(w io.Writer) lines { return lines{bufio.NewWriterSize(w, 1<<16)} }

// Flush writes buffered lines.
func (l lines) Flush() error { return l.w.Flush() }
