package ingest

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"weir/internal/bounded"
)

// Bounds of the state per exporter address. A source address can be forged in a v5 datagram, which decodes without a
// template. Only activity over time distinguishes an exporter from a forged address.
const (
	// maxSeen bounds the addresses in seen.all.
	maxSeen = 65536
	// maxKnown bounds the addresses in the cache of a worker.
	maxKnown = 16384
	// maxExporters bounds the values of the exporter label besides "other".
	maxExporters = 1000
	// maxFresh is the number of labels in use below which an exporter gets a label with its first decoded
	// flow; beyond that it must be active for provenRanks first.
	maxFresh = 100
	// maxDomains bounds the pairs of exporter and observation domain with their own gauges,
	// maxDomainsOf the pairs of an exporter.
	maxDomains   = 4096
	maxDomainsOf = 64

	// rankEvery is the time between two calls of rank.
	rankEvery = 10 * time.Second
	// provenRanks is the activity after which an exporter counts as proven.
	provenRanks = int(time.Minute / rankEvery)
	// maxScore bounds the activity that is remembered.
	maxScore = int(24 * time.Hour / rankEvery)
	// freshIdle is the silence after which an exporter that was never proven loses
	// its label.
	freshIdle = int(time.Hour / rankEvery)
	// provenIdle is the silence after which a proven exporter loses its label to an exporter with a claim.
	provenIdle = int(10 * time.Minute / rankEvery)
	// victims is the number of addresses that are compared for an eviction.
	victims = 16
)

// Heap octets of the state per exporter address. TestExportersStayWithinTheirOctets compares them with the
// heap.
const (
	exporterOctets = 256 // an exporter and its entry in seen.all
	knownOctets    = 96  // an entry of a worker's cache
	seriesOctets   = 768 // a series of a counter or gauge
	// seriesOfLabel is the approximate number of series of a label, mostly of errors by cause.
	seriesOfLabel = 16
)

// exportersOctets returns the largest memory of exporters and their labels with the given number of
// workers.
func exportersOctets(workers int) int {
	return maxSeen*exporterOctets + (maxExporters*seriesOfLabel+3*maxDomains)*seriesOctets + workers*maxKnown*knownOctets
}

// otherLabel is the label value of all exporters without a label of their own.
var otherLabel = "other"

// An exporter holds the counts of a source address. Its atomic fields may be used without a lock. It is
// found by the address of the datagram's source, or the address in a PROXY header. It outlives its entry in
// seen.all as long as a worker's cache or a waiting flow refers to it: gone then tells the worker to look
// it up again.
type exporter struct {
	addr            netip.Addr
	seen            *seen
	label           atomic.Pointer[string]             // nil: no set of it has been decoded
	counted         atomic.Pointer[prometheus.Counter] // counter of its flows; nil: not looked up yet
	flows, own      atomic.Uint64
	examined        atomic.Int64 // second of the last datagram that was examined
	warnedOwnExport atomic.Bool
	gone            atomic.Bool // no longer in seen.all

	// Guarded by seen.mu:
	named   bool // has a label of its own, until its series are folded
	leaving bool // its series are folded by the next rank
	proven  bool // was active for provenRanks at some time
	listed  bool // has an entry in EXPORTERS_FILE, as of the last rank
	score   int  // ranks with flows, less ranks without
	idle    int  // ranks since the last one with flows
	last    uint64
	domains int
}

// Settled implements kafka.Account. Kafka's client calls it from its own goroutine once per record, with
// the number of flows in the record.
func (x *exporter) Settled(flows int, err error) {
	if err != nil {
		x.seen.dropped(x, flows, err)
	}
}

// currentLabel returns the label value of x, or "other" before the first set from x is decoded: a forged address must
// not get a label by malformed datagrams.
func (x *exporter) currentLabel() string {
	if l := x.label.Load(); l != nil {
		return *l
	}
	return otherLabel
}

// age updates the activity of x since the last rank. seen.mu must be held. Example: an exporter that sends
// a flow in each of 6 ranks (1 min) is proven. After a day its score is maxScore, and each rank of silence
// takes 1 from it.
func (x *exporter) age() {
	flows := x.flows.Load()
	if flows == x.last {
		x.idle++
		x.score = max(x.score-1, 0)
		return
	}
	x.last, x.idle = flows, 0
	x.score = min(x.score+1, maxScore)
	x.proven = x.proven || x.score >= provenRanks
}

// displaces reports whether x has a better claim to a label than v, which has a label. A claim must be
// clearly better (twice the score and a minute more): two equal exporters must not exchange a label at each
// rank.
func (x *exporter) displaces(v *exporter) bool {
	if x.listed != v.listed {
		return x.listed
	}
	return v.idle >= provenIdle || x.score >= 2*v.score+provenRanks
}

