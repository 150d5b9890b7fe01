// Package rdns looks up the host names of addresses (PTR records) in the background and returns the names known
// so far. None of its methods but Run makes its caller wait.
package rdns

import (
	"context"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

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
	enabled bool
	public  *upstream // nil: such addresses are not looked up
	private *upstream
	via     transport
	start   time.Time

	// mu guards cache and the queues of both upstreams. It is held for some 100 ns at a time, never while waiting.
	mu    sync.Mutex
	cache *cache

	wanted, hits, dropped, suppressed atomic.Uint64
	answers                           [int(flowpb.NameStatus_NAME_STATUS_DISABLED) + 1]atomic.Uint64
	counters                          counters
}

// New returns a Resolver. Without DNS_SERVERS it reads resolv.conf; if that names no server, public addresses
// are not looked up (see Servers).
func New(c Config) (*Resolver, error) {
	return newResolver(c, &network{dial: c.Dial})
}

func newResolver(c Config, t transport) (*Resolver, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	r := &Resolver{config: c, enabled: c.Enabled, via: t, start: time.Now()}
	if !c.Enabled {
		return r, nil
	}
	r.cache = newCache(c.CacheSize)
	// The limiter is shared: DNS_RATE bounds the queries of both upstreams together, in bursts of a tenth of a
	// second.
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

// sweepEvery is the interval at which expired entries are removed from the cache.
const sweepEvery = 10 * time.Second

// Run looks up wanted addresses until ctx ends, and returns nil then. Open queries are abandoned.
// It must be called once. Addresses that Want has queued before are looked up then.
func (r *Resolver) Run(ctx context.Context) error {
	if !r.enabled {
		<-ctx.Done()
		return nil
	}
	var g errgroup.Group
	for _, l := range []*upstream{r.public, r.private} {
		if l != nil {
			next := func() (netip.Addr, bool) { return r.next(l) }
			g.Go(func() error { l.run(ctx, next, r.record); return nil })
		}
	}
	g.Go(func() error {
		tick := time.NewTicker(sweepEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
				r.sweep()
			}
		}
	})
	// Sockets are closed last: close must not be called while exchange is.
	err := g.Wait()
	r.via.close()
	return err
}

// sweep removes expired entries from the cache. It releases the lock after each sweepSize slots.
func (r *Resolver) sweep() {
	for from := 0; ; {
		r.mu.Lock()
		from = r.cache.sweep(from, r.now())
		r.mu.Unlock()
		if from == 0 {
			return
		}
	}
}

// Want requests the name of a. It never waits. An address whose answer is still valid is not looked up again. An
// address that finds the queue full is counted and not remembered: it costs one look into the index.
func (r *Resolver) Want(a netip.Addr) {
	r.wanted.Add(1)
	if !r.enabled {
		return
	}
	a = a.Unmap()
	l := r.upstreamOf(a)
	if l == nil {
		r.suppressed.Add(1)
		return
	}
	r.request(l, a, &l.queue)
}

// WantLater is Want for many addresses at once, after a restart. They are looked up while no address of Want
// waits. It returns false if the queue is full: then a was not taken, nor counted as dropped.
func (r *Resolver) WantLater(a netip.Addr) bool {
	if !r.enabled {
		return false
	}
	a = a.Unmap()
	l := r.upstreamOf(a)
	if l == nil {
		r.wanted.Add(1)
		r.suppressed.Add(1)
		return true
	}
	r.mu.Lock()
	full := l.later.n >= r.config.Queue
	r.mu.Unlock()
	if full {
		return false
	}
	r.wanted.Add(1)
	r.request(l, a, &l.later)
	return true
}

// request puts a into a queue of l, unless its answer is valid, a is pending already or the queue is full.
// mu is held for the look-up in the index and the append; arrived is signalled without mu.
func (r *Resolver) request(l *upstream, a netip.Addr, queue *fifo) {
	key := a.As16()
	r.mu.Lock()
	if id := r.cache.index[key]; id != 0 {
		now := r.now() // not read for an address that is refused
		s := r.cache.live(id, now)
		if s != nil && s.cached && s.fresh > now {
			s.used = true
			r.mu.Unlock()
			r.hits.Add(1)
			return
		}
		// An address in a queue, or in flight, is not queued again. It keeps its place, also if it is in
		// later.
		if s != nil && s.pending {
			r.mu.Unlock()
			return
		}
	}
	if queue.n >= r.config.Queue {
		// The address is not stored: under a flood of new addresses a refusal must cost neither memory nor an
		// eviction.
		l.refused = true
		r.mu.Unlock()
		r.dropped.Add(1)
		return
	}
	r.cache.enqueue(&key, queue)
	r.mu.Unlock()
	select {
	case l.arrived <- struct{}{}:
	default: // run has been woken, and takes addresses until there is none
	}
}

