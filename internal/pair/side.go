package pair

import (
	"math"
	"slices"
	"time"

	"weir/internal/saturating"
	"weir/pkg/flowpb"
)

// A side is a direction of a connection as an observation point observed it.
//
// An entry with one observation point has a side for each direction, 96 octets each. Counters and times are those of
// all records of the observation point in this direction; inIf, outIf, tos and vlan are those of the first record
// received.
type side struct {
	octets, packets  uint64
	octetsE, packsE  uint64 // multiplied by the sampling rate
	start, end       int64  // ns since the epoch
	datagram         uint64 // hash of the datagram with the record that began first
	point            int32  // number of the observation point; the side owns a reference to it
	next             int32  // next side of the entry; 0: none
	rateMin, rateMax uint32 // sampling rates, 1 in N; math.MaxUint32 stands for greater rates
	records          uint32
	inIf, outIf      uint32
	resolution, fine span
	flags            uint16
	vlan             uint16
	tos              uint8
	reason           uint8
	state            end  // of the record that ended last; endHard is kept
	toHi             bool // direction lo to hi, else hi to lo
}

// A span is the resolution of a clock, rounded up: in microseconds, or in milliseconds with the bit inMillis set.
// Example: 1 ms is 1000, 1 s is inMillis|1000, and the greatest value is 32.767 s.
type span uint16

const inMillis span = 1 << 15

// spanOf returns the span of a resolution in ns; 0 stands for 1 ns.
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

// ns returns the resolution in ns. It is at least 1: equal times have no order.
func (s span) ns() int64 {
	switch {
	case s == 0:
		return 1
	case s&inMillis != 0:
		return int64(s&^inMillis) * int64(time.Millisecond)
	}
	return int64(s) * int64(time.Microsecond)
}

// maxSides bounds the sides of a direction of a connection. Forged NetFlow v5 headers can name 65 536 observation
// points (engine type and id): without a bound an entry would exceed the size limit of a record of the pairing topic.
const maxSides = 24

// addSide adds n, the counters of f for a direction, to the side of f's observation point. If the direction has
// maxSides other sides, it merges them into those and counts it in bounded. Once e has an eventSum, ordinary records
// take the path of addEvent too: the sums must remain consistent with the counters of the side.
func (m *Machine) addSide(e *entry, f *Flow, n *counts, toHi bool) {
	if i := m.side(e, f, toHi); i != 0 {
		if f.counting != countsRecord || m.hasEvents(e) {
			m.addEvent(e, i, f, n)
			return
		}
		m.sides.ref(i).add(f, n, &m.c)
		return
	}
	if f.counting != countsRecord {
		m.raised = m.raised.plus(n.amounts(f.Rate))
	}
	x := side{point: m.points.acquire(f.observationPoint)}
	x.describe(f, toHi)
	x.add(f, n, &m.c)
	m.merge(e, &x)
	m.bounded.ObservationPoints++
}

// sideOf returns the number of e's side of an observation point in a direction, or 0, and the number of other sides
// of the direction before it.
func (m *Machine) sideOf(e *entry, point int32, toHi bool) (i int32, n int) {
	for i = e.sides; i != 0; {
		s := m.sides.ref(i)
		if s.toHi == toHi {
			if s.point == point {
				return i, n
			}
			n++
		}
		i = s.next
	}
	return 0, n
}

// side returns the number of the side of f's observation point in a direction. It adds the side if there is none,
// unless the direction has maxSides sides: then it returns 0. An observation point without references has number 0,
// which no side has.
func (m *Machine) side(e *entry, f *Flow, toHi bool) int32 {
	i, n := m.sideOf(e, m.points.find(f.observationPoint), toHi)
	if i != 0 || n >= maxSides {
		return i
	}
	m.newSide(e, f.observationPoint).describe(f, toHi)
	return e.sides
}

// describe sets the fields of a side that come from its first record.
func (s *side) describe(f *Flow, toHi bool) {
	s.toHi, s.inIf, s.outIf, s.tos, s.vlan = toHi, f.InIf, f.OutIf, f.ToS, f.VLAN
}

// merge merges x, a side beyond maxSides, into the sides of e. It takes over the reference of x to its observation
// point.
//
// Some sides of e are counted: those that direction sums. If a side is not counted, x replaces the weakest such side,
// if x is stronger or overlaps no counted side in time. If all are counted, x is added to the counted side that is
// nearest in time; but if x overlaps a counted side, both observed the same packets, and the weaker is dropped. The
// TCP flags and endHard of a dropped side are kept.
//
// Example with all sides counted: x observed 12:00 to 12:01, and no side overlaps that time. The nearest side in time
// takes the counters of x. If a side observed 12:00:30 to 12:02 with more packets, x is dropped instead.
func (m *Machine) merge(e *entry, x *side) {
	e.quality |= bit(flowpb.Quality_QUALITY_MANY_VANTAGES)
	m.dropEvents(e)
	m.direction(e, x.toHi) // for its side effect: sorted sides, and the counted sides, in m.report
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
	room := rival // the weakest counted side that overlaps x
	for _, s := range slices.Backward(m.report.sides) {
		if !slices.Contains(m.report.in, s) {
			room = s
			break
		}
	}
	if room == nil {
		nearest.sum(x)
		m.points.drop(x.point)
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
	m.points.drop(x.point)
}

// sum adds x, a side that observed other packets: of another observation point, or of another entry. The caller
// remains the owner of x and its reference to an observation point.
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

// newSide adds a side without records to e.
func (m *Machine) newSide(e *entry, v observationPoint) *side {
	i := m.sides.alloc()
	s := m.sides.ref(i)
	*s = side{point: m.points.acquire(v), next: e.sides}
	e.sides = i
	return s
}

// mergeFirst removes the first side of e, which was added last, and merges it into the others.
func (m *Machine) mergeFirst(e *entry) {
	i := e.sides
	x := *m.sides.ref(i)
	e.sides = x.next
	m.sides.release(i)
	m.merge(e, &x)
}

// add adds n, the counters of f for the direction of s. The state and the flow end reason are those of the record that
// ends last, so that the order of arrival does not matter. Counters saturate at math.MaxUint64 instead of wrapping:
// forged counters must not make a sum small.
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
		if s.state != endHard { // endHard is final
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
