package ingest

import (
	"cmp"
	"net/netip"
	"sort"
	"time"

	"weir/internal/decode"
)

// A datagram can ask for many times its octets: small records, each with the names
// that its exporter gave to interfaces. Output, messages and their keys as protobuf,
// is free up to freeOutput times what was received, which covers records of real
// exporters. What is beyond is taken off a budget of the exporter and one of all.
const (
	freeOutput = 12
	// extraOutput bounds the output of one message beyond that, by octet received, and
	// maxExtra in all: the work that is done before a budget refuses it.
	extraOutput = 64
	maxExtra    = 256 << 10

	defaultExtra            = 32 << 20 // octets a second of all exporters
	defaultExtraPerExporter = 4 << 20
	// extraSeconds is how many seconds' worth may be spent at once.
	extraSeconds = 2
)

func newOutputBudget(c Config) *budget {
	all, each := cmp.Or(c.OutputExtra, defaultExtra), cmp.Or(c.OutputExtraEach, defaultExtraPerExporter)
	return makeBudget(float64(each), extraSeconds*each, float64(all), extraSeconds*all, reasonOutput, reasonOutput)
}

// allow sets how much output decoding so many received octets may make.
func (w *worker) allow(octets int) {
	w.dec.MaxOctets = freeOutput*octets + min(extraOutput*octets, maxExtra)
}

// charge takes the output of w.res beyond what is free off the budgets. Without
// budget the flows beyond are dropped: they count as Beyond, as those that decoding
// left out.
func (w *worker) charge(exporter netip.Addr, octets int, at time.Time) {
	if free := freeOutput * octets; len(w.res.Buf) > free {
		if w.r.output.spend(exporter, len(w.res.Buf)-free, at) != "" {
			cutFlows(&w.res, free)
		}
	}
}

// cutFlows drops the flows of res that end beyond octets of its buffer.
func cutFlows(res *decode.Result, octets int) {
	keep := sort.Search(len(res.Flows), func(i int) bool { return res.Flows[i].KeyEnd > octets })
	res.Beyond += len(res.Flows) - keep
	res.Flows = res.Flows[:keep]
}

// setOctets is what a data set that waited takes of its datagram: its content, its
// header and the datagram's.
func setOctets(s *decode.Set) int { return len(s.Data) + 4 + 16 }
