package pair

import (
	"cmp"

	"weir/internal/flowkey"
	"weir/internal/saturating"
	"weir/pkg/flowpb"
)

// bridge merges the entries of f's key to which f, of extent x, belongs as it does to
// entry best, the closest first, and returns the one that remains. An entry stays as it
// is when it opens another connection than best, or best than it: f then joins two
// connections, as exporters do that see no end. Each merge removes an entry that
// another record opened, so that the cost of all merges grows with the records.
func (m *Machine) bridge(best int32, f *Flow, x *extent) int32 {
	for {
		e := m.table.entries.at(best)
		u := m.summary(e, &f.vantage)
		all := u.union(x)
		next, nextGap := int32(0), int64(0)
		for i := m.table.first(&e.key, m.table.nodes.at(best).hash); i != 0; i = m.table.next(i) {
			if i == best {
				continue
			}
			o := m.table.entries.at(i)
			ou := m.summary(o, &f.vantage)
			tol := m.tolerance(&ou, f)
			_, near := m.c.together(f.Key.Proto, &ou.extent, x, tol)
			gap, ok := m.c.together(f.Key.Proto, &ou.extent, &all, tol)
			if !near || !ok || f.Key.Proto == flowkey.TCP && m.two(e, o, &u, &ou, x, tol) {
				continue
			}
			if next == 0 || m.closer(gap, o, nextGap, m.table.entries.at(next)) {
				next, nextGap = i, gap
			}
		}
		if next == 0 {
			return best
		}
		if o := m.table.entries.at(next); cmp.Or(cmp.Compare(o.first, e.first), cmp.Compare(o.origin, e.origin)) < 0 {
			best, next = next, best
		}
		m.absorb(best, next, f)
	}
}

// two reports whether a and b, of extents u and v, are two TCP connections though a
// record of extent x belongs to both.
func (m *Machine) two(a, b *entry, u, v *summary, x *extent, tol int64) bool {
	return m.c.reopened(u.extent, v.extent, *x, tol) || m.beganAnew(a, b) || m.beganAnew(b, a)
}

// beganAnew reports whether a vantage saw, in one direction, the end of a and a later
// beginning of b. Records of exporters that see no end may span both.
func (m *Machine) beganAnew(a, b *entry) bool {
	for i := a.sides; i != 0; {
		s := m.sides.at(i)
		i = s.next
		if s.state != endHard {
			continue
		}
		j, _ := m.sideOf(b, s.vantage, s.toHi)
		if j != 0 && m.c.sideOpens(m.sides.at(j), s) {
			return true
		}
	}
	return false
}

// sideOpens reports whether b is of another TCP connection than a, which ended, of the
// same vantage and direction. A SYN+ACK may follow a RST that was injected before it.
func (c *Config) sideOpens(b, a *side) bool {
	gap, tol := b.start-a.end, max(a.resolution.ns(), b.resolution.ns())
	begins := b.flags&syn != 0
	if a.flags&(fin|rst|psh) == rst {
		return b.flags != 0 && gap > int64(c.Linger)+tol || gap > tol && begins && a.flags&syn != 0
	}
	return gap > tol && begins
}

// absorb merges entry j into entry i, which began first, and forgets j; f bridges them. Where j was
// reported, its last report says that it has become a part of another connection and
// counts nothing. The next report of i has the sums of both.
func (m *Machine) absorb(i, j int32, f *Flow) {
	e, o := m.table.entries.at(i), m.table.entries.at(j)
	if m.emitted(o) {
		o.version++
		m.grace--
	} else {
		m.open--
	}
	if o.version > 1 {
		m.report.merged(o, m.connection(o, m.now, true), m.emit)
	}
	e.reported = saturating.Add(e.reported, o.reported)
	e.quality |= o.quality &^ bit(flowpb.Quality_QUALITY_LATE) // that is of o's reports
	e.opener = e.opener.with(o.opener.exporter(), o.opener.answered())
	keep(&e.asLo, o.asLo)
	keep(&e.asHi, o.asHi)
	keep(&e.icmpCode, o.icmpCode)
	e.rememberAll(o)
	m.takeSides(e, o, f)
	if m.takeLink(e, o); o.marks&isExtended != 0 && e.marks&isExtended == 0 {
		m.kept[i] = m.kept[j]
		e.marks |= isExtended
	}
	m.log.evicted(o)
	m.forget(j)
}

