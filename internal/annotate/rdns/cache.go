package rdns

import (
	"net/netip"
	"time"

	"weir/pkg/flowpb"
)

const (
	// chunkSize is the number of slots that are allocated at a time. Slots do not move: growing copies none of them
	// under the lock.
	chunkSize = 4096
	// sweepSize is the number of slots that are swept under a lock, some 10 µs.
	sweepSize = 1024
	// chances bounds the recently used entries that an eviction skips. If all of them are in use, one is evicted.
	chances = 32

	// slotOctets is the memory of a slot, 80 octets, and of its place in the index, at most 64.
	slotOctets = 144
	// entryOctets is the memory that an entry may take on average. Names are at most 253 octets long.
	entryOctets = 250
)

// A slotID is the number of a slot plus 1; 0 is no slot.
type slotID uint32

// An entry is the cached result for an address. Times are since Resolver.start, always fresh <= stale <= expires where
// stale is set.
type entry struct {
	// name is set only with status OK.
	name string
	// fresh is the time until which the address is not looked up again. Afterwards Peek still returns the entry.
	fresh time.Duration
	// stale is the time until which the name is returned in place of a failure (RFC 8767); 0 if there is no name.
	stale time.Duration
	// expires is the time at which the entry counts as absent.
	expires time.Duration
	// status is a flowpb.NameStatus. Eight bits keep a slot at 80 octets.
	status   uint8
	verified bool
	// fails is the number of failures in a row, which sets the time of the next try.
	fails uint8
}

// answer returns the Answer of e.
func (e *entry) answer() Answer {
	a := Answer{Name: e.name, Status: flowpb.NameStatus(e.status), Verified: e.verified}
	if a.Status == flowpb.NameStatus_NAME_STATUS_OK {
		a.Source = flowpb.NameSource_NAME_SOURCE_PTR
	}
	return a
}

// A slot holds an address that is cached, pending, or both: the old answer of an address stays while it is looked up
// again. A slot that is neither is free and not in the index.
type slot struct {
	entry
	// key is the address in 16 octets, IPv4 in its v4-mapped form.
	key [16]byte
	// newer and older are the neighbours in the list of cached slots.
	newer slotID
	older slotID
	// next is the next slot of its fifo, or of the list of free slots.
	next slotID
	// cached reports whether entry is set.
	cached bool
	// pending reports whether the address is in a fifo or being looked up.
	pending bool
	// used reports whether the entry was read since it was written or passed over by an eviction.
	used bool
}

// A fifo is a queue of pending slots. Its elements are linked by slot.next: a queue takes no memory of its own, and an
// address has at most one place in all queues.
type fifo struct {
	head, tail slotID
	n          int
}

// A cache holds the answers that are known and the pending addresses. Answers are bounded in number and in
// octets; the caller bounds the pending addresses. Each operation takes constant time, but for the growth of the Go map
// that is the index, which is incremental. When the cache is full, the oldest entry that was not used lately makes room
// (the second-chance algorithm). A cache must be guarded by a lock.
type cache struct {
	index     map[[16]byte]slotID
	chunks    []*[chunkSize]slot
	slots     int    // slots of chunks that were used so far
	free      slotID // list of free slots, by next
	newest    slotID // the list of cached slots
	oldest    slotID
	cached    int
	pending   int
	octets    int // of cached entries
	maxCached int
	maxOctets int
}

// Memory grows with the entries that are stored, not with the limit.
func newCache(entries int) *cache {
	return &cache{index: map[[16]byte]slotID{}, maxCached: entries, maxOctets: entries * entryOctets}
}

// slot returns the slot with a number other than 0. The pointer stays valid, but the slot may be freed by any call that
// stores or removes an entry.
func (c *cache) slot(id slotID) *slot { return &c.chunks[(id-1)/chunkSize][(id-1)%chunkSize] }

// find returns the slot of an address, nil if it is neither cached nor pending. An entry that has expired is removed.
func (c *cache) find(key *[16]byte, now time.Duration) *slot {
	if id := c.index[*key]; id != 0 {
		return c.live(id, now)
	}
	return nil
}

// live returns a slot that is in the index, nil if its entry has expired and it is not pending. It removes an entry
// that has expired.
func (c *cache) live(id slotID, now time.Duration) *slot {
	s := c.slot(id)
	if s.cached && s.expires <= now {
		c.drop(id, s)
		if !s.pending {
			return nil
		}
	}
	return s
}

