package enrich

import (
	"context"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"weir/internal/annotate"
	"weir/internal/decode"
	"weir/internal/kafka"
	"weir/internal/templates"
	"weir/pkg/flowpb"
)

// facts are what options data of exporters says, from the topic of templates:
// sampling rates, for flows that were decoded before a replica knew them, and the
// names of interfaces, VRFs and applications.
type facts struct {
	mu    sync.RWMutex // guards what follows
	rates map[rateScope]map[uint64]rates
	names map[annotate.NameKey]string
	at    map[string]any // by record key, for tombstones: a sampler or a annotate.NameKey

	named atomic.Int64 // how many names there are
}

// A rateScope is whose samplers have ids of their own.
type rateScope struct {
	exporter netip.Addr
	version  uint32
	domain   uint32
}

// rates are what the source ports of an exporter address said of a sampler.
type rates struct {
	newest uint64
	own    []*flowpb.FactSource // of ports that said another one; at most 8
}

func ratesOf(fact *flowpb.Fact) rates {
	r := rates{newest: fact.GetNumber()}
	for _, s := range fact.GetSources() {
		if s.GetNumber() != 0 && s.GetNumber() <= decode.MaxSamplingRate && s.GetNumber() != r.newest && len(r.own) < 8 {
			r.own = append(r.own, s)
		}
	}
	return r
}

// of returns the rate for flows of a source port: what it said itself, else the
// newest.
func (r *rates) of(port uint32) uint64 {
	for _, s := range r.own {
		if s.GetPort() == port {
			return s.GetNumber()
		}
	}
	return r.newest
}

type sampler struct {
	scope rateScope
	id    uint64
}

func newFacts() *facts {
	return &facts{rates: map[rateScope]map[uint64]rates{}, names: map[annotate.NameKey]string{}, at: map[string]any{}}
}

// take takes a record of the topic. What is neither a rate nor a name is passed
// over: ingest counts what cannot be read.
func (f *facts) take(rec kafka.Record) {
	if rec.Value == nil {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.drop(string(rec.Key))
		return
	}
	e, ok, err := templates.Read(rec.Key, rec.Value)
	if !ok || err != nil {
		return
	}
	fact := e.State.GetFact()
	named := false
	switch fact.GetWhat() {
	case flowpb.Fact_WHAT_SAMPLER:
	case flowpb.Fact_WHAT_INTERFACE_NAME, flowpb.Fact_WHAT_VRF_NAME, flowpb.Fact_WHAT_APPLICATION_NAME:
		named = true
	default:
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.drop(string(rec.Key))
	if !e.InForce() || named && fact.GetText() == "" || !named && (fact.GetNumber() == 0 || fact.GetNumber() > decode.MaxSamplingRate) {
		return
	}
	if named {
		k := annotate.NameKey{Exporter: e.Exporter.As16(), Domain: e.State.GetDomain(), What: fact.GetWhat(), ID: fact.GetId()}
		f.names[k], f.at[string(rec.Key)] = fact.GetText(), k
		f.named.Store(int64(len(f.names)))
		return
	}
	s := sampler{rateScope{e.Exporter, e.State.GetVersion(), e.State.GetDomain()}, fact.GetId()}
	if f.rates[s.scope] == nil {
		f.rates[s.scope] = map[uint64]rates{}
	}
	f.rates[s.scope][s.id] = ratesOf(fact)
	f.at[string(rec.Key)] = s
}

// drop forgets what a record said. mu is held.
func (f *facts) drop(key string) {
	switch s := f.at[key].(type) {
	case sampler:
		delete(f.rates[s.scope], s.id)
		if len(f.rates[s.scope]) == 0 {
			delete(f.rates, s.scope)
		}
	case annotate.NameKey:
		delete(f.names, s)
		f.named.Store(int64(len(f.names)))
	}
	delete(f.at, key)
}

// name returns a name, "" when there is none.
func (f *facts) name(k annotate.NameKey) string {
	if f.named.Load() == 0 {
		return ""
	}
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.names[k]
}

// complete gives m, which says no rate, that of its exporter: of the sampler that
// it names, else of the only one.
func (f *facts) complete(m *flowpb.FlowMessage) {
	if m.GetSamplingRate() != 0 {
		return
	}
	var version uint32
	switch m.GetType() {
	case flowpb.FlowMessage_NETFLOW_V9:
		version = 9
	case flowpb.FlowMessage_IPFIX:
		version = 10
	default:
		return
	}
	a, ok := netip.AddrFromSlice(m.GetSamplerAddress())
	if !ok {
		return
	}
	f.mu.RLock()
	defer f.mu.RUnlock()
	all := f.rates[rateScope{a.Unmap(), version, m.GetObservationDomainId()}]
	of := all[m.GetSamplerId()]
	if m.GetSamplerId() == 0 && len(all) == 1 {
		for _, of = range all {
			break
		}
	}
	if rate := of.of(m.GetExporterPort()); rate != 0 {
		m.SamplingRate, m.SamplingSource = rate, flowpb.SamplingSource_SAMPLING_SOURCE_OPTIONS
	}
}

// firstFacts is how long the first flows wait for what the topic says already.
const firstFacts = 5 * time.Second

// follow reads the topic until ctx ends; ready is called once what was there is
// read, or it could not be in a while.
func (f *facts) follow(ctx context.Context, c kafka.Config, topic string, ready func()) error {
	first, cancel := context.WithTimeout(ctx, firstFacts)
	next := int64(-1)
	_ = kafka.ReadWhole(first, c, topic, func(rec kafka.Record) { // no ingest yet, no topic: it is followed anyhow
		f.take(rec)
		next = rec.Offset + 1
	})
	cancel()
	ready()
	topics := kafka.NewFollower(c, topic)
	topics.Add(0, next)
	return topics.Run(ctx, func(_ int32, rec kafka.Record) { f.take(rec) })
}
