// Package rdns asks for the names of addresses in the background and tells
// what is known so far. Nothing in it makes its caller wait.
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

// How long answers are in force, before they are asked for anew.
const (
	minTTL      = time.Minute      // RFC 8767 section 4 lets a resolver raise tiny TTLs within reason
	maxTTL      = 24 * time.Hour   // a name
	maxNegative = time.Hour        // that there is no name (RFC 2308 section 5 wants a limit)
	firstRetry  = 30 * time.Second // after a failure, doubling (RFC 9520 section 3.2)
	lastRetry   = 5 * time.Minute
	maxStale    = 24 * time.Hour   // an old name stands in while asking fails (RFC 8767)
	remembered  = 15 * time.Minute // a negative answer or failure outlives its time, for Peek
	droppedLife = 2 * time.Minute
)

// An Answer is what is known of an address. Name is set only with status OK.
type Answer struct {
	Name     string // lower-case letters, digits, '-', '_' and '.', no dot at the end
	Status   flowpb.NameStatus
	Verified bool // the name's own address records contain the address
	Source   flowpb.NameSource
}

// A Resolver asks and remembers. New is inert; Run works until its context
// ends. Want, Peek and Stats may be called at any time by any goroutine.
type Resolver struct {
	config  Config
	cache   *otter.Cache[[16]byte, entry]
	public  *lane
	private *lane // nil: such addresses are not asked
	start   time.Time

	mu      sync.RWMutex
	pending map[[16]byte]struct{} // waits in a queue or is being asked

	wanted, hits, dropped, suppressed atomic.Uint64
	recorded                          atomic.Uint64 // answers so far
	lastDrop                          atomic.Int64  // ns since start, plus 1; 0: never
	answers                           [int(flowpb.NameStatus_NAME_STATUS_DISABLED) + 1]atomic.Uint64
	counters                          counters
}

// An entry is what the cache holds of an address. Times are since start.
type entry struct {
	answer Answer
	fresh  time.Duration // until then it is not asked for again
	stale  time.Duration // until then a name stands in for failures
	life   time.Duration // how long the cache keeps it, from its writing
	fails  uint8         // failures in a row
}

// New returns a Resolver. Without DNS_SERVERS it reads resolv.conf; when that
// names no server, public addresses are not asked (see Servers).
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
	r.cache.StopAllGoroutines() // Run cleans up, so that New starts nothing

	limit := rate.NewLimiter(rate.Limit(c.Rate), max(1, c.Rate/10))
	servers := c.Servers
	if len(servers) == 0 {
		servers = systemServers(resolvConf)
	}
	r.public = newLane(c, servers, false, limit, t, &r.counters)
	r.private = newLane(c, c.PrivateServers, true, limit, t, &r.counters)
	return r, nil
}

// Servers says who is asked, for a line in the log: resolvers for public and
// for special-use addresses, empty where such addresses are not asked.
func (r *Resolver) Servers() (public, private []string) {
	return r.public.names(), r.private.names()
}

// Run asks what was wanted until ctx ends. It returns nil then; questions
// without answer are given up.
func (r *Resolver) Run(ctx context.Context) error {
	if r.cache == nil {
		<-ctx.Done()
		return nil
	}
	var g errgroup.Group
	for _, l := range []*lane{r.public, r.private} {
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

// Want says that a's name will be needed. It never waits. What is known and
// still in force is not asked again.
func (r *Resolver) Want(a netip.Addr) { r.want(a, func(l *lane) chan netip.Addr { return l.queue }) }

// WantLater is Want for addresses that come many at once, after a restart. They are
// asked for while no address of Want waits. It returns false when as many wait as fit:
// a was not taken then, nor counted as dropped.
func (r *Resolver) WantLater(a netip.Addr) bool {
	if r.cache == nil {
		return false
	}
	if l := r.lane(a.Unmap()); l != nil && len(l.later) == cap(l.later) {
		return false
	}
	r.want(a, func(l *lane) chan netip.Addr { return l.later })
	return true
}

// want puts a into a queue of its lane.
func (r *Resolver) want(a netip.Addr, queueOf func(*lane) chan netip.Addr) {
	r.wanted.Add(1)
	if r.cache == nil {
		return
	}
	a = a.Unmap()
	l := r.lane(a)
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
	if len(queue) == cap(queue) { // no need to hold up others for it
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
	// An answer may have come between the look above and the lock.
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

func (r *Resolver) drop() {
	r.dropped.Add(1)
	r.lastDrop.Store(int64(r.now()) + 1)
}

// Peek returns what is known of a now. It never waits.
func (r *Resolver) Peek(a netip.Addr) Answer {
	if r.cache == nil {
		return Answer{Status: flowpb.NameStatus_NAME_STATUS_DISABLED}
	}
	a = a.Unmap()
	if r.lane(a) == nil {
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
	// Between the two looks an answer may have replaced pending.
	if r.recorded.Load() != before {
		if e, known = r.cache.GetIfPresent(key); known {
			return e.answer
		}
	}
	// Nothing tells which addresses were dropped: what is not known while the queue
	// is, or was of late, full.
	if at := r.lastDrop.Load(); at > 0 && r.now()-time.Duration(at) < droppedLife {
		return Answer{Status: flowpb.NameStatus_NAME_STATUS_DROPPED}
	}
	return Answer{}
}

// lane is who may be asked for a, nil for nobody.
func (r *Resolver) lane(a netip.Addr) *lane {
	switch classify(a) {
	case public:
		return r.public
	case special:
		return r.private
	case never:
	}
	return nil
}

// record stores what came of asking for a.
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
