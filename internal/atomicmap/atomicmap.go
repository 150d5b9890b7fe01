// Package atomicmap provides a map that many goroutines read without a lock while a
// single goroutine changes it. The cost of a change does not grow with the map, unlike
// that of a copy per change.
package atomicmap

import (
	"hash/maphash"
	"iter"
	"sync/atomic"
	"unsafe"
)

// A Map maps K to V. The zero value is empty and ready to use; a Map must not be
// copied after first use.
//
// Load may be called concurrently with all methods. The other methods must be called by
// one goroutine at a time, for example under the caller's lock.
//
// Keys are hashed with a random seed of the process, so that a sender cannot choose keys
// that collide.
type Map[K comparable, V any] struct {
	table atomic.Pointer[table[K, V]] // nil: empty, never written
	n     int                         // entries; guarded by the caller's lock
}

// A table has a power of two of buckets. Each bucket is a list of nodes.
type table[K comparable, V any] struct {
	buckets []atomic.Pointer[node[K, V]]
}

// A node is an entry. Key and value are immutable: a new value needs a new node, so that
// a reader never sees a half-written value.
type node[K comparable, V any] struct {
	key   K
	value V
	next  atomic.Pointer[node[K, V]]
}

var seed = maphash.MakeSeed()

func (t *table[K, V]) bucket(k K) *atomic.Pointer[node[K, V]] {
	if len(t.buckets) == 1 {
		return &t.buckets[0]
	}
	return &t.buckets[maphash.Comparable(seed, k)&uint64(len(t.buckets)-1)]
}

// Load returns the value of k. It takes no lock and allocates nothing.
func (m *Map[K, V]) Load(k K) (v V, ok bool) {
	t := m.table.Load()
	if t == nil {
		return v, false
	}
	for n := t.bucket(k).Load(); n != nil; n = n.next.Load() {
		if n.key == k {
			return n.value, true
		}
	}
	return v, false
}

// find returns the pointer to the node of k: the bucket's or the previous
// node's. It points to nil at the end of the list when k has no node.
func (t *table[K, V]) find(k K) *atomic.Pointer[node[K, V]] {
	p := t.bucket(k)
	for n := p.Load(); n != nil && n.key != k; n = p.Load() {
		p = &n.next
	}
	return p
}

// Store sets the value of k.
func (m *Map[K, V]) Store(k K, v V) {
	t := m.table.Load()
	if t == nil {
		t = m.resize(1)
	}
	next := &node[K, V]{key: k, value: v}
	p := t.find(k)
	if was := p.Load(); was != nil {
		next.next.Store(was.next.Load())
		p.Store(next)
		return
	}
	if m.n >= len(t.buckets) {
		t = m.resize(2 * len(t.buckets))
		p = t.find(k)
	}
	p.Store(next)
	m.n++
}

// Delete removes k. The removed node keeps its successor, so that a reader at the node
// still reaches the rest of the list.
func (m *Map[K, V]) Delete(k K) {
	t := m.table.Load()
	if t == nil {
		return
	}
	p := t.find(k)
	was := p.Load()
	if was == nil {
		return
	}
	p.Store(was.next.Load())
	m.n--
	if len(t.buckets) > 8 && m.n < len(t.buckets)/8 {
		m.resize(len(t.buckets) / 4)
	}
}

// resize copies all entries to a new table with this number of buckets, which must be a
// power of two. Readers of the old table finish there; its nodes do not change any more.
func (m *Map[K, V]) resize(buckets int) *table[K, V] {
	t := &table[K, V]{buckets: make([]atomic.Pointer[node[K, V]], buckets)}
	for k, v := range m.All() {
		b := t.bucket(k)
		n := &node[K, V]{key: k, value: v}
		n.next.Store(b.Load())
		b.Store(n)
	}
	m.table.Store(t)
	return t
}

// Len returns the number of entries.
func (m *Map[K, V]) Len() int { return m.n }

// All iterates over the entries in no particular order. Entries must be neither added nor
// deleted during the iteration.
func (m *Map[K, V]) All() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		t := m.table.Load()
		if t == nil {
			return
		}
		for i := range t.buckets {
			for n := t.buckets[i].Load(); n != nil; n = n.next.Load() {
				if !yield(n.key, n.value) {
					return
				}
			}
		}
	}
}

// Octets returns the heap octets of the map: its buckets and nodes, without the targets
// of pointers in keys and values.
func (m *Map[K, V]) Octets() int {
	t := m.table.Load()
	if t == nil {
		return 0
	}
	return len(t.buckets)*int(unsafe.Sizeof(t.buckets[0])) + m.n*NodeOctets[K, V]()
}

// NodeOctets returns the heap octets of an entry, without its bucket.
func NodeOctets[K comparable, V any]() int {
	var n node[K, V]
	return int(unsafe.Sizeof(n))
}
