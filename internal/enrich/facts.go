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

// facts holds options data of exporters (RFC 7011 section 3.4.2), read from the topic of templates: sampling rates,
// for flows that were decoded before the replica knew the rate, and the names of interfaces, VRFs and applications.
//
// follow writes it; complete and name may be called from any goroutine.
//
// Ingest applies options data before it publishes a flow. enrich completes the flows of a replica that did not have it
// yet, for example in the seconds after its first start. Memory is bounded by the topic, whose number of facts ingest
// limits for each exporter (TEMPLATES_PER_EXPORTER).
type facts struct {
	mu    sync.RWMutex                   // guards rates, names and at
	rates map[rateScope]map[uint64]rates // by sampler id
	names map[annotate.NameKey]string
	at    map[string]any // maps a record key to its sampler or annotate.NameKey: a tombstone has only the key

	named atomic.Int64 // number of names: name avoids the lock while it is 0
}

// A rateScope is the scope of sampler ids: RFC 7011 and RFC 3954 define them per observation domain of an exporter.
type rateScope struct {
	exporter netip.Addr
	version  uint32
	domain   uint32
}

// rates holds the sampling rates reported for a sampler, 1 in N. Several exporters may share an address behind NAT:
// their source ports distinguish them. Example: two routers behind one NAT address send from the ports 1025 and 1026
// and report rates of 100 and 1000. Flows from port 1025 have 1 in 100, those from 1026 have 1 in 1000.
type rates struct {
	newest uint64
	own    []*flowpb.FactSource // ports that reported a rate other than newest; at most 8
}

// ratesOf returns the rates in fact. It leaves out rates of ports that are 0 or above decode.MaxSamplingRate. The
// sources in fact are sent by other processes: their number is limited here, not trusted.
func ratesOf(fact *flowpb.Fact) rates {
	r := rates{newest: fact.GetNumber()}
	for _, s := range fact.GetSources() {
		if s.GetNumber() != 0 && s.GetNumber() <= decode.MaxSamplingRate && s.GetNumber() != r.newest && len(r.own) < 8 {
			r.own = append(r.own, s)
		}
	}
	return r
}

// forPort returns the sampling rate of flows from a source port: the rate that the port reported, else the newest. The
// zero rates return 0.
func (r *rates) forPort(port uint32) uint64 {
	for _, s := range r.own {
		if s.GetPort() == port {
			return s.GetNumber()
		}
	}
	return r.newest
}

// A sampler identifies a sampler or selector (IE 48, 302) of an exporter. Scope and id together are the key of a rate:
// exporters number samplers per observation domain.
type sampler struct {
	scope rateScope
	id    uint64
}

// newFacts returns an empty table. Until follow has read the topic, complete changes nothing and name returns "".
func newFacts() *facts {
	return &facts{
		rates: map[rateScope]map[uint64]rates{},
		names: map[annotate.NameKey]string{},
		at:    map[string]any{},
	}
}

// apply updates the facts with a record of the topic; a record without a value is a tombstone. It ignores definitions
// and facts other than rates and names. Unreadable records are ignored without a count: ingest counts them. It is
// called in the order of the topic. A tombstone has only the record key, so at maps it to the entry that it removes.
func (f *facts) apply(rec kafka.Record) {
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
	if !e.InForce() || named && fact.GetText() == "" ||
		!named && (fact.GetNumber() == 0 || fact.GetNumber() > decode.MaxSamplingRate) {
		return
	}
	if named {
		k := annotate.NameKey{
			Exporter: e.Exporter.As16(), Domain: e.State.GetDomain(), What: fact.GetWhat(), ID: fact.GetId(),
		}
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

// drop removes the fact of the record with this key. The caller must hold mu. It is called before each new value as
// well, since a record may change the kind of its fact.
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

// name returns the name of k, or "". It is called for each connection: the atomic count spares the lock for the many
// installations without names.
func (f *facts) name(k annotate.NameKey) string {
	if f.named.Load() == 0 {
		return ""
	}
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.names[k]
}

// complete sets the sampling rate of m from options data if the record has none: the rate of the sampler that the
// record names, else that of the only sampler of the observation domain. With several samplers and no sampler id the
// rate stays unknown: a guess would falsify estimates. The rate of the record's own source port precedes the newest
// rate of the address, see rates. NetFlow v1, v5 and v7 have no options data; a v5 header states the rate itself.
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
	known := all[m.GetSamplerId()]
	if m.GetSamplerId() == 0 && len(all) == 1 {
		for _, known = range all {
			break
		}
	}
	if rate := known.forPort(m.GetExporterPort()); rate != 0 {
		m.SamplingRate, m.SamplingSource = rate, flowpb.SamplingSource_SAMPLING_SOURCE_OPTIONS
	}
}

// firstFacts limits the time that the first flows wait for the facts already on the topic.
const firstFacts = 5 * time.Second

// follow reads the topic until ctx ends. It calls ready once: after it has read the records present at its start, or
// after firstFacts, so that an unreadable topic does not stop pairing. The topic has a single partition, 0. An entry
// that is written between the two reads is not lost: the follower begins at the offset after the last record of the
// first read.
func (f *facts) follow(ctx context.Context, c kafka.Config, topic string, ready func()) error {
	first, cancel := context.WithTimeout(ctx, firstFacts)
	next := int64(-1)
	// An error is ignored: before the first start of ingest the topic does not exist, and the follower retries.
	_ = kafka.ReadWhole(first, c, topic, func(rec kafka.Record) {
		f.apply(rec)
		next = rec.Offset + 1
	})
	cancel()
	ready()
	topics := kafka.NewFollower(c, topic)
	topics.Add(0, next)
	return topics.Run(ctx, func(_ int32, rec kafka.Record) { f.apply(rec) })
}
