// Package capture reads UDP payloads from pcap and pcapng files and from hex
// text. Files compressed with gzip are read as if they were not.
package capture

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"

	"weir/internal/wire"
)

// A Datagram is one UDP payload of an input.
type Datagram struct {
	Src, Dst netip.AddrPort // zero for hex text; addresses unmapped and without zone
	Time     int64          // capture time, ns since the epoch; 0 = unknown, as in hex text
	Payload  []byte         // valid until the next call of Next
	// Bad is why a line of hex text is no datagram: the place is in octets of the
	// datagram it would have been. Payload is then empty. nil otherwise.
	Bad *wire.Error
}

// Options say what of an input is wanted.
type Options struct {
	Port uint16 // UDP destination port; 0 = all. Hex text has no ports and ignores it
	// Hex takes whatever is not a capture as hex text, without asking whether it
	// is text at all.
	Hex bool
}

// Stats count what of a capture did not become a Datagram, in packets.
type Stats struct {
	Packets   int // all packets read, those that became a Datagram among them
	Fragments int // IP fragments that carry UDP; they are not put together
	Cut       int // shorter in the file than on the wire: cut by the snap length
	Malformed int // UDP whose headers contradict the packet's length
	OtherPort int // UDP to another port than Options.Port
	OtherLink int // of a link type that is not supported (pcapng, where each interface has its own)
	Other     int // neither of these and not UDP
}

// Failures of an input, to be found with errors.Is.
var (
	ErrCut         = errors.New("the file is cut")
	ErrFormat      = errors.New("neither pcap, pcapng nor hex text")
	ErrUnsupported = errors.New("not supported")
)

// A Reader streams the datagrams of one input, in its order.
type Reader struct {
	source source
	stats  Stats
}

// A source is one form of input. next returns io.EOF at its end.
type source interface {
	next(d *Datagram, s *Stats) error
}

// Open finds out which form r has and reads its header.
func Open(r io.Reader, o Options) (*Reader, error) {
	br := bufio.NewReaderSize(r, 1<<16)
	if head, _ := br.Peek(2); bytes.Equal(head, []byte{0x1f, 0x8b}) {
		z, err := gzip.NewReader(br)
		if err != nil {
			return nil, fmt.Errorf("gzip header: %w", cut(err))
		}
		br = bufio.NewReaderSize(z, 1<<16)
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

// Next reads the next datagram into d. It returns io.EOF at the end of the
// input, and ErrCut where a file ends inside a packet; what came before was
// sound. After an error it must not be called again.
func (r *Reader) Next(d *Datagram) error {
	*d = Datagram{}
	return r.source.next(d, &r.stats)
}

// Stats is what was left out so far.
func (r *Reader) Stats() Stats { return r.stats }

// isPcap reports whether head starts a pcap file of either octet order, with
// micro- or nanoseconds.
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

// isPcapng reports whether head starts a pcapng section. The block type alone
// would be text: the octet order mark behind the length tells them apart.
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

// isText reports whether head could be hex text: printable ASCII and white space.
func isText(head []byte) bool {
	for _, c := range head {
		if (c < ' ' || c > '~') && !isSpace(c) {
			return false
		}
	}
	return true
}

// cut makes the end of a file in the middle of something an ErrCut.
func cut(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return ErrCut
	}
	return err
}
