// Package budget limits the rate of octets that a replica produces, per exporter and in total, so
// that a forged or broken exporter cannot fill a topic.
package budget

import (
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"weir/internal/bounded"
)

// A Limit is the rate and the size of a token bucket.
type Limit struct {
	Rate   float64 // octets per second
	AtOnce int     // octets: the size of the bucket
}

// A Budget holds a token bucket of all exporters and a bucket for each exporter. It is safe for
// concurrent use.
type Budget struct {
	each Limit

	mu        sync.Mutex // must be held for the fields below
	all       *rate.Limiter
	exporters bounded.Map[netip.Addr, *rate.Limiter] // no entry: the bucket is full
}

// maxExporters bounds the exporters whose bucket is stored.
const maxExporters = 10_000

// New returns a Budget with the limit of each exporter and the limit of all exporters together.
func New(each, all Limit) *Budget {
	return &Budget{
		each: each, all: rate.NewLimiter(rate.Limit(all.Rate), all.AtOnce),
		exporters: bounded.New[netip.Addr, *rate.Limiter](maxExporters),
	}
}

// A Refusal names the limit that refused octets.
type Refusal uint8

// Values of Refusal.
const (
	None     Refusal = iota // not refused
	Exporter                // the limit of the exporter
	All                     // the limit of all exporters
)

// Spend takes octets from the bucket of the exporter and from that of all exporters. If either holds
// fewer, it takes nothing and returns the limit.
func (b *Budget) Spend(exporter netip.Addr, octets int, now time.Time) Refusal {
	b.mu.Lock()
	defer b.mu.Unlock()
	own := b.exporters.Get(exporter)
	if own == nil {
		own = rate.NewLimiter(rate.Limit(b.each.Rate), b.each.AtOnce)
		// The exporter of a bucket that makes room starts with a full bucket again.
		b.exporters.PutOrFree(exporter, own, func(l *rate.Limiter) bool {
			return l.TokensAt(now) >= float64(b.each.AtOnce)
		})
	}
	if own.TokensAt(now) < float64(octets) {
		return Exporter
	}
	if !b.all.AllowN(now, octets) {
		return All
	}
	own.AllowN(now, octets)
	return None
}
