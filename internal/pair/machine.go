package pair

import (
	"bytes"
	"cmp"
	"math"
	"slices"

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
	events   pool[eventSum]
	raised   amounts // by the events of a firewall, of the last record
	vantages vantages
	clocks   clocks
	queues   [queueCount]queue
	warmth   uint64 // of no meaning: what warm read

	corrected Flow // by onClock

	log    deltaLog
	shared shared
	crowds crowds           // during a restore
	kept   map[int32][]byte // extensions of entries that this version does not know, as they were read
	report report

	eventBuf []byte // of appendEvents

	sameKey []int32 // by evictSameKey
	bounded Bounded
}

// Bounded counts what went beyond a bound.
type Bounded struct {
	Vantages uint64 // parts of records merged because their connection keeps maxSides vantages
	SameKey  uint64 // connections given up because their key has maxSameKey
	Paused   uint64 // connections that pause, forgotten at capacity before PAIR_TCP_PAUSE
}

// TakeBounded returns the counts since the last call.
func (m *Machine) TakeBounded() Bounded {
	b := m.bounded
	m.bounded = Bounded{}
	return b
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
	return m.table.entries.octets() + m.table.nodes.octets() + m.table.heads.octets() + m.sides.octets() + m.links.octets() + m.events.octets()
}

