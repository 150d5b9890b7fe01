package ingest

import (
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// A budget bounds the octets that a replica produces, in all and of one exporter.
type budget struct {
	each               rate.Limit // octets a second of an exporter
	atOnce             int        // of an exporter
	eachReason, reason string     // why octets are refused: the exporter's bound, that of all

	mu        sync.Mutex // guards what follows
	all       *rate.Limiter
	exporters map[netip.Addr]*rate.Limiter // at most maxBudgets
}

// maxBudgets bounds how many exporters have a budget of their own that is not
// full.
const maxBudgets = 10_000

func newBudget(c UndecodedConfig) *budget {
	return makeBudget(float64(c.Exporter)/3600, c.Exporter, float64(c.Rate), c.Burst, reasonExporterLimit, reasonUndecodedLimit)
}

func makeBudget(each float64, atOnce int, all float64, burst int, eachReason, reason string) *budget {
	return &budget{
		each: rate.Limit(each), atOnce: atOnce, eachReason: eachReason, reason: reason,
		all: rate.NewLimiter(rate.Limit(all), burst), exporters: map[netip.Addr]*rate.Limiter{},
	}
}

// spend takes octets off, or says which bound they are beyond.
func (b *budget) spend(exporter netip.Addr, octets int, now time.Time) (reason string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	own := b.exporters[exporter]
	if own == nil {
		if len(b.exporters) >= maxBudgets {
			b.makeRoom(now)
		}
		own = rate.NewLimiter(b.each, b.atOnce)
		b.exporters[exporter] = own
	}
	if own.TokensAt(now) < float64(octets) {
		return b.eachReason
	}
	if !b.all.AllowN(now, octets) {
		return b.reason
	}
	own.AllowN(now, octets)
	return ""
}

// makeRoom forgets the budgets that are full again, else an eighth of all. mu is
// held.
func (b *budget) makeRoom(now time.Time) {
	for a, l := range b.exporters {
		if l.TokensAt(now) >= float64(b.atOnce) {
			delete(b.exporters, a)
		}
	}
	for a := range b.exporters {
		if len(b.exporters) < maxBudgets*7/8 {
			return
		}
		delete(b.exporters, a)
	}
}
