package decode

import "slices"

// Exporters that look into tunnels (SRv6 of IOS XR and of Huawei) report two tuples in one record: the
// outer packet's, with protocol 4 (IPv4 inside) or 41 (IPv6 inside), then the inner packet's with the
// same elements. The inner tuple is the flow's, since the record's counters are per inner tuple. The
// template shows that its records can have an inner tuple; the outer protocol of each record decides.

// A record with two tuples, IPv4 in IPv6 (SRv6 with DT4 behaviour), and the flow that it becomes:
//
//	+--------+--------+--------+----------+--------+--------+-------+------+------+----------+
//	| IE 27  | IE 28  | IE 4   | IE 5     | IE 8   | IE 12  | IE 4  | IE 7 | IE 11| IE 1, 2  |
//	| outer6 | outer6 | 4      | ToS      | inner4 | inner4 | 6     | port | port | counters |
//	+--------+--------+--------+----------+--------+--------+-------+------+------+----------+
//	 tunnel   tunnel   tunnel              src      dst      proto   src    dst
//	 _src     _dst     _proto              _addr    _addr            _port  _port
//
// A template may repeat an element (RFC 7011 section 8). The repetitions have the order of the
// headers in the packet, so the outer tuple comes first.

// Protocol numbers of tunnels, IANA.
const (
	protoIPv4 = 4
	protoIPv6 = 41
)

// aInner is the index of the first address of an inner tuple that repeats elements of the outer
// tuple. They have the order of aSrc4, aSrc6, aDst4, aDst6.
const aInner = nAddrs

// An innerSlot is an element that an inner tuple repeats, with its slots in both tuples.
type innerSlot struct {
	id           uint16
	outer, inner slot
	size         int // octets of the element's abstract data type
}

var innerSlots = [...]innerSlot{
	{4, sProto, sInnerProto, 1}, {7, sSrcPort, sInnerSrcPort, 2}, {11, sDstPort, sInnerDstPort, 2},
	{6, sFlags, sInnerFlags, 2},
	{5, sToS, sInnerToS, 1}, {31, sLabel, sInnerLabel, 4},
}

// innerAddrs are the address elements that an inner tuple repeats.
var innerAddrs = [...]struct{ id, to uint16 }{{8, aSrc4}, {27, aSrc6}, {12, aDst4}, {28, aDst6}}

// mayRepeat reports whether an inner tuple can repeat field f.
func mayRepeat(version uint8, f Field) bool {
	if f.PEN != 0 || meaningOf(version, f).op == opElement {
		return false
	}
	return slices.ContainsFunc(innerSlots[:], func(s innerSlot) bool { return s.id == f.ID }) ||
		f.ID == 8 || f.ID == 12 || f.ID == 27 || f.ID == 28
}

// A tunnelRule locates the addresses of both tuples of a record, as indices of record.addr. The
// zero value stands for no tunnel.
type tunnelRule struct {
	src, dst           uint8 // inner
	outerSrc, outerDst uint8
	v6, outerV6        bool
	has                bool
}

