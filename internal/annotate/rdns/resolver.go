// Package rdns looks up the host names of addresses (PTR records) in the background and returns the names known
// so far. None of its methods but Run makes its caller wait.
package rdns

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"weir/pkg/flowpb"
)

// Lives of answers: after these times an address is looked up again.
const (
	minTTL      = time.Minute      // RFC 8767 section 4 lets a resolver raise tiny TTLs within reason
	maxTTL      = 24 * time.Hour   // of a name
	maxNegative = time.Hour        // of the absence of a name (RFC 2308 section 5 wants a limit)
	firstRetry  = 30 * time.Second // after a failure, doubling (RFC 9520 section 3.2)
	lastRetry   = 5 * time.Minute
	maxStale    = 24 * time.Hour   // an old name stands in while queries fail (RFC 8767)
	remembered  = 15 * time.Minute // beyond the life of a negative answer or failure, for Peek
	droppedLife = 2 * time.Minute  // time after a drop in which unknown addresses count as dropped
)

// An Answer is the known name of an address, or the reason for its absence. Name is set only with status OK.
type Answer struct {
	Name     string // lower-case letters, digits, '-', '_' and '.', no dot at the end
	Status   flowpb.NameStatus
	Verified bool // the name's own address records contain the address
	Source   flowpb.NameSource
}

// A Resolver looks up and caches names. It does nothing before Run, which works until its context ends. Want,
// Peek and Stats may be called by any goroutine at any time.
type Resolver struct {
	config  Config
	cache   *otter.Cache[[16]byte, entry]
	public  *upstream
	private *upstream // nil: such addresses are not looked up
	start   time.Time

	// mu guards pending.
	mu      sync.RWMutex
	pending map[[16]byte]struct{} // in a queue or being looked up

	wanted, hits, dropped, suppressed atomic.Uint64
	recorded                          atomic.Uint64 // results so far
	lastDrop                          atomic.Int64  // nanoseconds since start, plus 1; 0: never
	answers                           [int(flowpb.NameStatus_NAME_STATUS_DISABLED) + 1]atomic.Uint64
	counters                          counters
}

// An entry is the cached result for an address. Times are since Resolver.start.
type entry struct {
	answer Answer
	fresh  time.Duration // until then it is not looked up again
	stale  time.Duration // until then a name stands in for failures
	life   time.Duration // duration for which the cache keeps it, from its writing
	fails  uint8         // failures in a row
}

// New returns a Resolver. Without DNS_SERVERS it reads resolv.conf; if that names no server, public addresses
// are not looked up (see Servers).
func New(c Config) (*Resolver, error) {
	return newResolver(c, network{c.Dial})
}

func newResolver(c Config, t transport) (*Resolver, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	r := &Resolver{config: c, start: time.Now(), pending: map[[16]byte]struct{}{}}
	if !c.Enabled {
		return r, nil
	}
	var err error
	r.cache, err = otter.New(&otter.Options[[16]byte, entry]{
		MaximumSize: c.CacheSize,
		ExpiryCalculator: otter.ExpiryWritingFunc(func(e otter.Entry[[16]byte, entry]) time.Duration {
			return e.Value.life
		}),
	})
	if err != nil {
		return nil, fmt.Errorf("names: cache: %w", err)
	}
	r.cache.StopAllGoroutines() // Run cleans up, so that New starts no goroutine

	limit := rate.NewLimiter(rate.Limit(c.Rate), max(1, c.Rate/10))
	servers := c.Servers
	if len(servers) == 0 {
		servers = systemServers(resolvConf)
	}
	r.public = newUpstream(c, servers, false, limit, t, &r.counters)
	r.private = newUpstream(c, c.PrivateServers, true, limit, t, &r.counters)
	return r, nil
}

// Servers returns the resolvers for public and for special-use addresses, for a log line. A list is empty if
// such addresses are not looked up.
func (r *Resolver) Servers() (public, private []string) {
	return r.public.names(), r.private.names()
}

// Run looks up wanted addresses until ctx ends, and returns nil then. Open queries are abandoned.
func (r *Resolver) Run(ctx context.Context) error {
	if r.cache == nil {
		<-ctx.Done()
		return nil
	}
	var g errgroup.Group
	for _, l := range []*upstream{r.public, r.private} {
		if l != nil {
			g.Go(func() error { l.run(ctx, r.record); return nil })
		}
	}
	g.Go(func() error {
		tick := time.NewTicker(10 * time.Second)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
				r.cache.CleanUp()
			}
		}
	})
	return g.Wait()
}

// Want requests the name of a. It never waits. An address whose answer is still valid is not looked up again.
func (r *Resolver) Want(a netip.Addr) {
	r.enqueue(a, func(l *upstream) chan netip.Addr { return l.queue })
}

