package pair

import (
	"math"
	"slices"
	"time"

	"weir/internal/saturating"
	"weir/pkg/flowpb"
)

// A side is one direction as one vantage saw it.
type side struct {
	octets, packets  uint64
	octetsE, packsE  uint64 // times the sampling rate
	start, end       int64
	datagram         uint64 // of the record that began first
	vantage          int32
	next             int32  // another side of the entry
	rateMin, rateMax uint32 // the greatest stands for all beyond
	records          uint32
	inIf, outIf      uint32
	resolution, fine span
	flags            uint16
	vlan             uint16
	tos              uint8
	reason           uint8
	state            end  // of the record that ended last
	toHi             bool // lo to hi
}

// A span is a clock's resolution: microseconds, from 1<<15 on milliseconds;
// rounded up.
type span uint16

const inMillis span = 1 << 15

func spanOf(ns int64) span {
	const us, ms = int64(time.Microsecond), int64(time.Millisecond)
	switch n := (ns + us - 1) / us; {
	case ns <= 1:
		return 0
	case n < int64(inMillis):
		return span(n)
	}
	return inMillis | span(min((ns+ms-1)/ms, int64(inMillis)-1))
}

// ns is at least 1: two equal times are no order.
func (s span) ns() int64 {
	switch {
	case s == 0:
		return 1
	case s&inMillis != 0:
		return int64(s&^inMillis) * int64(time.Millisecond)
	}
	return int64(s) * int64(time.Microsecond)
}

// maxSides bounds the sides that a connection keeps of one direction. A forged
// NetFlow v5 header names one of 65 536 vantages, so without a bound an entry would
// grow beyond what a record of the pairing topic can hold.
const maxSides = 24

// addSide adds what f says of one direction.
func (m *Machine) addSide(e *entry, f *Flow, n *counts, toHi bool) {
	if i := m.side(e, f, toHi); i != 0 {
		if f.counting != countsRecord || m.hasEvents(e) {
			m.addEvent(e, i, f, n)
			return
		}
		m.sides.at(i).add(f, n, &m.c)
		return
	}
	if f.counting != countsRecord {
		m.raised = m.raised.plus(n.amounts(f.Rate))
	}
	x := side{vantage: m.vantages.take(f.vantage)}
	x.describe(f, toHi)
	x.add(f, n, &m.c)
	m.merge(e, &x)
	m.bounded.Vantages++
}

// sideOf returns the number of e's side of a vantage in a direction, 0 when there is none,
// and how many sides of the direction it passed.
func (m *Machine) sideOf(e *entry, vantage int32, toHi bool) (i int32, n int) {
	for i = e.sides; i != 0; {
		s := m.sides.at(i)
		if s.toHi == toHi {
			if s.vantage == vantage {
				return i, n
			}
			n++
		}
		i = s.next
	}
	return 0, n
}

// side returns the number of the side of f's vantage in a direction. It returns 0 when
// there is none and the direction has maxSides sides.
func (m *Machine) side(e *entry, f *Flow, toHi bool) int32 {
	i, n := m.sideOf(e, m.vantages.find(f.vantage), toHi)
	if i != 0 || n >= maxSides {
		return i
	}
	m.newSide(e, f.vantage).describe(f, toHi)
	return e.sides
}

// describe sets what a side takes from its first record.
func (s *side) describe(f *Flow, toHi bool) {
	s.toHi, s.inIf, s.outIf, s.tos, s.vlan = toHi, f.InIf, f.OutIf, f.ToS, f.VLAN
}

