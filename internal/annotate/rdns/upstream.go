package rdns

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/time/rate"

	"weir/pkg/flowpb"
)

const (
	verifyAtMost = 4               // names of an address whose own addresses are asked for
	verifyAgain  = 5 * time.Minute // life of a name whose addresses could not be asked for
)

// counters are totals of both upstreams.
type counters struct{ questions, failures, truncated, silent atomic.Uint64 }

// An upstream is a group of servers with the queue of addresses to ask them for. The groups are separate, so
// that a silent group does not delay the other.
type upstream struct {
	private  bool
	servers  []*server
	queue    fifo          // guarded by Resolver.mu, and so is later
	later    fifo          // taken from while queue is empty
	refused  bool          // an address found queue full, which has not been read since; guarded by Resolver.mu
	wasFull  time.Duration // last time at which refused was reset, since Resolver.start, plus 1; guarded likewise
	arrived  chan struct{} // has an element when an address was put into a queue
	inFlight chan struct{}
	limit    *rate.Limiter
	timeout  time.Duration
	verify   bool
	via      transport
	count    *counters
	zones    zones
	asking   atomic.Int64 // queries that wait for a response
}

// newUpstream returns nil if there are no servers.
// limit and count are shared with the other upstream.
func newUpstream(
	c Config, names []string, private bool, limit *rate.Limiter, via transport, count *counters,
) *upstream {
	if len(names) == 0 {
		return nil
	}
	l := &upstream{
		private: private,
		arrived: make(chan struct{}, 1), inFlight: make(chan struct{}, c.InFlight),
		limit: limit, timeout: c.Timeout, verify: c.Verify, via: via, count: count, zones: newZones(),
	}
	for _, n := range names {
		l.servers = append(l.servers, newServer(n))
	}
	return l
}

// names returns the servers as configured. l may be nil.
func (l *upstream) names() []string {
	if l == nil {
		return nil
	}
	return serverNames(l.servers)
}

// run looks up the addresses that next returns until ctx ends and passes each result to record. next must not wait;
// arrived has an element when it may have another address.
func (l *upstream) run(ctx context.Context, next func() (netip.Addr, bool), record func(netip.Addr, result)) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		select {
		case <-ctx.Done():
			return
		// The place belongs to the goroutine that is started below, which must free it. On return without a
		// goroutine it is lost, which is harmless: run ends.
		case l.inFlight <- struct{}{}:
		}
		// The server is chosen before the address, so that addresses stay in the queue, where they are PENDING,
		// while no server may be asked.
		first := l.awaitServer(ctx)
		if first == nil {
			return
		}
		if first.probesRoot() {
			wg.Go(func() {
				defer func() { <-l.inFlight }()
				l.probeRoot(ctx, first)
			})
			continue
		}
		a, ok := l.nextAddress(ctx, next)
		if !ok {
			return
		}
		wg.Go(func() {
			defer func() { <-l.inFlight }()
			// The goroutine looks up further addresses until none waits or a breaker opens, and frees its place then.
			for first := first; first != nil && ok; a, ok = next() {
				// After ctx has ended, a result reflects the shutdown, not the server, and must not be cached.
				if res := l.lookup(ctx, a, first); ctx.Err() == nil {
					record(a, res)
				}
				// A goroutine that has grown its stack goes on with the next address.
				if first = l.usable(); first == nil || ctx.Err() != nil {
					return
				}
			}
		})
	}
}

// nextAddress waits for the next address to look up; it returns false if ctx ends first.
func (l *upstream) nextAddress(ctx context.Context, next func() (netip.Addr, bool)) (a netip.Addr, ok bool) {
	for {
		if a, ok = next(); ok {
			return a, true
		}
		select {
		case <-ctx.Done():
			return a, false
		case <-l.arrived:
		}
	}
}

// usable returns the first server if no breaker is open, else nil: run must then choose, or an open server that is
// preferred would not be probed while the queue is never empty.
func (l *upstream) usable() *server {
	for _, s := range l.servers {
		if s.isOpen() {
			return nil
		}
	}
	return l.servers[0]
}

