package pair

import (
	"cmp"
	"slices"
)

// A deltaLog is a machine's side of the log of its state: what changed since
// the last piece, and which pieces still hold the newest value of an entry.
type deltaLog struct {
	dirty   []int32 // entries that changed; some may be gone, or others by now
	removed []removal
	pieces  []contents // of the last Deltas, waiting for Logged: nothing may be observed between
	deltas  []delta    // by number - base
	base    int32      // at least 1: 0 is none
	buf     []byte     // of the pieces of the last Deltas
	later   bool       // a piece of a later format than the one written was applied
}

// A removal says that an entry is gone before its deadlines would tell.
type removal struct {
	key    stateKey
	origin uint64
}

// A delta is one piece in the log.
type delta struct {
	offset int64
	live   int // entries and shared values whose newest value it holds
	shared int // shared values among them
}

// contents lists what a piece holds, by number.
type contents struct{ entries, shared []int32 }

func (l *deltaLog) changed(i int32, e *entry) {
	if e.marks&isDirty == 0 {
		e.marks |= isDirty
		l.dirty = append(l.dirty, i)
	}
}

// evicted notes that e is given up before its time: the log's value of it, if
// any, would come back to life in a restore.
func (l *deltaLog) evicted(e *entry) {
	if e.marks&(isLogged|isDirty) == isLogged { // a dirty one is noted by forgotten
		l.removed = append(l.removed, removal{e.key, e.origin})
	}
}

// forgotten notes that e is gone. When it changed in this very transaction, the
// value in the log is an older one, whose deadline can lie later.
func (l *deltaLog) forgotten(e *entry, n *node) {
	if e.marks&(isLogged|isDirty) == isLogged|isDirty {
		l.removed = append(l.removed, removal{e.key, e.origin})
	}
	l.unlive(n)
}

func (l *deltaLog) unlive(n *node) {
	if d := n.delta - l.base; n.delta != 0 && d >= 0 {
		l.deltas[d].live--
	}
	n.delta = 0
}

// Logged says at which log offsets the pieces of the last Deltas call stand.
// Between the two, the machine observes nothing and does not advance.
func (m *Machine) Logged(offsets []int64) {
	l := &m.log
	for p, offset := range offsets[:min(len(l.pieces), len(offsets))] {
		n := l.add(offset)
		for _, i := range l.pieces[p].entries {
			l.holds(m.table.entries.at(i), m.table.nodes.at(i), n)
		}
		for _, i := range l.pieces[p].shared {
			m.shared.heldBy(l, i, n)
		}
	}
	l.pieces = l.pieces[:0]
	l.trim()
}

// firstWithEntries returns the number of the first delta that holds an entry.
func (l *deltaLog) firstWithEntries() int32 {
	for i := range l.deltas {
		if l.deltas[i].live > l.deltas[i].shared {
			return l.base + int32(i)
		}
	}
	return l.base + int32(len(l.deltas))
}

func (l *deltaLog) add(offset int64) int32 {
	l.base = max(l.base, 1)
	l.deltas = append(l.deltas, delta{offset: offset})
	return l.base + int32(len(l.deltas)) - 1
}

// holds notes that delta d has e's newest value.
func (l *deltaLog) holds(e *entry, n *node, d int32) {
	l.unlive(n)
	e.marks |= isLogged
	n.delta = d
	l.deltas[d-l.base].live++
}

// trim forgets leading deltas that hold nothing any more.
func (l *deltaLog) trim() {
	n := 0
	for n < len(l.deltas) && l.deltas[n].live == 0 {
		n++
	}
	if n > 0 {
		l.deltas = slices.Delete(l.deltas, 0, n)
		l.base += int32(n)
	}
}

// RestoreFrom is the least log offset that still holds the newest value of a
// held entry; -1 when nothing is held.
func (m *Machine) RestoreFrom() int64 {
	m.log.trim()
	if len(m.log.deltas) == 0 {
		return -1
	}
	return m.log.deltas[0].offset
}

// crowds are the keys of which more than maxSameKey entries are restored: numbers of
// entries, by origin.
type crowds map[stateKey]map[uint64]int32

// find returns the entry with this key and origin during a restore, 0 when there is none.
func (m *Machine) find(k *stateKey, origin uint64) int32 {
	if crowd := m.crowds[*k]; crowd != nil {
		return crowd[origin]
	}
	n := 0
	for i := m.table.first(k, k.hash()); i != 0; i = m.table.next(i) {
		if m.table.entries.at(i).origin == origin {
			return i
		}
		if n++; n > maxSameKey {
			return m.crowd(k)[origin]
		}
	}
	return 0
}

// crowd makes the crowd of a key.
func (m *Machine) crowd(k *stateKey) map[uint64]int32 {
	crowd := map[uint64]int32{}
	for i := m.table.first(k, k.hash()); i != 0; i = m.table.next(i) {
		crowd[m.table.entries.at(i).origin] = i
	}
	if m.crowds == nil {
		m.crowds = crowds{}
	}
	m.crowds[*k] = crowd
	return crowd
}

// drop takes an entry out during a restore.
func (m *Machine) drop(i int32) {
	if e := m.table.entries.at(i); m.crowds[e.key] != nil {
		delete(m.crowds[e.key], e.origin)
	}
	m.forget(i)
	m.log.removed = m.log.removed[:0]
}

// Restored ends a restore: drops what streamTime says is gone and rebuilds the
// queues. The machine then continues as the one that wrote the log. When its
// durations are shorter than those of the one that wrote the log, deadlines are
// brought forward to what they would be if the last record had come at streamTime: a
// queue is in the order of deadlines, and later entries get the shorter duration.
func (m *Machine) Restored(streamTime int64) {
	m.now = streamTime
	type place struct {
		at  int64
		seq uint64
		i   int32
	}
	held := make([]place, 0, m.table.entries.used())
	for i := m.table.entries.n; i > 0; i-- { // the newest of a key are found first
		e := m.table.entries.at(i)
		if e.marks&isHeld == 0 {
			continue
		}
		if e.deadline+m.heldFor(e) <= streamTime {
			m.drop(i)
			continue
		}
		if !m.emitted(e) {
			if latest := m.now + m.wait(m.queueOf(e)); e.deadline > latest {
				e.deadline = latest
				m.log.changed(i, e)
			}
		}
		held = append(held, place{at: e.deadline, seq: e.seq, i: i})
		m.seq = max(m.seq, e.seq)
	}
	m.crowds = nil
	slices.SortFunc(held, func(a, b place) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.seq, b.seq)) })
	for _, p := range held {
		e := m.table.entries.at(p.i)
		if m.log.later {
			m.log.changed(p.i, e)
		}
		if m.emitted(e) {
			e.reported = m.octets(e) // emissions are not logged
			m.grace++
			if e.deadline+int64(m.c.LateGrace) <= streamTime {
				m.push(queuePause, p.i)
			} else {
				m.push(queueLate, p.i)
			}
			continue
		}
		m.open++
		m.push(m.queueOf(e), p.i)
	}
	m.restoreClocks()
	m.log.trim()
}