// seen holds the source addresses of received datagrams, at most maxSeen.
//
// At most maxExporters of them have a label of their own. Exporters listed by EXPORTERS_FILE with a single
// address have priority, then the exporters active longest. rank moves labels. It revokes a label in two
// steps, a rank apart, so that no worker counts under the label any more when its series are folded into
// the series of "other".
type seen struct {
	dropped func(x *exporter, flows int, err error) // counts dropped flows
	flows   *prometheus.CounterVec                  // by exporter
	listed  func(netip.Addr) bool                   // reports whether EXPORTERS_FILE lists an address; nil: no
	fold    func(labels map[string]bool)            // folds the series of labels into "other"; nil: no series

	mu      sync.Mutex // guards the fields below
	all     bounded.Map[netip.Addr, *exporter]
	labels  int                 // labels in use, including leaving
	leaving []*exporter         // exporters whose label is being revoked
	domains map[domainOf]string // label values of the domains that reported totals
	unnamed exporter            // stands for all addresses beyond maxSeen
}

func newSeen() bounded.Map[netip.Addr, *exporter] { return bounded.New[netip.Addr, *exporter](maxSeen) }

// A domainOf identifies an observation domain of an exporter.
type domainOf struct {
	x  *exporter
	id uint32
}

// domain returns the label value of x's domain, "other" beyond the bounds. Gauges cannot be folded into
// "other" as counters can, because a sum of last values has no meaning.
func (e *seen) domain(x *exporter, id uint32) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !x.named || x.leaving { // gauges of "other" would never be removed
		return otherLabel
	}
	k := domainOf{x, id}
	if s, ok := e.domains[k]; ok {
		return s
	}
	if len(e.domains) >= maxDomains || x.domains >= maxDomainsOf {
		return otherLabel
	}
	if e.domains == nil {
		e.domains = map[domainOf]string{}
	}
	x.domains++
	e.domains[k] = domainText(id)
	return e.domains[k]
}

// domainText returns the label value of an observation domain.
func domainText(id uint32) string { return strconv.FormatUint(uint64(id), 10) }

// get returns the exporter at addr and adds it if it is new; first reports whether it is new. It is called
// once per exporter and worker cache, not once per datagram.
func (e *seen) get(addr netip.Addr) (x *exporter, first bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if x := e.all.Get(addr); x != nil {
		return x, false
	}
	if e.all.IsFull() && !e.makeRoom() {
		return &e.unnamed, false
	}
	x = &exporter{addr: addr, seen: e}
	e.all.PutOrRefuse(addr, x)
	return x, true
}

// makeRoom removes the least active of a few addresses without a label. It returns false if all of them are
// proven. The caller must hold mu. It relies on the random start of a map iteration: an attacker must not
// be able to predict the victim. An address with a label is never removed.
func (e *seen) makeRoom() bool {
	var least *exporter
	n := 0
	for _, x := range e.all.All() {
		if !x.named && (least == nil || cmp.Or(cmp.Compare(x.score, least.score), cmp.Compare(least.idle, x.idle)) < 0) {
			least = x
		}
		if n++; n >= victims && least != nil || n >= 4*victims {
			break
		}
	}
	if least == nil || least.score >= provenRanks {
		return false
	}
	least.gone.Store(true)
	e.all.Delete(least.addr)
	return true
}

// decoded returns the counter of x's flows. A race with rank may count flows under a label that was just
// revoked. release folds them a rank later, so that none is lost.
func (e *seen) decoded(x *exporter) prometheus.Counter {
	if c := x.counted.Load(); c != nil {
		return *c
	}
	c := e.flows.WithLabelValues(e.name(x))
	if !x.counted.CompareAndSwap(nil, &c) { // rank was faster
		return *x.counted.Load()
	}
	return c
}

// name returns the label value of x, which may get its label by this call. It must be called only after a
// set of x has been decoded. Without this rule, anyone could create a series per forged address with a
// datagram of a few octets.
func (e *seen) name(x *exporter) string {
	if l := x.label.Load(); l != nil {
		return *l
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case x.label.Load() != nil:
	case x != &e.unnamed && !x.gone.Load() && (e.labels < maxFresh || e.labels < maxExporters && e.isListed(x.addr)):
		e.grant(x)
	default:
		x.label.Store(&otherLabel)
	}
	return *x.label.Load()
}

// isListed reports whether EXPORTERS_FILE lists a. The table may change at any time: callers must not store
// the result for longer than a rank.
func (e *seen) isListed(a netip.Addr) bool { return e.listed != nil && e.listed(a) }

// grant gives x a label of its own. The caller must hold mu.
func (e *seen) grant(x *exporter) {
	e.labels++
	x.named = true
	label := x.addr.String()
	x.label.Store(&label)
	if e.flows != nil {
		c := e.flows.WithLabelValues(label)
		x.counted.Store(&c)
	}
}

