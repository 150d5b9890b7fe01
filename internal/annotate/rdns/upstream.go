package rdns

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/time/rate"

	"weir/pkg/flowpb"
)

const (
	verifyAtMost  = 4               // names of one address whose own addresses are asked for
	verifyAgain   = 5 * time.Minute // a name that could not be checked is asked for anew after this time
	maxUDPPayload = 1232            // octets; what passes without fragments nearly everywhere
)

// counters are totals of both lanes.
type counters struct{ questions, failures, truncated, silent atomic.Uint64 }

// A lane is the addresses that one group of servers is asked for, so that a
// silent group does not hold up the other one.
type lane struct {
	private  bool
	servers  []*server
	queue    chan netip.Addr
	later    chan netip.Addr // taken from while queue is empty
	inFlight chan struct{}
	limit    *rate.Limiter
	timeout  time.Duration
	verify   bool
	via      transport
	count    *counters
	zones    zones
	asking   atomic.Int64 // questions that wait for an answer
}

// newLane returns nil when there is nobody to ask.
func newLane(c Config, names []string, private bool, limit *rate.Limiter, via transport, count *counters) *lane {
	if len(names) == 0 {
		return nil
	}
	l := &lane{
		private: private, queue: make(chan netip.Addr, c.Queue), later: make(chan netip.Addr, c.Queue), inFlight: make(chan struct{}, c.InFlight),
		limit: limit, timeout: c.Timeout, verify: c.Verify, via: via, count: count,
	}
	for _, n := range names {
		l.servers = append(l.servers, newServer(n))
	}
	return l
}

func (l *lane) names() []string {
	if l == nil {
		return nil
	}
	return serverNames(l.servers)
}

// run asks for what is queued until ctx ends and hands each outcome to record.
func (l *lane) run(ctx context.Context, record func(netip.Addr, result)) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		select {
		case <-ctx.Done():
			return
		case l.inFlight <- struct{}{}:
		}
		// The server comes before the address, so that addresses wait in the
		// queue, where they are PENDING, while no server may be asked.
		first := l.await(ctx)
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
		a, ok := l.next(ctx)
		if !ok {
			return
		}
		wg.Go(func() {
			defer func() { <-l.inFlight }()
			if res := l.lookup(ctx, a, first); ctx.Err() == nil {
				record(a, res)
			}
		})
	}
}

// next returns the address to ask for; false when ctx ends first.
func (l *lane) next(ctx context.Context) (a netip.Addr, ok bool) {
	select {
	case a = <-l.queue:
		return a, true
	default:
	}
	select {
	case <-ctx.Done():
		return a, false
	case a = <-l.queue:
	case a = <-l.later:
	}
	return a, true
}