// Observe advances stream time to f's receive time, then takes f.
func (m *Machine) Observe(f *Flow) Outcome {
	m.Advance(f.Received)
	if len(m.clocks.at) > 0 || m.c.nearLimit(f.Offset) {
		f = m.onClock(f)
	}
	k := stateKey{f.Key, f.Scope}
	hash := k.hash()
	x := f.extent(&m.c)
	best, bestGap, near, same := int32(0), int64(0), 0, 0
	for i := m.table.first(&k, hash); i != 0; i = m.table.next(i) {
		same++
		e := m.table.entries.at(i)
		if e.origin == f.Ident || e.knows(f.Ident) {
			return Duplicate
		}
		gap, ok := m.distance(e, f, &x)
		if !ok {
			continue
		}
		if near++; best == 0 || m.closer(gap, e, bestGap, m.table.entries.at(best)) {
			best, bestGap = i, gap
		}
	}
	outcome := Joined
	switch {
	case best == 0:
		if same >= maxSameKey {
			m.evictSameKey(&k, hash)
		}
		best, outcome = m.create(f, hash), Opened
	case near > 1:
		best = m.bridge(best, f, &x)
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

// distance returns how far e is from f, of extent x, in time, ns; ok is false when they
// are of two connections.
func (m *Machine) distance(e *entry, f *Flow, x *extent) (gap int64, ok bool) {
	u := m.summary(e, &f.vantage)
	return m.c.together(f.Key.Proto, &u.extent, x, m.tolerance(&u, f))
}

// tolerance returns by how much the clocks of f and of an entry can differ, ns.
func (m *Machine) tolerance(u *summary, f *Flow) int64 {
	if u.clock {
		return f.Resolution
	}
	return int64(m.c.ClockSkew)
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

// maxSameKey bounds the connections held of one key: each record of the key is
// compared with all of them. A host that reuses its port as fast as TCP lets it has
// two or three within PAIR_IDLE + PAIR_LATE_GRACE.
const maxSameKey = 32

// maxSameKeyEvicted bounds the connections of its own key that one record pushes out.
// More than one must go after a restore: a version without maxSameKey wrote more.
const maxSameKeyEvicted = 1000

// maxEvicted bounds the connections that one record pushes out. More than one must go
// after a restore with a smaller PAIR_MAX_OPEN.
const maxEvicted = 2

// create makes an entry for f's conversation, giving up others at capacity.
func (m *Machine) create(f *Flow, hash uint32) int32 {
	for n := 0; n < maxEvicted && m.open+m.grace >= m.share && m.evict(); n++ {
	}
	m.open++
	return m.table.insert(&entry{
		key: stateKey{f.Key, f.Scope}, origin: f.Ident, deadline: math.MaxInt64, version: 1, first: f.Received,
	}, hash)
}

// schedule sets e's deadline after a record.
func (m *Machine) schedule(i int32, e *entry) {
	q := m.queueOf(e)
	m.seq++
	e.deadline, e.seq = m.now+m.wait(q), m.seq
	m.push(q, i)
}

// queueOf returns the queue for e while it is open.
func (m *Machine) queueOf(e *entry) queueName {
	switch {
	case m.complete(e):
		return queueLinger
	case m.oneSidedAndSmall(e):
		return queueSmall
	}
	return queueIdle
}

// wait is what a queue of open entries adds to stream time, ns.
func (m *Machine) wait(q queueName) int64 {
	if q == queueLinger {
		return int64(m.c.Linger)
	}
	return int64(m.c.Idle)
}

// Advance moves stream time to t (ns since the epoch; never back) and emits
// what is due.
func (m *Machine) Advance(t int64) { m.AdvanceUpTo(t, math.MaxInt) }

// AdvanceUpTo moves stream time to t and emits what is due, but at most n
// connections. When more are due it returns true with stream time before the next of
// them; it must be called again before the next Observe.
func (m *Machine) AdvanceUpTo(t int64, n int) (more bool) {
	if t <= m.now {
		return false
	}
	for i := m.due(t, queueLinger, queueIdle, queueSmall); i != 0; i = m.due(t, queueLinger, queueIdle, queueSmall) {
		e := m.table.entries.at(i)
		if n--; n < 0 {
			t, more = m.suspend(e.deadline), true
			break
		}
		m.warm(e.in)
		m.report.emission(e, m.connection(e, e.deadline, true), m.emit)
		m.open--
		m.grace++
		m.push(queueLate, i)
	}
	m.now = t
	m.expire()
	return more
}

// maxLoggedAgain bounds the entries that one step of stream time logs again.
const maxLoggedAgain = 1000

// expire forgets the emitted entries whose time is over. A connection that pauses is
// held for longer than others; it is logged again, so that a restore need not read the
// log of all that time. When stream time jumps, as after a silence of all exporters, that
// is done for maxLoggedAgain of them: a transaction must not have all that is held.
func (m *Machine) expire() {
	again := 0
	for i := m.queues[queueLate].front; i != 0; i = m.queues[queueLate].front {
		e := m.table.entries.at(i)
		if e.deadline+int64(m.c.LateGrace) > m.now {
			break
		}
		m.warm(queueLate)
		if e.deadline+m.heldFor(e) > m.now {
			m.push(queuePause, i)
			if again++; again <= maxLoggedAgain {
				m.log.changed(i, e)
			}
			continue
		}
		m.grace--
		m.forget(i)
	}
	for i := m.queues[queuePause].front; i != 0; i = m.queues[queuePause].front {
		if e := m.table.entries.at(i); e.deadline+m.heldFor(e) > m.now {
			break
		}
		m.warm(queuePause)
		m.grace--
		m.forget(i)
	}
}

// heldFor returns how long e is held after its final report, ns.
func (m *Machine) heldFor(e *entry) int64 {
	if m.pauses(e) {
		return int64(max(m.c.LateGrace, m.c.TCPPause))
	}
	return int64(m.c.LateGrace)
}

// suspend makes the instant before deadline a stream time at which everything that
// was emitted is due and nothing else is: emitted entries with that very deadline get
// an earlier one, by a nanosecond.
func (m *Machine) suspend(deadline int64) (now int64) {
	for i := m.queues[queueLate].back; i != 0; i = m.table.nodes.at(i).before {
		e := m.table.entries.at(i)
		if e.deadline < deadline {
			break
		}
		e.deadline = deadline - 1
		m.log.changed(i, e)
	}
	return deadline - 1
}

// evict gives up one entry: a connection that pauses, else one in grace, else a
// one-sided one of few packets, else the one that would be emitted next. It tells
// whether there was one.
func (m *Machine) evict() bool {
	i := m.queues[queuePause].front
	if i != 0 {
		m.bounded.Paused++
	} else {
		i = m.queues[queueLate].front
	}
	if i == 0 {
		i = m.queues[queueSmall].front
	}
	if i == 0 {
		i = m.due(math.MaxInt64, queueLinger, queueIdle)
	}
	if i != 0 {
		m.giveUp(i)
	}
	return i != 0
}

// evictSameKey makes room for one more entry of a key: it gives up those that were
// emitted first, then those that would be emitted next.
func (m *Machine) evictSameKey(k *stateKey, hash uint32) {
	m.sameKey = m.sameKey[:0]
	for i := m.table.first(k, hash); i != 0; i = m.table.next(i) {
		m.sameKey = append(m.sameKey, i)
	}
	slices.SortFunc(m.sameKey, func(i, j int32) int {
		a, b := m.table.entries.at(i), m.table.entries.at(j)
		return cmp.Or(cmp.Compare(a.deadline, b.deadline), cmp.Compare(a.seq, b.seq))
	})
	for _, i := range m.sameKey[:min(len(m.sameKey)+1-maxSameKey, maxSameKeyEvicted)] {
		m.giveUp(i)
		m.bounded.SameKey++
	}
}

// giveUp forgets an entry before its time, and emits it unless it was emitted.
func (m *Machine) giveUp(i int32) {
	e := m.table.entries.at(i)
	if m.emitted(e) {
		m.grace--
	} else {
		c := m.connection(e, m.now, true)
		c.EmitReason = flowpb.EmitReason_EMIT_REASON_EVICTED
		m.report.emission(e, c, m.emit)
		m.open--
	}
	m.log.evicted(e)
	m.forget(i)
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
