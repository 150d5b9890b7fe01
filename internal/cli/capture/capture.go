// Package capture reads UDP payloads from pcap and pcapng files and from hexadecimal text. It decompresses gzip
// and zstd.
package capture

import (
	"encoding/binary"
	"errors"
	"io"
	"net/netip"

	"weir/internal/cli/flowfile"
	"weir/internal/wire"
)

// A Datagram is one UDP payload of an input.
type Datagram struct {
	Src, Dst netip.AddrPort // zero for hex text; addresses unmapped and without zone
	Time     int64          // capture time, ns since the epoch; 0: unknown, as in hex text
	Payload  []byte         // valid until the next call of Next
	// Bad is the error of a malformed line of hex text, nil for a datagram. Its offset counts octets of the
	// datagram. Payload is empty when Bad is set.
	Bad *wire.Error
}

// Options select the datagrams of an input.
type Options struct {
	Port uint16 // UDP destination port; 0: all. Hex text has no ports: all lines are read
	// Hex reads any input that is not a capture as hex text, without checking that it is text.
	Hex bool
}

// Stats count the packets of a capture, and by cause the packets that did not yield a Datagram.
type Stats struct {
	Packets   int // all packets, including those that yielded a Datagram
	Fragments int // IP fragments that carry UDP; they are not reassembled
	Cut       int // truncated by the snap length of the capture
	Malformed int // UDP whose headers contradict the length of the packet
	OtherPort int // UDP to another port than Options.Port
	OtherLink int // unsupported link type (pcapng: a link type per interface)
	Other     int // other packets that are not UDP
}

// Errors of an input, for errors.Is.
var (
	ErrCut         = flowfile.ErrCut
	ErrFormat      = errors.New("neither pcap, pcapng nor hex text")
	ErrUnsupported = errors.New("not supported")
)

// A Reader streams the datagrams of one input, in its order.
type Reader struct {
	source source
	stats  Stats
}

// A source is a format of input. next returns io.EOF at the end of the input.
type source interface {
	next(d *Datagram, s *Stats) error
}

// Open detects the format of r and reads its header.
func Open(r io.Reader, o Options) (*Reader, error) {
	br, err := flowfile.Open(r)
	if err != nil {
		return nil, err
	}
	head, err := br.Peek(512)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, cut(err)
	}
	var s source
	switch {
	case isPcapng(head):
		s, err = newPcapng(br, o.Port)
	case isPcap(head):
		s, err = newPcap(br, o.Port)
	case o.Hex || isText(head):
		s, err = &hexText{r: br}, nil
	default:
		err = ErrFormat
	}
	if err != nil {
		return nil, err
	}
	return &Reader{source: s}, nil
}

// Next reads the next datagram into d; its payload is valid until the next call. Next returns io.EOF at the end of
// the input, and ErrCut when the file ends inside a packet. It must not be called after an error.
func (r *Reader) Next(d *Datagram) error {
	*d = Datagram{}
	return r.source.next(d, &r.stats)
}

// Stats returns the counters of the packets read so far.
func (r *Reader) Stats() Stats { return r.stats }

// isPcap reports whether head starts a pcap file of either octet order, with a resolution of micro- or
// nanoseconds.
func isPcap(head []byte) bool {
	if len(head) < 4 {
		return false
	}
	for _, magic := range []uint32{0xa1b2c3d4, 0xa1b23c4d} {
		if binary.BigEndian.Uint32(head) == magic || binary.LittleEndian.Uint32(head) == magic {
			return true
		}
	}
	return false
}

// isPcapng reports whether head starts a pcapng section. The block type consists of line ends and could start hex
// text, so the byte-order magic after the block length is checked as well.
func isPcapng(head []byte) bool {
	if len(head) < 4 || binary.BigEndian.Uint32(head) != 0x0a0d0d0a {
		return false
	}
	if len(head) < 12 {
		return !isText(head)
	}
	mark := head[8:12]
	return binary.BigEndian.Uint32(mark) == 0x1a2b3c4d || binary.LittleEndian.Uint32(mark) == 0x1a2b3c4d
}

// isText reports whether head can be hex text: printable ASCII and white space.
func isText(head []byte) bool {
	for _, c := range head {
		if (c < ' ' || c > '~') && !isSpace(c) {
			return false
		}
	}
	return true
}

// cut returns ErrCut for a file that ends inside an element, other errors unchanged.
func cut(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return ErrCut
	}
	return err
}
