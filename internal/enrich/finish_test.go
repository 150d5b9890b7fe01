package enrich

import (
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	"weir/internal/annotate"
	"weir/internal/decode"
	"weir/internal/flowkey"
	"weir/internal/kafka"
	"weir/internal/pair"
	"weir/internal/services"
	"weir/internal/templates"
	"weir/pkg/flowpb"
)

// worker is a Worker that is not run.
func worker(t *testing.T, c Config) *Worker {
	t.Helper()
	c.Kafka, c.Topics, c.Group = kafka.Config{Brokers: []string{"127.0.0.1:1"}}, kafka.TopicConfig{}, "g"
	c.MetricsSeries = max(c.MetricsSeries, 100)
	w, err := New(c, Deps{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func octets(s string) []byte { return netip.MustParseAddr(s).AsSlice() }

func conversation() *flowpb.Connection {
	return &flowpb.Connection{
		ConnectionId: []byte("0123456789abcdef"), Version: 1, Protocol: 6, IpVersion: 4, ApplicationId: []byte{13, 0, 0, 1},
		Initiator: &flowpb.Endpoint{Address: octets("128.11.68.132"), Port: 40000, NatAddress: octets("129.118.74.4"), NatPort: 5, Mac: []byte{2, 0, 0, 0, 0, 1}, Asn: 64500},
		Responder: &flowpb.Endpoint{Address: octets("130.132.252.244"), Port: 443, Mac: []byte{2, 0, 0, 0, 0, 2}},
		Forward:   &flowpb.Traffic{Octets: 10, Exporter: octets("141.223.7.43"), Domain: 7, InputIf: 1, OutputIf: 2, InputVrf: 3, OutputVrf: 4},
		Reverse:   &flowpb.Traffic{Octets: 20, Exporter: octets("141.233.145.108"), Domain: 7, InputIf: 2, OutputIf: 1},
	}
}

func TestNamesOfTheExporterComeFromFlowsAndFromTheTopic(t *testing.T) {
	w := worker(t, Config{})
	s := templates.New(templates.Options{Replica: "ingest"})
	exporter := netip.MustParseAddr("141.223.7.43")
	k := &decode.TemplateKey{Exporter: decode.Map16(exporter), Domain: 7, Version: 10}
	for _, f := range []decode.OptionsFact{
		{What: flowpb.Fact_WHAT_INTERFACE_NAME, ID: 1, Text: "of the topic"},
		{What: flowpb.Fact_WHAT_INTERFACE_NAME, ID: 2, Text: "ge-0/0/2"},
		{What: flowpb.Fact_WHAT_VRF_NAME, ID: 3, Text: "red"},
		{What: flowpb.Fact_WHAT_APPLICATION_NAME, ID: 13<<24 | 1, Text: "http"},
		{What: flowpb.Fact_WHAT_INTERFACE_DESCRIPTION, ID: 9, Text: "not a name"},
	} {
		s.LearnFact(k, &decode.Meta{Exporter: exporter, Port: 1, Received: 1_700_000_000e9}, &decode.Header{Version: 10, Domain: 7}, f)
	}
	var records []kafka.Record
	for _, r := range s.Due() {
		records = append(records, kafka.Record{Key: r.Key, Value: r.Value})
		w.facts.apply(records[len(records)-1])
	}
	w.learned.Learn(&flowpb.FlowMessage{SamplerAddress: exporter.AsSlice(), ObservationDomainId: 7, InIf: 1, InIfName: "uplink", EgressVrfId: 4, EgressVrfName: "blue", ExporterName: "edge-1"})

	c := conversation()
	w.annotator.Annotate(c)
	if f := c.Forward; f.InputIfName != "uplink" || f.OutputIfName != "ge-0/0/2" || f.InputVrfName != "red" || f.OutputVrfName != "blue" || c.ApplicationName != "http" {
		t.Errorf("want uplink (a flow's comes first), ge-0/0/2, red, blue, http; got %v %q", f, c.ApplicationName)
	}
	if r := c.Reverse; r.InputIfName != "" || r.OutputIfName != "" {
		t.Errorf("another exporter's interfaces: want no names, got %v", r)
	}
	if c.Service != "https" || c.CommunityId == "" {
		t.Errorf("service %q, community id %q", c.Service, c.CommunityId)
	}
	if got := w.learned.Exporter(flowkey.AddressOrZero(exporter.AsSlice())); got != "edge-1" {
		t.Errorf("exporter: want edge-1, got %q", got)
	}

	for _, r := range records {
		w.facts.apply(kafka.Record{Key: r.Key})
	}
	if len(w.facts.names)+len(w.facts.at) != 0 {
		t.Errorf("after the tombstones: %v", w.facts.names)
	}
}

// The errors of package annotate end New.
func TestNewRefusesAWrongKeyFile(t *testing.T) {
	c := Config{Annotate: annotate.Config{AnonymizeKeyFile: filepath.Join(t.TempDir(), "none")}}
	if _, err := New(c, Deps{Log: slog.New(slog.DiscardHandler)}); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("want no such file, got %v", err)
	}
}

// gathered are the sums of the traffic metrics, and how many series there are.
func gathered(t *testing.T, reg *prometheus.Registry) (sums map[string]float64, series int) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sums = map[string]float64{}
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "weir_traffic_") && !strings.HasPrefix(f.GetName(), "weir_service_") {
			continue
		}
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				if l.GetName() == "direction" {
					name += " " + l.GetValue()
				}
			}
			sums[name] += m.GetCounter().GetValue()
			series++
		}
	}
	return sums, series
}