// add returns the slot of an address. The caller must mark a new slot as cached or pending before another call, or the
// slot is lost.
func (c *cache) add(key *[16]byte) (slotID, *slot) {
	if id, ok := c.index[*key]; ok {
		return id, c.slot(id)
	}
	id := c.free
	if id != 0 {
		c.free = c.slot(id).next
	} else {
		if c.slots == len(c.chunks)*chunkSize {
			c.chunks = append(c.chunks, new([chunkSize]slot))
		}
		c.slots++
		id = slotID(c.slots)
	}
	s := c.slot(id)
	*s = slot{key: *key}
	c.index[*key] = id
	return id, s
}

// release frees a slot that is neither cached nor pending.
func (c *cache) release(id slotID, s *slot) {
	if s.cached || s.pending {
		return
	}
	delete(c.index, s.key)
	*s = slot{next: c.free}
	c.free = id
}

// enqueue marks an address as pending and appends it to q. The address must not be pending.
func (c *cache) enqueue(key *[16]byte, q *fifo) {
	id, s := c.add(key)
	s.pending, s.next = true, 0
	if q.head == 0 {
		q.head = id
	} else {
		c.slot(q.tail).next = id
	}
	q.tail = id
	q.n++
	c.pending++
}

// dequeue removes the first address of q. It stays pending until put: an address that is being looked up must not be
// queued a second time.
func (c *cache) dequeue(q *fifo) (a netip.Addr, ok bool) {
	if q.head == 0 {
		return a, false
	}
	s := c.slot(q.head)
	q.head, s.next = s.next, 0
	q.n--
	return netip.AddrFrom16(s.key).Unmap(), true
}

// put stores the entry of an address, which is no longer pending then, and evicts others if there are too many. The
// address must not be in a fifo. Each entry counts slotOctets and the length of its name: the longest name makes room
// by at most three evictions.
func (c *cache) put(key *[16]byte, e *entry, now time.Duration) {
	id, s := c.add(key)
	if s.cached {
		c.unlink(s)
	}
	if s.pending {
		s.pending = false
		c.pending--
	}
	octets := slotOctets + len(e.name)
	for c.cached > 0 && (c.cached >= c.maxCached || c.octets+octets > c.maxOctets) {
		c.evict(now)
	}
	s.entry, s.cached, s.used = *e, true, false
	c.link(id, s)
}

// evict removes the oldest entry that was not used since it was written or passed over.
// The caller must make sure that an entry is cached.
func (c *cache) evict(now time.Duration) {
	for range chances {
		id := c.oldest
		s := c.slot(id)
		if !s.used || s.expires <= now {
			break
		}
		s.used = false
		c.unlink(s)
		c.link(id, s)
	}
	c.drop(c.oldest, c.slot(c.oldest))
}

// drop removes the entry of a slot.
func (c *cache) drop(id slotID, s *slot) {
	c.unlink(s)
	s.entry, s.cached = entry{}, false
	c.release(id, s)
}

// link makes a slot the newest that is cached and counts it. Its entry must be set and must not change until unlink.
func (c *cache) link(id slotID, s *slot) {
	s.newer, s.older = 0, c.newest
	if c.newest == 0 {
		c.oldest = id
	} else {
		c.slot(c.newest).newer = id
	}
	c.newest = id
	c.cached++
	c.octets += slotOctets + len(s.name)
}

// unlink undoes link.
func (c *cache) unlink(s *slot) {
	if s.newer == 0 {
		c.newest = s.older
	} else {
		c.slot(s.newer).older = s.older
	}
	if s.older == 0 {
		c.oldest = s.newer
	} else {
		c.slot(s.older).newer = s.newer
	}
	c.cached--
	c.octets -= slotOctets + len(s.name)
}

// sweep removes expired entries from sweepSize slots, beginning with the slot of number from. It returns the number of
// the slot to go on with, 0 after the last.
// The caller releases the lock between calls, so that Want and Peek do not wait for a whole sweep.
func (c *cache) sweep(from int, now time.Duration) (next int) {
	next = min(from+sweepSize, c.slots)
	for n := from; n < next; n++ {
		id := slotID(n + 1)
		if s := c.slot(id); s.cached && s.expires <= now {
			c.drop(id, s)
		}
	}
	if next == c.slots {
		return 0
	}
	return next
}