// merge takes x, a side beyond maxSides with its reference to a vantage, into the
// sides that e keeps. Of those, some count: the ones that direction adds up. A side
// that does not count makes room for x, the weakest first. When all count, x is added
// to the side that is nearest in time; where x overlaps one in time, they saw the same
// packets, and the weaker is dropped. What a dropped side saw of flags and of the
// connection's end stays.
func (m *Machine) merge(e *entry, x *side) {
	e.quality |= bit(flowpb.Quality_QUALITY_MANY_VANTAGES)
	m.dropEvents(e)
	m.direction(e, x.toHi) // sorts the sides, the strongest first, and finds those that count
	var rival, nearest *side
	least, skew := int64(math.MaxInt64), int64(m.c.ClockSkew)
	for _, s := range m.report.in {
		switch gap := max(s.start-x.end, x.start-s.end); {
		case gap <= skew:
			rival = s
		case nearest == nil || gap < least:
			nearest, least = s, gap
		}
	}
	room := rival // the weakest that counts and overlaps x
	for _, s := range slices.Backward(m.report.sides) {
		if !slices.Contains(m.report.in, s) {
			room = s
			break
		}
	}
	if room == nil {
		nearest.sum(x)
		m.vantages.drop(x.vantage)
		return
	}
	if rival == nil || m.stronger(x, room) < 0 {
		next := room.next
		*room, *x = *x, *room
		room.next = next
	}
	if room.flags |= x.flags; x.state == endHard {
		room.state = endHard
	}
	m.vantages.drop(x.vantage)
}

// sum adds another vantage's side, which saw other packets.
func (s *side) sum(x *side) {
	s.octets = saturating.Add(s.octets, x.octets)
	s.packets = saturating.Add(s.packets, x.packets)
	s.octetsE = saturating.Add(s.octetsE, x.octetsE)
	s.packsE = saturating.Add(s.packsE, x.packsE)
	s.rateMin, s.rateMax = min(s.rateMin, x.rateMin), max(s.rateMax, x.rateMax)
	s.records += x.records
	s.flags |= x.flags
	if x.end > s.end {
		s.end, s.reason = x.end, x.reason
		if s.state != endHard {
			s.state = x.state
		}
	} else if x.end == s.end || x.state == endHard {
		s.state = max(s.state, x.state)
	}
	if x.start < s.start {
		s.start, s.datagram, s.fine = x.start, x.datagram, x.fine
	}
	s.resolution = max(s.resolution, x.resolution)
}

// newSide gives e one more side, without records.
func (m *Machine) newSide(e *entry, v vantage) *side {
	i := m.sides.alloc()
	s := m.sides.at(i)
	*s = side{vantage: m.vantages.take(v), next: e.sides}
	e.sides = i
	return s
}

// mergeFirst merges the side that was given to e last.
func (m *Machine) mergeFirst(e *entry) {
	i := e.sides
	x := *m.sides.at(i)
	e.sides = x.next
	m.sides.release(i)
	m.merge(e, &x)
}

func (s *side) add(f *Flow, n *counts, c *Config) {
	start, stop := f.Start, f.End
	if n.End != 0 {
		start, stop = n.Start, n.End
	}
	s.octets = saturating.Add(s.octets, n.Octets)
	s.packets = saturating.Add(s.packets, n.Packets)
	s.octetsE = saturating.Add(s.octetsE, saturating.Estimate(n.Octets, f.Rate))
	s.packsE = saturating.Add(s.packsE, saturating.Estimate(n.Packets, f.Rate))
	shown := uint32(min(f.Rate, math.MaxUint32))
	if s.records == 0 || shown < s.rateMin {
		s.rateMin = shown
	}
	s.rateMax = max(s.rateMax, shown)
	s.flags |= n.Flags
	state := f.endOf(c, n.Flags)
	switch {
	case s.records == 0 || stop > s.end:
		s.reason = f.Reason
		if s.state != endHard { // that stays
			s.state = state
		}
	case stop == s.end || state == endHard:
		s.state = max(s.state, state)
	}
	if s.records == 0 || start < s.start {
		s.start, s.datagram, s.fine = start, f.Datagram, spanOf(f.Fine)
	}
	if s.records == 0 || stop > s.end {
		s.end = stop
	}
	s.resolution = max(s.resolution, spanOf(f.Resolution))
	s.records++
}