// next removes the next address to look up from the queues of l.
// Addresses of Want come first: those of WantLater wait for connections that are open already.
func (r *Resolver) next(l *upstream) (a netip.Addr, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	// wasFull is the time plus 1, since 0 means that the queue was never full.
	if l.refused { // there is room again
		l.refused, l.wasFull = false, r.now()+1
	}
	if a, ok = r.cache.dequeue(&l.queue); ok {
		return a, true
	}
	return r.cache.dequeue(&l.later)
}

// Peek returns the current answer for a. It never waits.
// The status distinguishes a missing name from an unfinished look-up: PENDING, DROPPED and SUPPRESSED are no answers
// of a server. Reading an entry marks it as used, which protects it from the next eviction.
func (r *Resolver) Peek(a netip.Addr) Answer {
	if !r.enabled {
		return Answer{Status: flowpb.NameStatus_NAME_STATUS_DISABLED}
	}
	a = a.Unmap()
	l := r.upstreamOf(a)
	if l == nil {
		return Answer{Status: flowpb.NameStatus_NAME_STATUS_SUPPRESSED}
	}
	key := a.As16()
	r.mu.Lock()
	defer r.mu.Unlock()
	if id := r.cache.index[key]; id != 0 {
		if s := r.cache.live(id, r.now()); s != nil {
			if !s.cached {
				return Answer{Status: flowpb.NameStatus_NAME_STATUS_PENDING}
			}
			s.used = true
			return s.answer()
		}
	}
	// Dropped addresses are not remembered: an unknown address counts as dropped while the queue is, or was
	// recently, full.
	if l.refused || l.wasFull > 0 && r.now()-l.wasFull < droppedLife {
		return Answer{Status: flowpb.NameStatus_NAME_STATUS_DROPPED}
	}
	return Answer{}
}

// upstreamOf returns the servers that may be asked for a, nil if there are none.
// Queries for special-use addresses must not leak to public resolvers (RFC 6303, RFC 6761 section 6.1):
// without DNS_PRIVATE_SERVERS they are not looked up.
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
// After a failure the old name, if it is not older than maxStale, stays as the answer (RFC 8767), and the next
// attempt is due after firstRetry, doubled for each failure in a row up to lastRetry.
func (r *Resolver) record(a netip.Addr, res result) {
	key, now := a.As16(), r.now()
	e := entry{name: res.answer.Name, status: uint8(res.answer.Status), verified: res.answer.Verified}
	r.mu.Lock()
	defer r.mu.Unlock()
	if res.failed() {
		var old entry
		if s := r.cache.find(&key, now); s != nil && s.cached {
			old = s.entry
		}
		// A silent zone says nothing about this address: its failure is not counted (see result.retry).
		if e.fails = old.fails; res.retry > 0 {
			e.fresh = now + res.retry
		} else {
			// 16 bounds the shift below.
			e.fails = min(old.fails+1, 16)
			e.fresh = now + min(firstRetry<<(e.fails-1), lastRetry)
		}
		e.expires = e.fresh + remembered
		if old.name != "" && old.stale > now {
			e.name, e.status, e.verified, e.stale = old.name, old.status, old.verified, old.stale
			// Keep the entry for a moment at least: expires must lie after now, or put would store an expired
			// entry.
			e.expires = max(e.stale, now+time.Second)
		}
	} else {
		e.fresh = now + res.ttl
		e.expires = e.fresh + remembered
		if res.answer.Status == flowpb.NameStatus_NAME_STATUS_OK {
			e.stale = e.fresh + maxStale
			e.expires = e.stale
		}
	}
	// The count is of look-ups: a stale name that stands in for a failure counts as the failure.
	r.answers[res.answer.Status].Add(1)
	r.cache.put(&key, &e, now)
}

// now returns the time since start by the monotonic clock: a step of the wall clock neither expires nor
// prolongs entries.
func (r *Resolver) now() time.Duration { return time.Since(r.start) }
