package rdns

import (
	"net/netip"
	"sync"
	"time"
)

const (
	silentAfter = 3                // questions in a row without an answer, after which a zone counts as silent
	firstSilent = 30 * time.Second // until it is asked again, doubling (RFC 9520 section 3.2)
	lastSilent  = 5 * time.Minute
	maxZones    = 4096 // that are remembered
)

// zones remembers reverse zones whose servers do not answer, so that their addresses
// do not use up what others need. A zone here is a /24 or, of IPv6, a /48: where
// reverse zones are mostly delegated. It is safe for use by several goroutines.
type zones struct {
	mu  sync.Mutex // guards what follows
	all map[netip.Prefix]*quietZone
}

// A quietZone is a zone with failures in a row.
type quietZone struct {
	failures int
	wait     time.Duration
	until    time.Time // the next question may be asked then, once it is silent
}

func zoneOf(a netip.Addr) netip.Prefix {
	bits := 48
	if a.Is4() {
		bits = 24
	}
	p, _ := a.Prefix(bits) // of a valid address without zone
	return p
}

// silent returns how long no question about an address may be asked; 0: it may be asked now. When the time
// of a silent zone is over, one question may be asked; it has until answered or failed
// is called, or probing passes.
func (z *zones) silent(a netip.Addr, now time.Time, probing time.Duration) time.Duration {
	z.mu.Lock()
	defer z.mu.Unlock()
	s := z.all[zoneOf(a)]
	if s == nil || s.failures < silentAfter {
		return 0
	}
	if wait := s.until.Sub(now); wait > 0 {
		return wait
	}
	s.until = now.Add(probing)
	return 0
}

// answered notes that a question about an address had an answer.
func (z *zones) answered(a netip.Addr) {
	z.mu.Lock()
	defer z.mu.Unlock()
	delete(z.all, zoneOf(a))
}

// failed notes that a question about an address had none, asked at the instant asked,
// though others had.
func (z *zones) failed(a netip.Addr, asked, now time.Time) {
	z.mu.Lock()
	defer z.mu.Unlock()
	p := zoneOf(a)
	s := z.all[p]
	if s == nil {
		z.makeRoom()
		s = &quietZone{}
		z.all[p] = s
	}
	s.failures++
	if s.failures < silentAfter || s.wait > 0 && asked.Before(s.until.Add(-s.wait)) {
		return // of before it was silent
	}
	s.wait = min(max(2*s.wait, firstSilent), lastSilent)
	s.until = now.Add(s.wait)
}

// makeRoom forgets a zone when there are too many, one that is not silent rather. mu
// is held.
func (z *zones) makeRoom() {
	if z.all == nil {
		z.all = map[netip.Prefix]*quietZone{}
	}
	if len(z.all) < maxZones {
		return
	}
	n := 0
	for p, s := range z.all {
		if n++; s.failures < silentAfter || n == 16 {
			delete(z.all, p)
			return
		}
	}
}
