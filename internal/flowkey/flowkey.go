// Package flowkey computes a key that both directions of a conversation share: the record key on
// netflow.flows, the pairing key, and the Community ID.
package flowkey

import (
	"bytes"
	"encoding/binary"
)

// IANA protocol numbers that the key treats specially.
const (
	ICMP   = 1
	TCP    = 6
	UDP    = 17
	DCCP   = 33
	ICMPv6 = 58
	SCTP   = 132
	UDPLit = 136
)

// A Key identifies a conversation independently of exporter and direction: its two endpoints in
// canonical order. It holds no pointers and is comparable. IPv4 addresses are v4-mapped. For ICMP
// the ports are the type and its counterpart; one-way ICMP (a type without counterpart) has type
// and code and is not reordered.
type Key struct {
	Lo, Hi         [16]byte
	LoPort, HiPort uint16
	Proto          uint8
	V6             bool // false when both addresses are IPv4 or v4-mapped
}

// A Tuple holds the endpoints of a flow record.
type Tuple struct {
	Src, Dst         [16]byte // v4-mapped when IPv4
	SrcPort, DstPort uint16   // ignored for protocols without ports
	Proto            uint8
	ICMPType         uint8 // valid iff Proto is ICMP or ICMPv6
	ICMPCode         uint8
}

var v4Prefix = [12]byte{10: 0xff, 11: 0xff}

// IsV4 reports whether a is an IPv4 address in its v4-mapped form.
func IsV4(a *[16]byte) bool { return [12]byte(a[:12]) == v4Prefix }

// Address returns an address of 4 or 16 octets, IPv4 as v4-mapped; ok is false for other lengths.
func Address(b []byte) (a [16]byte, ok bool) {
	switch len(b) {
	case 4:
		copy(a[:], v4Prefix[:])
		copy(a[12:], b)
	case 16:
		copy(a[:], b)
	default:
		return a, false
	}
	return a, true
}

// AddressOrZero is Address, with the zero array for other lengths.
func AddressOrZero(b []byte) [16]byte {
	a, _ := Address(b)
	return a
}

// HasPorts reports whether proto has 16-bit ports.
func HasPorts(proto uint8) bool {
	switch proto {
	case TCP, UDP, DCCP, SCTP, UDPLit:
		return true
	}
	return false
}

// Counterpart returns the ICMP type that answers typ; ok is false for types without an answer. The
// pairs are those of RFC 792, 950, 1256, 2710, 3122, 4443, 4620 and 4861. The records of a
// conversation are paired by this table, so it must not change between versions that run side by
// side.
func Counterpart(proto, typ uint8) (answer uint8, ok bool) {
	if proto == ICMP {
		switch typ {
		case 0:
			return 8, true
		case 8:
			return 0, true
		case 9:
			return 10, true
		case 10:
			return 9, true
		case 13, 15, 17:
			return typ + 1, true
		case 14, 16, 18:
			return typ - 1, true
		}
		return 0, false
	}
	switch typ {
	case 0: // reserved (RFC 4443 section 2.1): sent by exporters that report no type
		return 0, true
	case 128, 130, 133, 135, 139, 144:
		return typ + 1, true
	case 129, 131, 134, 136, 140, 145:
		return typ - 1, true
	}
	return 0, false
}

// ports returns the two ports of the key in the record's direction. order reports whether the ends
// may be reordered.
func (t *Tuple) ports() (src, dst uint16, order bool) {
	switch {
	case HasPorts(t.Proto):
		return t.SrcPort, t.DstPort, true
	case t.Proto == ICMP || t.Proto == ICMPv6:
		if c, ok := Counterpart(t.Proto, t.ICMPType); ok {
			return uint16(t.ICMPType), uint16(c), true
		}
		return uint16(t.ICMPType), uint16(t.ICMPCode), false
	}
	return 0, 0, true
}

// Canon returns the Key of t, and whether the source of t is its Lo end.
func (t *Tuple) Canon() (k Key, srcIsLo bool) {
	src, dst, order := t.ports()
	k = Key{Lo: t.Src, Hi: t.Dst, LoPort: src, HiPort: dst, Proto: t.Proto, V6: !IsV4(&t.Src) || !IsV4(&t.Dst)}
	if order {
		if c := bytes.Compare(t.Src[:], t.Dst[:]); c > 0 || c == 0 && src > dst {
			k.Lo, k.Hi, k.LoPort, k.HiPort = t.Dst, t.Src, dst, src
			return k, false
		}
	}
	return k, true
}

// Append appends the Kafka record key: proto | lo | hi | lo port | hi port, 13 octets for IPv4, 37
// for IPv6, ports in network byte order. The key selects the partition, so its layout must not
// change.
func (k *Key) Append(dst []byte) []byte {
	dst = append(dst, k.Proto)
	if k.V6 {
		dst = append(append(dst, k.Lo[:]...), k.Hi[:]...)
	} else {
		dst = append(append(dst, k.Lo[12:]...), k.Hi[12:]...)
	}
	dst = binary.BigEndian.AppendUint16(dst, k.LoPort)
	return binary.BigEndian.AppendUint16(dst, k.HiPort)
}

// OneWay reports whether no reply is expected: ICMP of a type without counterpart.
func (k *Key) OneWay() bool {
	if k.Proto != ICMP && k.Proto != ICMPv6 {
		return false
	}
	_, ok := Counterpart(k.Proto, uint8(k.LoPort))
	return !ok
}

// Inside returns the Key of the inside of a NAT, so that both halves of a translated conversation
// get the same key. Of the tuple as reported and the tuple after translation it selects the tuple
// with a private address; if both or neither have a private address, the smaller key. swapped
// reports whether it selected post.
func Inside(orig, post *Tuple) (k Key, srcIsLo, swapped bool) {
	a, aLo := orig.Canon()
	b, bLo := post.Canon()
	ap, bp := Private(&a.Lo) || Private(&a.Hi), Private(&b.Lo) || Private(&b.Hi)
	if bp && !ap || ap == bp && b.less(&a) {
		return b, bLo, true
	}
	return a, aLo, false
}

// Private reports whether a is a private (RFC 1918), shared (RFC 6598) or unique local (RFC 4193)
// address.
func Private(a *[16]byte) bool {
	if !IsV4(a) {
		return a[0]&0xfe == 0xfc
	}
	return a[12] == 10 || a[12] == 172 && a[13]&0xf0 == 16 || a[12] == 192 && a[13] == 168 ||
		a[12] == 100 && a[13]&0xc0 == 64
}

// less orders keys by addresses, then ports.
func (k *Key) less(o *Key) bool {
	if c := bytes.Compare(k.Lo[:], o.Lo[:]); c != 0 {
		return c < 0
	}
	if c := bytes.Compare(k.Hi[:], o.Hi[:]); c != 0 {
		return c < 0
	}
	if k.LoPort != o.LoPort {
		return k.LoPort < o.LoPort
	}
	return k.HiPort < o.HiPort
}