// findTunnel changes the actions of a template with two tuples: elements that occur a second time
// after the first IE 4 belong to the inner tuple. It leaves other templates alone.
func (p *Plan) findTunnel(acts []action) {
	firstProto := slices.IndexFunc(p.template.Fields, func(f Field) bool { return f.ID == 4 && mayRepeat(p.version, f) })
	if firstProto < 0 {
		return
	}
	seen, repeated := map[uint16]int{}, map[uint16]int{} // element → its first field; its first field in the inner tuple
	for i, f := range p.template.Fields {
		if !mayRepeat(p.version, f) {
			continue
		}
		if _, ok := seen[f.ID]; !ok {
			seen[f.ID] = i
		} else if _, ok := repeated[f.ID]; !ok && i > firstProto {
			repeated[f.ID] = i
		}
	}
	if _, ok := repeated[4]; !ok {
		return
	}
	if p.tunnelRules(seen, repeated); !p.tunnels() {
		return
	}
	for _, is := range innerSlots {
		if i, ok := repeated[is.id]; ok {
			acts[seen[is.id]], acts[i] = s(is.outer, 4), action{op: opInner, to: uint16(is.inner)}
			p.has[is.outer], p.has[is.inner] = true, true
		}
	}
	for i, f := range p.template.Fields { // ToS or flow label a third time
		if first, ok := seen[f.ID]; ok && repeated[f.ID] > first && i != first && i != repeated[f.ID] &&
			acts[i].op == opUint && mayRepeat(p.version, f) {
			acts[i] = action{op: opElement}
		}
	}
	for _, is := range innerAddrs {
		if i, ok := repeated[is.id]; ok {
			acts[i] = action{op: opInnerAddr, to: aInner + is.to}
			p.inner |= 1 << is.to
		}
	}
}

// tunnelRules sets p.tunnel from the address pairs of a template. The outer pair is of the family whose elements come
// first. If the inner pair is of the same family, its elements must occur a second time; an inner pair of the other
// family needs a single occurrence.
func (p *Plan) tunnelRules(seen, repeated map[uint16]int) {
	has := func(m map[uint16]int, src, dst uint16) bool {
		_, a := m[src]
		_, b := m[dst]
		return a && b
	}
	outer6 := !has(seen, 8, 12) || has(seen, 27, 28) && min(seen[27], seen[28]) < min(seen[8], seen[12])
	if outer6 && !has(seen, 27, 28) {
		return
	}
	for i, family := range [2]struct{ src, dst uint16 }{{8, 12}, {27, 28}} {
		r := tunnelRule{
			src: aSrc4 + uint8(i), dst: aDst4 + uint8(i), outerSrc: aSrc4, outerDst: aDst4, v6: i == 1, outerV6: outer6,
		}
		if outer6 {
			r.outerSrc, r.outerDst = aSrc6, aDst6
		}
		switch {
		case has(repeated, family.src, family.dst):
			r.src, r.dst, r.has = r.src+aInner, r.dst+aInner, true
		case r.v6 != outer6:
			r.has = has(seen, family.src, family.dst)
		}
		p.tunnel[i] = r
	}
}

// tunnels reports whether records may have an inner tuple.
func (p *Plan) tunnels() bool { return p.tunnel[0].has || p.tunnel[1].has }

// tunnel returns the rule for a record whose outer protocol has been read, or nil if the record has
// no inner tuple.
func (r *record) tunnel() *tunnelRule {
	i := 0
	if p := r.plan; p.tenant {
		if !p.tunnel[0].has {
			i = 1
		}
		return &p.tunnel[i]
	}
	switch r.v[sProto] {
	case protoIPv4:
	case protoIPv6:
		i = 1
	default:
		return nil
	}
	if t := &r.plan.tunnel[i]; t.has {
		return t
	}
	return nil
}

// inner stores an element of the inner tuple and reports whether it did; if not, the caller keeps
// the field raw. Without an inner tuple, only ToS and flow label are stored: the first nonzero
// value of each.
func (r *record) inner(st *step, field []byte) bool {
	if st.op == opInnerAddr {
		if r.tunnel() == nil {
			return false
		}
		copyAddr(&r.addr[st.to], field)
		return true
	}
	v := uintOf(field)
	if r.tunnel() != nil {
		r.v[st.to] = v
		return true
	}
	r.v[st.to] = 0
	outer := sToS
	switch slot(st.to) {
	case sInnerToS:
	case sInnerLabel:
		outer = sLabel
	default:
		return false
	}
	if r.v[outer] == 0 {
		r.v[outer], v = v, 0
	}
	return v == 0
}

