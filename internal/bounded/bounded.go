// Package bounded provides a map with a maximum number of entries. The name of each method that adds an entry says what
// it does with a new key at the limit: refuse it, or remove other entries.
package bounded

import "iter"

// A Map maps K to V and holds at most as many entries as New was given. The zero value holds no entry. A Map
// must not be copied after the first entry was added, and must be used by one goroutine at a time. A lookup takes about
// 1.5 times as long as in a Go map; caches of the hot paths are Go maps.
//
// The value of a key that the Map has is replaced without regard to the limit.
type Map[K comparable, V any] struct {
	entries map[K]V // nil: empty
	limit   int
}

// New returns an empty Map for at most limit entries. It allocates nothing.
func New[K comparable, V any](limit int) Map[K, V] { return Map[K, V]{limit: limit} }

// Get returns the value of k, or the zero value.
func (m *Map[K, V]) Get(k K) V { return m.entries[k] }

// Lookup returns the value of k; ok reports whether there is one.
func (m *Map[K, V]) Lookup(k K) (v V, ok bool) {
	v, ok = m.entries[k]
	return v, ok
}

// Len returns the number of entries.
func (m *Map[K, V]) Len() int { return len(m.entries) }

// IsFull reports whether a new key exceeds the limit.
func (m *Map[K, V]) IsFull() bool { return len(m.entries) >= m.limit }

// Delete removes k, if it is there.
func (m *Map[K, V]) Delete(k K) { delete(m.entries, k) }

// All returns the entries in no order. Entries may be deleted meanwhile.
func (m *Map[K, V]) All() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		for k, v := range m.entries {
			if !yield(k, v) {
				return
			}
		}
	}
}

// PutOrRefuse sets the value of k. At the limit it refuses a new key and returns false.
func (m *Map[K, V]) PutOrRefuse(k K, v V) bool {
	if m.lacksRoom(k) {
		return false
	}
	m.put(k, v)
	return true
}

// PutOrForget sets the value of k. If k is a new key and the Map is full, it first removes all entries. It suits
// caches: an entry costs a constant number of steps on average, and no order is kept.
func (m *Map[K, V]) PutOrForget(k K, v V) {
	if m.lacksRoom(k) {
		clear(m.entries)
	}
	m.put(k, v)
}

// PutOrEvict sets the value of k. If k is a new key and the Map is full, it removes the entry whose value compare
// orders first among sample arbitrary entries. With sample 0 it compares all entries.
func (m *Map[K, V]) PutOrEvict(k K, v V, sample int, compare func(a, b V) int) {
	if m.lacksRoom(k) {
		m.evict(sample, compare)
	}
	m.put(k, v)
}

func (m *Map[K, V]) evict(sample int, compare func(a, b V) int) {
	var victim K
	var first V
	n := 0
	for k, v := range m.entries {
		if n == 0 || compare(v, first) < 0 {
			victim, first = k, v
		}
		if n++; n == sample {
			break
		}
	}
	delete(m.entries, victim)
}

// PutOrFree sets the value of k. If k is a new key and the Map is full, it first removes the expired entries, then
// arbitrary entries until an eighth of the limit is free, so that the next new keys do not search a full Map again.
func (m *Map[K, V]) PutOrFree(k K, v V, expired func(V) bool) {
	if m.lacksRoom(k) {
		m.free(expired)
	}
	m.put(k, v)
}

func (m *Map[K, V]) free(expired func(V) bool) {
	for k, v := range m.entries {
		if expired(v) {
			delete(m.entries, k)
		}
	}
	for k := range m.entries {
		if len(m.entries) <= m.limit-max(1, m.limit/8) {
			return
		}
		delete(m.entries, k)
	}
}

// lacksRoom reports whether k is a new key beyond the limit.
func (m *Map[K, V]) lacksRoom(k K) bool {
	if !m.IsFull() {
		return false
	}
	_, known := m.entries[k]
	return !known
}

func (m *Map[K, V]) put(k K, v V) {
	if m.entries == nil {
		m.entries = map[K]V{}
	}
	m.entries[k] = v
}
