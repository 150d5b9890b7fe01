package decode

import (
	"cmp"
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
// the type and its counterpart. Otherwise they are type and code.
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

// A key4 is the key of a pair of IPv4 addresses without its protocol: lo | hi and lo port | hi port,
// as flowkey.Key.Append writes them.
//
// The keys, offsets in octets. lo is the lesser of (address, port), and both directions of a
// conversation give the same key:
//
//	      0          1           5           9         11        13
//	      +----------+-----------+-----------+---------+---------+
//	IPv4  | protocol | lo addr   | hi addr   | lo port | hi port |
//	      +----------+-----------+-----------+---------+---------+
//
//	      0          1           17          33        35        37
//	      +----------+-----------+-----------+---------+---------+
//	IPv6  | protocol | lo addr   | hi addr   | lo port | hi port |
//	      +----------+-----------+-----------+---------+---------+
//
// Consumers pair flows by this key across versions of Weir: it must not change.
type key4 struct {
	addrs uint64
	ports uint32
}

// keyOf4 is flowkey.Tuple.Canon of IPv4 addresses, for tuples that may be reordered.
func keyOf4(src, dst uint32, sport, dport uint64) key4 {
	a, b := uint64(src)<<16|sport, uint64(dst)<<16|dport
	lo, hi := min(a, b), max(a, b)
	return key4{lo>>16<<32 | hi>>16, uint32(lo<<16 | hi&0xffff)}
}

// private is flowkey.Private of either address.
func (k key4) private() bool { return private4(uint32(k.addrs>>32)) || private4(uint32(k.addrs)) }

// private4 is flowkey.Private: 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, 100.64.0.0/10.
func private4(a uint32) bool {
	return a>>24 == 10 || a>>20 == 172<<4|1 || a>>16 == 192<<8|168 || a>>22 == 100<<2|1
}

// inside4 is flowkey.Inside of IPv4 addresses: k is the key of the tuple before NAT, whose ends are
// the other arguments. ports is the mask of ports of the protocol: types of ICMP are not translated.
func (r *natRule) inside4(in *window, k key4, src, dst uint32, sport, dport, ports uint64) key4 {
	if r.src >= 0 {
		src = cmp.Or(be.Uint32(in[(r.src+8)&inMask:]), src)
	}
	if r.dst >= 0 {
		dst = cmp.Or(be.Uint32(in[(r.dst+8)&inMask:]), dst)
	}
	if ports != 0 {
		if v := in.integer(r.sport.end) & r.sport.mask; v != 0 {
			sport = v & ports
		}
		if v := in.integer(r.dport.end) & r.dport.mask; v != 0 {
			dport = v & ports
		}
	}
	post := keyOf4(src, dst, sport, dport)
	if a, b := k.private(), post.private(); a != b {
		if b {
			return post
		}
		return k
	}
	if post.addrs < k.addrs || post.addrs == k.addrs && post.ports < k.ports {
		return post
	}
	return k
}

// keyOf writes the pair of addresses and the key, computed by package flowkey as outcome.key does: of
// ICMP types without counterpart, and of NAT with IPv6 addresses. src and dst are ports, or what
// putICMP returns.
func (f *fastPlan) keyOf(in *window, w *outWindow, n uint, src, dst uint64, proto uint8) (key, end uint) {
	key = f.putPair(in, w, n)
	size := uint16(4)
	if f.v6 {
		size = 16
	}
	t := flowkey.Tuple{
		Proto: proto, SrcPort: uint16(src), DstPort: uint16(dst), ICMPType: uint8(src), ICMPCode: uint8(dst),
	}
	copyAddr(&t.Src, in[f.src+8:][:size])
	copyAddr(&t.Dst, in[f.dst+8:][:size])
	k, _ := t.Canon()
	if f.nat != nil {
		post := t
		f.nat.translate(in, &post)
		k, _, _ = flowkey.Inside(&t, &post)
	}
	return key, uint(len(k.Append(w[:key&outMask])))
}

// translate replaces the ends of t by those after NAT. Zero addresses and ports stand for no
// translation.
func (r *natRule) translate(in *window, t *flowkey.Tuple) {
	var a [16]byte
	if r.src >= 0 {
		if copyAddr(&a, in[r.src+8:][:r.size]); !unset(&a) {
			t.Src = a
		}
	}
	if r.dst >= 0 {
		if copyAddr(&a, in[r.dst+8:][:r.size]); !unset(&a) {
			t.Dst = a
		}
	}
	if port := in.integer(r.sport.end) & r.sport.mask; port != 0 {
		t.SrcPort = uint16(port)
	}
	if port := in.integer(r.dport.end) & r.dport.mask; port != 0 {
		t.DstPort = uint16(port)
	}
}
