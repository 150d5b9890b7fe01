package enrich

import (
	"bytes"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

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
	for _, f := range []decode.Fact{
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

func TestWhereTheEndsAre(t *testing.T) {
	w := worker(t, Config{Annotate: annotate.Config{HomeNets: []netip.Prefix{netip.MustParsePrefix("128.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")}}})
	for _, tt := range []struct {
		from, to string
		want     flowpb.NetworkDirection
	}{
		{"128.1.1.1", "8.8.8.8", flowpb.NetworkDirection_NETWORK_DIRECTION_OUTBOUND},
		{"8.8.8.8", "2001:db8::1", flowpb.NetworkDirection_NETWORK_DIRECTION_INBOUND},
		{"128.1.1.1", "2001:db8::1", flowpb.NetworkDirection_NETWORK_DIRECTION_INTERNAL},
		{"9.9.9.9", "8.8.8.8", flowpb.NetworkDirection_NETWORK_DIRECTION_EXTERNAL},
	} {
		c := conversation()
		c.Initiator.Address, c.Responder.Address = octets(tt.from), octets(tt.to)
		if w.annotator.Annotate(c); c.NetworkDirection != tt.want {
			t.Errorf("%s to %s: want %v, got %v", tt.from, tt.to, tt.want, c.NetworkDirection)
		}
	}
	c := conversation()
	if worker(t, Config{}).annotator.Annotate(c); c.NetworkDirection != 0 || c.Initiator.IsHome {
		t.Errorf("without HOME_NETS: %v", c)
	}
}

// The addresses are those of Crypto-PAn's sample, under its key.
func TestAnonymizedConnections(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, []byte("1522178d33a4cf80130a5b1649907d10d8988f837979652762574c2d2a842202\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	w := worker(t, Config{Annotate: annotate.Config{AnonymizeKeyFile: path, HomeNets: []netip.Prefix{netip.MustParsePrefix("128.0.0.0/8")}}})
	c := conversation()
	w.annotator.Annotate(c)
	want := conversation()
	want.Initiator = &flowpb.Endpoint{Address: octets("135.242.180.132"), Port: 40000, NatAddress: octets("134.136.186.123"), NatPort: 5, Asn: 64500, IsHome: true, NameStatus: flowpb.NameStatus_NAME_STATUS_DISABLED}
	want.Responder = &flowpb.Endpoint{Address: octets("133.68.164.234"), Port: 443, NameStatus: flowpb.NameStatus_NAME_STATUS_DISABLED}
	want.Forward.Exporter, want.Reverse.Exporter = octets("141.167.8.160"), octets("141.129.237.235")
	want.Service, want.NetworkDirection = "https", flowpb.NetworkDirection_NETWORK_DIRECTION_OUTBOUND
	want.CommunityId = pair.CommunityID(want) // of the mapped addresses
	if d := cmp.Diff(want, c, protocmp.Transform(), protocmp.IgnoreFields(c, "connection_id")); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if bytes.Equal(c.ConnectionId, conversation().ConnectionId) || len(c.ConnectionId) != 16 {
		t.Errorf("connection id %x", c.ConnectionId)
	}
	again := conversation()
	worker(t, Config{Annotate: annotate.Config{AnonymizeKeyFile: path}}).annotator.Annotate(again)
	if !bytes.Equal(again.ConnectionId, c.ConnectionId) {
		t.Errorf("another replica: %x, want %x", again.ConnectionId, c.ConnectionId)
	}
}

func TestWrongFilesAreRefusedAtTheStart(t *testing.T) {
	dir := t.TempDir()
	short := filepath.Join(dir, "key")
	if err := os.WriteFile(short, []byte("1234"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		c    Config
		want string
	}{
		{Config{Annotate: annotate.Config{AnonymizeKeyFile: short}}, "ANONYMIZE_KEY_FILE: " + short + ": 4 octets that are no key"},
		{Config{Annotate: annotate.Config{AnonymizeKeyFile: dir + "/none"}}, "no such file"},
		{Config{Annotate: annotate.Config{MaxMindFiles: []string{short}}}, "MAXMIND_FILES: MaxMind file " + short},
	} {
		if _, err := New(tt.c, Deps{Log: slog.New(slog.DiscardHandler)}); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("want %q, got %v", tt.want, err)
		}
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

// Two connections that were reported and then merged are one. A counter does not go
// down, so the next connection of the service is not counted.
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

// A late record makes a second version: the service's octets are those of the
// newest, its connections one.
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
