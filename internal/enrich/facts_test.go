package enrich

import (
	"net/netip"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"weir/internal/decode"
	"weir/internal/kafka"
	"weir/internal/templates"
	"weir/pkg/flowpb"
)

// shared are the records that ingest shares of options data.
func shared(t *testing.T, exporter netip.Addr, domain uint32, all map[uint64]uint64) (out []kafka.Record) {
	t.Helper()
	s := templates.New(templates.Options{Replica: "ingest"})
	k := &decode.TemplateKey{Exporter: decode.Map16(exporter), Domain: domain, Version: 9}
	for id, rate := range all {
		s.LearnFact(k, &decode.Meta{Exporter: exporter, Port: 1, Received: time.Now().UnixNano()}, &decode.Header{Version: 9, Domain: domain},
			decode.OptionsFact{What: flowpb.Fact_WHAT_SAMPLER, ID: id, Number: rate})
	}
	for _, r := range s.Due() {
		out = append(out, kafka.Record{Key: r.Key, Value: r.Value})
	}
	if len(out) != len(all) {
		t.Fatalf("want %d records, got %d", len(all), len(out))
	}
	return out
}

func TestAFlowWithoutARateGetsThatOfItsExporter(t *testing.T) {
	one, two := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	r := newFacts()
	single := shared(t, one, 7, map[uint64]uint64{0: 100})
	for _, rec := range append(single, shared(t, two, 0, map[uint64]uint64{1: 10, 2: 20})...) {
		r.apply(rec)
	}
	r.apply(kafka.Record{Key: []byte("poison"), Value: []byte("poison")})
	for _, tt := range []struct {
		name   string
		m      *flowpb.FlowMessage
		rate   uint64
		source flowpb.SamplingSource
	}{
		{"the only one", &flowpb.FlowMessage{ObservationDomainId: 7, SamplerAddress: one.AsSlice()}, 100, 3},
		{"a flow that says its own", &flowpb.FlowMessage{ObservationDomainId: 7, SamplerAddress: one.AsSlice(), SamplingRate: 5, SamplingSource: 5}, 5, 5},
		{"another domain", &flowpb.FlowMessage{SamplerAddress: one.AsSlice()}, 0, 0},
		{"the sampler that it names", &flowpb.FlowMessage{SamplerAddress: two.AsSlice(), SamplerId: 2}, 20, 3},
		{"of two, none named", &flowpb.FlowMessage{SamplerAddress: two.AsSlice()}, 0, 0},
		{"one that is not known", &flowpb.FlowMessage{SamplerAddress: two.AsSlice(), SamplerId: 3}, 0, 0},
		{"no address", &flowpb.FlowMessage{}, 0, 0},
	} {
		tt.m.Type = flowpb.FlowMessage_NETFLOW_V9
		r.complete(tt.m)
		if tt.m.SamplingRate != tt.rate || tt.m.SamplingSource != tt.source {
			t.Errorf("%s: want 1 in %d by %v, got %d by %v", tt.name, tt.rate, tt.source, tt.m.SamplingRate, tt.m.SamplingSource)
		}
	}
	v5 := &flowpb.FlowMessage{Type: flowpb.FlowMessage_NETFLOW_V5, ObservationDomainId: 7, SamplerAddress: one.AsSlice()}
	if r.complete(v5); v5.SamplingRate != 0 {
		t.Errorf("v5 has no options data: want no rate, got %d", v5.SamplingRate)
	}
	r.apply(kafka.Record{Key: single[0].Key})
	gone := &flowpb.FlowMessage{Type: flowpb.FlowMessage_NETFLOW_V9, ObservationDomainId: 7, SamplerAddress: one.AsSlice()}
	if r.complete(gone); gone.SamplingRate != 0 || len(r.rates) != 1 {
		t.Errorf("after its tombstone: want no rate, got %d", gone.SamplingRate)
	}
}

// Two exporters share an address: the flows of each port must get the sampling rate that the port reported.
func TestAFlowWithoutARateGetsThatOfItsPort(t *testing.T) {
	a := netip.MustParseAddr("192.0.2.1")
	s := templates.New(templates.Options{Replica: "ingest"})
	k := &decode.TemplateKey{Exporter: decode.Map16(a), Domain: 7, Version: 9}
	for i, rate := range []uint64{10, 60_000} {
		port := 40001 + uint16(i)
		s.LearnFact(k, &decode.Meta{Exporter: a, Port: port, Received: int64(port)}, &decode.Header{Version: 9, Domain: 7},
			decode.OptionsFact{What: flowpb.Fact_WHAT_SAMPLER, Number: rate})
	}
	r := newFacts()
	for _, rec := range s.Due() {
		r.apply(kafka.Record{Key: rec.Key, Value: rec.Value})
	}
	for port, want := range map[uint32]uint64{40001: 10, 40002: 60_000, 40003: 60_000} {
		m := &flowpb.FlowMessage{Type: flowpb.FlowMessage_NETFLOW_V9, ObservationDomainId: 7, SamplerAddress: a.AsSlice(), ExporterPort: port}
		if r.complete(m); m.SamplingRate != want {
			t.Errorf("rate for port %d: want %d, got %d", port, want, m.SamplingRate)
		}
	}
}

func TestAnImpossibleRateOfTheTopicIsNotTaken(t *testing.T) {
	a := netip.MustParseAddr("192.0.2.1")
	rec := shared(t, a, 7, map[uint64]uint64{0: 100})[0]
	var st flowpb.ExporterState
	if err := proto.Unmarshal(rec.Value, &st); err != nil {
		t.Fatal(err)
	}
	st.GetFact().Number = 1 << 32
	value, err := proto.Marshal(&st)
	if err != nil {
		t.Fatal(err)
	}
	r := newFacts()
	r.apply(kafka.Record{Key: rec.Key, Value: value})
	m := &flowpb.FlowMessage{Type: flowpb.FlowMessage_NETFLOW_V9, ObservationDomainId: 7, SamplerAddress: a.AsSlice()}
	if r.complete(m); m.SamplingRate != 0 {
		t.Errorf("want no rate, got %d", m.SamplingRate)
	}
}

// Two flows of 1 500 octets at a rate of 2^62 are 2^73 octets.
func TestEstimatesOfTrafficSaturate(t *testing.T) {
	const most = 1<<64 - 1
	var ty tally
	for range 2 {
		ty.flow(&flowpb.FlowMessage{Bytes: 1500, Packets: 1, SamplingRate: 1 << 62})
		ty.connection(&flowpb.Connection{Service: "https"}, most)
	}
	for _, v := range ty.crossings {
		if v.octets != most || v.packets != 1<<63 {
			t.Errorf("want 2^64-1 octets and 2^63 packets, got %d and %d", v.octets, v.packets)
		}
	}
	if got := ty.services["https"].octets; got != most {
		t.Errorf("octets of a service: want 2^64-1, got %d", got)
	}
	v := volume{octets: most - 10, packets: 5}
	if v.add(volume{octets: 11, packets: 1}); v != (volume{11, 6}) {
		t.Errorf("a counter that would overflow: want it to begin again with 11 octets, got %+v", v)
	}
}
