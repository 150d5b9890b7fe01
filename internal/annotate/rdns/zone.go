package rdns

import (
	"net/netip"
	"sync"
	"time"

	"weir/internal/bounded"
)

const (
	silentAfter = 3                // queries in a row without response after which a zone is silent
	firstSilent = 30 * time.Second // until it is asked again, doubling (RFC 9520 section 3.2)
	lastSilent  = 5 * time.Minute
	maxZones    = 4096 // remembered at a time

	// evictionSample bounds the cost of a new zone at the limit.
	evictionSample = 16
)

// zones remembers reverse zones whose servers do not answer, so that their addresses do not use up the places of
// others. A zone is a /24, or a /48 of IPv6: most reverse zones are delegated at these lengths. It may be used
// by several goroutines at once.
type zones struct {
	mu  sync.Mutex // guards all
	all bounded.Map[netip.Prefix, *quietZone]
}

// newZones returns an empty zones.
func newZones() zones { return zones{all: bounded.New[netip.Prefix, *quietZone](maxZones)} }

// A quietZone counts the consecutive failures of a zone. After silentAfter failures no query is sent before until.
type quietZone struct {
	failures int
	wait     time.Duration
	until    time.Time // once it is silent: the next query is allowed then
}

// rank orders zones for eviction: a zone that is not silent yet goes first, because its next failure counts it again.
func (s *quietZone) rank() int { return min(s.failures, silentAfter) }

// zoneOf returns the zone of a valid address: 192.0.2.0/24 of 192.0.2.7, 2001:db8:1::/48 of 2001:db8:1:2::3. The
// address must not be IPv4-mapped.
func zoneOf(a netip.Addr) netip.Prefix {
	bits := 48
	if a.Is4() {
		bits = 24
	}
	p, _ := a.Prefix(bits) // of a valid address without zone
	return p
}

// silent returns the time for which no query for an address may be sent; 0: now. Once the time of a silent zone
// is over, one query may be sent. The caller must call answered or failed for it; else the next query may be
// sent after probing.
func (z *zones) silent(a netip.Addr, now time.Time, probing time.Duration) time.Duration {
	z.mu.Lock()
	defer z.mu.Unlock()
	s := z.all.Get(zoneOf(a))
	if s == nil || s.failures < silentAfter {
		return 0
	}
	if wait := s.until.Sub(now); wait > 0 {
		return wait
	}
	s.until = now.Add(probing)
	return 0
}

// answered notes that a query for an address had a response.
// NOERROR and NXDOMAIN count: both prove that a server of the zone works.
func (z *zones) answered(a netip.Addr) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.all.Delete(zoneOf(a))
}

// failed notes that a query for an address had no response, although servers answered others. asked is the
// instant of the query.
func (z *zones) failed(a netip.Addr, asked, now time.Time) {
	z.mu.Lock()
	defer z.mu.Unlock()
	p := zoneOf(a)
	s := z.all.Get(p)
	if s == nil {
		s = &quietZone{}
		z.all.PutOrEvict(p, s, evictionSample, func(a, b *quietZone) int { return a.rank() - b.rank() })
	}
	s.failures++
	// Queries in flight when the zone fell silent fail later. They must not double its wait: all of them together
	// have seen one outage.
	if s.failures < silentAfter || s.wait > 0 && asked.Before(s.until.Add(-s.wait)) {
		return // asked before the zone was silent
	}
	s.wait = min(max(2*s.wait, firstSilent), lastSilent)
	s.until = now.Add(s.wait)
}