// await returns a server that may be asked, nil when ctx ends first.
func (l *lane) await(ctx context.Context) *server {
	for {
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

// lookup asks for a's name, and for the addresses of what it is told.
func (l *lane) lookup(ctx context.Context, a netip.Addr, first *server) result {
	arpa, err := dns.ReverseAddr(a.String())
	if err != nil { // a valid address always has one
		return result{answer: Answer{Status: flowpb.NameStatus_NAME_STATUS_INVALID}, ttl: maxTTL}
	}
	asked := time.Now()
	if !first.down() {
		if wait := l.zones.silent(a, asked, 2*l.timeout); wait > 0 {
			l.count.silent.Add(1)
			return result{answer: Answer{Status: flowpb.NameStatus_NAME_STATUS_TIMEOUT}, retry: wait}
		}
	}
	reply, status := l.ask(ctx, arpa, dns.TypePTR, first)
	if reply == nil {
		l.unanswered(a, status, asked)
		return result{answer: Answer{Status: status}}
	}
	l.zones.answered(a)
	if reply.Rcode == dns.RcodeNameError {
		return result{answer: Answer{Status: flowpb.NameStatus_NAME_STATUS_NXDOMAIN}, ttl: negativeTTL(reply)}
	}
	list, ttl := targets(reply)
	if len(list) == 0 {
		return result{answer: Answer{Status: flowpb.NameStatus_NAME_STATUS_NODATA}, ttl: negativeTTL(reply)}
	}
	names := candidates(list, l.private)
	if len(names) == 0 {
		return result{answer: Answer{Status: flowpb.NameStatus_NAME_STATUS_INVALID}, ttl: clamp(ttl, maxTTL)}
	}
	name, verified, ttl := l.confirm(ctx, a, names, ttl)
	return result{answer: Answer{
		Name: name, Status: flowpb.NameStatus_NAME_STATUS_OK, Verified: verified,
		Source: flowpb.NameSource_NAME_SOURCE_PTR,
	}, ttl: clamp(ttl, maxTTL)}
}

// unanswered notes that a question failed. It counts against the zone when servers
// answer other questions and this one was waited for as long as may be.
func (l *lane) unanswered(a netip.Addr, status flowpb.NameStatus, asked time.Time) {
	now := time.Now()
	if status != flowpb.NameStatus_NAME_STATUS_TIMEOUT || now.Sub(asked) < l.timeout {
		return
	}
	if slices.ContainsFunc(l.servers, func(s *server) bool { return s.answers(now) }) {
		l.zones.failed(a, asked, now)
	}
}

// probeRoot asks an open server for the root's servers, which a resolver knows
// whatever zones are silent. A server that knows only its own zones refuses, and is
// probed with addresses.
func (l *lane) probeRoot(ctx context.Context, s *server) {
	if l.limit.Wait(ctx) != nil {
		return
	}
	reply, err := l.exchange(ctx, ".", dns.TypeNS, s, l.timeout)
	if ctx.Err() == nil {
		s.done(time.Now(), err == nil && reply.Rcode == dns.RcodeSuccess)
	}
}

// scarce reports whether questions that wait for an answer have more than half of the
// places: many of them are in silent zones, for example.
func (l *lane) scarce() bool { return l.asking.Load() > int64(max(1, cap(l.inFlight)/2)) }

// patience returns how long an answer of s is waited for. Questions have half of the
// places for as long as DNS_TIMEOUT; beyond that they wait as long as answers take, so
// that silent zones leave places to others.
func (l *lane) patience(s *server) time.Duration {
	if l.scarce() {
		return s.patience(time.Now(), l.timeout)
	}
	return l.timeout
}

// confirm chooses among the names of a: the first whose own addresses contain
// it, else the first of all. ttl is the names' and comes back as that of the choice.
func (l *lane) confirm(ctx context.Context, a netip.Addr, names []string, ttl time.Duration) (string, bool, time.Duration) {
	if !l.verify {
		return names[0], false, ttl
	}
	kind := dns.TypeAAAA
	if a.Is4() {
		kind = dns.TypeA
	}
	for _, n := range names[:min(len(names), verifyAtMost)] {
		reply, _ := l.ask(ctx, dns.Fqdn(n), kind, nil)
		if reply == nil {
			ttl = min(ttl, verifyAgain)
			continue
		}
		if ok, t := holds(reply, a); ok {
			return n, true, min(ttl, t)
		}
	}
	return names[0], false, ttl
}

// ask puts one question to first (nil: whoever may be asked), and once more to
// another server, or the same when there is no other. A reply has the rcode
// success or NXDOMAIN; without one, status says why.
func (l *lane) ask(ctx context.Context, name string, kind uint16, first *server) (reply *dns.Msg, status flowpb.NameStatus) {
	status = flowpb.NameStatus_NAME_STATUS_TIMEOUT
	s := first
	for try := range 2 {
		if s == nil || try > 0 {
			avoid := s
			if len(l.servers) == 1 {
				if try > 0 && l.scarce() {
					return nil, status
				}
				avoid = nil
			}
			if s, _ = admit(l.servers, avoid, time.Now()); s == nil {
				return nil, status
			}
		}
		if err := l.limit.Wait(ctx); err != nil {
			return nil, status
		}
		reply, err := l.exchange(ctx, name, kind, s, l.patience(s))
		switch {
		case ctx.Err() != nil:
			return nil, status // says nothing about the server
		case err != nil:
			s.done(time.Now(), false)
			l.count.failures.Add(1)
			status = flowpb.NameStatus_NAME_STATUS_TIMEOUT
		case reply.Rcode == dns.RcodeSuccess || reply.Rcode == dns.RcodeNameError:
			s.done(time.Now(), true)
			return reply, flowpb.NameStatus_NAME_STATUS_OK
		default:
			// SERVFAIL is about a zone; any other code is this server's way to
			// say that it does not serve us.
			s.done(time.Now(), reply.Rcode == dns.RcodeServerFailure)
			l.count.failures.Add(1)
			status = flowpb.NameStatus_NAME_STATUS_SERVFAIL
		}
	}
	return nil, status
}

// exchange asks s over UDP, and over TCP when the reply was cut.
func (l *lane) exchange(ctx context.Context, name string, kind uint16, s *server, timeout time.Duration) (*dns.Msg, error) {
	addr, err := s.address(ctx, time.Now())
	if err != nil {
		return nil, err
	}
	m := new(dns.Msg).SetQuestion(name, kind).SetEdns0(maxUDPPayload, false)
	l.count.questions.Add(1)
	l.asking.Add(1)
	defer l.asking.Add(-1)
	began := time.Now()
	reply, err := l.via.exchange(ctx, m, "udp", addr, timeout)
	if err == nil {
		s.succeeded(time.Since(began))
		if reply.Truncated {
			l.count.truncated.Add(1)
			reply, err = l.via.exchange(ctx, m, "tcp", addr, l.timeout)
		}
	}
	return reply, err
}
