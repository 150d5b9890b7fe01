package capture

import (
	"bufio"
	"errors"
	"io"

	"weir/internal/wire"
)

// maxUDP is the largest UDP payload in octets: the maximum of the 16-bit length minus the header.
const maxUDP = 65535 - 8

// ParseHex appends the octets of hex text to dst. White space is ignored, also between digits. For an invalid
// digit, a last octet of one digit, and more than 65527 octets it returns dst unchanged and an error of cause
// wire.BadHex whose offset counts octets of the result.
func ParseHex(dst, text []byte) ([]byte, *wire.Error) {
	p := hexParser{out: dst, start: len(dst)}
	p.feed(text)
	return p.end()
}

// A hexParser parses hex text that arrives in pieces.
type hexParser struct {
	out   []byte
	start int // index of the first octet in out
	high  byte
	half  bool // high holds the first digit of an octet
	err   *wire.Error
}

func (p *hexParser) feed(text []byte) {
	for _, c := range text {
		if isSpace(c) {
			continue
		}
		v, ok := digit(c)
		switch {
		case p.err != nil:
			return
		case !ok:
			p.fail("hex digit")
		case !p.half && len(p.out)-p.start == maxUDP:
			p.fail("end of the datagram")
		case !p.half:
			p.high, p.half = v, true
		default:
			p.out, p.half = append(p.out, p.high<<4|v), false
		}
	}
}

func (p *hexParser) end() ([]byte, *wire.Error) {
	if p.half && p.err == nil {
		p.fail("second hex digit of an octet")
	}
	if p.err != nil {
		return p.out[:p.start], p.err
	}
	return p.out, nil
}

func (p *hexParser) fail(what string) {
	p.err = &wire.Error{Off: len(p.out) - p.start, What: what, Cause: wire.BadHex}
}

func digit(c byte) (v byte, ok bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10, true
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

func isSpace(c byte) bool {
	return c == ' ' || c == '\t' || c == '\r' || c == '\n' || c == '\v' || c == '\f'
}

// hexText reads hex text as a source. A line is a datagram; an empty line is an empty datagram. A line of any
// length takes bounded memory, since it is parsed in pieces.
type hexText struct {
	r   *bufio.Reader
	buf []byte
}

func (h *hexText) next(d *Datagram, s *Stats) error {
	p := hexParser{out: h.buf[:0]}
	for read := 0; ; {
		part, err := h.r.ReadSlice('\n')
		read += len(part)
		p.feed(part)
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case err == nil, errors.Is(err, io.EOF) && read > 0:
		case errors.Is(err, io.EOF):
			return io.EOF
		default:
			return cut(err)
		}
		s.Packets++
		d.Payload, d.Bad = p.end()
		h.buf = d.Payload
		return nil
	}
}
