package pair

import (
	"weir/internal/saturating"
	"weir/pkg/flowpb"
)

// A counting says what the counters of a record count.
//
// Cisco's guide to NSEL has two kinds of events with counters: a flow update has those
// since the update before it, a flow teardown those of the whole flow. A flow of which
// both were exported is counted by each of them, so that a side keeps their sums apart
// and reports the greater. Firewalls that count one direction a record (Palo Alto,
// Barracuda: IE 1 or 85 without 231 and 232) have counters of the record alone.
type counting uint8

const (
	countsRecord counting = iota // what no other record counts
	countsUpdate                 // a firewall's flow update
	countsFlow                   // a firewall's flow teardown
)

// countingOf returns what the counters of a record count.
func countingOf(m *flowpb.FlowMessage) counting {
	switch {
	case m.FirewallEvent == 0 || !m.Biflow:
		return countsRecord
	case m.FirewallEvent == eventDeleted:
		return countsFlow
	}
	return countsUpdate
}

// IsUpdate reports whether m is a firewall's flow update: the teardown of its flow
// counts the same again. Sums over flows that know no connections leave it out.
func IsUpdate(m *flowpb.FlowMessage) bool { return countingOf(m) == countsUpdate }

// Event reports whether f is an event of a firewall that other events of its flow
// count, too: see Machine.Raised.
func (f *Flow) Event() bool { return f.counting != countsRecord }

// amounts are counters of one direction, as they are and times the sampling rate.
type amounts struct{ octets, packets, octetsE, packsE uint64 }

func (a amounts) plus(b amounts) amounts {
	return amounts{
		saturating.Add(a.octets, b.octets), saturating.Add(a.packets, b.packets),
		saturating.Add(a.octetsE, b.octetsE), saturating.Add(a.packsE, b.packsE),
	}
}

// greatest takes each counter where it is greater.
func (a amounts) greatest(b amounts) amounts {
	return amounts{max(a.octets, b.octets), max(a.packets, b.packets), max(a.octetsE, b.octetsE), max(a.packsE, b.packsE)}
}

// minus returns a-b, for b at most a.
func (a amounts) minus(b amounts) amounts {
	return amounts{a.octets - b.octets, a.packets - b.packets, a.octetsE - b.octetsE, a.packsE - b.packsE}
}

func (n *counts) amounts(rate uint64) amounts {
	return amounts{n.Octets, n.Packets, saturating.Estimate(n.Octets, rate), saturating.Estimate(n.Packets, rate)}
}

func (s *side) amounts() amounts { return amounts{s.octets, s.packets, s.octetsE, s.packsE} }

func (s *side) setAmounts(a amounts) {
	s.octets, s.packets, s.octetsE, s.packsE = a.octets, a.packets, a.octetsE, a.packsE
}

// An eventSum is what the events of a firewall say of one side: the side's counters are
// the greater of the two. A side has one when sums says otherwise.
type eventSum struct {
	side, next int32 // whose it is; another one of the entry
	updates    amounts
	flow       amounts // of teardowns
}

// maxEventSums bounds the eventSums of an entry: two firewalls that both report a
// connection without a flow id. Sides beyond go by sums.
const maxEventSums = 4

// sums returns the sums of a side without an eventSum. While its flow goes on it has
// updates alone; once it ended its counters are the teardown's, with updates that
// count no more than that.
func (s *side) sums() (updates, flow amounts) {
	if s.state == endHard {
		return amounts{}, s.amounts()
	}
	return s.amounts(), amounts{}
}

// eventSum returns the eventSum of side i, and how many e has; nil when it has none.
func (m *Machine) eventSum(e *entry, i int32) (x *eventSum, n int) {
	if e.link == 0 {
		return nil, 0
	}
	for j := m.links.at(e.link).events; j != 0; {
		x := m.events.at(j)
		if x.side == i {
			return x, n
		}
		j = x.next
		n++
	}
	return nil, n
}

// hasEvents reports whether e has an eventSum.
func (m *Machine) hasEvents(e *entry) bool { return e.link != 0 && m.links.at(e.link).events != 0 }