// revoke takes the label of x, which counts as "other" from now on. The next rank folds its series. The
// caller must hold mu.
func (e *seen) revoke(x *exporter) {
	x.leaving = true
	x.label.Store(&otherLabel)
	if e.flows != nil {
		c := e.flows.WithLabelValues(otherLabel)
		x.counted.Store(&c)
	}
	e.leaving = append(e.leaving, x)
}

// rank updates the activity of all exporters and moves labels. A single goroutine must call it every
// rankEvery. It does not hold mu during sorting, since workers with new addresses wait for mu.
func (e *seen) rank() {
	e.release()
	named, wanting := e.survey()
	slices.SortFunc(wanting, func(a, b *exporter) int { // the best claim first
		return cmp.Or(compareBool(b.listed, a.listed), cmp.Compare(b.score, a.score), a.addr.Compare(b.addr))
	})
	slices.SortFunc(named, func(a, b *exporter) int { // the weakest claim first
		return cmp.Or(
			compareBool(a.listed, b.listed), compareBool(b.idle >= provenIdle, a.idle >= provenIdle),
			cmp.Compare(a.score, b.score), a.addr.Compare(b.addr))
	})
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, x := range named {
		if !x.proven && !x.listed && x.idle >= freshIdle {
			e.revoke(x)
		}
	}
	named = slices.DeleteFunc(named, func(x *exporter) bool { return x.leaving })
	// The first exporter of wanting that can displace none ends the loop: the claims behind it are weaker.
	for _, x := range wanting {
		switch {
		case x.gone.Load():
		case e.labels < maxExporters:
			e.grant(x)
		case len(named) > 0 && x.displaces(named[0]): // x gets the label at the next rank
			e.revoke(named[0])
			named = named[1:]
		default:
			return
		}
	}
}

// survey ages all exporters. It returns the exporters with a label, and the exporters without a label that
// have a claim to it.
func (e *seen) survey() (named, wanting []*exporter) {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := 0
	for _, x := range e.all.All() {
		x.age()
		if x.named || x.score > 0 {
			x.listed = e.isListed(x.addr)
		}
		switch {
		case x.named:
			named = append(named, x)
		case x.score >= provenRanks || x.score > 0 && x.listed:
			wanting = append(wanting, x)
		}
		if n++; n%1024 == 0 { // workers with a datagram of a new address wait for mu
			e.mu.Unlock()
			e.mu.Lock()
		}
	}
	return named, wanting
}

// release folds the series of the exporters whose label the last rank revoked. A whole rank lies between
// revoke and release: a worker reads the label anew for each datagram, and no datagram takes rankEvery.
func (e *seen) release() {
	e.mu.Lock()
	leaving := e.leaving
	e.leaving = nil
	e.mu.Unlock()
	if len(leaving) == 0 {
		return
	}
	labels := map[string]bool{}
	for _, x := range leaving {
		labels[x.addr.String()] = true
	}
	if e.fold != nil {
		e.fold(labels)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, x := range leaving {
		x.named, x.leaving, x.domains = false, false, 0
		e.labels--
	}
	for k := range e.domains {
		if !k.x.named {
			delete(e.domains, k)
		}
	}
}

// compareBool orders false before true.
func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// fold adds the series of exporters that have lost their label to the series of
// "other", and removes them: the sum over all exporters stays the same, and the
// counters of "other" only grow.
func (m *metrics) fold(labels map[string]bool) {
	for _, v := range m.perExporter {
		foldCounters(v, labels)
	}
	for l := range labels {
		m.exported.DeletePartialMatch(prometheus.Labels{"exporter": l})
	}
}

// foldCounters moves the values of the given exporters to "other". A scrape between Delete and Add may miss
// the moved value; the next has it.
func foldCounters(v *prometheus.CounterVec, labels map[string]bool) {
	// Collect sends series while the vector is locked: it must not be changed before the channel is drained.
	series := make(chan prometheus.Metric, 64)
	// Collect ends when all series are received, so that the goroutine ends with the loop below.
	go func() { v.Collect(series); close(series) }()
	type folded struct {
		labels prometheus.Labels
		value  float64
	}
	var all []folded
	for s := range series {
		var m dto.Metric
		if s.Write(&m) != nil {
			continue // unreachable: Write of a counter returns no error
		}
		f := folded{labels: prometheus.Labels{}, value: m.GetCounter().GetValue()}
		for _, l := range m.GetLabel() {
			f.labels[l.GetName()] = l.GetValue()
		}
		if labels[f.labels["exporter"]] {
			all = append(all, f)
		}
	}
	for _, f := range all {
		v.Delete(f.labels)
		f.labels["exporter"] = otherLabel
		v.With(f.labels).Add(f.value)
	}
}
