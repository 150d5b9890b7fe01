package pair

import (
	"weir/internal/saturating"
	"weir/pkg/flowpb"
)

// A counting is the scope of the counters of a record.
//
// Cisco's guide to NSEL defines two events with counters: a flow update counts since the previous update, a flow
// teardown counts the whole flow. If both are exported, each packet is counted twice. A side therefore keeps their
// sums separately and reports the greater. Firewalls that count one direction per record (Palo Alto, Barracuda: IE 1
// or 85 without 231 and 232) have counters of the record alone.
//
// Example of a flow with the updates 100 and 200 octets and a teardown of 320: the side has max(100+200, 320) = 320. If
// the second update was lost, it has max(100, 320) = 320 too.
type counting uint8

const (
	countsRecord counting = iota // the record alone: no other record counts the same packets
	countsUpdate                 // since the previous flow update of a firewall
	countsFlow                   // the whole flow: a flow teardown of a firewall
)

// countingOf returns the scope of the counters of m.
func countingOf(m *flowpb.FlowMessage) counting {
	switch {
	case IsUpdate(m):
		return countsUpdate
	case m.FirewallEvent == eventDeleted && m.Biflow:
		return countsFlow
	}
	return countsRecord
}

// IsUpdate reports whether m is a firewall's flow update. The teardown of its flow counts the same packets: sums over
// flow records must leave out updates.
func IsUpdate(m *flowpb.FlowMessage) bool { return IsUpdateEvent(m.FirewallEvent, m.Biflow) }

// IsUpdateEvent is IsUpdate for the fields firewall_event and biflow of a message.
func IsUpdateEvent(event uint32, biflow bool) bool {
	return event != 0 && biflow && event != eventDeleted
}

// Event reports whether f is an event of a firewall that counts packets which other events of its flow count as well;
// see Machine.Raised.
func (f *Flow) Event() bool { return f.counting != countsRecord }

// amounts holds counters of a direction, as reported and multiplied by the sampling rate (octetsE, packsE).
type amounts struct{ octets, packets, octetsE, packsE uint64 }

// plus returns a+b; each sum saturates.
func (a amounts) plus(b amounts) amounts {
	return amounts{
		saturating.Add(a.octets, b.octets), saturating.Add(a.packets, b.packets),
		saturating.Add(a.octetsE, b.octetsE), saturating.Add(a.packsE, b.packsE),
	}
}

// greatest returns the greater of each pair of counters.
func (a amounts) greatest(b amounts) amounts {
	return amounts{
		max(a.octets, b.octets), max(a.packets, b.packets), max(a.octetsE, b.octetsE), max(a.packsE, b.packsE),
	}
}

// minus returns a-b. No counter of b may exceed that of a.
func (a amounts) minus(b amounts) amounts {
	return amounts{a.octets - b.octets, a.packets - b.packets, a.octetsE - b.octetsE, a.packsE - b.packsE}
}

// amounts returns the counters of a record for a direction; rate is its sampling rate, 1 in N.
func (n *counts) amounts(rate uint64) amounts {
	return amounts{n.Octets, n.Packets, saturating.Estimate(n.Octets, rate), saturating.Estimate(n.Packets, rate)}
}

// amounts returns the counters of s.
func (s *side) amounts() amounts { return amounts{s.octets, s.packets, s.octetsE, s.packsE} }

// setAmounts replaces the counters of s.
func (s *side) setAmounts(a amounts) {
	s.octets, s.packets, s.octetsE, s.packsE = a.octets, a.packets, a.octetsE, a.packsE
}

// An eventSum holds the sums of a firewall's events for a side. The counters of the side are the greater of updates and
// flow. A side has an eventSum only if its sums differ from the result of side.sums. A flow with updates alone, or with
// a teardown alone, needs none.
type eventSum struct {
	side, next int32   // number of the side; next eventSum of the entry
	updates    amounts // of flow updates
	flow       amounts // of flow teardowns
}

// maxEventSums bounds the eventSums of an entry: enough for two firewalls that report a connection without a flow id.
// Further sides are reported by side.sums.
const maxEventSums = 4

// sums returns the sums of updates and of teardowns of a side without an eventSum. While the flow is open, the counters
// of the side come from updates. After the teardown they are the totals of the teardown, which include the updates.
func (s *side) sums() (updates, flow amounts) {
	if s.state == endHard {
		return amounts{}, s.amounts()
	}
	return s.amounts(), amounts{}
}

// eventSum returns the eventSum of side i. If there is none, it returns nil and the number of eventSums of e.
func (m *Machine) eventSum(e *entry, i int32) (x *eventSum, n int) {
	if e.link == 0 {
		return nil, 0
	}
	for j := m.links.ref(e.link).events; j != 0; {
		x := m.events.ref(j)
		if x.side == i {
			return x, n
		}
		j = x.next
		n++
	}
	return nil, n
}

// hasEvents reports whether e has an eventSum.
func (m *Machine) hasEvents(e *entry) bool { return e.link != 0 && m.links.ref(e.link).events != 0 }