// unwrap makes the inner tuple the record's and sets the outer tuple in o. It exchanges the values
// of both in r.v, so that the rules after it read the inner values.
func (r *record) unwrap(o *outcome) {
	o.repeats = true
	t := r.tunnel()
	if t != nil && unset(&r.addr[t.src]) && unset(&r.addr[t.dst]) {
		t, o.hidden = nil, true // the exporter did not look inside
	}
	if t == nil {
		o.src, o.dst = r.pair(aSrc4, aDst4)
	} else {
		o.tunnelSrc, o.tunnelDst = address{&r.addr[t.outerSrc], t.outerV6}, address{&r.addr[t.outerDst], t.outerV6}
		o.src, o.dst = address{&r.addr[t.src], t.v6}, address{&r.addr[t.dst], t.v6}
		o.tunnelProto = uint32(r.v[sProto])
		for i := range innerSlots {
			if s := &innerSlots[i]; r.hasSlot(s.inner) {
				r.v[s.outer], r.v[s.inner] = r.v[s.inner], r.v[s.outer]
			}
		}
	}
	o.tos, o.label = r.value(sToS), r.value(sLabel)
}

// value returns the value of a slot, or 0 if the template does not have the slot: r.v then holds
// the value of an earlier record.
func (r *record) value(s slot) uint32 {
	if !r.hasSlot(s) {
		return 0
	}
	return uint32(r.v[s])
}

// innerNet returns the prefix length of an inner address. Prefix lengths of the outer packet's
// family belong to the outer packet.
func (r *record) innerNet(o *outcome, v4, v6 slot) uint32 {
	switch {
	case o.src.v6 == o.tunnelSrc.v6:
		return 0
	case o.src.v6:
		return r.value(v6)
	}
	return r.value(v4)
}

// innerLost returns the values of a record with two tuples that have no place in the message: the
// inner tuple, if the exporter did not look into the packet, and addresses of neither tuple.
func (r *record) innerLost(o *outcome) (all []lostValue) {
	for i := range innerAddrs {
		a, octets := &innerAddrs[i], 16
		if a.to == aSrc4 || a.to == aDst4 {
			octets = 4
		}
		if r.plan.inner>>a.to&1 == 1 {
			all = r.lostAddr(all, o, a.id, &r.addr[aInner+a.to], octets)
		}
		if r.plan.addrs>>a.to&1 == 1 && !o.hidden {
			all = r.lostAddr(all, o, a.id, &r.addr[a.to], octets)
		}
	}
	if o.hidden && r.plan.tenant {
		return append(all, r.tenantLost()...)
	}
	if o.hidden {
		for i := range innerSlots {
			if s := &innerSlots[i]; r.hasSlot(s.inner) {
				all = appendLost(all, 0, s.id, r.v[s.inner], s.size)
			}
		}
	}
	return all
}

// lostAddr appends the last octets of an address that is set and is not an address of the flow.
func (r *record) lostAddr(all []lostValue, o *outcome, id uint16, a *[16]byte, octets int) []lostValue {
	if unset(a) || a == o.src.octets || a == o.dst.octets || a == o.tunnelSrc.octets || a == o.tunnelDst.octets {
		return all
	}
	return append(all, lostValue{id: id, octets: a[16-octets:]})
}

// outerLost returns the nonzero values of the outer packet that have no place in the message.
func (r *record) outerLost(o *outcome) (all []lostValue) {
	for i := range innerSlots {
		if s := &innerSlots[i]; s.inner != sInnerProto && r.hasSlot(s.inner) {
			all = appendLost(all, 0, s.id, r.v[s.inner], s.size)
		}
	}
	for _, n := range [...]struct {
		id   uint16
		slot slot
		v6   bool
	}{{9, sSrcNet4, false}, {13, sDstNet4, false}, {29, sSrcNet6, true}, {30, sDstNet6, true}} {
		if r.hasSlot(n.slot) && (n.v6 == o.tunnelSrc.v6 || n.v6 != o.src.v6) {
			all = appendLost(all, 0, n.id, r.v[n.slot], 1)
		}
	}
	return all
}
