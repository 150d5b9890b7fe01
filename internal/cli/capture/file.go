package capture

import (
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
)

// Bounds of a capture's content besides packets. A few compressed octets can expand to any number of interfaces.
const (
	maxGap        = 16 << 20 // octets read per packet, including the blocks before it
	maxInterfaces = 65_536
)

// A file is a pcap or pcapng file as a source.
type file struct {
	in         *gapReader
	read       func() ([]byte, gopacket.CaptureInfo, error)
	link       func(gopacket.CaptureInfo) layers.LinkType
	interfaces func() int
	port       uint16
}

// A gapReader reads at most left octets.
type gapReader struct {
	r    io.Reader
	left int
}

var errGap = fmt.Errorf("more than %d MiB without a packet: %w", maxGap>>20, ErrUnsupported)

// Read implements io.Reader.
func (g *gapReader) Read(b []byte) (int, error) {
	if g.left <= 0 {
		return 0, errGap
	}
	n, err := g.r.Read(b[:min(len(b), g.left)])
	g.left -= n
	return n, err
}

func newPcap(r io.Reader, port uint16) (*file, error) {
	in := &gapReader{r, maxGap}
	p, err := pcapgo.NewReader(in)
	if err != nil {
		return nil, fmt.Errorf("pcap header: %w", cut(err))
	}
	// The upper bits of the field hold the length of the frame check sequence; LinkType returns the
	// lower 16 bits.
	if link := p.LinkType(); !supported(link) {
		return nil, fmt.Errorf("link type %d: %w", uint16(link), ErrUnsupported)
	}
	return &file{
		in: in, read: p.ZeroCopyReadPacketData,
		link:       func(gopacket.CaptureInfo) layers.LinkType { return p.LinkType() },
		interfaces: func() int { return 1 },
		port:       port,
	}, nil
}

func newPcapng(r io.Reader, port uint16) (*file, error) {
	in := &gapReader{r, maxGap}
	p, err := pcapgo.NewNgReader(in, pcapgo.NgReaderOptions{WantMixedLinkType: true, SkipUnknownVersion: true})
	if err != nil {
		return nil, fmt.Errorf("pcapng section header: %w", cut(err))
	}
	return &file{
		in: in, read: p.ZeroCopyReadPacketData,
		interfaces: p.NInterfaces,
		link: func(ci gopacket.CaptureInfo) layers.LinkType {
			link, _ := ci.AncillaryData[0].(layers.LinkType)
			return link
		},
		port: port,
	}, nil
}

func (f *file) next(d *Datagram, s *Stats) error {
	for {
		f.in.left = maxGap
		b, ci, err := f.read()
		if n := f.interfaces(); err == nil && n > maxInterfaces {
			err = fmt.Errorf("%d interfaces, more than %d: %w", n, maxInterfaces, ErrUnsupported)
		}
		if err != nil {
			// pcapgo also returns EOF when the file ends after a packet header.
			if errors.Is(err, io.EOF) && ci.CaptureLength == 0 {
				return io.EOF
			}
			if err = cut(err); errors.Is(err, ErrCut) {
				return fmt.Errorf("%w inside packet %d; the packets before it were read", err, s.Packets+1)
			}
			return fmt.Errorf("packet %d: %w", s.Packets+1, err)
		}
		s.Packets++
		switch parseFrame(f.link(ci), b, d) {
		case isUDP:
			if f.port == 0 || d.Dst.Port() == f.port {
				d.Time = unixNano(ci.Timestamp)
				return nil
			}
			s.OtherPort++
		case isFragment:
			s.Fragments++
		case isCut:
			// A packet that the capture truncated is not malformed.
			if ci.CaptureLength < ci.Length {
				s.Cut++
			} else {
				s.Malformed++
			}
		case isMalformed:
			s.Malformed++
		case isOtherLink:
			s.OtherLink++
		case isOther:
			s.Other++
		}
	}
}

// unixNano returns t in ns since the epoch, 0 for an unknown time (the zero time of a pcapng simple packet block)
// and for a time out of range.
func unixNano(t time.Time) int64 {
	if sec := t.Unix(); sec < 0 || sec >= math.MaxInt64/int64(time.Second) {
		return 0
	}
	return t.UnixNano()
}
