// Package report prints flows, connections and the other records of datagrams as tables, text, JSON Lines and
// CSV, and selects which connections are printed and in which order. It writes to an io.Writer and does no
// other I/O.
package report

import (
	"bufio"
	"io"
	"net/netip"

	"weir/internal/decode"
)

// An Origin is the datagram that records were decoded from.
type Origin struct {
	Meta     decode.Meta
	Header   decode.Header
	Datagram int // number in the input, from 1
}

// exporterText is the exporter's address, "" when it is not known (hex text).
func exporterText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// A lines writes lines through a buffer and keeps the first failure.
type lines struct{ w *bufio.Writer }

func newLines(w io.Writer) lines { return lines{bufio.NewWriterSize(w, 1<<16)} }

// Flush writes buffered lines.
func (l lines) Flush() error { return l.w.Flush() }
