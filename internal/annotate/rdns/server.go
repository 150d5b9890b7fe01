package rdns

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Limits of a server's circuit breaker.
const (
	window   = 10 // seconds of exchanges that are counted
	enough   = 8  // failed exchanges in the window that open the breaker, if none succeeded
	probeGap = time.Second
)

// A server is a resolver and its health. Its breaker is open, so that it is asked once a second only, from the
// moment at which no exchange of the window succeeded until an exchange succeeds. Failures beside successes do
// not open it: the authoritative servers of a zone may be silent.
type server struct {
	name string // host:port as configured

	mu       sync.Mutex
	resolved string    // host:port with an address
	until    time.Time // expiry of resolved; zero: never
	buckets  [window]struct {
		second   int64
		ok, fail int
	}
	open   bool
	probe  time.Time // if open: time of the next query
	probes int       // queries while open

	latency time.Duration // of successful exchanges, a moving average; 0: none yet
}

// newServer returns a server, given host:port.
func newServer(name string) *server {
	s := &server{name: name}
	if _, err := netip.ParseAddrPort(name); err == nil {
		s.resolved = name
	}
	return s
}

// address returns the server's host:port with an IP address. A host name is looked up by the system's resolver,
// at most once a minute; the former address is used while that fails.
// mu is not held during the look-up. Concurrent callers may look up the name at the same time; the last result
// stays.
func (s *server) address(ctx context.Context, now time.Time) (string, error) {
	s.mu.Lock()
	known, until := s.resolved, s.until
	s.mu.Unlock()
	if known != "" && (until.IsZero() || now.Before(until)) {
		return known, nil
	}
	host, port, err := net.SplitHostPort(s.name)
	if err != nil {
		return "", err
	}
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err == nil && len(addrs) > 0 {
		known = net.JoinHostPort(addrs[0].Unmap().String(), port)
	}
	// A failed look-up keeps the former address for another minute, so that DNS trouble of the host does not
	// stop queries.
	if known == "" {
		return "", errors.Join(err, errors.New("no address of server "+s.name))
	}
	s.mu.Lock()
	s.resolved, s.until = known, now.Add(time.Minute)
	s.mu.Unlock()
	return known, nil
}

// admit reports whether the server may be asked now. If not, wait is the time until its next probe.
func (s *server) admit(now time.Time) (wait time.Duration, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.open {
		return 0, true
	}
	if wait = s.probe.Sub(now); wait > 0 {
		return wait, false
	}
	s.probe = now.Add(probeGap)
	s.probes++
	return 0, true
}

// probesRoot reports whether the query that admit allowed last must be for the root zone: every second query of
// an open server. All waiting addresses may belong to silent zones, which would keep a healthy server open.
func (s *server) probesRoot() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open && s.probes%2 == 1
}

// succeeded notes the duration of an exchange.
// The average weighs a new value with 1/8, as TCP's round-trip time does (RFC 6298 section 2). It is at least
// 1 ns, since 0 means that there is no measurement.
func (s *server) succeeded(took time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.latency > 0 {
		took = (7*s.latency + took) / 8
	}
	s.latency = max(took, 1)
}

// answers reports whether an exchange of the window succeeded.
func (s *server) answers(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	good, _ := s.recent(now)
	return good > 0
}

// patience returns how long to wait for a response while places for lookups are scarce (upstream.scarce): four times
// the average latency, but at least an eighth of most. It returns most if no exchange of the window succeeded.
func (s *server) patience(now time.Time, most time.Duration) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if good, _ := s.recent(now); good == 0 || s.latency == 0 {
		return most
	}
	return min(max(4*s.latency, most/8), most)
}

// recent returns the numbers of exchanges in the window that succeeded and that failed. s.mu must be held.
func (s *server) recent(now time.Time) (good, bad int) {
	for _, b := range s.buckets {
		if now.Unix()-b.second < window {
			good, bad = good+b.ok, bad+b.fail
		}
	}
	return good, bad
}

// noteOutcome notes the outcome of an exchange, and opens or closes the breaker.
func (s *server) noteOutcome(now time.Time, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	// A success closes the breaker. The failures before it must not open it again at the next failure.
	if ok && s.open {
		s.open = false
		clear(s.buckets[:])
	}
	// A bucket holds a second; the bucket of window seconds ago is reused.
	b := &s.buckets[now.Unix()%window]
	if b.second != now.Unix() {
		b.second, b.ok, b.fail = now.Unix(), 0, 0
	}
	if ok {
		b.ok++
		return
	}
	b.fail++
	if good, bad := s.recent(now); !s.open && bad >= enough && good == 0 {
		s.open, s.probe, s.probes = true, now.Add(probeGap), 0
	}
}

// isOpen reports whether the breaker is open.
func (s *server) isOpen() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open
}

// admit returns the first server of list, except avoid, that may be asked now. If there is none, wait is the
// time until the next probe.
// The order of list is the operator's preference: a later server is asked only while the earlier are
// open or avoided.
func admit(list []*server, avoid *server, now time.Time) (s *server, wait time.Duration) {
	wait = probeGap
	for _, s := range list {
		if s == avoid {
			continue
		}
		w, ok := s.admit(now)
		if ok {
			return s, 0
		}
		wait = min(wait, w)
	}
	return nil, wait
}

// countOpen returns the number of servers with an open breaker.
func countOpen(list []*server) (n int) {
	for _, s := range list {
		if s.isOpen() {
			n++
		}
	}
	return n
}

// serverNames returns the servers as configured.
func serverNames(list []*server) []string {
	names := make([]string, len(list))
	for i, s := range list {
		names[i] = s.name
	}
	return slices.Clip(names)
}