func TestSumsOfTrafficStayExactBeyondTheBound(t *testing.T) {
	reg := prometheus.NewRegistry()
	tr := newTraffic(100, reg)
	names := annotate.NewLearned(nil)
	var octets, packets, connections, bytes float64
	for round := range 3 {
		var ty tally
		for i := range 1000 {
			m := &flowpb.FlowMessage{SamplerAddress: []byte{10, 0, byte(i >> 8), byte(i)}, InIf: uint32(i), OutIf: 2, Proto: uint32(i % 200), Bytes: uint64(i), Packets: 2, ReverseBytes: 1, SamplingRate: uint64(round)}
			ty.flow(m)
			rate := float64(max(round, 1))
			octets, packets = octets+(float64(i)+1)*rate, packets+2*rate
			ty.connection(&flowpb.Connection{Version: uint32(round + 1), Service: services.Protocol(uint32(uint8(i)))}, uint64(i))
			bytes += float64(i)
			if round == 0 {
				connections++
			}
		}
		tr.add(&ty, names)
	}
	sums, series := gathered(t, reg)
	want := map[string]float64{
		"weir_traffic_octets_total in": octets, "weir_traffic_octets_total out": octets, "weir_traffic_packets_total in": packets, "weir_traffic_packets_total out": packets,
		"weir_service_connections_total": connections, "weir_service_octets_total": bytes,
	}
	if d := cmp.Diff(want, sums); d != "" || series > 100 || series < 90 {
		t.Errorf("%d series, at most 100; sums (-want +got):\n%s", series, d)
	}
}

// Forged flows take all series; those come back once nothing is counted in them, and
// sums stay exact.
func TestIdleSeriesOfTrafficComeBack(t *testing.T) {
	reg := prometheus.NewRegistry()
	tr := newTraffic(100, reg)
	now := time.Unix(1_790_000_000, 0)
	tr.now = func() time.Time { return now }
	names := annotate.NewLearned(nil)
	octets := 0.0
	add := func(exporter ...byte) {
		var ty tally
		ty.flow(&flowpb.FlowMessage{SamplerAddress: exporter, InIf: 1, OutIf: 2, Proto: 6, Bytes: 10, Packets: 1})
		ty.connection(&flowpb.Connection{Version: 1, Service: "https"}, 10)
		octets += 10
		tr.add(&ty, names)
	}
	has := func(exporter string) bool {
		return tr.flows[flowLabels{exporter, "1", "in", "tcp"}] != nil
	}
	check := func() {
		t.Helper()
		sums, series := gathered(t, reg)
		for _, name := range []string{"weir_traffic_octets_total in", "weir_traffic_octets_total out", "weir_service_octets_total"} {
			if sums[name] != octets {
				t.Errorf("%s: want %v, got %v", name, octets, sums[name])
			}
		}
		if series > 100 {
			t.Errorf("%d series, want at most 100", series)
		}
	}
	add(192, 0, 2, 1)
	for i := range 200 {
		add(10, 0, 0, byte(i))
	}
	add(192, 0, 2, 2)
	if !has("192.0.2.1") || has("192.0.2.2") {
		t.Error("want series of the first exporter and none for the last")
	}
	check()
	for range 61 { // min
		now = now.Add(time.Minute)
		add(192, 0, 2, 1)
		check()
	}
	add(192, 0, 2, 2)
	if !has("192.0.2.1") || !has("192.0.2.2") || has("10.0.0.1") {
		t.Errorf("want series of both exporters that send, and none of forged ones")
	}
	check()
}

