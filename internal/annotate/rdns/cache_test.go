package rdns

import (
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"
	"unsafe"

	"weir/pkg/flowpb"
)

// key returns the n-th key.
func key(n int) *[16]byte {
	k := publicAddress(uint32(n)).As16()
	return &k
}

// named returns an entry with a name of a length that expires after a time.
func named(octets int, expires time.Duration) *entry {
	return &entry{name: strings.Repeat("a", octets), status: uint8(flowpb.NameStatus_NAME_STATUS_OK), expires: expires}
}

// check verifies that lists, index and counts of c agree.
func check(t *testing.T, c *cache, queues ...*fifo) {
	t.Helper()
	cached, octets := 0, 0
	newer := slotID(0)
	for id := c.newest; id != 0; id = c.slot(id).older {
		s := c.slot(id)
		if !s.cached || s.newer != newer || c.index[s.key] != id {
			t.Fatalf("slot %d in the list of cached slots: %+v after %d; the index has %d", id, s, newer, c.index[s.key])
		}
		newer = id
		cached++
		octets += slotOctets + len(s.name)
	}
	if c.oldest != newer || c.cached != cached || c.octets != octets {
		t.Fatalf("want oldest %d, %d cached, %d octets; got %d, %d, %d", newer, cached, octets, c.oldest, c.cached, c.octets)
	}
	if c.cached > c.maxCached || c.cached > 1 && c.octets > c.maxOctets {
		t.Fatalf("%d cached with %d octets, limits %d and %d", c.cached, c.octets, c.maxCached, c.maxOctets)
	}
	pending := 0
	for _, q := range queues {
		n, last := 0, slotID(0)
		for id := q.head; id != 0; id = c.slot(id).next {
			if s := c.slot(id); !s.pending || c.index[s.key] != id {
				t.Fatalf("slot %d in a queue: %+v", id, s)
			}
			n, last = n+1, id
		}
		if n != q.n || n > 0 && q.tail != last {
			t.Fatalf("a queue has %d slots, the last is %d; want %d and %d", n, last, q.n, q.tail)
		}
		pending += n
	}
	if c.pending < pending {
		t.Fatalf("%d pending, %d in queues", c.pending, pending)
	}
	free := 0
	for id := c.free; id != 0; id = c.slot(id).next {
		free++
	}
	if free+len(c.index) != c.slots {
		t.Fatalf("%d slots, of these %d free and %d in the index", c.slots, free, len(c.index))
	}
}

// A random sequence of operations gives what a plain map of the same entries gives, as long as nothing is evicted.
func TestCacheAgainstAMap(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	for _, limit := range []int{3, 50, 1_000_000} {
		c := newCache(limit)
		model, pending, flying := map[[16]byte]entry{}, map[[16]byte]bool{}, [][16]byte{}
		var queues [2]fifo
		now := time.Duration(0)
		for range 20_000 {
			now += time.Duration(rng.IntN(3))
			k := key(rng.IntN(200))
			switch rng.IntN(6) {
			case 0, 1:
				if !pending[*k] {
					c.enqueue(k, &queues[rng.IntN(2)])
					pending[*k] = true
				}
			case 2:
				if a, ok := c.dequeue(&queues[rng.IntN(2)]); ok {
					flying = append(flying, a.As16())
				}
			case 3:
				if len(flying) > 0 {
					f := flying[0]
					flying = flying[1:]
					e := named(rng.IntN(254), now+time.Duration(rng.IntN(500)))
					c.put(&f, e, now)
					model[f] = *e
					delete(pending, f)
				}
			case 4:
				for from := c.sweep(0, now); from != 0; from = c.sweep(from, now) {
				}
			}
			s, want := c.find(k, now), model[*k]
			if s != nil && s.cached && s.entry != want {
				t.Fatalf("entry %+v, want %+v", s.entry, want)
			}
			if limit > 1000 && (s != nil && s.cached) != (want.expires > now) {
				t.Fatalf("at %v: slot %+v, want the entry %+v", now, s, want)
			}
			if (s != nil && s.pending) != pending[*k] {
				t.Fatalf("slot %+v, pending: %v", s, pending[*k])
			}
			check(t, c, &queues[0], &queues[1])
		}
	}
}

// A full cache keeps the entries that are used and evicts the oldest of the others. Long names count: hostile zones
// cannot take more memory than the limit says.
func TestCacheIsBoundedInEntriesAndOctets(t *testing.T) {
	c := newCache(1000)
	for n := range 1000 {
		c.put(key(n), named(20, time.Hour), 0)
	}
	for n := range chances {
		c.find(key(n), 0).used = true
	}
	for n := range 1000 - chances {
		c.put(key(1000+n), named(20, time.Hour), 0)
	}
	for n := range 1000 {
		if found := c.find(key(n), 0) != nil; found != (n < chances) {
			t.Errorf("entry %d of 1000, the first %d were used: kept: %v", n, chances, found)
		}
	}
	check(t, c)
	if size := unsafe.Sizeof(slot{}); size != 80 {
		t.Errorf("a slot has %d octets, slotOctets is made for 80", size)
	}
	for n := range 5000 {
		c.put(key(10_000+n), named(253, time.Hour), 0)
	}
	// By hand: 250 000 octets / (144 + 253) = 629.7.
	if c.cached != 629 {
		t.Errorf("%d entries with names of 253 octets, want 629", c.cached)
	}
	check(t, c)
}

