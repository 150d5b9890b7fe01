package pair

import (
	"encoding/binary"
	"math/rand/v2"
	"unsafe"

	"github.com/cespare/xxhash/v2"

	"weir/internal/flowkey"
)

// chunkBits: a chunk of a pool has 1 << chunkBits values.
const (
	chunkBits = 10
	chunkLen  = 1 << chunkBits
)

// A pool holds values by number, from 1; 0 is none. Chunks never move, so a
// pointer from at stays good until the value is freed, and growing copies nothing.
// T has no pointers: the collector does not look into chunks.
type pool[T any] struct {
	chunks []*[chunkLen]T
	n      int32 // numbers given out so far
	unused []int32
}

func (p *pool[T]) at(i int32) *T { return &p.chunks[i>>chunkBits][i&(chunkLen-1)] }

// alloc returns the number of a value, which is zero or as it was freed.
func (p *pool[T]) alloc() int32 {
	if n := len(p.unused); n > 0 {
		i := p.unused[n-1]
		p.unused = p.unused[:n-1]
		return i
	}
	p.n++
	if int(p.n>>chunkBits) == len(p.chunks) {
		p.chunks = append(p.chunks, new([chunkLen]T))
	}
	return p.n
}

func (p *pool[T]) release(i int32) { p.unused = append(p.unused, i) }

// used is how many values are held.
func (p *pool[T]) used() int { return int(p.n) - len(p.unused) }

func (p *pool[T]) octets() int {
	var v T
	return len(p.chunks)*chunkLen*int(unsafe.Sizeof(v)) + 4*cap(p.unused)
}

// A stateKey is what conversations are told apart by: the key, and whose address
// plan it belongs to.
type stateKey struct {
	flowkey.Key
	scope uint64 // hash of the scope (PAIR_SCOPE, site); 0 = the one of all
}

// seed makes which conversations share a bucket unknown to who chooses addresses.
var seed = rand.Uint64()

// is compares words; == of the whole would call for it.
func (k *stateKey) is(o *stateKey) bool {
	return k.Lo == o.Lo && k.Hi == o.Hi && k.LoPort == o.LoPort && k.HiPort == o.HiPort && k.Proto == o.Proto && k.V6 == o.V6 && k.scope == o.scope
}

func (k *stateKey) hash() uint32 {
	var b [56]byte
	copy(b[:], k.Lo[:])
	copy(b[16:], k.Hi[:])
	binary.LittleEndian.PutUint64(b[32:], uint64(k.LoPort)|uint64(k.HiPort)<<16|uint64(k.Proto)<<32)
	binary.LittleEndian.PutUint64(b[40:], k.scope)
	binary.LittleEndian.PutUint64(b[48:], seed)
	return uint32(xxhash.Sum64(b[:]))
}

// A table holds entries by key: chains in buckets, of which there are three for
// two entries. Adding entries adds buckets by splitting one at a time (linear
// hashing), so that there is no pause for a whole new table. What walks from entry
// to entry reads nodes, nine of which are in the memory of one entry.
type table struct {
	entries pool[entry]
	nodes   pool[node]  // one of each entry, at its number
	heads   pool[int32] // bucket b at number b
	buckets uint64      // in use
	round   uint64      // power of two: buckets at the start of this round of splits
}

// A node is an entry's place among others.
type node struct {
	hash          uint32 // of the key: its low bits
	chain         int32  // the next entry of the bucket
	before, after int32  // in its queue
	delta         int32  // which delta of the log, as long as it is counted there; 0 none
}

// minBuckets is where a table starts; a power of two.
const minBuckets = 64

// bucket returns the head of the chain for a hash.
func (t *table) bucket(h uint32) *int32 {
	b := uint64(h) & (t.round - 1)
	if b < t.buckets-t.round { // split in this round already
		b = uint64(h) & (t.round<<1 - 1)
	}
	return t.heads.at(int32(b))
}

