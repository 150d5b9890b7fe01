package pair

import (
	"encoding/binary"
	"math/rand/v2"
	"unsafe"

	"github.com/cespare/xxhash/v2"

	"weir/internal/flowkey"
)

// A chunk of a pool has chunkLen values.
const (
	chunkBits = 10
	chunkLen  = 1 << chunkBits
)

// A pool holds values by number, from 1; 0 stands for no value. Chunks never move: a pointer from ref is valid until
// the value is released, and growth copies nothing. T must not contain pointers, so that the garbage collector does not
// scan the chunks. Value 0 of the first chunk is allocated and unused, so that a number is also an index. table.heads
// uses it, since buckets count from 0.
type pool[T any] struct {
	chunks []*[chunkLen]T
	n      int32   // greatest number allocated so far
	unused []int32 // released numbers
}

// ref returns a pointer to value i, which must be allocated.
func (p *pool[T]) ref(i int32) *T { return &p.chunks[i>>chunkBits][i&(chunkLen-1)] }

// alloc returns the number of a new value. The caller must set the value: a released number keeps its old content.
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

// release frees value i. The caller must not use pointers to it any longer.
func (p *pool[T]) release(i int32) { p.unused = append(p.unused, i) }

// inUse returns the number of values that are allocated and not released.
func (p *pool[T]) inUse() int { return int(p.n) - len(p.unused) }

// octets returns the memory of the pool, in octets.
func (p *pool[T]) octets() int {
	var v T
	return len(p.chunks)*chunkLen*int(unsafe.Sizeof(v)) + 4*cap(p.unused)
}

// A stateKey identifies a conversation: its key, and the scope in which the addresses of the key are unique. Its Key
// has sorted endpoints, so that both directions of a conversation have the same key.
type stateKey struct {
	flowkey.Key
	scope uint64 // hash of the scope (PAIR_SCOPE, address plan); 0 = global
}

// seed is part of every hash: a sender who chooses addresses must not be able to predict which conversations share a
// bucket.
var seed = rand.Uint64()

// equal reports whether k and o are equal. It compares field by field, inlined; == on the struct calls a function.
func (k *stateKey) equal(o *stateKey) bool {
	return k.Lo == o.Lo && k.Hi == o.Hi && k.LoPort == o.LoPort && k.HiPort == o.HiPort &&
		k.Proto == o.Proto && k.V6 == o.V6 && k.scope == o.scope
}

// hash returns the hash of k. It differs between processes: it must not be logged. The 56 octets are Lo (16), Hi (16),
// ports and protocol (8), scope (8) and seed (8). V6 is not hashed: an IPv4 address is mapped into ::ffff:0:0/96 and
// differs from any IPv6 address.
func (k *stateKey) hash() uint32 {
	var b [56]byte
	copy(b[:], k.Lo[:])
	copy(b[16:], k.Hi[:])
	binary.LittleEndian.PutUint64(b[32:], uint64(k.LoPort)|uint64(k.HiPort)<<16|uint64(k.Proto)<<32)
	binary.LittleEndian.PutUint64(b[40:], k.scope)
	binary.LittleEndian.PutUint64(b[48:], seed)
	return uint32(xxhash.Sum64(b[:]))
}

// A table is a hash table of entries by key, with chained buckets: at least three buckets for two entries. Several
// entries may have the same key. It grows by splitting one bucket at a time (linear hashing), so that no insertion
// waits for a copy of the whole table. Walks over entries read the nodes, which are a ninth of the size of an entry.
//
// Example: round is 64 and there are 70 buckets. Then buckets 0 to 5 were split in this round: a hash whose low 6 bits
// are below 6 selects its bucket by its low 7 bits, any other by its low 6 bits.
type table struct {
	entries pool[entry]
	nodes   pool[node]  // the node of entry i is node i
	heads   pool[int32] // first entry of bucket b, at number b
	buckets uint64      // in use
	round   uint64      // power of two: buckets at the start of this round of splits
}

// A node links an entry to others in its bucket and its queue.
type node struct {
	hash          uint32 // of the key: its low bits
	chain         int32  // the next entry of the bucket
	before, after int32  // neighbours in its queue
	delta         int32  // number of the delta of the log that counts the entry as live; 0: none
}

// minBuckets is the number of buckets of a new table. It must be a power of two.
const minBuckets = 64

// bucket returns the head of the chain for a hash.
func (t *table) bucket(h uint32) *int32 {
	b := uint64(h) & (t.round - 1)
	if b < t.buckets-t.round { // split in this round already
		b = uint64(h) & (t.round<<1 - 1)
	}
	return t.heads.ref(int32(b))
}

