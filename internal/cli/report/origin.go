package report

import (
	"bufio"
	"io"
	"net/netip"

	"weir/internal/decode"
)

// An Origin is where a decoding result comes from.
type Origin struct {
	Meta     decode.Meta
	Header   decode.Header
	Datagram int // 1 for the first of the input
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

func (l lines) Flush() error { return l.w.Flush() }