// first returns the first entry of a key with this hash, 0 for none; next the one
// after i.
func (t *table) first(k *stateKey, hash uint32) int32 {
	if t.buckets == 0 {
		return 0
	}
	return t.same(*t.bucket(hash), k, hash)
}

func (t *table) next(i int32) int32 {
	n := t.nodes.at(i)
	if n.chain == 0 {
		return 0
	}
	return t.same(n.chain, &t.entries.at(i).key, n.hash)
}

func (t *table) same(i int32, k *stateKey, hash uint32) int32 {
	for i != 0 {
		n := t.nodes.at(i)
		if n.hash == hash && t.entries.at(i).key.is(k) {
			return i
		}
		i = n.chain
	}
	return 0
}

// insert puts a copy of e in, whose key has this hash.
func (t *table) insert(e *entry, hash uint32) int32 {
	t.grow()
	i := t.entries.alloc()
	for t.nodes.n < i {
		t.nodes.alloc()
	}
	x := t.entries.at(i)
	*x = *e
	x.marks |= isHeld
	head := t.bucket(hash)
	*t.nodes.at(i) = node{hash: hash, chain: *head}
	*head = i
	return i
}

// grow makes buckets enough for one more entry.
func (t *table) grow() {
	if t.buckets == 0 {
		t.heads.alloc() // number 0 is a bucket here, as alloc's first is 1
		for range minBuckets - 1 {
			t.heads.alloc()
		}
		t.buckets, t.round = minBuckets, minBuckets
	}
	for 3*uint64(t.entries.used()) >= 2*t.buckets {
		t.split()
	}
}

// split makes one more bucket, of a part of another.
func (t *table) split() {
	from := t.heads.at(int32(t.buckets - t.round))
	to := t.heads.at(t.heads.alloc() - 1)
	mask := t.round<<1 - 1
	t.buckets++
	stay, move := int32(0), int32(0)
	for i := *from; i != 0; {
		n := t.nodes.at(i)
		next := n.chain
		if uint64(n.hash)&mask >= t.round {
			n.chain, move = move, i
		} else {
			n.chain, stay = stay, i
		}
		i = next
	}
	*from, *to = stay, move
	if t.buckets == t.round<<1 {
		t.round <<= 1
	}
}

// remove takes i out; its number may be given to another entry.
func (t *table) remove(i int32) {
	n := t.nodes.at(i)
	at := t.bucket(n.hash)
	for *at != i {
		at = &t.nodes.at(*at).chain
	}
	*at = n.chain
	t.entries.at(i).marks = 0 // the rest is written over
	t.entries.release(i)
}

// A vantage is a place that reports: an exporter, its observation domain, and
// which side of it meters (flowDirection, IE 61).
type vantage struct {
	exporter [16]byte
	domain   uint32
	iface    uint8
}

// vantages numbers them, as long as something refers to them.
type vantages struct {
	of    pool[counted]
	at    map[vantage]int32
	last  vantage // of the last lookup: records come in runs
	lastN int32
}

type counted struct {
	vantage
	refs int32
}

// take returns v's number, with one more reference to it.
func (v *vantages) take(x vantage) int32 {
	i := v.find(x)
	if i == 0 {
		if v.at == nil {
			v.at = map[vantage]int32{}
		}
		i = v.of.alloc()
		*v.of.at(i) = counted{vantage: x}
		v.at[x] = i
		v.last, v.lastN = x, i
	}
	v.of.at(i).refs++
	return i
}

// find returns x's number, 0 when nothing refers to it.
func (v *vantages) find(x vantage) int32 {
	if v.lastN != 0 && v.last == x {
		return v.lastN
	}
	i := v.at[x]
	if i != 0 {
		v.last, v.lastN = x, i
	}
	return i
}

// drop takes a reference away.
func (v *vantages) drop(i int32) {
	c := v.of.at(i)
	if c.refs--; c.refs > 0 {
		return
	}
	delete(v.at, c.vantage)
	if v.lastN == i {
		v.lastN = 0
	}
	v.of.release(i)
}