// first returns the first entry with key k, 0 if there is none. hash must be k.hash().
func (t *table) first(k *stateKey, hash uint32) int32 {
	if t.buckets == 0 {
		return 0
	}
	return t.findInChain(*t.bucket(hash), k, hash)
}

// next returns the entry after i with the same key, 0 if there is none. A caller that walks the entries must not insert
// or remove any in between.
func (t *table) next(i int32) int32 {
	n := t.nodes.ref(i)
	if n.chain == 0 {
		return 0
	}
	return t.findInChain(n.chain, &t.entries.ref(i).key, n.hash)
}

// findInChain returns the first entry with key k in the chain that begins at i, 0 if there is none.
func (t *table) findInChain(i int32, k *stateKey, hash uint32) int32 {
	for i != 0 {
		n := t.nodes.ref(i)
		if n.hash == hash && t.entries.ref(i).key.equal(k) {
			return i
		}
		i = n.chain
	}
	return 0
}

// insert adds a copy of e and returns its number. hash must be e.key.hash(). The entry is in no queue. The caller must
// not insert a second entry of the same key and origin: the origin is the identity of a connection.
func (t *table) insert(e *entry, hash uint32) int32 {
	t.grow()
	i := t.entries.alloc()
	for t.nodes.n < i {
		t.nodes.alloc()
	}
	x := t.entries.ref(i)
	*x = *e
	x.marks |= isHeld
	head := t.bucket(hash)
	*t.nodes.ref(i) = node{hash: hash, chain: *head}
	*head = i
	return i
}

// grow adds buckets until there is room for another entry. An insertion splits one or two buckets, each with less than
// two entries on average.
func (t *table) grow() {
	if t.buckets == 0 {
		t.heads.alloc() // buckets count from 0, numbers of a pool from 1: bucket 0 uses the chunk's unused value
		for range minBuckets - 1 {
			t.heads.alloc()
		}
		t.buckets, t.round = minBuckets, minBuckets
	}
	for 3*uint64(t.entries.inUse()) >= 2*t.buckets {
		t.split()
	}
}

// split adds a bucket: it moves the entries with the next hash bit set from bucket buckets-round into it.
func (t *table) split() {
	from := t.heads.ref(int32(t.buckets - t.round))
	to := t.heads.ref(t.heads.alloc() - 1)
	mask := t.round<<1 - 1
	t.buckets++
	stay, move := int32(0), int32(0)
	for i := *from; i != 0; {
		n := t.nodes.ref(i)
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

// remove removes entry i, which must be in no queue and have no parts. Its number may be used for another entry.
func (t *table) remove(i int32) {
	n := t.nodes.ref(i)
	at := t.bucket(n.hash)
	for *at != i {
		at = &t.nodes.ref(*at).chain
	}
	*at = n.chain
	t.entries.ref(i).marks = 0 // insert overwrites the other fields
	t.entries.release(i)
}

// An observationPoint is an observation point as far as records identify it: exporter, observation domain and flow
// direction (IE 61), which separates metering on ingress from metering on egress.
type observationPoint struct {
	exporter [16]byte
	domain   uint32
	iface    uint8 // value of IE 61 as flowpb.FlowDirection
}

// observationPoints assigns numbers to observation points and counts the references to them. An observation point
// without references is removed. Each side of an entry holds one reference. An observation point takes 24 octets, its
// number in a side 4.
type observationPoints struct {
	pool  pool[counted]
	at    map[observationPoint]int32
	last  observationPoint // last lookup: consecutive records mostly have the same observation point
	lastN int32            // its number; 0: none
}

type counted struct {
	observationPoint
	refs int32
}

// acquire returns the number of x and adds a reference, which the caller must give back with drop.
func (v *observationPoints) acquire(x observationPoint) int32 {
	i := v.find(x)
	if i == 0 {
		if v.at == nil {
			v.at = map[observationPoint]int32{}
		}
		i = v.pool.alloc()
		*v.pool.ref(i) = counted{observationPoint: x}
		v.at[x] = i
		v.last, v.lastN = x, i
	}
	v.pool.ref(i).refs++
	return i
}

// find returns the number of x, 0 if nothing refers to it. It adds no reference. A number is reused after drop: the
// caller must not keep it longer than its own reference.
func (v *observationPoints) find(x observationPoint) int32 {
	if v.lastN != 0 && v.last == x {
		return v.lastN
	}
	i := v.at[x]
	if i != 0 {
		v.last, v.lastN = x, i
	}
	return i
}

// drop removes a reference to observation point i, and i itself with its last reference.
func (v *observationPoints) drop(i int32) {
	c := v.pool.ref(i)
	if c.refs--; c.refs > 0 {
		return
	}
	delete(v.at, c.observationPoint)
	if v.lastN == i {
		v.lastN = 0
	}
	v.pool.release(i)
}
