package pair

import (
	"bytes"
	"cmp"
	"math"
	"slices"

	"weir/pkg/flowpb"
)

// A Machine pairs the records of a partition. It is not safe for concurrent use.
//
// In operation, the caller calls Observe and Advance, then Deltas and Logged at the end of each transaction. To
// restore a Machine, the caller must apply the logged pieces from RestoreFrom on to a new Machine, in log order, and
// then call Restored with the stream time of the commit.
//
// The Machine owns all entries and their parts. It keeps no pointer into a Flow. Emissions, pieces and keys that it
// hands out point into its buffers and are valid only as long as their methods state.
type Machine struct {
	c     Config
	share int // maximum number of entries
	emit  func(*Emission)

	now    int64  // stream time, ns since the epoch
	seq    uint64 // of the last change of an entry
	open   int    // number of open entries
	grace  int    // number of emitted entries
	table  table
	sides  pool[side]
	links  pool[link]
	events pool[eventSum]
	raised amounts // see Raised
	points observationPoints
	clocks clocks
	queues [queueCount]queue
	warmth uint64 // result of warm, stored so that the compiler keeps its reads

	corrected Flow // result of onClock

	log    deltaLog
	shared shared
	crowds crowds           // only during a restore
	kept   map[int32][]byte // unknown extensions by entry, as they were read
	report report

	eventBuf []byte // scratch of appendEvents

	sameKey []int32 // scratch of evictSameKey
	bounded Bounded
}

// Bounded counts the effects of limits.
type Bounded struct {
	ObservationPoints uint64 // sides merged because a direction of their connection has maxSides observation points
	SameKey           uint64 // connections evicted because their key has maxSameKey connections
	Paused            uint64 // pausing connections evicted at PAIR_MAX_OPEN before PAIR_TCP_PAUSE
}

// TakeBounded returns the counts since the last call.
func (m *Machine) TakeBounded() Bounded {
	b := m.bounded
	m.bounded = Bounded{}
	return b
}

// New returns a Machine without state. MaxOpen is divided by partitions. The Machine calls emit for every emission, in
// order, from within Observe, Advance, AdvanceUpTo and Close. The emission is valid until emit returns; emit must not
// call the Machine. c must be valid (Config.Validate). Each partition has its own share of MaxOpen: with a common
// limit, evictions would depend on the records of other partitions, and a replay would differ.
func New(c Config, partitions int, emit func(*Emission)) *Machine {
	return &Machine{
		c: c, share: max(1, c.MaxOpen/max(1, partitions)), emit: emit, now: math.MinInt64,
	}
}

// StreamTime returns the clock of the machine, ns since the epoch; math.MinInt64 before the first record.
func (m *Machine) StreamTime() int64 { return m.now }

// Held returns the number of connections that are open, and that were emitted and are in grace. Both count against the
// share of MaxOpen.
func (m *Machine) Held() (open, grace int) { return m.open, m.grace }

// Octets returns the memory of the pools, in octets. Buffers of the log and of reports are not included.
func (m *Machine) Octets() int {
	return m.table.entries.octets() + m.table.nodes.octets() + m.table.heads.octets() +
		m.sides.octets() + m.links.octets() + m.events.octets()
}

