package pair

import (
	"bytes"
	"math"

	"weir/internal/flowkey"
	"weir/pkg/flowpb"
)

// A Machine pairs the records of one partition.
type Machine struct {
	c     Config
	share int // entries held at most
	emit  func(*flowpb.Connection)

	now   int64 // stream time
	first map[flowkey.Key]int32
	slab  []entry
	free  []int32
	seq   uint64
	open  int
	grace int

	// Deadlines come in order within a queue, since each adds a constant to
	// stream time. An entry with a newer deadline has a newer reference: old
	// ones are passed over.
	linger queue
	idle   queue
	small  queue // idle ones that are one-sided and of few packets: given up first
	late   queue // emitted, in grace

	log deltaLog
}

// A ref is an entry's place in a queue.
type ref struct {
	at  int64
	seq uint64
	i   int32
	gen uint32
}

// A queue is a FIFO of references by deadline.
type queue struct {
	q    []ref
	head int
}

func (q *queue) push(r ref) { q.q = append(q.q, r) }

func (q *queue) pop() {
	q.head++
	if q.head > 1024 && q.head*2 > len(q.q) {
		q.q = append(q.q[:0], q.q[q.head:]...)
		q.head = 0
	}
}

// New returns a Machine for one of partitions partitions (MaxOpen is shared).
// emit is called for every emission, in order, from within Observe and Advance;
// the Connection is the callee's to keep.
func New(c Config, partitions int, emit func(*flowpb.Connection)) *Machine {
	return &Machine{
		c: c, share: max(1, c.MaxOpen/max(1, partitions)), emit: emit,
		now: math.MinInt64, first: map[flowkey.Key]int32{},
	}
}

// StreamTime is the machine's clock, ns since the epoch; the least int64 before
// the first record.
func (m *Machine) StreamTime() int64 { return m.now }

// Held is how many connections are held, open and in grace.
func (m *Machine) Held() (open, grace int) { return m.open, m.grace }