// merged emits the last report of a connection that has become a part of another. It
// names the two ends and counts nothing.
func (r *report) merged(e *entry, c *flowpb.Connection, emit func(*Emission)) {
	c.EmitReason = flowpb.EmitReason_EMIT_REASON_MERGED
	c.Forward, c.Reverse, c.ApplicationId, c.Quality = nil, nil, nil, nil
	c.ConnState = flowpb.ConnState_CONN_STATE_UNSPECIFIED
	r.emission(e, c, emit)
}

// rememberAll adds the identities that o remembers: of both the newest, half of them
// o's where there are too many.
func (e *entry) rememberAll(o *entry) {
	var mine, others [keptIdents]uint64
	n, k := e.newest(&mine), o.newest(&others)
	k = max(min(k, keptIdents/2), min(k, keptIdents-n))
	n = min(n, keptIdents-k)
	e.identN = 0
	for i := k - 1; i >= 0; i-- {
		e.remember(others[i])
	}
	for i := n - 1; i >= 0; i-- {
		e.remember(mine[i])
	}
}

// newest sets list to the identities that e remembers, the newest first, and returns
// their number.
func (e *entry) newest(list *[keptIdents]uint64) (n int) {
	n = min(int(e.identN), keptIdents)
	for i := range n {
		list[i] = e.idents[(int(e.identN)-1-i)%keptIdents]
	}
	return n
}

// takeLink gives e what o's link has and e's has not, without the eventSums.
func (m *Machine) takeLink(e, o *entry) {
	m.dropEvents(o)
	switch {
	case o.link == 0:
	case e.link == 0:
		e.link, o.link = o.link, 0
	default:
		l, x := m.links.at(e.link), m.links.at(o.link)
		keep(&l.natLo, x.natLo)
		keep(&l.natHi, x.natHi)
		keep(&l.macLo, x.macLo)
		keep(&l.macHi, x.macHi)
		keep(&l.toHi, x.toHi)
		keep(&l.toLo, x.toLo)
		keep(&l.app, x.app)
	}
}

// takeSides moves o's sides to e. f is of the conversation of both.
func (m *Machine) takeSides(e, o *entry, f *Flow) {
	for o.sides != 0 {
		j := o.sides
		x := m.sides.at(j)
		o.sides = x.next
		i, n := m.sideOf(e, x.vantage, x.toHi)
		switch {
		case i != 0:
			m.sumSides(e, o, i, j, f)
			m.vantages.drop(x.vantage)
			m.sides.release(j)
		case n < maxSides:
			x.next, e.sides = e.sides, j
			if sum, _ := m.eventSum(o, j); sum != nil {
				m.setEventSum(e, j, sum.updates, sum.flow)
			}
		default:
			beyond := *x
			m.sides.release(j)
			m.merge(e, &beyond)
			m.bounded.Vantages++
		}
	}
}

// sumSides adds o's side j to e's side i, which is of the same vantage and direction.
func (m *Machine) sumSides(e, o *entry, i, j int32, f *Flow) {
	s, x := m.sides.at(i), m.sides.at(j)
	a, _ := m.eventSum(e, i)
	b, _ := m.eventSum(o, j)
	if a == nil && b == nil && !f.ofFlowID {
		s.sum(x)
		return
	}
	updates, flow := s.sums()
	if a != nil {
		updates, flow = a.updates, a.flow
	}
	moreUpdates, moreFlow := x.sums()
	if b != nil {
		moreUpdates, moreFlow = b.updates, b.flow
	}
	if updates = updates.plus(moreUpdates); f.ofFlowID {
		flow = flow.greatest(moreFlow)
	} else {
		flow = flow.plus(moreFlow)
	}
	s.sum(x)
	s.setAmounts(updates.greatest(flow))
	m.setEventSum(e, i, updates, flow)
}
