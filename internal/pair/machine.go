package pair

import (
	"bytes"
	"math"

	"weir/pkg/flowpb"
)

// A Machine pairs the records of one partition.
type Machine struct {
	c     Config
	share int // entries held at most
	emit  func(*Emission)

	now      int64 // stream time
	seq      uint64
	open     int
	grace    int
	table    table
	sides    pool[side]
	links    pool[link]
	vantages vantages
	clocks   clocks
	queues   [queueCount]queue
	warmth   uint64 // of no meaning: what warm read

	corrected Flow // by onClock

	log    deltaLog
	shared shared
	kept   map[int32][]byte // extensions of entries that this version does not know, as they were read
	report report
}

// New returns a Machine for one of partitions partitions (MaxOpen is shared).
// emit is called for every emission, in order, from within Observe, Advance and
// Close; what it is given is good until it returns.
func New(c Config, partitions int, emit func(*Emission)) *Machine {
	return &Machine{
		c: c, share: max(1, c.MaxOpen/max(1, partitions)), emit: emit, now: math.MinInt64,
	}
}

// StreamTime is the machine's clock, ns since the epoch; the least int64 before
// the first record.
func (m *Machine) StreamTime() int64 { return m.now }

// Held is how many connections are held, open and in grace.
func (m *Machine) Held() (open, grace int) { return m.open, m.grace }

// Octets is the memory that the machine takes, without what it gives out.
func (m *Machine) Octets() int {
	return m.table.entries.octets() + m.table.nodes.octets() + m.table.heads.octets() + m.sides.octets() + m.links.octets()
}

// Observe advances stream time to f's receive time, then takes f.
func (m *Machine) Observe(f *Flow) Outcome {
	m.Advance(f.Received)
	if len(m.clocks.at) > 0 || m.c.nearLimit(f.Offset) {
		f = m.onClock(f)
	}
	k := stateKey{f.Key, f.Scope}
	hash := k.hash()
	best, bestGap := int32(0), int64(0)
	for i := m.table.first(&k, hash); i != 0; i = m.table.next(i) {
		e := m.table.entries.at(i)
		if e.knows(f.Ident) {
			return Duplicate
		}
		if gap, ok := m.distance(e, f); ok && (best == 0 || m.closer(gap, e, bestGap, m.table.entries.at(best))) {
			best, bestGap = i, gap
		}
	}
	outcome := Joined
	if best == 0 {
		best, outcome = m.create(f, hash), Opened
	}
	e := m.table.entries.at(best)
	if m.emitted(e) {
		e.version++
		e.quality |= bit(flowpb.Quality_QUALITY_LATE)
		e.tell(m.now)
		m.grace--
		m.open++
	}
	m.add(e, f)
	m.schedule(best, e)
	if u := int64(m.c.UpdateInterval); u > 0 && m.now-e.toldAt() >= u {
		m.report.emission(e, m.connection(e, m.now, false), m.emit)
		e.version++
		e.tell(m.now)
	}
	m.log.changed(best, e)
	return outcome
}

// closer tells whether a at gap is the better candidate than b: the smaller
// gap, then the later start, then the smaller id.
func (m *Machine) closer(gap int64, a *entry, bGap int64, b *entry) bool {
	if gap != bGap {
		return gap < bGap
	}
	x, y := m.summary(a, &vantage{}), m.summary(b, &vantage{})
	if x.start != y.start {
		return x.start > y.start
	}
	xID, yID := a.id(), b.id()
	return bytes.Compare(xID[:], yID[:]) < 0
}

// emitted tells whether e was emitted as final: its deadline has passed.
func (m *Machine) emitted(e *entry) bool { return e.deadline <= m.now }

// create makes an entry for f's conversation, giving up others at capacity.
func (m *Machine) create(f *Flow, hash uint32) int32 {
	for m.open+m.grace >= m.share && m.evict() {
	}
	m.open++
	return m.table.insert(&entry{
		key: stateKey{f.Key, f.Scope}, origin: f.Ident, deadline: math.MaxInt64, version: 1, first: f.Received,
	}, hash)
}

// schedule sets e's deadline after a record.
func (m *Machine) schedule(i int32, e *entry) {
	q, at := queueIdle, m.now+int64(m.c.Idle)
	switch {
	case m.complete(e):
		q, at = queueLinger, m.now+int64(m.c.Linger)
	case m.oneSidedAndSmall(e):
		q = queueSmall
	}
	m.seq++
	e.deadline, e.seq = at, m.seq
	m.push(q, i)
}

// Advance moves stream time to t (ns since the epoch; never back) and emits
// what is due.
func (m *Machine) Advance(t int64) {
	if t <= m.now {
		return
	}
	for {
		i := m.due(t, queueLinger, queueIdle, queueSmall)
		if i == 0 {
			break
		}
		e := m.table.entries.at(i)
		m.warm(e.in)
		m.report.emission(e, m.connection(e, e.deadline, true), m.emit)
		m.open--
		m.grace++
		m.push(queueLate, i)
	}
	m.now = t
	for {
		i := m.queues[queueLate].front
		if i == 0 {
			return
		}
		if e := m.table.entries.at(i); e.deadline+int64(m.c.LateGrace) > t {
			return
		}
		m.warm(queueLate)
		m.grace--
		m.forget(i)
	}
}

// evict gives up one entry: one in grace, else a one-sided one of few packets,
// else the one that would be emitted next. It tells whether there was one.
func (m *Machine) evict() bool {
	i := m.queues[queueLate].front
	if i != 0 {
		m.grace--
	} else {
		if i = m.queues[queueSmall].front; i == 0 {
			i = m.due(math.MaxInt64, queueLinger, queueIdle)
		}
		if i == 0 {
			return false
		}
		e := m.table.entries.at(i)
		c := m.connection(e, m.now, true)
		c.EmitReason = flowpb.EmitReason_EMIT_REASON_EVICTED
		m.report.emission(e, c, m.emit)
		m.open--
	}
	m.log.evicted(m.table.entries.at(i))
	m.forget(i)
	return true
}

// forget takes an entry out of the table.
func (m *Machine) forget(i int32) {
	e := m.table.entries.at(i)
	m.log.forgotten(e, m.table.nodes.at(i))
	m.unqueue(i)
	m.strip(e)
	if e.marks&isExtended != 0 {
		delete(m.kept, i)
	}
	m.table.remove(i)
}

// Close emits everything that is open, for the end of an offline input.
func (m *Machine) Close() {
	for {
		i := m.due(math.MaxInt64, queueLinger, queueIdle, queueSmall)
		if i == 0 {
			return
		}
		e := m.table.entries.at(i)
		m.report.emission(e, m.connection(e, e.deadline, true), m.emit)
		m.open--
		m.forget(i)
	}
}

// Due tells whether Advance(t) would emit something.
func (m *Machine) Due(t int64) bool {
	return m.due(t, queueLinger, queueIdle, queueSmall) != 0
}
