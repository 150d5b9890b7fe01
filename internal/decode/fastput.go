package decode

import (
	"encoding/binary"
	"math/bits"
)

// A window is an array over a record and its surroundings; an outWindow is an array over the message that
// is being written. They are arrays with a power of two as the limit of an index, so that an access
// at a masked index needs no bounds check. A window begins 8 octets before its record:
//
//	record offset               0         off       end
//	              +-------------+---------+---------+------+----------------+
//	in            |  margin, 8  |         | integer | rest |  margin, >= 24 |
//	              +-------------+---------+---------+------+----------------+
//	window index  0             8       off+8     end+8
//
//	in[off+8]      the first octet of a field that begins at record offset off
//	in[end+7]      the last octet of a field that ends before record offset end
//	in[end:end+8]  the 8 octets before record offset end: integer(end). The low octets are the
//	               field, however many it has; load.mask clears the octets of earlier fields, or
//	               of the margin.
//
// Example: srcPort, 2 octets at record offset 12: end = 14, in[14:22] holds record octets 6 to 13,
// and mask = 0xffff keeps 12 and 13.
//
// inMask and outMask must not change a valid index: they only prove to the compiler that the access
// is within the array. The margins behind the limit (24 and 64 octets) hold the widest load and store
// at the last index, so stores may write more octets than they keep.
type (
	window    [maxFastIn + 1 + 24]byte
	outWindow [maxFastOut + 1 + 64]byte
)

const (
	inMask  = maxFastIn
	outMask = maxFastOut
)

var (
	le = binary.LittleEndian
	be = binary.BigEndian
)

// Tables by the bit length of a value. cont0, cont1 and cont2 hold the continuation bits of its
// varint, shifted by a tag of 0, 1 or 2 octets. size0, size1 and size2 hold the octets of tag and
// varint. All are 0 for the value 0: proto3 omits it.
var (
	cont1, cont2, cont0 [65]uint64
	size1, size2, size0 [65]uint8
	// octetField holds, for a one-octet value, its varint shifted by a tag of two octets, and in
	// the top octet the number of octets of tag and varint.
	octetField [256]uint64
)

func init() {
	for l := 1; l <= 56; l++ {
		n := (l + 6) / 7
		c := uint64(0x8080808080808080) & (1<<(8*(n-1)) - 1)
		cont0[l], cont1[l], cont2[l] = c, c<<8, c<<16
		size0[l], size1[l], size2[l] = uint8(n), uint8(n+1), uint8(n+2)
	}
	for v := uint64(1); v < 256; v++ {
		x, n := v, uint64(1)
		if v >= 128 {
			x, n = v|1<<8, 2
		}
		octetField[v] = x<<16 | (n+2)<<56
	}
}

// spread32 moves the 7-bit groups of v, which must be below 2^32, into one octet each.
// Example, dstPort 443 as field 22:
//
//	443 =  11 0111011        7-bit groups, the lowest last
//	spread32(443)   = 0x033b      octets 3b 03, in the order of the message
//	cont2[9] >> 16  = 0x0080      9 bits take two octets; all but the last have the top bit
//	tag             = 0x01b0      22<<3 as a varint: b0 01
//	written         b0 01 bb 03   size2[9] = 4 octets
//
// The store always writes 8 octets; the next field overwrites the unused ones.
func spread32(v uint64) uint64 {
	h := v & 0xf0000000
	v += h<<4 - h
	h = v & 0x0fffc000
	v += h * 3
	return v + v&0x3f803f80
}

// spread56 is spread32 for values below 2^56.
func spread56(v uint64) uint64 {
	h := v & 0x00fffffff0000000
	v += h<<4 - h
	h = v & 0x0fffc0000fffc000
	v += h * 3
	return v + v&0x3f803f803f803f80
}

// integer returns the 8 octets of the record that end at offset end, big-endian. The caller must
// mask off the octets that precede its field.
func (in *window) integer(end uint16) uint64 { return be.Uint64(in[end&inMask:]) }