// Observe advances stream time to f's receive time, then adds f to the connection that is closest in time, or opens a
// connection. It does not keep f.
//
// f must be from FromMessage with the Config of the Machine. The cost is bounded: the key has at most maxSameKey
// entries, and an entry at most 2*maxSides sides. A Duplicate advances stream time but changes no entry.
func (m *Machine) Observe(f *Flow) Outcome {
	m.Advance(f.Received)
	if len(m.clocks.at) > 0 || m.c.nearLimit(f.Offset) {
		f = m.onClock(f)
	}
	k := stateKey{f.Key, f.Scope}
	hash := k.hash()
	x := f.extent(&m.c)
	// One walk over the entries of the key finds duplicates and candidates. The walk is complete before any change,
	// since table.next is not valid after a change.
	best, bestGap, near, same := int32(0), int64(0), 0, 0
	for i := m.table.first(&k, hash); i != 0; i = m.table.next(i) {
		same++
		e := m.table.entries.ref(i)
		if e.origin == f.Ident || e.hasIdent(f.Ident) {
			return Duplicate
		}
		gap, ok := m.distance(e, f, &x)
		if !ok {
			continue
		}
		if near++; best == 0 || m.closer(gap, e, bestGap, m.table.entries.ref(best)) {
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
	e := m.table.entries.ref(best)
	// The record corrects a report or continues a pausing connection: the entry is open again, and its next report has
	// the next version.
	if m.emitted(e) {
		e.version++
		e.quality |= bit(flowpb.Quality_QUALITY_LATE)
		e.noteReport(m.now)
		m.grace--
		m.open++
	}
	m.add(e, f)
	m.schedule(best, e)
	// The version increases after the interim report, so that the next report of the entry is greater.
	if u := int64(m.c.UpdateInterval); u > 0 && m.now-e.lastReport() >= u {
		m.report.emission(e, m.connection(e, m.now, false), m.emit)
		e.version++
		e.noteReport(m.now)
	}
	m.log.changed(best, e)
	return outcome
}

// distance returns the time between e and f, ns. x is the extent of f. ok is false if they belong to two connections.
func (m *Machine) distance(e *entry, f *Flow, x *extent) (gap int64, ok bool) {
	u := m.summary(e, &f.observationPoint)
	return m.c.timeGap(f.Key.Proto, &u.extent, x, m.tolerance(&u, f))
}

// tolerance returns the possible difference between the clock of f and that of an entry, ns: the resolution if an
// exporter's clock is the same, else ClockSkew. Clocks of different observation domains are different, since they may
// be on different line cards.
func (m *Machine) tolerance(u *summary, f *Flow) int64 {
	if u.clock {
		return f.Resolution
	}
	return int64(m.c.ClockSkew)
}

// closer reports whether a, at gap, is a better candidate for a record than b, at bGap: the smaller gap, then the
// later start, then the smaller id decide. The result does not depend on the order of arrival.
func (m *Machine) closer(gap int64, a *entry, bGap int64, b *entry) bool {
	if gap != bGap {
		return gap < bGap
	}
	x, y := m.summary(a, &observationPoint{}), m.summary(b, &observationPoint{})
	if x.start != y.start {
		return x.start > y.start
	}
	xID, yID := a.id(), b.id()
	return bytes.Compare(xID[:], yID[:]) < 0
}

// emitted reports whether e was emitted as final: its deadline has passed. There is no mark for it: an entry is emitted
// when stream time reaches its deadline. A restore derives the emitted entries from the stream time of the commit, so
// that an emission does not have to log its entry.
func (m *Machine) emitted(e *entry) bool { return e.deadline <= m.now }

// maxSameKey bounds the connections of a key, because each record is compared with all connections of its key. A host
// that reuses a port as fast as TCP allows has two or three within PAIR_IDLE + PAIR_LATE_GRACE.
const maxSameKey = 32

// maxSameKeyEvicted bounds the connections of its key that a record evicts. More than one is evicted after a restore
// of state from a version without maxSameKey.
const maxSameKeyEvicted = 1000

// maxEvicted bounds the connections that a record evicts at PAIR_MAX_OPEN. Two are needed after a restore with a
// smaller PAIR_MAX_OPEN, so that the number of entries decreases.
const maxEvicted = 2

// create adds an entry for f's conversation and returns its number. At capacity it evicts others.
func (m *Machine) create(f *Flow, hash uint32) int32 {
	for n := 0; n < maxEvicted && m.open+m.grace >= m.share && m.evict(); n++ {
	}
	m.open++
	return m.table.insert(&entry{
		key: stateKey{f.Key, f.Scope}, origin: f.Ident, deadline: math.MaxInt64, version: 1, first: f.Received,
	}, hash)
}

// schedule sets the deadline of entry i, e, after a record, and moves it to its queue. The deadline is relative to
// stream time, not to the times of the record, so that a wrong clock of an exporter cannot keep a connection open or
// end it.
func (m *Machine) schedule(i int32, e *entry) {
	q := m.queueOf(e)
	m.seq++
	e.deadline, e.seq = m.now+m.wait(q), m.seq
	m.push(q, i)
}

// queueOf returns the queue in which e belongs while it is open.
func (m *Machine) queueOf(e *entry) queueName {
	switch {
	case m.complete(e):
		return queueLinger
	case m.oneSidedAndSmall(e):
		return queueSmall
	}
	return queueIdle
}

// wait returns the time from the last record to the deadline in a queue of open entries, ns.
func (m *Machine) wait(q queueName) int64 {
	if q == queueLinger {
		return int64(m.c.Linger)
	}
	return int64(m.c.Idle)
}

// Advance advances stream time to t, ns since the epoch, and emits the connections that are due. Stream time never
// decreases: an earlier t has no effect.
func (m *Machine) Advance(t int64) { m.AdvanceUpTo(t, math.MaxInt) }

// AdvanceUpTo advances stream time to t and emits the connections that are due, but at most n. If more are due, it
// returns true, with stream time just before the next of them. The caller must then call it again before the next
// Observe.
//
// A report has the deadline of its entry as its time (emitted_unix_ns), not t: the reports must not depend on the steps
// in which stream time advances.
func (m *Machine) AdvanceUpTo(t int64, n int) (more bool) {
	if t <= m.now {
		return false
	}
	for i := m.due(t, queueLinger, queueIdle, queueSmall); i != 0; i = m.due(t, queueLinger, queueIdle, queueSmall) {
		e := m.table.entries.ref(i)
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

// maxLoggedAgain bounds the entries that a step of stream time logs again.
const maxLoggedAgain = 1000

// expire removes the emitted entries whose grace is over. A connection that pauses is held for longer; it is logged
// again, so that a restore does not have to read the log of the whole pause. If stream time jumps, as after a silence
// of all exporters, only maxLoggedAgain entries are logged again: a transaction must not contain the whole state. The
// log needs no removal for an entry whose newest value it holds: the deadline of that value implies it.
func (m *Machine) expire() {
	again := 0
	for i := m.queues[queueLate].front; i != 0; i = m.queues[queueLate].front {
		e := m.table.entries.ref(i)
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
		if e := m.table.entries.ref(i); e.deadline+m.heldFor(e) > m.now {
			break
		}
		m.warm(queuePause)
		m.grace--
		m.forget(i)
	}
}

// heldFor returns the time for which e is held after its final report, ns. It depends on the sides of e: a record that
// closes a TCP connection ends its pause.
func (m *Machine) heldFor(e *entry) int64 {
	if m.pauses(e) {
		return int64(max(m.c.LateGrace, m.c.TCPPause))
	}
	return int64(m.c.LateGrace)
}

// suspend returns the stream time just before deadline, for an AdvanceUpTo that stops there. emitted compares
// deadlines with stream time: emitted entries with the same deadline would become open again, so suspend sets their
// deadlines a nanosecond earlier.
func (m *Machine) suspend(deadline int64) (now int64) {
	for i := m.queues[queueLate].back; i != 0; i = m.table.nodes.ref(i).before {
		e := m.table.entries.ref(i)
		if e.deadline < deadline {
			break
		}
		e.deadline = deadline - 1
		m.log.changed(i, e)
	}
	return deadline - 1
}

// evict removes an entry to make room: a pausing connection, else an emitted entry in grace, else a one-sided
// connection of few packets, else the connection that would be emitted next. It returns false if there is no entry.
// Emitted entries precede open ones, because the loss of a correction is smaller than that of a connection.
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

// evictSameKey makes room for an entry of key k: it removes the entries of k in the order of their deadlines, hence
// the emitted entries first.
func (m *Machine) evictSameKey(k *stateKey, hash uint32) {
	m.sameKey = m.sameKey[:0]
	for i := m.table.first(k, hash); i != 0; i = m.table.next(i) {
		m.sameKey = append(m.sameKey, i)
	}
	slices.SortFunc(m.sameKey, func(i, j int32) int {
		a, b := m.table.entries.ref(i), m.table.entries.ref(j)
		return cmp.Or(cmp.Compare(a.deadline, b.deadline), cmp.Compare(a.seq, b.seq))
	})
	for _, i := range m.sameKey[:min(len(m.sameKey)+1-maxSameKey, maxSameKeyEvicted)] {
		m.giveUp(i)
		m.bounded.SameKey++
	}
}

// giveUp removes an entry before its time. It emits it, with reason EVICTED, unless it was emitted before. The removal
// is logged: the deadlines in the log do not imply it.
func (m *Machine) giveUp(i int32) {
	e := m.table.entries.ref(i)
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

// forget removes entry i with its parts. The caller must have updated m.open or m.grace.
func (m *Machine) forget(i int32) {
	e := m.table.entries.ref(i)
	m.log.forgotten(e, m.table.nodes.ref(i))
	m.unqueue(i)
	m.releaseParts(e)
	if e.marks&isExtended != 0 {
		delete(m.kept, i)
	}
	m.table.remove(i)
}

// Close emits all open connections in the order of their deadlines, at the end of an offline input. The machine must
// not be used afterwards.
func (m *Machine) Close() {
	for {
		i := m.due(math.MaxInt64, queueLinger, queueIdle, queueSmall)
		if i == 0 {
			return
		}
		e := m.table.entries.ref(i)
		m.report.emission(e, m.connection(e, e.deadline, true), m.emit)
		m.open--
		m.forget(i)
	}
}

// Due reports whether Advance(t) would emit a connection. enrich calls it for a quiet partition, in order to begin a
// transaction only if a connection is due.
func (m *Machine) Due(t int64) bool {
	return m.due(t, queueLinger, queueIdle, queueSmall) != 0
}