// addEvent adds the counters n of a direction of f to side i. It must be used if f is an event of a firewall or e has
// an eventSum; otherwise side.add does. It adds the increase of the side to m.raised. Call it with the number of a side
// of e only. It keeps the invariant that the counters of a side with an eventSum are the greater of its sums.
func (m *Machine) addEvent(e *entry, i int32, f *Flow, n *counts) {
	s := m.sides.ref(i)
	before := s.amounts()
	updates, flow := s.sums()
	if x, _ := m.eventSum(e, i); x != nil {
		updates, flow = x.updates, x.flow
	}
	switch more := n.amounts(f.Rate); {
	case f.counting != countsFlow:
		updates = updates.plus(more)
	case f.ofFlowID: // a flow has one teardown, which may be received twice
		flow = flow.greatest(more)
	default: // teardowns of several flows of the key
		flow = flow.plus(more)
	}
	s.add(f, &counts{Flags: n.Flags, Start: n.Start, End: n.End}, &m.c)
	s.setAmounts(updates.greatest(flow))
	m.setEventSum(e, i, updates, flow)
	m.raised = m.raised.plus(s.amounts().minus(before))
}

// setEventSum stores the sums of side i, unless they equal those of side.sums or e has maxEventSums already.
func (m *Machine) setEventSum(e *entry, i int32, updates, flow amounts) {
	x, n := m.eventSum(e, i)
	if x == nil {
		if u, f := m.sides.ref(i).sums(); u == updates && f == flow || n == maxEventSums {
			return
		}
		if e.link == 0 {
			e.link = m.links.alloc()
			*m.links.ref(e.link) = link{}
		}
		l := m.links.ref(e.link)
		j := m.events.alloc()
		x = m.events.ref(j)
		*x = eventSum{side: i, next: l.events}
		l.events = j
	}
	x.updates, x.flow = updates, flow
}

// dropEvents removes the eventSums of e. It must be called before sides of e are merged: an eventSum refers to the
// number of its side.
func (m *Machine) dropEvents(e *entry) {
	if !m.hasEvents(e) {
		return
	}
	l := m.links.ref(e.link)
	for i := l.events; i != 0; {
		next := m.events.ref(i).next
		m.events.release(i)
		i = next
	}
	l.events = 0
}

// Raised returns the increase of a connection by the last record, in octets and packets of both directions, multiplied
// by the sampling rate. It is defined only after Observe of a Flow that is an Event and was not a Duplicate. It is the
// amount by which traffic metrics must grow for the event: an update counts as it comes, a teardown counts only the
// excess over its updates.
func (m *Machine) Raised() (octets, packets uint64) { return m.raised.octetsE, m.raised.packsE }

// extensionEvents is the tag of the extension with the eventSums of an entry. Each item has the direction and the
// observation point of a side, and the two sums. A reader must ignore an item whose sums do not give the counters of
// the side: a version that does not know the extension keeps it unchanged while it adds to the counters.
// maxEventOctets bounds the octets of the extension; further items are left out.
const (
	extensionEvents = 1
	maxEventOctets  = 400
)

// code writes or reads the counters.
func (a *amounts) code(c *coder) {
	c.u64(&a.octets)
	c.u64(&a.packets)
	c.u64(&a.octetsE)
	c.u64(&a.packsE)
}

// code writes or reads an item of the extension: direction, observation point, sums.
func (x *eventSum) code(c *coder, toHi *bool, v *observationPoint) {
	c.flag(toHi)
	c.observationPoint(v)
	x.updates.code(c)
	x.flow.code(c)
}

// appendEvents writes the extension of e, if e has an eventSum.
func (m *Machine) appendEvents(c *coder, e *entry) {
	if !m.hasEvents(e) {
		return
	}
	items := coder{b: m.eventBuf[:0]}
	for i := m.links.ref(e.link).events; i != 0; {
		x := m.events.ref(i)
		s := m.sides.ref(x.side)
		toHi, v := s.toHi, m.points.pool.ref(s.point).observationPoint
		length := len(items.b)
		if x.code(&items, &toHi, &v); len(items.b) > maxEventOctets {
			items.b = items.b[:length]
			break
		}
		i = x.next
	}
	m.eventBuf = items.b
	tag := uint64(extensionEvents)
	c.u64(&tag)
	c.putBlob(items.b)
}

// readEvents reads the content of the extension into e. The sides of e must have been read before. An item without a
// matching side is skipped, not refused: see extensionEvents.
func (m *Machine) readEvents(b []byte, e *entry) error {
	for c := (coder{b: b, reading: true}); len(c.b) > 0; {
		var x eventSum
		var toHi bool
		var v observationPoint
		if x.code(&c, &toHi, &v); c.short {
			return errCut
		}
		of := m.points.find(v)
		for i := e.sides; i != 0; i = m.sides.ref(i).next {
			if s := m.sides.ref(i); s.toHi == toHi && s.point == of && s.amounts() == x.updates.greatest(x.flow) {
				m.setEventSum(e, i, x.updates, x.flow)
				break
			}
		}
	}
	return nil
}
