package ingest

import (
	"cmp"
	"net/netip"
	"time"

	"weir/internal/decode"
	"weir/internal/ingest/budget"
)

const (
	defaultExtra            = 32 << 20 // octets a second of all exporters
	defaultExtraPerExporter = 4 << 20
	// extraSeconds is how many seconds' worth may be spent at once.
	extraSeconds = 2
)

// newOutputBudget returns the budget for flows beyond budget.FreeOutput times the octets
// received.
func newOutputBudget(c Config) *budget.Budget {
	all, each := cmp.Or(c.OutputExtra, defaultExtra), cmp.Or(c.OutputExtraEach, defaultExtraPerExporter)
	return budget.New(budget.Limit{Rate: float64(each), AtOnce: extraSeconds * each}, budget.Limit{Rate: float64(all), AtOnce: extraSeconds * all})
}

// newUndecodedBudget returns the budget for sets on the undecoded topic.
func newUndecodedBudget(c UndecodedConfig) *budget.Budget {
	return budget.New(budget.Limit{Rate: float64(c.Exporter) / 3600, AtOnce: c.Exporter}, budget.Limit{Rate: float64(c.Rate), AtOnce: c.Burst})
}

// allow sets how much output decoding so many received octets may make.
func (w *worker) allow(octets int) { w.dec.MaxOctets = budget.OutputLimit(octets) }

// charge takes the output of w.res beyond what is free off the budgets.
func (w *worker) charge(exporter netip.Addr, octets int, at time.Time) {
	w.r.output.ChargeOutput(&w.res, exporter, octets, at)
}

// setOctets is what a data set that waited takes of its datagram: its content, its
// header and the datagram's.
func setOctets(s *decode.Set) int { return len(s.Data) + 4 + 16 }
