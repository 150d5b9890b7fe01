package decode

import (
	"encoding/binary"

	"weir/internal/flowkey"
)

// A lostValue is a value of a record that has no place in its message. It is kept as an Element.
type lostValue struct {
	pen    uint32
	id     uint16
	octets []byte
}

// A stray is a slot that does not apply to some records of a plan: it belongs to another protocol
// or the other address family.
//
// Example: icmpTypeCodeIPv4 (IE 32) in a record of TCP. The template promises the element for each
// record, and exporters fill it with 0; any other value is kept in elements and is not the flow's.
type stray struct {
	slot slot
	id   uint16
	size int // octets of the element's abstract data type
}

// strays returns the strays of a template.
func (p *Plan) strays() (all []stray) {
	const v4, v6 = 1<<aSrc4 | 1<<aDst4, 1<<aSrc6 | 1<<aDst6
	icmp := p.has[sProto] || p.icmp4() && p.icmp6()
	prefix := p.addrs&v4 != 0 && p.addrs&v6 != 0
	for _, s := range []struct {
		stray
		may bool
	}{
		{stray{sICMPv4, 32, 2}, icmp}, {stray{sTypeV4, 176, 1}, icmp}, {stray{sCodeV4, 177, 1}, icmp},
		{stray{sICMPv6, 139, 2}, icmp}, {stray{sTypeV6, 178, 1}, icmp}, {stray{sCodeV6, 179, 1}, icmp},
		{stray{sSrcNet4, 9, 1}, prefix}, {stray{sDstNet4, 13, 1}, prefix},
		{stray{sSrcNet6, 29, 1}, prefix}, {stray{sDstNet6, 30, 1}, prefix},
	} {
		if s.may && p.has[s.slot] {
			all = append(all, s.stray)
		}
	}
	return all
}

// slotApplies reports whether a stray slot applies to a record of this protocol and address family.
func (p *Plan) slotApplies(s slot, proto uint32, v6 bool) bool {
	k := &p.picks
	switch s {
	case sTypeV4, sCodeV4:
		return proto == flowkey.ICMP
	case sTypeV6, sCodeV6:
		return proto == flowkey.ICMPv6
	case sICMPv4, sICMPv6:
		return proto == flowkey.ICMP && s == k.icmp4 && !p.has[sTypeV4] && !p.has[sCodeV4] ||
			proto == flowkey.ICMPv6 && s == k.icmp6 && !p.has[sTypeV6] && !p.has[sCodeV6]
	}
	if v6 {
		return s == k.src6Net || s == k.dst6Net
	}
	return s == k.src4Net || s == k.dst4Net
}

// lost returns the nonzero values of a record that have no place in its message: IPv6 addresses
// beside IPv4 addresses, and strays. It allocates only for such values.
func (r *record) lost(o *outcome) (all []lostValue) {
	const v4, v6 = 1<<aSrc4 | 1<<aDst4, 1<<aSrc6 | 1<<aDst6
	is6 := o.src.v6 || o.dst.v6
	if o.tunnelProto != 0 {
		all = r.outerLost(o)
	} else if p := r.plan.addrs; p&v4 != 0 && p&v6 != 0 && !is6 {
		for _, a := range []struct {
			at int
			id uint16
		}{{aSrc6, 27}, {aDst6, 28}} {
			if p>>a.at&1 == 1 && r.addr[a.at] != [16]byte{} {
				all = append(all, lostValue{id: a.id, octets: r.addr[a.at][:]})
			}
		}
	}
	if o.tunnelProto != 0 || o.hidden {
		all = append(all, r.innerLost(o)...)
	}
	for _, s := range r.plan.stray {
		if o.tunnelProto != 0 && isNet(s.slot) {
			continue // see outerLost
		}
		if v := r.v[s.slot]; !r.plan.slotApplies(s.slot, o.proto, is6) {
			all = appendLost(all, 0, s.id, v, s.size)
		}
	}
	return all
}

// appendLost appends an integer of size octets, or 8 if it needs more; nothing for 0.
func appendLost(all []lostValue, pen uint32, id uint16, v uint64, size int) []lostValue {
	if v == 0 {
		return all
	}
	octets := binary.BigEndian.AppendUint64(nil, v)
	if v>>(8*size) == 0 {
		octets = octets[8-size:]
	}
	return append(all, lostValue{pen, id, octets})
}

// isNet reports whether a slot is a prefix length.
func isNet(s slot) bool { return s >= sSrcNet4 && s <= sDstNet6 }
