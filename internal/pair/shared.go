package pair

import "fmt"

// shared holds state of the partition that belongs to no entry: octets by tag and key. It is logged in format 3 and
// lost in format 2. Its tags follow the rule of pieces, see FirstFormat: an unknown even tag is refused, an unknown
// odd tag is kept.
//
// Like that of an entry, the newest piece of a value must remain readable. A value can stay the same for days. It is
// therefore written again with the next Deltas if its piece holds no newest value of an entry, so that it does not hold
// back RestoreFrom for longer than entries do.
type shared struct {
	at     map[sharedKey]int32 // index in values
	values []sharedValue
	unused []int32 // free indexes of values
	dirty  []int32 // indexes of changed values; a removed value stays until it is packed
}

// A sharedKey identifies a shared value.
type sharedKey struct {
	tag uint64
	key string
}

// A sharedValue is a shared value with its state in the log.
type sharedValue struct {
	sharedKey
	value []byte // empty: removed
	delta int32  // number of the delta of the log that holds it; 0: none
	dirty bool   // its index is in shared.dirty
}

// Bounds of the shared values of a machine. Values must be small: all of them are written again about once in
// PAIR_IDLE + PAIR_LATE_GRACE.
const (
	maxShared      = 1 << 14
	maxSharedValue = 256 // octets of a value, and of a key
)

// knownShared has the even tags of shared values that this version uses.
var knownShared = map[uint64]bool{}

// set sets the value of a key and logs it with the next Deltas; an empty value removes the key. It copies key and
// value, which must not exceed maxSharedValue octets each. It returns false if the key is new and there are maxShared
// values. It panics if key or value is longer: that is a programming error, since their sizes do not depend on input.
func (s *shared) set(tag uint64, key, value []byte) bool {
	if len(key) > maxSharedValue || len(value) > maxSharedValue {
		panic(fmt.Sprintf("shared value %d: key of %d, value of %d octets", tag, len(key), len(value)))
	}
	i, ok := s.at[sharedKey{tag, string(key)}]
	if !ok {
		if len(value) == 0 {
			return true
		}
		if i, ok = s.alloc(sharedKey{tag, string(key)}); !ok {
			return false
		}
	}
	v := &s.values[i]
	v.value = append(v.value[:0], value...)
	s.changed(i)
	return true
}

// forEach calls f for every key of a tag. f must copy value to keep it. The order is that of indexes, which differs
// after a restore: the caller must not let it reach an emission.
func (s *shared) forEach(tag uint64, f func(key string, value []byte)) {
	for i := range s.values {
		if v := &s.values[i]; v.tag == tag && len(v.value) > 0 {
			f(v.key, v.value)
		}
	}
}

// alloc adds a value without content; ok is false at maxShared values.
func (s *shared) alloc(k sharedKey) (i int32, ok bool) {
	if len(s.at) >= maxShared {
		return 0, false
	}
	if s.at == nil {
		s.at = map[sharedKey]int32{}
	}
	if n := len(s.unused); n > 0 {
		i = s.unused[n-1]
		s.unused = s.unused[:n-1]
	} else {
		i = int32(len(s.values))
		s.values = append(s.values, sharedValue{})
	}
	s.values[i] = sharedValue{sharedKey: k}
	s.at[k] = i
	return i, true
}

// changed notes that value i must be part of the next Deltas.
func (s *shared) changed(i int32) {
	if v := &s.values[i]; !v.dirty {
		v.dirty = true
		s.dirty = append(s.dirty, i)
	}
}

// free removes value i. The index may be used for another key afterwards: the caller must remove it from dirty.
func (s *shared) free(l *deltaLog, i int32) {
	s.unlive(l, i)
	delete(s.at, s.values[i].sharedKey)
	s.values[i] = sharedValue{}
	s.unused = append(s.unused, i)
}

// heldBy notes that delta n holds the newest content of value i.
func (s *shared) heldBy(l *deltaLog, i, n int32) {
	s.unlive(l, i)
	s.values[i].delta = n
	d := &l.deltas[n-l.base]
	d.live++
	d.shared++
}

// unlive notes that no delta holds the newest content of value i.
func (s *shared) unlive(l *deltaLog, i int32) {
	v := &s.values[i]
	if d := v.delta - l.base; v.delta != 0 && d >= 0 {
		l.deltas[d].live--
		l.deltas[d].shared--
	}
	v.delta = 0
}

// pack writes the changed values, and the values in deltas before the first delta that holds an entry.
//
// The cost is linear in the number of values, at most maxShared, and not in that of changes.
func (s *shared) pack(p *piecer, l *deltaLog) {
	first := l.firstWithEntries()
	for i := range s.values {
		if v := &s.values[i]; len(v.value) > 0 && v.delta < first {
			s.changed(int32(i))
		}
	}
	for _, i := range s.dirty {
		v := &s.values[i]
		v.dirty = false
		at := p.item(sectionShared)
		v.code(&p.coder)
		p.end(sectionShared, at)
		if len(v.value) == 0 {
			s.free(l, i)
			continue
		}
		p.in.shared = append(p.in.shared, i)
	}
	s.dirty = s.dirty[:0]
}

// unlog removes all values from the account of the log, so that they do not hold back RestoreFrom: the written format
// has no shared values. The values themselves stay in memory: a later version of the settings may write format 3 again.
func (s *shared) unlog(l *deltaLog) {
	for i := range s.values {
		s.unlive(l, int32(i))
	}
	for _, i := range s.dirty {
		if s.values[i].dirty = false; len(s.values[i].value) == 0 {
			s.free(l, i)
		}
	}
	s.dirty = s.dirty[:0]
}

// apply reads a value from a piece, delta n.
func (s *shared) apply(c *coder, l *deltaLog, n int32) error {
	var v sharedValue
	v.code(c)
	switch {
	case c.short:
		return fmt.Errorf("shared value: %w", errCut)
	case len(v.key) > maxSharedValue || len(v.value) > maxSharedValue:
		return fmt.Errorf("shared value %d: key of %d, value of %d octets: want at most %d each",
			v.tag, len(v.key), len(v.value), maxSharedValue)
	case v.tag%2 == 0 && !knownShared[v.tag]:
		return unknownTag("shared value", v.tag)
	}
	i, ok := s.at[v.sharedKey]
	if len(v.value) == 0 {
		if ok {
			s.free(l, i)
		}
		return nil
	}
	if !ok {
		if i, ok = s.alloc(v.sharedKey); !ok {
			return fmt.Errorf("more than %d shared values", maxShared)
		}
	}
	s.values[i].value = v.value
	s.heldBy(l, i, n)
	return nil
}

// code writes or reads a value: tag, key and value.
func (v *sharedValue) code(c *coder) {
	c.u64(&v.tag)
	if !c.reading {
		c.putBlob([]byte(v.key))
		c.putBlob(v.value)
		return
	}
	v.key = string(c.blob())
	v.value = append([]byte(nil), c.blob()...)
}