// Observe advances stream time to f's receive time, then takes f.
func (m *Machine) Observe(f *Flow) Outcome {
	m.Advance(f.Received)
	best, bestGap := int32(-1), int64(0)
	for i := m.head(&f.Key); i >= 0; i = m.slab[i].next {
		e := &m.slab[i]
		if e.knows(f.Ident) {
			return Duplicate
		}
		if gap, ok := e.distance(f, &m.c); ok && (best < 0 || m.closer(gap, e, bestGap, &m.slab[best])) {
			best, bestGap = i, gap
		}
	}
	outcome := Joined
	if best < 0 {
		best, outcome = m.create(f), Opened
	}
	e := &m.slab[best]
	if m.emitted(e) {
		e.version++
		e.quality |= bit(flowpb.Quality_QUALITY_LATE)
		e.told = m.now
		m.grace--
		m.open++
	}
	e.add(f, &m.c)
	m.schedule(best, e)
	if u := int64(m.c.UpdateInterval); u > 0 && m.now-e.told >= u {
		m.emit(m.connection(e, m.now, false))
		e.version++
		e.told = m.now
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
	aStart, _ := a.span()
	bStart, _ := b.span()
	if aStart != bStart {
		return aStart > bStart
	}
	return bytes.Compare(a.id[:], b.id[:]) < 0
}

func (m *Machine) head(k *flowkey.Key) int32 {
	if i, ok := m.first[*k]; ok {
		return i
	}
	return -1
}

// emitted tells whether e was emitted as final: its deadline has passed.
func (m *Machine) emitted(e *entry) bool { return e.deadline <= m.now }

// create makes an entry for f's conversation, giving up others at capacity.
func (m *Machine) create(f *Flow) int32 {
	for m.open+m.grace >= m.share && m.evict() {
	}
	i := m.insert(entry{
		key: f.Key, id: newID(&f.Key, f.Ident), deadline: math.MaxInt64, version: 1,
		first: f.Received, told: m.now, delta: -1,
	})
	m.open++
	return i
}

// insert puts an entry in the table.
func (m *Machine) insert(e entry) int32 {
	var i int32
	if n := len(m.free); n > 0 {
		i, m.free = m.free[n-1], m.free[:n-1]
		e.gen, e.sides = m.slab[i].gen, append(m.slab[i].sides[:0], e.sides...)
	} else {
		i = int32(len(m.slab))
		m.slab = append(m.slab, entry{})
	}
	e.held, e.next = true, m.head(&e.key)
	m.slab[i] = e
	m.first[e.key] = i
	return i
}

// schedule sets e's deadline after a record.
func (m *Machine) schedule(i int32, e *entry) {
	q, at := &m.idle, m.now+int64(m.c.Idle)
	switch {
	case e.complete():
		q, at = &m.linger, m.now+int64(m.c.Linger)
	case e.oneSidedAndSmall():
		q = &m.small
	}
	m.seq++
	e.deadline, e.seq = at, m.seq
	q.push(ref{at: at, seq: e.seq, i: i, gen: e.gen})
}

// due returns the queue whose front is due next; nil when none is by t.
func (m *Machine) due(t int64, queues ...*queue) (q *queue, e *entry) {
	var best ref
	for _, c := range queues {
		r, x := m.front(c)
		if x != nil && r.at <= t && (q == nil || r.at < best.at || r.at == best.at && r.seq < best.seq) {
			q, e, best = c, x, r
		}
	}
	return q, e
}

// front returns the first reference of q that still holds, dropping others.
func (m *Machine) front(q *queue) (r ref, e *entry) {
	for q.head < len(q.q) {
		r = q.q[q.head]
		e = &m.slab[r.i]
		if e.held && e.gen == r.gen && e.seq == r.seq {
			return r, e
		}
		q.pop()
	}
	return ref{}, nil
}

// Advance moves stream time to t (ns since the epoch; never back) and emits
// what is due.
func (m *Machine) Advance(t int64) {
	if t <= m.now {
		return
	}
	for {
		q, e := m.due(t, &m.linger, &m.idle, &m.small)
		if q == nil {
			break
		}
		r := q.q[q.head]
		q.pop()
		m.emit(m.connection(e, e.deadline, true))
		m.open--
		m.grace++
		m.late.push(r)
	}
	m.now = t
	for {
		r, e := m.front(&m.late)
		if e == nil || r.at+int64(m.c.LateGrace) > t {
			return
		}
		m.late.pop()
		m.grace--
		m.forget(r.i, e)
	}
}

// evict gives up one entry: one in grace, else a one-sided one of few packets,
// else the one that would be emitted next. It tells whether there was one.
func (m *Machine) evict() bool {
	if r, e := m.front(&m.late); e != nil {
		m.late.pop()
		m.grace--
		m.log.evicted(e)
		m.forget(r.i, e)
		return true
	}
	q, e := m.due(math.MaxInt64, &m.small)
	if q == nil {
		q, e = m.due(math.MaxInt64, &m.linger, &m.idle)
	}
	if q == nil {
		return false
	}
	r := q.q[q.head]
	q.pop()
	c := m.connection(e, m.now, true)
	c.EmitReason = flowpb.EmitReason_EMIT_REASON_EVICTED
	m.emit(c)
	m.open--
	m.log.evicted(e)
	m.forget(r.i, e)
	return true
}

// forget takes an entry out of the table.
func (m *Machine) forget(i int32, e *entry) {
	m.log.forgotten(e)
	if h := m.first[e.key]; h == i {
		if e.next < 0 {
			delete(m.first, e.key)
		} else {
			m.first[e.key] = e.next
		}
	} else {
		for j := h; j >= 0; j = m.slab[j].next {
			if m.slab[j].next == i {
				m.slab[j].next = e.next
				break
			}
		}
	}
	*e = entry{gen: e.gen + 1, sides: e.sides[:0]}
	m.free = append(m.free, i)
}

// Close emits everything that is open, for the end of an offline input.
func (m *Machine) Close() {
	for {
		q, e := m.due(math.MaxInt64, &m.linger, &m.idle, &m.small)
		if q == nil {
			return
		}
		r := q.q[q.head]
		q.pop()
		m.emit(m.connection(e, e.deadline, true))
		m.open--
		m.forget(r.i, e)
	}
}

// Due tells whether Advance(t) would emit something.
func (m *Machine) Due(t int64) bool {
	q, _ := m.due(t, &m.linger, &m.idle, &m.small)
	return q != nil
}
