// Package budget bounds the octets that a replica produces: of each exporter, and of all.
package budget

import (
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// A Limit is a rate in octets a second, and how many octets may be spent at once.
type Limit struct {
	Rate   float64
	AtOnce int
}

// A Budget bounds the octets that a replica produces, in all and of one exporter. It can be
// used by several goroutines.
type Budget struct {
	each Limit

	mu        sync.Mutex // guards what follows
	all       *rate.Limiter
	exporters map[netip.Addr]*rate.Limiter // at most maxExporters
}

// maxExporters bounds how many exporters have a budget of their own that is not full.
const maxExporters = 10_000

// New returns a budget with the limits of each exporter and of all.
func New(each, all Limit) *Budget {
	return &Budget{each: each, all: rate.NewLimiter(rate.Limit(all.Rate), all.AtOnce), exporters: map[netip.Addr]*rate.Limiter{}}
}

// A Refusal says which limit octets are beyond.
type Refusal uint8

// The limits.
const (
	None     Refusal = iota // the octets are within both
	Exporter                // that of the exporter
	All                     // that of all exporters
)

// Spend takes octets off. It takes nothing when they are beyond a limit.
func (b *Budget) Spend(exporter netip.Addr, octets int, now time.Time) Refusal {
	b.mu.Lock()
	defer b.mu.Unlock()
	own := b.exporters[exporter]
	if own == nil {
		if len(b.exporters) >= maxExporters {
			b.makeRoom(now)
		}
		own = rate.NewLimiter(rate.Limit(b.each.Rate), b.each.AtOnce)
		b.exporters[exporter] = own
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

// makeRoom forgets the budgets that are full again, else an eighth of all. mu is held.
func (b *Budget) makeRoom(now time.Time) {
	for a, l := range b.exporters {
		if l.TokensAt(now) >= float64(b.each.AtOnce) {
			delete(b.exporters, a)
		}
	}
	for a := range b.exporters {
		if len(b.exporters) < maxExporters*7/8 {
			return
		}
		delete(b.exporters, a)
	}
}
