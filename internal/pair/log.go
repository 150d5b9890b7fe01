package pair

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"weir/internal/flowkey"
)

// A deltaLog is a machine's side of the log of its state: what changed since
// the last piece, and which pieces still hold the newest value of an entry.
type deltaLog struct {
	dirty   []handle
	removed []removal
	pieces  [][]handle // of the last Deltas, waiting for Logged
	deltas  []delta    // by number - base
	base    int32
}

// A handle is an entry that may be gone meanwhile.
type handle struct {
	i   int32
	gen uint32
}

// A removal says that an entry is gone before its deadlines would tell.
type removal struct {
	key flowkey.Key
	id  [16]byte
}

// A delta is one piece in the log.
type delta struct {
	offset int64
	live   int // entries whose newest value it holds
}

func (l *deltaLog) changed(i int32, e *entry) {
	if !e.dirty {
		e.dirty = true
		l.dirty = append(l.dirty, handle{i, e.gen})
	}
}

// evicted notes that e is given up before its time: the log's value of it, if
// any, would come back to life in a restore.
func (l *deltaLog) evicted(e *entry) {
	if e.logged && !e.dirty { // a dirty one is noted by forgotten
		l.removed = append(l.removed, removal{e.key, e.id})
	}
}

// forgotten notes that e is gone. When it changed in this very transaction, the
// value in the log is an older one, whose deadline can lie later.
func (l *deltaLog) forgotten(e *entry) {
	if e.logged && e.dirty {
		l.removed = append(l.removed, removal{e.key, e.id})
	}
	l.unlive(e)
}

func (l *deltaLog) unlive(e *entry) {
	if n := e.delta - l.base; e.delta >= 0 && n >= 0 {
		l.deltas[n].live--
	}
	e.delta = -1
}

// Form of a piece: format (1), removals (4), each a key and an id; then the
// values of entries, each with its length (4) before it.
const format = 1

// Deltas packs what changed by records since the last call: removals, then the
// full values of changed entries, in pieces of at most limit octets (an entry
// larger than that has a piece of its own). At least one piece, possibly empty
// of entries.
func (m *Machine) Deltas(limit int) [][]byte {
	l := &m.log
	l.pieces = l.pieces[:0]
	var out [][]byte
	piece := append([]byte{format}, 0, 0, 0, 0)
	var held []handle
	flush := func() {
		out = append(out, piece)
		l.pieces = append(l.pieces, held)
		piece, held = append([]byte{format}, 0, 0, 0, 0), nil
	}
	n := uint32(0)
	for i := range l.removed {
		if n > 0 && len(piece)+removalLen > limit {
			flush()
			n = 0
		}
		c := coder{b: piece}
		c.key(&l.removed[i].key)
		c.bytes(l.removed[i].id[:])
		piece = c.b
		n++
		binary.BigEndian.PutUint32(piece[1:], n)
	}
	var value []byte
	for _, h := range l.dirty {
		e := &m.slab[h.i]
		if !e.held || e.gen != h.gen {
			continue
		}
		e.dirty = false
		c := coder{b: value[:0]}
		e.code(&c)
		value = c.b
		if len(piece)+4+len(value) > limit && (len(held) > 0 || n > 0) {
			flush()
			n = 0
		}
		piece = binary.BigEndian.AppendUint32(piece, uint32(len(value)))
		piece = append(piece, value...)
		held = append(held, h)
	}
	flush()
	l.dirty, l.removed = l.dirty[:0], l.removed[:0]
	return out
}

// removalLen is at most the octets of a removal.
const removalLen = 54

// Logged says at which log offsets the pieces of the last Deltas call stand.
func (m *Machine) Logged(offsets []int64) {
	l := &m.log
	for p, held := range l.pieces {
		if p >= len(offsets) {
			break
		}
		n := l.add(offsets[p])
		for _, h := range held {
			e := &m.slab[h.i]
			if !e.held || e.gen != h.gen {
				continue
			}
			l.holds(e, n)
		}
	}
	l.pieces = l.pieces[:0]
	l.trim()
}

func (l *deltaLog) add(offset int64) int32 {
	l.deltas = append(l.deltas, delta{offset: offset})
	return l.base + int32(len(l.deltas)) - 1
}

// holds notes that delta n has e's newest value.
func (l *deltaLog) holds(e *entry, n int32) {
	l.unlive(e)
	e.logged, e.delta = true, n
	l.deltas[n-l.base].live++
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
		c.key(&r.key)
		c.bytes(r.id[:])
		if c.short {
			return fmt.Errorf("%w: offset %d: removals cut", errPiece, offset)
		}
		if i := m.find(&r.key, r.id); i >= 0 {
			m.drop(i)
		}
	}
	for len(c.b) > 0 {
		var size uint32
		c.u32(&size)
		if c.short || int(size) > len(c.b) {
			return fmt.Errorf("%w: offset %d: entry cut", errPiece, offset)
		}
		v := coder{b: c.b[:size], reading: true}
		c.b = c.b[size:]
		var e entry
		e.code(&v)
		if v.short || len(v.b) > 0 {
			return fmt.Errorf("%w: offset %d: entry of %d octets", errPiece, offset, size)
		}
		e.delta = -1
		if i := m.find(&e.key, e.id); i >= 0 {
			m.drop(i)
		}
		i := m.insert(e)
		m.log.holds(&m.slab[i], n)
	}
	return nil
}

// find returns the entry with this key and id, -1 when there is none.
func (m *Machine) find(k *flowkey.Key, id [16]byte) int32 {
	for i := m.head(k); i >= 0; i = m.slab[i].next {
		if m.slab[i].id == id {
			return i
		}
	}
	return -1
}

// drop takes an entry out during a restore.
func (m *Machine) drop(i int32) {
	m.forget(i, &m.slab[i])
	m.log.removed = m.log.removed[:0]
}

// Restored ends a restore: drops what streamTime says is gone and rebuilds the
// queues. The machine then continues as the one that wrote the log.
func (m *Machine) Restored(streamTime int64) {
	m.now = streamTime
	var held []ref
	for i := range m.slab {
		e := &m.slab[i]
		switch {
		case !e.held:
		case e.deadline+int64(m.c.LateGrace) <= streamTime:
			m.drop(int32(i))
		default:
			held = append(held, ref{at: e.deadline, seq: e.seq, i: int32(i), gen: e.gen})
			m.seq = max(m.seq, e.seq)
		}
	}
	slices.SortFunc(held, func(a, b ref) int {
		if a.at != b.at {
			return cmpInt(a.at, b.at)
		}
		return cmpInt(int64(a.seq), int64(b.seq))
	})
	for _, r := range held {
		e := &m.slab[r.i]
		if m.emitted(e) {
			m.grace++
			m.late.push(r)
			continue
		}
		m.open++
		switch {
		case e.complete():
			m.linger.push(r)
		case e.oneSidedAndSmall():
			m.small.push(r)
		default:
			m.idle.push(r)
		}
	}
	m.log.trim()
}

func cmpInt(a, b int64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}
