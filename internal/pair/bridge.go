package pair

import (
	"cmp"

	"weir/internal/flowkey"
	"weir/internal/saturating"
	"weir/pkg/flowpb"
)

// bridge merges entry best with the other entries of its key to which f also belongs, the closest first, and returns
// the remaining entry. x is the extent of f. An entry is not merged if it or best opens a new TCP connection after
// the other: f then spans two connections, as records of exporters that do not detect the end of a connection do.
// Each merge removes an entry that another record created, so that the total cost of merges is linear in the number
// of records.
//
// Example: UDP records of 12:00:00 and 12:02:00 opened two entries, more than PAIR_IDLE apart. A late record that spans
// 12:00:30 to 12:01:30 belongs to both: the second entry is merged into the first, as if the records had come in order.
func (m *Machine) bridge(best int32, f *Flow, x *extent) int32 {
	for {
		e := m.table.entries.ref(best)
		u := m.summary(e, &f.observationPoint)
		all := u.union(x)
		next, nextGap := int32(0), int64(0)
		for i := m.table.first(&e.key, m.table.nodes.ref(best).hash); i != 0; i = m.table.next(i) {
			if i == best {
				continue
			}
			o := m.table.entries.ref(i)
			ou := m.summary(o, &f.observationPoint)
			tol := m.tolerance(&ou, f)
			_, near := m.c.timeGap(f.Key.Proto, &ou.extent, x, tol)
			gap, ok := m.c.timeGap(f.Key.Proto, &ou.extent, &all, tol)
			if !near || !ok || f.Key.Proto == flowkey.TCP && m.twoConnections(e, o, &u, &ou, x, tol) {
				continue
			}
			if next == 0 || m.closer(gap, o, nextGap, m.table.entries.ref(next)) {
				next, nextGap = i, gap
			}
		}
		if next == 0 {
			return best
		}
		if o := m.table.entries.ref(next); cmp.Or(cmp.Compare(o.first, e.first), cmp.Compare(o.origin, e.origin)) < 0 {
			best, next = next, best
		}
		m.absorb(best, next, f)
	}
}

// twoConnections reports whether a and b, of extents u and v, are different TCP connections, although a record of
// extent x belongs to both.
func (m *Machine) twoConnections(a, b *entry, u, v *summary, x *extent, tol int64) bool {
	return m.c.reopened(u.extent, v.extent, *x, tol) || m.beganAnew(a, b) || m.beganAnew(b, a)
}

// beganAnew reports whether an observation point observed, in the same direction, the end of a and a later beginning
// of b. A record of another exporter may still span both, if that exporter does not detect the end.
func (m *Machine) beganAnew(a, b *entry) bool {
	for i := a.sides; i != 0; {
		s := m.sides.ref(i)
		i = s.next
		if s.state != endHard {
			continue
		}
		j, _ := m.sideOf(b, s.point, s.toHi)
		if j != 0 && m.c.sideOpens(m.sides.ref(j), s) {
			return true
		}
	}
	return false
}

// sideOpens reports whether b opens a new TCP connection after a. Both must be of the same observation point and
// direction, and a must have ended. Within Linger, the SYN+ACK of a connection may follow a RST that was injected
// before it.
func (c *Config) sideOpens(b, a *side) bool {
	gap, tol := b.start-a.end, max(a.resolution.ns(), b.resolution.ns())
	begins := b.flags&syn != 0
	if a.flags&(fin|rst|psh) == rst {
		return b.flags != 0 && gap > int64(c.Linger)+tol || gap > tol && begins && a.flags&syn != 0
	}
	return gap > tol && begins
}