// An eviction passes over a bounded number of entries even if all were used.
func TestAnEvictionIsBounded(t *testing.T) {
	c := newCache(10_000)
	for n := range 10_000 {
		c.put(key(n), named(20, time.Hour), 0)
		c.find(key(n), 0).used = true
	}
	c.put(key(10_000), named(20, time.Hour), 0)
	used := 0
	for id := c.newest; id != 0; id = c.slot(id).older {
		if c.slot(id).used {
			used++
		}
	}
	if want := 10_000 - chances - 1; used != want {
		t.Errorf("%d entries are still marked as used, want %d", used, want)
	}
	check(t, c)
}

// An address that is asked again keeps its place in the queue when its old entry is evicted or expires.
func TestAPendingAddressSurvivesItsEntry(t *testing.T) {
	c := newCache(1)
	var q fifo
	c.put(key(1), named(1, time.Second), 0)
	c.enqueue(key(1), &q)
	c.put(key(2), named(1, time.Second), 0) // evicts the entry
	if s := c.find(key(1), 0); s == nil || s.cached || !s.pending {
		t.Errorf("slot %+v, want pending without an entry", s)
	}
	c.enqueue(key(2), &q)
	if s := c.find(key(2), time.Second); s == nil || s.cached || !s.pending { // expired
		t.Errorf("slot %+v, want pending without an entry", s)
	}
	check(t, c, &q)
	for n := 1; n <= 2; n++ {
		if a, ok := c.dequeue(&q); !ok || a != publicAddress(uint32(n)) {
			t.Errorf("dequeued %v, %v; want address %d", a, ok, n)
		}
	}
	if _, ok := c.dequeue(&q); ok || c.pending != 2 {
		t.Errorf("%d pending, want 2 that are looked up", c.pending)
	}
}

// Expired entries do not stay until they are found or evicted.
func TestExpiredEntriesAreSwept(t *testing.T) {
	c := newCache(10_000)
	for n := range 5000 {
		c.put(key(n), named(20, time.Duration(1+n%2)*time.Hour), 0)
	}
	rounds := 0
	for from := c.sweep(0, time.Hour); from != 0; from = c.sweep(from, time.Hour) {
		rounds++
	}
	if c.cached != 2500 || rounds != 4 {
		t.Errorf("%d entries after %d rounds and one, want 2500 and 4", c.cached, rounds)
	}
	check(t, c)
}

// What is refused, cached, suppressed or switched off costs no allocation: nothing is stored for an address before it is
// certain that it will be asked.
func TestNoAllocationWithoutAQuestion(t *testing.T) {
	c := testConfig()
	c.Queue = 10
	r, err := newResolver(c, &script{})
	if err != nil {
		t.Fatal(err)
	}
	r.record(publicAddress(1), result{answer: hostOK, ttl: time.Hour})
	for n := range uint32(c.Queue) {
		r.Want(publicAddress(100 + n))
	}
	off, err := newResolver(Config{}, &script{})
	if err != nil {
		t.Fatal(err)
	}
	slots, fresh := r.cache.slots, uint32(1000)
	for _, tt := range []struct {
		name string
		r    *Resolver
		next func() netip.Addr
		want flowpb.NameStatus
	}{
		{"refused", r, func() netip.Addr { fresh++; return publicAddress(fresh) }, flowpb.NameStatus_NAME_STATUS_DROPPED},
		{"cached", r, func() netip.Addr { return publicAddress(1) }, flowpb.NameStatus_NAME_STATUS_OK},
		{"pending", r, func() netip.Addr { return publicAddress(100) }, flowpb.NameStatus_NAME_STATUS_PENDING},
		{"suppressed", r, func() netip.Addr { return netip.AddrFrom4([4]byte{10}) }, flowpb.NameStatus_NAME_STATUS_SUPPRESSED},
		{"off", off, func() netip.Addr { return host }, flowpb.NameStatus_NAME_STATUS_DISABLED},
	} {
		if n := testing.AllocsPerRun(1000, func() {
			a := tt.next()
			tt.r.Want(a)
			if got := tt.r.Peek(a); got.Status != tt.want {
				t.Fatalf("%s: got %v, want %v", tt.name, got.Status, tt.want)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", tt.name, n)
		}
	}
	if r.cache.slots != slots || r.Stats().Dropped != 1001 {
		t.Errorf("%d slots before, %d after 1001 refused addresses; %d counted", slots, r.cache.slots, r.Stats().Dropped)
	}
}
