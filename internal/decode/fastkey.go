package decode

import (
	"math/bits"

	"weir/internal/flowkey"
)

// keyV6 writes the pair of IPv6 addresses and the key. It returns 0, 0 if both addresses are
// v4-mapped.
func (f *fastPlan) keyV6(in *window, w *outWindow, n uint, sport, dport uint64, proto byte) (key, end uint) {
	x, y := (f.src+8)&inMask, (f.dst+8)&inMask
	a0, a1 := be.Uint64(in[x:]), be.Uint64(in[x+8:])
	b0, b1 := be.Uint64(in[y:]), be.Uint64(in[y+8:])
	if a0|b0 == 0 && a1>>32 == 0xffff && b1>>32 == 0xffff {
		return 0, 0 // both v4-mapped: the key must be that of the IPv4 addresses
	}
	key = f.putPair(in, w, n)
	// src > dst if and only if dst - src borrows, as one subtraction of 144 bits.
	_, c := bits.Sub64(dport, sport, 0)
	_, c = bits.Sub64(b1, a1, c)
	_, c = bits.Sub64(b0, a0, c)
	m := -c // all ones: exchange the ends
	t := (a0 ^ b0) & m
	a0, b0 = a0^t, b0^t
	t = (a1 ^ b1) & m
	a1, b1 = a1^t, b1^t
	t = (sport ^ dport) & m
	sport, dport = sport^t, dport^t
	q := (*[40]byte)(w[key&outMask:])
	q[0] = proto
	be.PutUint64(q[1:], a0)
	be.PutUint64(q[9:], a1)
	be.PutUint64(q[17:], b0)
	be.PutUint64(q[25:], b1)
	be.PutUint32(q[33:], uint32(sport<<16|dport))
	return key, key + 37
}

// putPair writes the source and destination addresses.
func (f *fastPlan) putPair(in *window, w *outWindow, n uint) uint {
	q := (*[40]byte)(w[n&outMask:])
	x, y := (f.src+8)&inMask, (f.dst+8)&inMask
	if !f.v6 {
		q[0], q[1] = fSrcAddr<<3|2, 4
		*(*[4]byte)(q[2:]) = *(*[4]byte)(in[x:])
		q[6], q[7] = fDstAddr<<3|2, 4
		*(*[4]byte)(q[8:]) = *(*[4]byte)(in[y:])
		return n + 12
	}
	q[0], q[1] = fSrcAddr<<3|2, 16
	*(*[16]byte)(q[2:]) = *(*[16]byte)(in[x:])
	q[18], q[19] = fDstAddr<<3|2, 16
	*(*[16]byte)(q[20:]) = *(*[16]byte)(in[y:])
	return n + 36
}

// putICMP writes ICMP type and code. If answered, src and dst take the place of ports in the key:
// the type and its counterpart. Otherwise they are type and code, for keyOneWay.
func (f *fastPlan) putICMP(
	c *context, in *window, w *outWindow, n uint, proto uint8,
) (end uint, src, dst uint64, answered bool) {
	typ, code := f.icmpOf(c, in, proto)
	n = putShort(w, n, icmpTypeTag, typ)
	n = putShort(w, n, icmpCodeTag, code)
	typ, code = typ&0xff, code&0xff
	answer, ok := flowkey.Counterpart(proto, uint8(typ))
	if !ok {
		return n, typ, code, false
	}
	return n, typ, uint64(answer), true
}

// icmpOf returns ICMP type and code.
func (f *fastPlan) icmpOf(c *context, in *window, proto uint8) (typ, code uint64) {
	r := &f.icmp[0]
	if proto == flowkey.ICMPv6 {
		r = &f.icmp[1]
	}
	if r.apart {
		return in.integer(r.typ.end) & r.typ.mask, in.integer(r.code.end) & r.code.mask
	}
	both := in.integer(r.both.end) & r.both.mask
	if r.port {
		both = c.portICMP(proto, in.integer(r.src.end)&r.src.mask, both)
	}
	return both >> 8 & 0xff, both & 0xff
}

// keyOneWay writes the pair of addresses and the key of an ICMP type without counterpart: source
// before destination, not reordered.
func (f *fastPlan) keyOneWay(in *window, w *outWindow, n uint, typ, code uint64, proto uint8) (key, end uint) {
	key = f.putPair(in, w, n)
	size := uint16(4)
	if f.v6 {
		size = 16
	}
	t := flowkey.Tuple{Proto: proto, ICMPType: uint8(typ), ICMPCode: uint8(code)}
	copyAddr(&t.Src, in[f.src+8:][:size])
	copyAddr(&t.Dst, in[f.dst+8:][:size])
	k, _ := t.Canon()
	return key, uint(len(k.Append(w[:key&outMask])))
}
