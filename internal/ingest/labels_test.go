package ingest

import (
	"net/netip"
	"runtime"
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// labelled is the exporters of a replica with the counters of their flows and errors.
type labelled struct {
	*seen
	m      *metrics
	total  float64
	others float64 // flows of "other" at the last look
}

func newLabelled(listed ...netip.Addr) *labelled {
	vec := func(name string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name}, labels)
	}
	m := &metrics{flows: vec("flows", "exporter"), errors: vec("errors", "exporter", "cause"),
		exported: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "reported"}, []string{"exporter", "domain", "what"})}
	m.perExporter = []*prometheus.CounterVec{m.flows, m.errors}
	l := &labelled{m: m, seen: &seen{all: newSeen(), flows: m.flows, fold: m.fold}}
	l.listed = func(a netip.Addr) bool { return slices.Contains(listed, a) }
	return l
}

// flow counts a flow of an address as a worker does.
func (l *labelled) flow(a netip.Addr) *exporter {
	x, _ := l.get(a)
	x.flows.Add(1)
	l.decoded(x).Add(1)
	l.m.errors.WithLabelValues(x.currentLabel(), "set_length").Inc()
	l.total++
	return x
}

// series returns the values of a vector by the label exporter.
func (l *labelled) series(v *prometheus.CounterVec) map[string]float64 {
	ch := make(chan prometheus.Metric, 2*maxExporters)
	v.Collect(ch)
	close(ch)
	out := map[string]float64{}
	for m := range ch {
		var d dto.Metric
		_ = m.Write(&d)
		for _, p := range d.GetLabel() {
			if p.GetName() == "exporter" {
				out[p.GetValue()] += d.GetCounter().GetValue()
			}
		}
	}
	return out
}

// check holds that nothing is counted twice or not at all, that "other" does not
// shrink, and that labels are bounded.
func (l *labelled) check(t *testing.T) {
	t.Helper()
	for name, v := range map[string]*prometheus.CounterVec{"flows": l.m.flows, "errors": l.m.errors} {
		sum, series := 0.0, l.series(v)
		for _, n := range series {
			sum += n
		}
		if sum != l.total || len(series) > maxExporters+1 {
			t.Fatalf("%s: want the sum %v of at most %d series, got %v of %d", name, l.total, maxExporters+1, sum, len(series))
		}
		if name == "flows" {
			if series[otherLabel] < l.others {
				t.Fatalf("the counter of other fell from %v to %v", l.others, series[otherLabel])
			}
			l.others = series[otherLabel]
		}
	}
}

func forged(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{1, byte(i >> 16), byte(i >> 8), byte(i)})
}

var honestAddr = netip.MustParseAddr("192.0.2.1")

// A forged v5 datagram decodes: single datagrams from many addresses must not occupy the labels for
// the life of the process.
func TestForgedAddressesDoNotKeepTheLabels(t *testing.T) {
	l := newLabelled()
	for i := range 3 * maxExporters {
		l.flow(forged(i))
	}
	if l.labels > maxFresh {
		t.Errorf("want at most %d labels of addresses seen once, got %d", maxFresh, l.labels)
	}
	var x *exporter
	for range provenRanks {
		x = l.flow(honestAddr)
		l.rank()
		l.check(t)
	}
	if l.name(x) != honestAddr.String() {
		t.Errorf("active for a minute: want a label, got %q", l.name(x))
	}
	l.flow(honestAddr)
	if n := l.series(l.m.flows)[honestAddr.String()]; n != 1 {
		t.Errorf("want 1 flow since it has a label, got %v", n)
	}
	for range freshIdle + 2 {
		l.flow(honestAddr)
		l.rank()
		l.check(t)
	}
	if l.labels != 1 {
		t.Errorf("an hour later: want the honest exporter's label alone, got %d", l.labels)
	}
}

func TestLabelsGoToListedExportersThenToThoseActiveLongest(t *testing.T) {
	listed := netip.MustParseAddr("192.0.2.2")
	l := newLabelled(listed)
	old := l.flow(honestAddr)
	ranks := func(n int, flows func()) {
		for range n {
			flows()
			l.rank()
			l.check(t)
		}
	}
	ranks(10*provenRanks, func() { l.flow(honestAddr) })
	// Forged exporters that stay active get every label that is left.
	long := func() {
		l.flow(honestAddr)
		for i := range maxExporters + 100 {
			l.flow(forged(i))
		}
	}
	ranks(provenRanks+1, long)
	if l.labels != maxExporters || l.name(old) != honestAddr.String() {
		t.Fatalf("want all %d labels in use, one by the exporter that is active longest; got %d, %q", maxExporters, l.labels, l.name(old))
	}
	var x *exporter
	ranks(3, func() { long(); x = l.flow(listed) })
	if l.name(x) != listed.String() || l.name(old) != honestAddr.String() {
		t.Errorf("want labels of the listed exporter and of the one active longest, got %q, %q", l.name(x), l.name(old))
	}
	// A new exporter gets the label of a silent exporter.
	next := netip.MustParseAddr("192.0.2.3")
	ranks(provenIdle+3, func() { l.flow(honestAddr); x = l.flow(next) })
	if l.name(x) != next.String() || l.name(old) != honestAddr.String() {
		t.Errorf("want the label of a silent exporter, got %q; the one active longest has %q", l.name(x), l.name(old))
	}
	if l.labels > maxExporters {
		t.Errorf("%d labels", l.labels)
	}
}

