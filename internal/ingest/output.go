package ingest

import (
	"cmp"
	"net/netip"
	"time"

	"weir/internal/decode"
	"weir/internal/ingest/budget"
)

const (
	defaultExtra            = 32 << 20 // octets per second of all exporters
	defaultExtraPerExporter = 4 << 20  // octets per second of an exporter
	// extraSeconds is the size of the token buckets, in seconds of their rate.
	extraSeconds = 2
)

// newOutputBudget returns the budget for the output of flows beyond budget.FreeOutput times the octets
// received. An attacker can send small datagrams that become large messages: a record of few octets with
// long names from options data. Without the budget, the flows topic would grow by a multiple of the
// received traffic.
func newOutputBudget(c Config) *budget.Budget {
	all, each := cmp.Or(c.OutputExtra, defaultExtra), cmp.Or(c.OutputExtraEach, defaultExtraPerExporter)
	return budget.New(
		budget.Limit{Rate: float64(each), AtOnce: extraSeconds * each},
		budget.Limit{Rate: float64(all), AtOnce: extraSeconds * all})
}

// newUndecodedBudget returns the budget for sets on the undecoded topic. Data sets with forged template IDs
// would otherwise fill the undecoded topic, since no template for them ever arrives.
func newUndecodedBudget(c UndecodedConfig) *budget.Budget {
	return budget.New(
		budget.Limit{Rate: float64(c.Exporter) / 3600, AtOnce: c.Exporter},
		budget.Limit{Rate: float64(c.Rate), AtOnce: c.Burst})
}

// limitOutput limits the output of the decoder for a message of the given number of octets. It must be
// called before each message and each set.
func (w *worker) limitOutput(octets int) { w.dec.MaxOctets = budget.OutputLimit(octets) }

// charge charges the output of w.res to the output budget, which may remove flows from w.res.
func (w *worker) charge(exporter netip.Addr, octets int, at time.Time) {
	w.r.output.ChargeOutput(&w.res, exporter, octets, at)
}

// setOctets returns the octets received for a data set that waited: its content, the set header (4)
// and the message header (16, RFC 7011 section 3.1).
func setOctets(s *decode.Set) int { return len(s.Data) + 4 + 16 }