// Tags of varint fields, two octets each, as tagOf computes them.
const (
	recordOffsetTag = uint16(fRecordOffset<<3&0x7f | 0x80 | fRecordOffset>>4<<8)
	startTag        = uint16(fStart<<3&0x7f | 0x80 | fStart>>4<<8)
	endTag          = uint16(fEnd<<3&0x7f | 0x80 | fEnd>>4<<8)
	sourceTag       = uint16(fTimeSource<<3&0x7f | 0x80 | fTimeSource>>4<<8)
	resolutionTag   = uint16(fResolution<<3&0x7f | 0x80 | fResolution>>4<<8)
	icmpTypeTag     = uint16(fICMPType<<3&0x7f | 0x80 | fICMPType>>4<<8)
	icmpCodeTag     = uint16(fICMPCode<<3&0x7f | 0x80 | fICMPCode>>4<<8)
	directionTag    = uint16(fDirection<<3&0x7f | 0x80 | fDirection>>4<<8)
	etherTypeTag    = uint16(fEtherType<<3&0x7f | 0x80 | fEtherType>>4<<8)
)

// putTimes writes start and end, both in ns since the epoch. From 1972 to 2262 a time is a varint of nine octets, the
// fast case.
func putTimes(w *outWindow, n uint, start, end uint64) uint {
	if start>>56-1 < 127 && end>>56-1 < 127 {
		q := (*[24]byte)(w[n&outMask:])
		le.PutUint16(q[0:], startTag)
		le.PutUint64(q[2:], spread56(start&(1<<56-1))|0x8080808080808080)
		q[10] = byte(start >> 56)
		le.PutUint16(q[11:], endTag)
		le.PutUint64(q[13:], spread56(end&(1<<56-1))|0x8080808080808080)
		q[21] = byte(end >> 56)
		return n + 22
	}
	return putSlow(w, putSlow(w, n, startTag, 2, start), endTag, 2, end)
}

// putOctets2 writes a varint below 2^16 whose tag has two octets.
func putOctets2(w *outWindow, n uint, tag uint16, v uint64) uint {
	l := bits.Len64(v)
	v += v & 0xc000 * 3
	v += v & 0x3f80
	le.PutUint64(w[n&outMask:], v<<16|cont2[l]|uint64(tag))
	return n + uint(size2[l])
}

// putShort writes a varint below 2^32 whose tag has two octets.
func putShort(w *outWindow, n uint, tag uint16, v uint64) uint {
	l := bits.Len64(v)
	le.PutUint64(w[n&outMask:], spread32(v)<<16|cont2[l]|uint64(tag))
	return n + uint(size2[l])
}

// putLong writes a varint of any length.
func putLong(w *outWindow, n uint, t *intStep, v uint64) uint {
	if v == 0 || v>>56 != 0 {
		return putSlow(w, n, t.tag, uint(t.n), v)
	}
	l := bits.Len64(v)
	le.PutUint16(w[n&outMask:], t.tag)
	n += uint(t.n)
	le.PutUint64(w[n&outMask:], spread56(v)|cont0[l])
	return n + uint(size0[l])
}

//go:noinline
func putSlow(w *outWindow, n uint, tag uint16, tagLen uint, v uint64) uint {
	if v == 0 {
		return n
	}
	le.PutUint16(w[n&outMask:], tag)
	n += tagLen
	for v >= 0x80 {
		w[n&outMask] = byte(v) | 0x80
		n++
		v >>= 7
	}
	w[n&outMask] = byte(v)
	return n + 1
}

func (c *copyStep) put(in *window, w *outWindow, n uint) uint {
	n += uint(copy(w[n&outMask:], c.head))
	a := (c.off + 8) & inMask
	return n + uint(copy(w[n&outMask:], in[a:][:c.len]))
}
