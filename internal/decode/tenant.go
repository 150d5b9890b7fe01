package decode

// VMware's switches report the packet inside a VXLAN tunnel in enterprise elements,
// the tenant's, in addition to the outer packet's tuple. The record's counters are those of the
// inner conversation, so the tenant's tuple is the flow's.

// vmware is VMware's private enterprise number.
const vmware = 6876

// tenantSlots are the elements of the inner tuple that a template must have, with the slots of the
// outer packet that they correspond to.
// The elements are tenantProtocol, tenantSourcePort and tenantDestPort. A template without all of
// them has no tenant's tuple: a flow with the ports of one packet and the addresses of another
// would be wrong.
var tenantSlots = [...]struct {
	id           uint16
	outer, inner slot
	size         uint16 // octets
}{{880, sProto, sInnerProto, 1}, {886, sSrcPort, sInnerSrcPort, 2}, {887, sDstPort, sInnerDstPort, 2}}

// tenantFamilies holds the elements of the inner addresses and their length, by family: tenantSourceIPv4 and
// tenantDestIPv4 (881, 882), tenantSourceIPv6 and tenantDestIPv6 (883, 884). The inner family is independent of that of
// the VXLAN endpoints.
var tenantFamilies = [...]struct{ src, dst, length uint16 }{{881, 882, 4}, {883, 884, 16}}

// findTenant changes the actions of a template that has both the tenant's tuple, of one address
// family, and the outer packet's. It leaves other templates alone.
func (p *Plan) findTenant(acts []action) {
	fields := map[uint16]int{} // element → its field
	for i, f := range p.template.Fields {
		if _, ok := fields[f.ID]; f.PEN == vmware && !ok && acts[i].op == opElement {
			fields[f.ID] = i
		}
	}
	lengths := func(id uint16) uint16 {
		if i, ok := fields[id]; ok {
			return p.template.Fields[i].Length
		}
		return 0
	}
	for _, s := range tenantSlots {
		if n := lengths(s.id); n == 0 || n > max(s.size, 4) || !p.has[s.outer] {
			return
		}
	}
	rule := tunnelRule{outerSrc: aSrc4, outerDst: aDst4, has: true}
	if p.addrs&(1<<aSrc4|1<<aDst4) == 0 {
		rule.outerSrc, rule.outerDst, rule.outerV6 = aSrc6, aDst6, true
	}
	if p.addrs>>rule.outerSrc&1 == 0 || p.addrs>>rule.outerDst&1 == 0 ||
		p.addrs&^(1<<rule.outerSrc|1<<rule.outerDst|0xf0) != 0 {
		return
	}
	family := -1
	for i, f := range tenantFamilies {
		if lengths(f.src) == f.length && lengths(f.dst) == f.length {
			if family >= 0 {
				return
			}
			family = i
		}
	}
	if family < 0 {
		return
	}
	rule.src, rule.dst, rule.v6 = aInner+aSrc4+uint8(family), aInner+aDst4+uint8(family), family == 1
	p.tunnel[family], p.tenant = rule, true
	acts[fields[tenantFamilies[family].src]] = action{op: opInnerAddr, to: uint16(rule.src)}
	acts[fields[tenantFamilies[family].dst]] = action{op: opInnerAddr, to: uint16(rule.dst)}
	for _, s := range tenantSlots {
		acts[fields[s.id]], p.has[s.inner] = action{op: opInner, to: uint16(s.inner)}, true
	}
}

// tenantLost returns the values of a tenant's tuple without addresses.
func (r *record) tenantLost() (all []lostValue) {
	for _, s := range tenantSlots {
		all = appendLost(all, vmware, s.id, r.v[s.inner], int(s.size))
	}
	return all
}
