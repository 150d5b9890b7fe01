package enrich

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"weir/internal/kafka"
	"weir/internal/templates"
	"weir/pkg/flowpb"
)

// rates are the sampling rates that options data of exporters says, from the
// topic of templates: for flows that were decoded before a replica knew them.
type rates struct {
	mu  sync.RWMutex // guards what follows
	of  map[rateScope]map[uint64]uint64
	key map[string]sampler // by record key, for tombstones
}

// A rateScope is whose samplers have ids of their own.
type rateScope struct {
	exporter netip.Addr
	version  uint32
	domain   uint32
}

type sampler struct {
	scope rateScope
	id    uint64
}

func newRates() *rates {
	return &rates{of: map[rateScope]map[uint64]uint64{}, key: map[string]sampler{}}
}

// take takes a record of the topic. What is no sampler's is passed over: ingest
// counts what cannot be read.
func (r *rates) take(rec kafka.Record) {
	if rec.Value == nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.drop(string(rec.Key))
		return
	}
	e, ok, err := templates.Read(rec.Key, rec.Value)
	if !ok || err != nil || e.State.GetFact().GetWhat() != flowpb.Fact_WHAT_SAMPLER {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !e.InForce() || e.State.GetFact().GetNumber() == 0 {
		r.drop(string(rec.Key))
		return
	}
	s := sampler{rateScope{e.Exporter, e.State.GetVersion(), e.State.GetDomain()}, e.State.GetFact().GetId()}
	if r.of[s.scope] == nil {
		r.of[s.scope] = map[uint64]uint64{}
	}
	r.of[s.scope][s.id] = e.State.GetFact().GetNumber()
	r.key[string(rec.Key)] = s
}

// drop forgets what a record said. mu is held.
func (r *rates) drop(key string) {
	s, ok := r.key[key]
	if !ok {
		return
	}
	delete(r.key, key)
	delete(r.of[s.scope], s.id)
	if len(r.of[s.scope]) == 0 {
		delete(r.of, s.scope)
	}
}

// complete gives m, which says no rate, that of its exporter: of the sampler that
// it names, else of the only one.
func (r *rates) complete(m *flowpb.FlowMessage) {
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
	r.mu.RLock()
	defer r.mu.RUnlock()
	all := r.of[rateScope{a.Unmap(), version, m.GetObservationDomainId()}]
	rate := all[m.GetSamplerId()]
	if m.GetSamplerId() == 0 && len(all) == 1 {
		for _, rate = range all {
			break
		}
	}
	if rate != 0 {
		m.SamplingRate, m.SamplingSource = rate, flowpb.SamplingSource_SAMPLING_SOURCE_OPTIONS
	}
}

// firstRates is how long the first flows wait for what the topic says already.
const firstRates = 5 * time.Second

// follow reads the topic until ctx ends; ready is called once what was there is
// read, or it could not be in a while.
func (r *rates) follow(ctx context.Context, c kafka.Config, topic string, ready func()) error {
	first, cancel := context.WithTimeout(ctx, firstRates)
	next := int64(-1)
	_ = kafka.ReadWhole(first, c, topic, func(rec kafka.Record) { // no ingest yet, no topic: it is followed anyhow
		r.take(rec)
		next = rec.Offset + 1
	})
	cancel()
	ready()
	f := kafka.NewFollower(c, topic)
	f.Add(0, next)
	return f.Run(ctx, func(_ int32, rec kafka.Record) { r.take(rec) })
}
