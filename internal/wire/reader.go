package wire

import "encoding/binary"

// A Reader is a bounds-checked cursor over a datagram. After its first failure all reads return
// zero values and Err keeps that failure, so a run of fixed fields needs a single check at its end.
// Returned slices alias the datagram. The zero Reader is empty.
type Reader struct {
	buf []byte // the whole datagram: offsets in errors stay absolute
	off int
	end int // exclusive; off <= end <= len(buf)
	err Error
	bad bool
}

// NewReader returns a Reader over all of buf.
func NewReader(buf []byte) Reader { return Reader{buf: buf, end: len(buf)} }

// Off returns the offset of the next octet from the start of the datagram.
func (r *Reader) Off() int { return r.off }

// Len returns the number of octets left.
func (r *Reader) Len() int { return r.end - r.off }

// Err returns the first failure as an *Error, or nil.
func (r *Reader) Err() error {
	if !r.bad {
		return nil
	}
	e := r.err
	return &e
}

// Failure returns the first failure; ok is false if there is none.
func (r *Reader) Failure() (e Error, ok bool) { return r.err, r.bad }

// Fail records a failure at off, unless there is an earlier failure, and skips the remainder.
func (r *Reader) Fail(off int, what string, cause Cause) {
	if !r.bad {
		r.err, r.bad = Error{Off: off, What: what, Cause: cause}, true
	}
	r.off = r.end
}

// Next returns the next n octets without copying them. If fewer are left, it returns nil and fails
// with Short.
func (r *Reader) Next(n int, what string) []byte {
	if n < 0 || n > r.end-r.off {
		r.Fail(r.off, what, Short)
		return nil
	}
	b := r.buf[r.off : r.off+n : r.off+n]
	r.off += n
	return b
}

// Rest returns all octets left.
func (r *Reader) Rest() []byte { return r.Next(r.end-r.off, "") }

// Sub returns a Reader over the next n octets, which r skips. The Reader never reads beyond them.
func (r *Reader) Sub(n int, what string) Reader {
	start := r.off
	if r.Next(n, what) == nil && n != 0 {
		return Reader{buf: r.buf, off: r.off, end: r.off, err: r.err, bad: r.bad}
	}
	return Reader{buf: r.buf, off: start, end: start + n}
}

// Uint8 reads one octet.
func (r *Reader) Uint8(what string) uint8 {
	if b := r.Next(1, what); b != nil {
		return b[0]
	}
	return 0
}

// Uint16 reads two octets.
func (r *Reader) Uint16(what string) uint16 {
	if b := r.Next(2, what); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

// Uint32 reads four octets.
func (r *Reader) Uint32(what string) uint32 {
	if b := r.Next(4, what); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// VarLen reads the length of a variable-length field: an octet, or 255 and two octets (RFC 7011
// section 7).
func (r *Reader) VarLen(what string) int {
	n := int(r.Uint8(what))
	if n == 255 {
		n = int(r.Uint16(what))
	}
	return n
}
