package pair

import (
	"cmp"
	"slices"
)

// A deltaLog keeps account of a machine's log of state: the changes since the last piece, and the pieces that still
// hold the newest value of an entry. A restore must read the log from the first of these.
//
// Example: entry A is written at offset 10, B at 11, and A again at 12. The deltas then have 0, 1 and 1 live entries,
// and a restore must read from offset 11. When B is removed, trim drops the delta of 11, and the restore begins at 12.
type deltaLog struct {
	dirty   []int32 // numbers of changed entries; a number may be released or in use for another entry by now
	removed []removal
	pieces  []contents // of the last Deltas, until Logged; between the two nothing may be observed
	deltas  []delta    // delta number n is at n - base
	base    int32      // at least 1: delta number 0 stands for none
	buf     []byte     // backs the pieces of the last Deltas
	later   bool       // a piece of a later format than that written was applied
}

// A removal states that an entry was removed before its deadlines imply it. A deadline that passes implies the removal
// of an entry without one.
type removal struct {
	key    stateKey
	origin uint64
}

// A delta is a piece in the log.
type delta struct {
	offset int64
	live   int // number of entries and shared values of which it holds the newest value
	shared int // number of shared values among them
}

// contents lists the numbers of the entries and shared values in a piece.
type contents struct{ entries, shared []int32 }

// changed marks e, entry number i, as dirty: the next Deltas writes it. The caller must call it after each change of a
// logged field. Deltas writes the value at its own time, however often the entry changed.
func (l *deltaLog) changed(i int32, e *entry) {
	if e.marks&isDirty == 0 {
		e.marks |= isDirty
		l.dirty = append(l.dirty, i)
	}
}

// evicted notes that e is removed before its time. A restore would bring back its value in the log, if any. It must
// be called before forgotten.
func (l *deltaLog) evicted(e *entry) {
	if e.marks&(isLogged|isDirty) == isLogged { // forgotten notes a dirty entry
		l.removed = append(l.removed, removal{e.key, e.origin})
	}
}

// forgotten notes that e is removed. If e changed since the last Deltas, the log has an older value of it, with a
// deadline that may be later: a removal must be logged.
func (l *deltaLog) forgotten(e *entry, n *node) {
	if e.marks&(isLogged|isDirty) == isLogged|isDirty {
		l.removed = append(l.removed, removal{e.key, e.origin})
	}
	l.unlive(n)
}

// unlive notes that no delta holds the newest value of the entry of n.
func (l *deltaLog) unlive(n *node) {
	if d := n.delta - l.base; n.delta != 0 && d >= 0 {
		l.deltas[d].live--
	}
	n.delta = 0
}

// Logged reports the log offsets of the pieces of the last Deltas, in their order. Between Deltas and Logged the caller
// must not call Observe or advance stream time. If the transaction was aborted instead, the machine must be discarded
// and restored: its changes count as written.
func (m *Machine) Logged(offsets []int64) {
	l := &m.log
	for p, offset := range offsets[:min(len(l.pieces), len(offsets))] {
		n := l.add(offset)
		for _, i := range l.pieces[p].entries {
			l.holds(m.table.entries.ref(i), m.table.nodes.ref(i), n)
		}
		for _, i := range l.pieces[p].shared {
			m.shared.heldBy(l, i, n)
		}
	}
	l.pieces = l.pieces[:0]
	l.trim()
}

// firstWithEntries returns the number of the first delta that holds the newest value of an entry; without such a
// delta, the number of the next.
func (l *deltaLog) firstWithEntries() int32 {
	for i := range l.deltas {
		if l.deltas[i].live > l.deltas[i].shared {
			return l.base + int32(i)
		}
	}
	return l.base + int32(len(l.deltas))
}

// add appends a delta and returns its number.
func (l *deltaLog) add(offset int64) int32 {
	l.base = max(l.base, 1)
	l.deltas = append(l.deltas, delta{offset: offset})
	return l.base + int32(len(l.deltas)) - 1
}

// holds notes that delta d holds the newest value of e.
func (l *deltaLog) holds(e *entry, n *node, d int32) {
	l.unlive(n)
	e.marks |= isLogged
	n.delta = d
	l.deltas[d-l.base].live++
}

// trim removes the leading deltas without newest values. A delta without newest values between others stays:
// RestoreFrom depends on the first only.
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

// RestoreFrom returns the first log offset that a restore must read: the least offset with the newest value of an
// entry or shared value; -1 if there is none. Pieces before it may be deleted once it is committed.
func (m *Machine) RestoreFrom() int64 {
	m.log.trim()
	if len(m.log.deltas) == 0 {
		return -1
	}
	return m.log.deltas[0].offset
}

// crowds holds, for keys with more than maxSameKey restored entries, the numbers of the entries by origin. It keeps a
// restore of state from a version without maxSameKey linear.
type crowds map[stateKey]map[uint64]int32

// find returns the entry with key k and origin, 0 if there is none. It is for use during a restore.
func (m *Machine) find(k *stateKey, origin uint64) int32 {
	if crowd := m.crowds[*k]; crowd != nil {
		return crowd[origin]
	}
	n := 0
	for i := m.table.first(k, k.hash()); i != 0; i = m.table.next(i) {
		if m.table.entries.ref(i).origin == origin {
			return i
		}
		if n++; n > maxSameKey {
			return m.crowd(k)[origin]
		}
	}
	return 0
}

// crowd adds and returns the crowd of a key.
func (m *Machine) crowd(k *stateKey) map[uint64]int32 {
	crowd := map[uint64]int32{}
	for i := m.table.first(k, k.hash()); i != 0; i = m.table.next(i) {
		crowd[m.table.entries.ref(i).origin] = i
	}
	if m.crowds == nil {
		m.crowds = crowds{}
	}
	m.crowds[*k] = crowd
	return crowd
}

// drop removes an entry during a restore, without a removal in the log.
func (m *Machine) drop(i int32) {
	if e := m.table.entries.ref(i); m.crowds[e.key] != nil {
		delete(m.crowds[e.key], e.origin)
	}
	m.forget(i)
	m.log.removed = m.log.removed[:0]
}

// Restored ends a restore. It must be called once, after the last Apply and before any other use. It removes entries
// that expired before streamTime and rebuilds the queues; the machine then continues like the machine that wrote the
// log. If its durations are shorter than those of the writer, deadlines are set earlier, as if the last record of the
// entry had been received at streamTime: queues are in the order of deadlines, and later entries get the shorter
// durations. It does not emit: the writer emitted all entries with deadlines up to streamTime in the transactions up to
// the one that committed it.
func (m *Machine) Restored(streamTime int64) {
	m.now = streamTime
	type place struct {
		at  int64
		seq uint64
		i   int32
	}
	held := make([]place, 0, m.table.entries.inUse())
	for i := m.table.entries.n; i > 0; i-- { // newest first: they are at the front of their chains, cheap to remove
		e := m.table.entries.ref(i)
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
		e := m.table.entries.ref(p.i)
		if m.log.later {
			m.log.changed(p.i, e)
		}
		if m.emitted(e) {
			e.reported = m.octets(e) // an emission does not log its entry
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