// WantLater is Want for many addresses at once, after a restart. They are looked up while no address of Want
// waits. It returns false if the queue is full: then a was not taken, nor counted as dropped.
func (r *Resolver) WantLater(a netip.Addr) bool {
	if r.cache == nil {
		return false
	}
	if l := r.upstreamOf(a.Unmap()); l != nil && len(l.later) == cap(l.later) {
		return false
	}
	r.enqueue(a, func(l *upstream) chan netip.Addr { return l.later })
	return true
}

// enqueue puts a into a queue of its upstream, unless its answer is valid or a is pending already.
func (r *Resolver) enqueue(a netip.Addr, queueOf func(*upstream) chan netip.Addr) {
	r.wanted.Add(1)
	if r.cache == nil {
		return
	}
	a = a.Unmap()
	l := r.upstreamOf(a)
	if l == nil {
		r.suppressed.Add(1)
		return
	}
	key := a.As16()
	if e, ok := r.cache.GetIfPresent(key); ok && e.fresh > r.now() {
		r.hits.Add(1)
		return
	}
	queue := queueOf(l)
	if len(queue) == cap(queue) { // without the write lock, which delays others
		r.mu.RLock()
		_, pending := r.pending[key]
		r.mu.RUnlock()
		if !pending {
			r.drop()
		}
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.pending[key]; ok {
		return
	}
	// An answer may have arrived between the check above and the lock.
	if e, ok := r.cache.GetIfPresent(key); ok && e.fresh > r.now() {
		r.hits.Add(1)
		return
	}
	select {
	case queue <- a:
		r.pending[key] = struct{}{}
	default:
		r.drop()
	}
}

// drop counts an address that found the queue full.
func (r *Resolver) drop() {
	r.dropped.Add(1)
	r.lastDrop.Store(int64(r.now()) + 1)
}

// Peek returns the current answer for a. It never waits.
func (r *Resolver) Peek(a netip.Addr) Answer {
	if r.cache == nil {
		return Answer{Status: flowpb.NameStatus_NAME_STATUS_DISABLED}
	}
	a = a.Unmap()
	if r.upstreamOf(a) == nil {
		return Answer{Status: flowpb.NameStatus_NAME_STATUS_SUPPRESSED}
	}
	key := a.As16()
	before := r.recorded.Load()
	e, known := r.cache.GetIfPresent(key)
	if known {
		return e.answer
	}
	r.mu.RLock()
	_, pending := r.pending[key]
	r.mu.RUnlock()
	if pending {
		return Answer{Status: flowpb.NameStatus_NAME_STATUS_PENDING}
	}
	// Between the two checks an answer may have replaced the pending entry.
	if r.recorded.Load() != before {
		if e, known = r.cache.GetIfPresent(key); known {
			return e.answer
		}
	}
	// Dropped addresses are not remembered: an unknown address counts as dropped while the queue is, or was
	// recently, full.
	if at := r.lastDrop.Load(); at > 0 && r.now()-time.Duration(at) < droppedLife {
		return Answer{Status: flowpb.NameStatus_NAME_STATUS_DROPPED}
	}
	return Answer{}
}

// upstreamOf returns the servers that may be asked for a, nil if there are none.
func (r *Resolver) upstreamOf(a netip.Addr) *upstream {
	switch classify(a) {
	case public:
		return r.public
	case special:
		return r.private
	case never:
	}
	return nil
}

// record stores the result of a lookup of a.
func (r *Resolver) record(a netip.Addr, res result) {
	key := a.As16()
	now := r.now()
	e := entry{answer: res.answer}
	if res.failed() {
		old, known := r.cache.GetIfPresent(key)
		if e.fails = old.fails; res.retry > 0 {
			e.fresh = now + res.retry
		} else {
			e.fails = min(old.fails+1, 16)
			e.fresh = now + min(firstRetry<<(e.fails-1), lastRetry)
		}
		e.life = e.fresh - now + remembered
		if known && old.answer.Status == flowpb.NameStatus_NAME_STATUS_OK && old.stale > now {
			e.answer, e.stale = old.answer, old.stale
			e.life = max(e.stale-now, time.Second)
		}
	} else {
		e.fresh = now + res.ttl
		e.life = res.ttl + remembered
		if res.answer.Status == flowpb.NameStatus_NAME_STATUS_OK {
			e.stale = e.fresh + maxStale
			e.life = e.stale - now
		}
	}
	r.answers[res.answer.Status].Add(1)
	r.cache.Set(key, e)
	r.recorded.Add(1)
	r.mu.Lock()
	delete(r.pending, key)
	r.mu.Unlock()
}

func (r *Resolver) now() time.Duration { return time.Since(r.start) }