// addEvent adds what f says of a direction to side i, when f is an event of a firewall
// or the side may have an eventSum.
func (m *Machine) addEvent(e *entry, i int32, f *Flow, n *counts) {
	s := m.sides.at(i)
	before := s.amounts()
	updates, flow := s.sums()
	if x, _ := m.eventSum(e, i); x != nil {
		updates, flow = x.updates, x.flow
	}
	switch more := n.amounts(f.Rate); {
	case f.counting != countsFlow:
		updates = updates.plus(more)
	case f.ofFlowID: // there is one teardown, which can come twice
		flow = flow.greatest(more)
	default: // of several flows of the key
		flow = flow.plus(more)
	}
	s.add(f, &counts{Flags: n.Flags, Start: n.Start, End: n.End}, &m.c)
	s.setAmounts(updates.greatest(flow))
	m.setEventSum(e, i, updates, flow)
	m.raised = m.raised.plus(s.amounts().minus(before))
}

// setEventSum keeps the sums of side i, unless they follow from the side itself.
func (m *Machine) setEventSum(e *entry, i int32, updates, flow amounts) {
	x, n := m.eventSum(e, i)
	if x == nil {
		if u, f := m.sides.at(i).sums(); u == updates && f == flow || n == maxEventSums {
			return
		}
		if e.link == 0 {
			e.link = m.links.alloc()
			*m.links.at(e.link) = link{}
		}
		l := m.links.at(e.link)
		j := m.events.alloc()
		x = m.events.at(j)
		*x = eventSum{side: i, next: l.events}
		l.events = j
	}
	x.updates, x.flow = updates, flow
}

// dropEvents forgets the eventSums of an entry whose sides become others.
func (m *Machine) dropEvents(e *entry) {
	if !m.hasEvents(e) {
		return
	}
	l := m.links.at(e.link)
	for i := l.events; i != 0; {
		next := m.events.at(i).next
		m.events.release(i)
		i = next
	}
	l.events = 0
}

// Raised returns by how many octets and packets, times the sampling rate and of both
// directions, the last record raised its connection. It is for a Flow that is an Event
// and that Observe did not take for a Duplicate.
func (m *Machine) Raised() (octets, packets uint64) { return m.raised.octetsE, m.raised.packsE }

// extensionEvents is the tag of the extension of an entry that has its eventSums: items
// of a side's direction and vantage and the two sums. A reader takes an item whose sums
// give the side's counters: a version that does not know the extension keeps it and
// adds to the counters. maxEventOctets bounds its octets; items beyond are left out.
const (
	extensionEvents = 1
	maxEventOctets  = 400
)

func (a *amounts) code(c *coder) {
	c.u64(&a.octets)
	c.u64(&a.packets)
	c.u64(&a.octetsE)
	c.u64(&a.packsE)
}

// code writes or reads an item of the extension.
func (x *eventSum) code(c *coder, toHi *bool, v *vantage) {
	c.flag(toHi)
	c.vantage(v)
	x.updates.code(c)
	x.flow.code(c)
}

// appendEvents writes the extension of e.
func (m *Machine) appendEvents(c *coder, e *entry) {
	if !m.hasEvents(e) {
		return
	}
	items := coder{b: m.eventBuf[:0]}
	for i := m.links.at(e.link).events; i != 0; {
		x := m.events.at(i)
		s := m.sides.at(x.side)
		toHi, v := s.toHi, m.vantages.of.at(s.vantage).vantage
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

// readEvents reads the content of the extension into e, whose sides were read.
func (m *Machine) readEvents(b []byte, e *entry) error {
	for c := (coder{b: b, reading: true}); len(c.b) > 0; {
		var x eventSum
		var toHi bool
		var v vantage
		if x.code(&c, &toHi, &v); c.short {
			return errCut
		}
		of := m.vantages.find(v)
		for i := e.sides; i != 0; i = m.sides.at(i).next {
			if s := m.sides.at(i); s.toHi == toHi && s.vantage == of && s.amounts() == x.updates.greatest(x.flow) {
				m.setEventSum(e, i, x.updates, x.flow)
				break
			}
		}
	}
	return nil
}
