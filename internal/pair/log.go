package pair

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// A deltaLog is a machine's side of the log of its state: what changed since
// the last piece, and which pieces still hold the newest value of an entry.
type deltaLog struct {
	dirty   []int32 // entries that changed; some may be gone, or others by now
	removed []removal
	pieces  [][]int32 // of the last Deltas, waiting for Logged: nothing may be observed between
	deltas  []delta   // by number - base
	base    int32     // at least 1: 0 is none
	buf     []byte    // of the pieces of the last Deltas
}

// A removal says that an entry is gone before its deadlines would tell.
type removal struct {
	key    stateKey
	origin uint64
}

// A delta is one piece in the log.
type delta struct {
	offset int64
	live   int // entries whose newest value it holds
}

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

// Form of a piece: format (1), number of removals (4), each a key and an origin;
// then the values of entries, each with its length (4) before it.
const format = 2

// pieceHead is the octets of a piece before its removals.
const pieceHead = 5

// Deltas packs what changed by records since the last call: removals, then the
// full values of changed entries, in pieces of at most limit octets (an entry
// larger than that has a piece of its own). At least one piece, possibly empty
// of entries. The pieces are good until the next call.
func (m *Machine) Deltas(limit int) [][]byte {
	l := &m.log
	l.pieces = l.pieces[:0]
	var out [][]byte
	var held []int32
	c := coder{b: l.buf[:0]}
	begin := 0 // of the piece, in c.b
	head := func() {
		begin, held = len(c.b), nil
		c.b = append(c.b, format, 0, 0, 0, 0)
	}
	flush := func(to int) {
		out = append(out, c.b[begin:to:to])
		l.pieces = append(l.pieces, held)
	}
	head()
	n := uint32(0)
	for i := range l.removed {
		if n > 0 && len(c.b)-begin+removalLen > limit {
			flush(len(c.b))
			head()
			n = 0
		}
		c.state(&l.removed[i].key)
		c.hash(&l.removed[i].origin)
		n++
		binary.BigEndian.PutUint32(c.b[begin+1:], n)
	}
	for _, i := range l.dirty {
		e := m.table.entries.at(i)
		if e.marks&isDirty == 0 { // gone; or another's now, that stands here too
			continue
		}
		e.marks &^= isDirty
		start := len(c.b)
		c.b = append(c.b, 0, 0, 0, 0)
		m.code(&c, e)
		if len(c.b)-begin > limit && start-begin > pieceHead {
			flush(start)
			c.b = slices.Insert(c.b, start, format, 0, 0, 0, 0)
			begin, held = start, nil
			start += pieceHead
		}
		binary.BigEndian.PutUint32(c.b[start:], uint32(len(c.b)-start-4))
		held = append(held, i)
	}
	flush(len(c.b))
	l.buf = c.b
	l.dirty, l.removed = l.dirty[:0], l.removed[:0]
	return out
}

// removalLen is at least the octets of a removal.
const removalLen = 64

// Logged says at which log offsets the pieces of the last Deltas call stand.
// Between the two, the machine observes nothing and does not advance.
func (m *Machine) Logged(offsets []int64) {
	l := &m.log
	for p, held := range l.pieces {
		if p >= len(offsets) {
			break
		}
		n := l.add(offsets[p])
		for _, i := range held {
			l.holds(m.table.entries.at(i), m.table.nodes.at(i), n)
		}
	}
	l.pieces = l.pieces[:0]
	l.trim()
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

var errPiece = errors.New("not a piece of pairing state")

// Apply takes one logged piece during a restore, in log order. On error the
// machine is of no use any more.
func (m *Machine) Apply(offset int64, piece []byte) error {
	if len(piece) < 5 || piece[0] != format {
		return fmt.Errorf("%w: offset %d, %d octets", errPiece, offset, len(piece))
	}
	n := m.log.add(offset)
	c := coder{b: piece[5:], reading: true}
	for range binary.BigEndian.Uint32(piece[1:]) {
		var r removal
		c.state(&r.key)
		c.hash(&r.origin)
		if c.short {
			return fmt.Errorf("%w: offset %d: removals cut", errPiece, offset)
		}
		if i := m.find(&r.key, r.origin); i != 0 {
			m.drop(i)
		}
	}
	for len(c.b) > 0 {
		if len(c.b) < 4 {
			return fmt.Errorf("%w: offset %d: entry cut", errPiece, offset)
		}
		size := binary.BigEndian.Uint32(c.b)
		if c.b = c.b[4:]; uint64(size) > uint64(len(c.b)) {
			return fmt.Errorf("%w: offset %d: entry cut", errPiece, offset)
		}
		v := coder{b: c.b[:size], reading: true}
		c.b = c.b[size:]
		var e entry
		m.code(&v, &e)
		if v.short || len(v.b) > 0 {
			return fmt.Errorf("%w: offset %d: entry of %d octets", errPiece, offset, size)
		}
		if i := m.find(&e.key, e.origin); i != 0 {
			m.drop(i)
		}
		i := m.table.insert(&e, e.key.hash())
		m.log.holds(m.table.entries.at(i), m.table.nodes.at(i), n)
	}
	return nil
}

// find returns the entry with this key and origin, 0 when there is none.
func (m *Machine) find(k *stateKey, origin uint64) int32 {
	for i := m.table.first(k, k.hash()); i != 0; i = m.table.next(i) {
		if m.table.entries.at(i).origin == origin {
			return i
		}
	}
	return 0
}

// drop takes an entry out during a restore.
func (m *Machine) drop(i int32) {
	m.forget(i)
	m.log.removed = m.log.removed[:0]
}

// Restored ends a restore: drops what streamTime says is gone and rebuilds the
// queues. The machine then continues as the one that wrote the log.
func (m *Machine) Restored(streamTime int64) {
	m.now = streamTime
	type place struct {
		at  int64
		seq uint64
		i   int32
	}
	held := make([]place, 0, m.table.entries.used())
	for i := int32(1); i <= m.table.entries.n; i++ {
		e := m.table.entries.at(i)
		switch {
		case e.marks&isHeld == 0:
		case e.deadline+int64(m.c.LateGrace) <= streamTime:
			m.drop(i)
		default:
			held = append(held, place{at: e.deadline, seq: e.seq, i: i})
			m.seq = max(m.seq, e.seq)
		}
	}
	slices.SortFunc(held, func(a, b place) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.seq, b.seq)) })
	for _, p := range held {
		e := m.table.entries.at(p.i)
		if m.emitted(e) {
			e.reported = m.octets(e) // emissions are not logged
			m.grace++
			m.push(queueLate, p.i)
			continue
		}
		m.open++
		switch {
		case m.complete(e):
			m.push(queueLinger, p.i)
		case m.oneSidedAndSmall(e):
			m.push(queueSmall, p.i)
		default:
			m.push(queueIdle, p.i)
		}
	}
	m.log.trim()
}