// Two reported connections that are merged later count once. A counter must not decrease, so that the next connection
// of the service is not counted.
func TestMergedConnectionsCountOnce(t *testing.T) {
	reg := prometheus.NewRegistry()
	tr := newTraffic(100, reg)
	names := annotate.NewLearned(nil)
	report := func(version uint32, reason flowpb.EmitReason) *flowpb.Connection {
		return &flowpb.Connection{Version: version, Service: "https", EmitReason: reason}
	}
	first := report(1, flowpb.EmitReason_EMIT_REASON_IDLE)
	merged := report(2, flowpb.EmitReason_EMIT_REASON_MERGED)
	for i, step := range []struct {
		reports []*flowpb.Connection // of one transaction
		want    float64
	}{
		{[]*flowpb.Connection{first, first}, 2},
		{[]*flowpb.Connection{merged}, 2},
		{[]*flowpb.Connection{first}, 2}, // two merged into one, and another
		{[]*flowpb.Connection{first}, 3},
		{[]*flowpb.Connection{merged, first, first}, 4},
		{[]*flowpb.Connection{merged, merged}, 4},
		{[]*flowpb.Connection{first, first, first}, 5},
	} {
		var ty tally
		for _, c := range step.reports {
			ty.connection(c, 0)
		}
		tr.add(&ty, names)
		if sums, _ := gathered(t, reg); sums["weir_service_connections_total"] != step.want {
			t.Errorf("transaction %d: %v connections, want %v", i+1, sums["weir_service_connections_total"], step.want)
		}
	}
}

// A late record causes a second version: the octets of the service must be those of the newest version, and the
// connection must count once.
func TestVersionsCountByWhatTheyAdd(t *testing.T) {
	var ty tally
	var last *flowpb.Connection
	m := pair.New(pairing, 1, func(e *pair.Emission) {
		ty.connection(e.Connection, e.More)
		last = proto.CloneOf(e.Connection)
	})
	at := uint64(1_700_000_000e9)
	for i, back := range []bool{false, true} {
		fm := &flowpb.FlowMessage{
			Type: flowpb.FlowMessage_IPFIX, SrcAddr: octets("10.0.0.1"), DstAddr: octets("10.0.0.2"), SrcPort: 40000, DstPort: 53, Proto: 17,
			SamplerAddress: octets("192.0.2.1"), Bytes: 100, Packets: 1, SamplingRate: 10, DatagramHash: uint64(i) + 1,
			TimeReceivedNs: at + uint64(i)*uint64(pairing.Idle+pairing.LateGrace/2), TimeFlowStartNs: at, TimeFlowEndNs: at, TimeResolutionUs: 1000,
		}
		if back {
			fm.SrcAddr, fm.DstAddr, fm.SrcPort, fm.DstPort, fm.Bytes = fm.DstAddr, fm.SrcAddr, 53, 40000, 30
		}
		f, ok := pair.FromMessage(fm, &pairing)
		if !ok {
			t.Fatal("not pairable")
		}
		m.Observe(&f)
	}
	m.Close()
	if last.GetVersion() != 2 || len(ty.services) != 1 {
		t.Fatalf("want a second version of one connection, got %v, %v", last, ty.services)
	}
	if got := ty.services[""]; got != (served{connections: 1, octets: 1300}) {
		t.Errorf("want 1 connection, (100 + 30) × 10 octets; got %+v", got)
	}
}