// absorb merges entry j into entry i and removes j. i must have begun first; f is the record that bridges them. If j
// was reported, absorb emits its last report, with reason MERGED and without traffic. The next report of i contains the
// sums of both. The remaining connection keeps the id of i, whose first record was received first.
func (m *Machine) absorb(i, j int32, f *Flow) {
	e, o := m.table.entries.ref(i), m.table.entries.ref(j)
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
	e.quality |= o.quality &^ bit(flowpb.Quality_QUALITY_LATE) // LATE describes reports of o, not its records
	e.opener = e.opener.combine(o.opener.exporter(), o.opener.answered())
	setIfZero(&e.asLo, o.asLo)
	setIfZero(&e.asHi, o.asHi)
	setIfZero(&e.icmpCode, o.icmpCode)
	e.addIdents(o)
	m.takeSides(e, o, f)
	if m.takeLink(e, o); o.marks&isExtended != 0 && e.marks&isExtended == 0 {
		m.kept[i] = m.kept[j]
		e.marks |= isExtended
	}
	m.log.evicted(o)
	m.forget(j)
}

// merged emits the last report of a connection that was merged into another. The report has the two ends and no
// traffic: the other connection counts it.
func (r *report) merged(e *entry, c *flowpb.Connection, emit func(*Emission)) {
	c.EmitReason = flowpb.EmitReason_EMIT_REASON_MERGED
	c.Forward, c.Reverse, c.ApplicationId, c.Quality = nil, nil, nil, nil
	c.ConnState = flowpb.ConnState_CONN_STATE_UNSPECIFIED
	r.emission(e, c, emit)
}

// addIdents adds the identities of o to the ring of e. If there are too many for the ring, it keeps the newest of both,
// half of them from o. The identities of both must be represented: duplicates of the records of o arrive for e from now
// on.
func (e *entry) addIdents(o *entry) {
	var mine, others [keptIdents]uint64
	n, k := e.newest(&mine), o.newest(&others)
	k = max(min(k, keptIdents/2), min(k, keptIdents-n))
	n = min(n, keptIdents-k)
	e.identN = 0
	for i := k - 1; i >= 0; i-- {
		e.addIdent(others[i])
	}
	for i := n - 1; i >= 0; i-- {
		e.addIdent(mine[i])
	}
}

// newest sets list to the identities in the ring of e, the newest first, and returns their number.
func (e *entry) newest(list *[keptIdents]uint64) (n int) {
	n = min(int(e.identN), keptIdents)
	for i := range n {
		list[i] = e.idents[(int(e.identN)-1-i)%keptIdents]
	}
	return n
}

// takeLink moves the parts of o's link that e lacks to e. It drops the eventSums of o: takeSides, which must run
// before, has moved them.
func (m *Machine) takeLink(e, o *entry) {
	m.dropEvents(o)
	switch {
	case o.link == 0:
	case e.link == 0:
		e.link, o.link = o.link, 0
	default:
		l, x := m.links.ref(e.link), m.links.ref(o.link)
		setIfZero(&l.natLo, x.natLo)
		setIfZero(&l.natHi, x.natHi)
		setIfZero(&l.macLo, x.macLo)
		setIfZero(&l.macHi, x.macHi)
		setIfZero(&l.toHi, x.toHi)
		setIfZero(&l.toLo, x.toLo)
		setIfZero(&l.app, x.app)
	}
}

// takeSides moves the sides of o and their eventSums to e. f is the record that bridges e and o. Beyond maxSides, sides
// are merged and counted in bounded. Afterwards o has no sides: forget must not release them again.
func (m *Machine) takeSides(e, o *entry, f *Flow) {
	for o.sides != 0 {
		j := o.sides
		x := m.sides.ref(j)
		o.sides = x.next
		i, n := m.sideOf(e, x.point, x.toHi)
		switch {
		case i != 0:
			m.sumSides(e, o, i, j, f)
			m.points.drop(x.point)
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
			m.bounded.ObservationPoints++
		}
	}
}

// sumSides adds side j of o to side i of e, which is of the same observation point and direction. Sums of firewall
// events are added separately for updates and teardowns. With a flow id (IE 148) there is a single teardown, which
// both sides may contain: of teardowns the greater counts.
func (m *Machine) sumSides(e, o *entry, i, j int32, f *Flow) {
	s, x := m.sides.ref(i), m.sides.ref(j)
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