// awaitServer returns a server that may be asked, nil if ctx ends first.
func (l *upstream) awaitServer(ctx context.Context) *server {
	for {
		// wait is at most probeGap, so that a server whose breaker closes is found within a second.
		s, wait := admit(l.servers, nil, time.Now())
		if s != nil {
			return s
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
}

// lookup asks for the name of a and, to verify it, for the addresses of that name.
// It sends at most 2 + 2·verifyAtMost queries over UDP, since query repeats each once. All of them count
// against limit.
func (l *upstream) lookup(ctx context.Context, a netip.Addr, first *server) result {
	asked := time.Now()
	// A server with an open breaker is probed with any address, even of a silent zone: the server may be the
	// cause of the silence.
	if !first.isOpen() {
		if wait := l.zones.silent(a, asked, 2*l.timeout); wait > 0 {
			l.count.silent.Add(1)
			return result{answer: Answer{Status: flowpb.NameStatus_NAME_STATUS_TIMEOUT}, retry: wait}
		}
	}
	reply, status := l.query(ctx, reverseQuestion(a), first)
	if status != flowpb.NameStatus_NAME_STATUS_OK {
		l.unanswered(a, status, asked)
		return result{answer: Answer{Status: status}}
	}
	// SERVFAIL is not OK and does not come here; NXDOMAIN is an answer of the zone.
	l.zones.answered(a)
	if reply.rcode == dnsmessage.RCodeNameError {
		return result{answer: Answer{Status: flowpb.NameStatus_NAME_STATUS_NXDOMAIN}, ttl: reply.negative}
	}
	if len(reply.targets) == 0 {
		return result{answer: Answer{Status: flowpb.NameStatus_NAME_STATUS_NODATA}, ttl: reply.negative}
	}
	// Targets are text from a stranger: candidates keeps valid host names only.
	names := candidates(reply.targets, l.private)
	if len(names) == 0 {
		return result{answer: Answer{Status: flowpb.NameStatus_NAME_STATUS_INVALID}, ttl: clamp(reply.ttl, maxTTL)}
	}
	// The entry lives at most for the shortest TTL of the PTR record and of the address records.
	name, verified, ttl := l.chooseName(ctx, a, names, reply.ttl)
	return result{answer: Answer{
		Name: name, Status: flowpb.NameStatus_NAME_STATUS_OK, Verified: verified,
		Source: flowpb.NameSource_NAME_SOURCE_PTR,
	}, ttl: clamp(ttl, maxTTL)}
}

// unanswered notes a query without response. It counts against the zone if servers answer other queries and this
// query was waited for during the whole timeout.
func (l *upstream) unanswered(a netip.Addr, status flowpb.NameStatus, asked time.Time) {
	now := time.Now()
	if status != flowpb.NameStatus_NAME_STATUS_TIMEOUT || now.Sub(asked) < l.timeout {
		return
	}
	if slices.ContainsFunc(l.servers, func(s *server) bool { return s.answers(now) }) {
		l.zones.failed(a, asked, now)
	}
}

// probeRoot asks an open server for the name servers of the root, which a working resolver always knows. A server that
// serves only its own zones refuses the query; such a server is probed with addresses.
func (l *upstream) probeRoot(ctx context.Context, s *server) {
	if l.limit.Wait(ctx) != nil {
		return
	}
	reply, err := l.exchange(ctx, &rootQuestion, s, l.timeout)
	if ctx.Err() == nil {
		s.noteOutcome(time.Now(), err == nil && reply.rcode == dnsmessage.RCodeSuccess)
	}
}

// scarce reports whether queries that wait for a response take more than half of the places, for example because
// many are for silent zones.
func (l *upstream) scarce() bool { return l.asking.Load() > int64(max(1, cap(l.inFlight)/2)) }

// patience returns the time for which a response of s is waited for. Half of the places may be taken for the
// whole DNS_TIMEOUT. Beyond that, queries wait as long as responses usually take, so that silent zones leave
// places to others.
func (l *upstream) patience(s *server) time.Duration {
	if l.scarce() {
		return s.patience(time.Now(), l.timeout)
	}
	return l.timeout
}

// chooseName chooses among the names of a: the first whose own addresses contain a, else the first of all. ttl
// is that of the names; the result has that of the choice.
func (l *upstream) chooseName(
	ctx context.Context, a netip.Addr, names []string, ttl time.Duration,
) (string, bool, time.Duration) {
	if !l.verify {
		return names[0], false, ttl
	}
	for _, n := range names[:min(len(names), verifyAtMost)] {
		reply, status := l.query(ctx, addressQuestion(n, a), nil)
		if status != flowpb.NameStatus_NAME_STATUS_OK {
			ttl = min(ttl, verifyAgain)
			continue
		}
		// Forward confirmation: the holder of the name has published the address. A PTR record alone proves
		// nothing.
		if reply.contains {
			return n, true, min(ttl, reply.ttl)
		}
	}
	return names[0], false, ttl
}

// query sends a query to first (nil: any server that may be asked), and once more to another server, or to the
// same if there is no other. A reply has the RCODE NOERROR or NXDOMAIN, and status is OK; without a reply, status is
// the reason.
func (l *upstream) query(ctx context.Context, q *question, first *server) (r reply, status flowpb.NameStatus) {
	status = flowpb.NameStatus_NAME_STATUS_TIMEOUT
	s := first
	for try := range 2 {
		if s == nil || try > 0 {
			// The second attempt goes to another server if there is one: the first may be down.
			avoid := s
			if len(l.servers) == 1 {
				// A repeat to the same server would hold a place that other zones need.
				if try > 0 && l.scarce() {
					return reply{}, status
				}
				avoid = nil
			}
			if s, _ = admit(l.servers, avoid, time.Now()); s == nil {
				return reply{}, status
			}
		}
		if err := l.limit.Wait(ctx); err != nil {
			return reply{}, status
		}
		r, err := l.exchange(ctx, q, s, l.patience(s))
		switch {
		case ctx.Err() != nil:
			return reply{}, status // gives no information about the server
		case err != nil:
			s.noteOutcome(time.Now(), false)
			l.count.failures.Add(1)
			status = flowpb.NameStatus_NAME_STATUS_TIMEOUT
		case r.rcode == dnsmessage.RCodeSuccess || r.rcode == dnsmessage.RCodeNameError:
			s.noteOutcome(time.Now(), true)
			return r, flowpb.NameStatus_NAME_STATUS_OK
		default:
			// SERVFAIL concerns a zone. Any other code means that this server does not serve us.
			s.noteOutcome(time.Now(), r.rcode == dnsmessage.RCodeServerFailure)
			l.count.failures.Add(1)
			status = flowpb.NameStatus_NAME_STATUS_SERVFAIL
		}
	}
	return reply{}, status
}

// exchange asks s over UDP, and over TCP if the reply is truncated (RFC 7766).
// The latency of a truncated response counts, that of TCP does not: patience is about UDP.
func (l *upstream) exchange(
	ctx context.Context, q *question, s *server, timeout time.Duration,
) (reply, error) {
	addr, err := s.address(ctx, time.Now())
	if err != nil {
		return reply{}, err
	}
	l.count.questions.Add(1)
	l.asking.Add(1)
	defer l.asking.Add(-1)
	began := time.Now()
	r, err := l.via.exchange(ctx, q, "udp", addr, timeout)
	if err == nil {
		s.succeeded(time.Since(began))
		if r.truncated {
			l.count.truncated.Add(1)
			// TCP gets the whole DNS_TIMEOUT again: the server has just answered.
			r, err = l.via.exchange(ctx, q, "tcp", addr, l.timeout)
		}
	}
	return r, err
}