func TestDomainsComeBackWithTheLabel(t *testing.T) {
	l := newLabelled()
	x := l.flow(forged(1))
	for i := range uint32(2 * maxDomainsOf) {
		l.domain(x, i)
	}
	y := l.flow(honestAddr)
	if len(l.domains) != maxDomainsOf || l.domain(x, 1000) != otherLabel || l.domain(y, 1000) != "1000" {
		t.Errorf("want %d domains of one exporter at most, and another's own; got %d", maxDomainsOf, len(l.domains))
	}
	for range freshIdle + 2 {
		l.rank()
	}
	if len(l.domains) != 0 {
		t.Errorf("%d domains of exporters without a label", len(l.domains))
	}
}

// Forged addresses with valid datagrams must not displace an active exporter from the known
// addresses.
func TestAnActiveAddressIsNotForgotten(t *testing.T) {
	l := newLabelled()
	for i := range maxFresh {
		l.flow(forged(i))
	}
	for range provenRanks - 1 { // no label yet
		l.flow(honestAddr)
		l.rank()
	}
	for i := maxFresh; i < 3*maxSeen; i++ {
		l.flow(forged(i))
	}
	if _, first := l.get(honestAddr); first || l.all.Len() > maxSeen {
		t.Errorf("the active exporter was forgotten, %d addresses are remembered", l.all.Len())
	}
	l.check(t)
}

// A worker that has cached an address notices that it was forgotten: else the exporter
// could never get a label again.
func TestAWorkerNoticesThatAnAddressWasForgotten(t *testing.T) {
	r := &Replica{}
	r.exporters.all = newSeen()
	w := worker{r: r, known: map[netip.Addr]*exporter{}}
	before, _ := w.exporter(honestAddr)
	if again, _ := w.exporter(honestAddr); again != before {
		t.Fatal("want the same exporter")
	}
	if !r.exporters.makeRoom() {
		t.Fatal("no room was made")
	}
	after, first := w.exporter(honestAddr)
	if after == before || !first || r.exporters.all.Get(honestAddr) != after {
		t.Error("the worker goes on counting for an address that is not ranked")
	}
}

// The heap grows by the accounted octets, within a factor of 2.
func TestExportersStayWithinTheirOctets(t *testing.T) {
	heap := func() int {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int(m.HeapAlloc)
	}
	before := heap()
	l := newLabelled()
	workers := []worker{{r: &Replica{}, known: map[netip.Addr]*exporter{}}, {r: &Replica{}, known: map[netip.Addr]*exporter{}}}
	listed := 0
	l.listed = func(netip.Addr) bool { listed++; return true } // so that all labels are given
	for i := range maxSeen + 1000 {
		x, _ := l.get(forged(i))
		x.flows.Add(1)
		l.decoded(x).Add(1)
		for cause := range seriesOfLabel - 1 {
			if x.currentLabel() != otherLabel {
				l.m.errors.WithLabelValues(x.currentLabel(), string(rune('a'+cause))).Inc()
			}
		}
		for domain := range uint32(8) {
			text := l.domain(x, domain)
			for _, what := range []string{"octets", "messages", "records"} {
				l.m.exported.WithLabelValues(x.currentLabel(), text, what).Set(1)
			}
		}
	}
	for i := range workers {
		workers[i].r.exporters.all = l.all
		for j := range maxKnown + 1 {
			workers[i].exporter(forged(1000 + j))
		}
	}
	grown, accounted := heap()-before, exportersOctets(len(workers))
	if grown > 2*accounted || accounted > 2*grown {
		t.Errorf("the heap grew by %d KiB, accounted are %d KiB", grown>>10, accounted>>10)
	}
	t.Logf("%d KiB of heap, %d KiB accounted", grown>>10, accounted>>10)
	runtime.KeepAlive(l)
	runtime.KeepAlive(workers)
}

// An exporter that loses its label reports its totals under "other" alone: gauges of
// "other" are never removed.
func TestAnExporterThatLosesItsLabelHasNoDomains(t *testing.T) {
	l := newLabelled()
	x := l.flow(forged(1))
	if d := l.domain(x, 7); d != "7" {
		t.Fatalf("with a label: want domain 7, got %s", d)
	}
	for !x.leaving {
		l.rank()
	}
	if name, d := l.name(x), l.domain(x, 7); name != otherLabel || d != otherLabel {
		t.Errorf("while its label is taken away: want other and other, got %s and %s", name, d)
	}
	l.rank()
	if name, d := l.name(x), l.domain(x, 7); name != otherLabel || d != otherLabel || len(l.domains) != 0 {
		t.Errorf("without a label: want other and other, got %s and %s, %d domains", name, d, len(l.domains))
	}
}
