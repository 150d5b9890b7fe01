package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caarlos0/env/v11"
	"github.com/google/go-cmp/cmp"
	"github.com/maxmind/mmdbwriter/mmdbtype"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/proto"

	"weir/internal/cli/demo"
	"weir/internal/cli/report"
	"weir/internal/enrich"
	"weir/internal/settings"
	"weir/internal/weirtest/maxmind"
	"weir/pkg/flowpb"
)

// maxMindFile writes a database in MaxMind's format that gives values of networks, and returns its path.
func maxMindFile(t *testing.T, kind string, values map[string]mmdbtype.DataType) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), kind+".mmdb")
	if err := os.WriteFile(path, maxmind.Database(t, kind, values), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// annotatedFlows returns both directions of a conversation from two exporters, and of a conversation without an AS
// number from the exporter.
func annotatedFlows() []*flowpb.FlowMessage {
	const at = 1_700_000_000e9
	flow := func(n uint64, from, to string, fromPort, toPort uint32, exporter string) *flowpb.FlowMessage {
		return &flowpb.FlowMessage{
			Type: flowpb.FlowMessage_IPFIX, SrcAddr: netip.MustParseAddr(from).AsSlice(), DstAddr: netip.MustParseAddr(to).AsSlice(),
			SrcPort: fromPort, DstPort: toPort, Proto: 6, TcpFlags: 0x1b, Bytes: 100 * n, Packets: 20 + n, SamplingRate: 1,
			SamplerAddress: netip.MustParseAddr(exporter).AsSlice(), ObservationDomainId: 7, DatagramHash: n, TimeResolutionUs: 1000,
			TimeReceivedNs: at + n*1e6, TimeFlowStartNs: at - 5e9 + n*1e6, TimeFlowEndNs: at - 1e9,
		}
	}
	out, back := flow(1, "192.0.2.10", "198.51.100.80", 40000, 443, "203.0.113.1"), flow(2, "198.51.100.80", "192.0.2.10", 443, 40000, "203.0.113.2")
	out.InIf, out.InIfName, out.OutIf, out.OutIfName, out.ExporterName = 1, "ge-0/0/1", 2, "uplink", "edge-1"
	out.IngressVrfId, out.IngressVrfName, out.EgressVrfId, out.EgressVrfName = 3, "red", 4, "blue"
	out.ApplicationId, out.ApplicationName = []byte{13, 0, 1, 0xbb}, "tls"
	out.SrcAs, out.DstAs, back.SrcAs, back.DstAs = 0, 65010, 65010, 0
	back.InIf, back.OutIf = 2, 1
	inbound := flow(3, "2001:db8::9", "192.0.2.25", 50000, 25, "203.0.113.1")
	return []*flowpb.FlowMessage{out, back, inbound}
}

// enriched returns the connections that enrich reports for flows, as lines of JSON without the fields that depend
// on the time of the report. The settings come from the environment.
func enriched(t *testing.T, flows []*flowpb.FlowMessage) map[string]map[string]any {
	t.Helper()
	b := onBroker(t)
	c, err := settings.Parse[enrich.Config](env.ToMap(os.Environ()))
	if err != nil {
		t.Fatal(err)
	}
	c.Topics.Partitions, c.Topics.Replication, c.CommitEvery = 1, 1, 10*time.Millisecond
	reports := make(chan []*flowpb.Connection, 100)
	metrics := prometheus.NewRegistry()
	w, err := enrich.New(c, enrich.Deps{
		Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return time.Unix(1_700_000_000, 0) }, Metrics: metrics,
		Committed: func(list []*flowpb.Connection) { reports <- list },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.Addr()), kgo.UnknownTopicRetries(-1))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	produce := func(m *flowpb.FlowMessage) {
		value, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if err := cl.ProduceSync(ctx, &kgo.Record{Topic: c.Topics.Prefix + "flows", Value: value}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	until := func(what string, is func() bool) {
		t.Helper()
		for !is() {
			select {
			case <-ctx.Done():
				t.Fatalf("not within a minute: %s", what)
			case <-tick.C:
			}
		}
	}
	until("the topics are there", func() bool { return w.Ready() == nil })
	for _, m := range flows {
		produce(m)
	}
	until("the flows are taken", func() bool { return w.Stats().Flows == uint64(len(flows)) })
	until("names are known", func() bool {
		families, err := metrics.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if f.GetName() == "weir_enrich_dns_pending" {
				return f.GetMetric()[0].GetGauge().GetValue() == 0
			}
		}
		return false
	})
	last := proto.CloneOf(flows[0]) // its time of receipt ends the connections before it
	last.SrcPort, last.DatagramHash = 1, 99
	last.TimeReceivedNs += uint64(4 * time.Minute)
	produce(last)
	lines := map[string]map[string]any{}
	for len(lines) < 2 {
		select {
		case list := <-reports:
			for _, x := range list {
				var out bytes.Buffer
				report.NewConnectionPrinter(&out, report.JSONLines).PrintAll([]*flowpb.Connection{x})
				addComparable(t, lines, out.String())
			}
		case <-ctx.Done():
			t.Fatal("no connections within a minute")
		}
	}
	return lines
}

// addComparable adds lines of JSON by connection id, without the fields that depend on when a connection is reported.
func addComparable(t *testing.T, to map[string]map[string]any, lines string) {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(lines))
	for d.More() {
		m := map[string]any{}
		if err := d.Decode(&m); err != nil {
			t.Fatal(err)
		}
		delete(m, "emitted_unix_ns")
		delete(m, "emit_reason")
		to[m["connection_id"].(string)] = m
	}
}

func TestFilesAreAnnotatedAsEnrichAnnotatesTheTopic(t *testing.T) {
	s, err := demo.StartNameServer("www.example.net 198.51.100.80\nclient.example.net 192.0.2.10")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	t.Setenv("DNS_ENABLED", "true")
	t.Setenv("DNS_SERVERS", s.Addr)
	t.Setenv("DNS_PRIVATE_SERVERS", s.Addr)
	asn := func(n uint32) mmdbtype.DataType {
		return mmdbtype.Map{"autonomous_system_number": mmdbtype.Uint32(n)}
	}
	country := func(code string) mmdbtype.DataType {
		return mmdbtype.Map{"country": mmdbtype.Map{"iso_code": mmdbtype.String(code)}}
	}
	t.Setenv("MAXMIND_FILES", strings.Join([]string{
		maxMindFile(t, "ASN", map[string]mmdbtype.DataType{"192.0.2.0/24": asn(64500), "198.51.100.0/24": asn(64501), "2001:db8::/32": asn(64502)}),
		maxMindFile(t, "Country", map[string]mmdbtype.DataType{"192.0.2.0/24": country("DE"), "198.51.100.0/24": country("FR")}),
	}, ","))
	t.Setenv("HOME_NETS", "192.0.2.0/24")
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte(strings.Repeat("0123456789abcdef", 4)), 0o600); err != nil {
		t.Fatal(err)
	}
	flows := annotatedFlows()
	file := filepath.Join(t.TempDir(), "flows.jsonl")
	var text []byte
	for _, m := range flows {
		text = append(append(text, report.AppendFlowJSON(nil, m, nil)...), '\n')
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, keyFile := range map[string]string{"named": "", "anonymised": key} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("ANONYMIZE_KEY_FILE", keyFile)
			got := run(t, "", "connections", "--json", file)
			lines := map[string]map[string]any{}
			addComparable(t, lines, got.out)
			if got.code != 0 || len(lines) != 2 {
				t.Fatalf("exit code %d, want 2 connections: %s%s", got.code, got.out, got.errout)
			}
			if d := cmp.Diff(enriched(t, flows), lines); d != "" {
				t.Errorf("-enrich +file\n%s", d)
			}
			if keyFile != "" {
				if strings.Contains(got.out, "192.0.2.10") || strings.Contains(got.out, "example.net") {
					t.Errorf("addresses or names under anonymisation: %s", got.out)
				}
				return
			}
			for _, want := range []string{
				// The exporter's AS comes before that of the file; 2001:db8::9 has no name.
				`"name":"client.example.net"`, `"name":"www.example.net"`, `"asn":64500,"country":"DE","is_home":true`, `"asn":65010,"country":"FR"`,
				`"asn":64502`, `"NETWORK_DIRECTION_OUTBOUND"`, `"NETWORK_DIRECTION_INBOUND"`, `"service":"https"`, `"service":"smtp"`,
				`"input_if_name":"ge-0/0/1"`, `"output_if_name":"uplink"`, `"input_vrf_name":"red"`, `"output_vrf_name":"blue"`,
				`"application_name":"tls"`, `"community_id":"1:`,
			} {
				if !strings.Contains(got.out, want) {
					t.Errorf("want %s in\n%s", want, got.out)
				}
			}
		})
	}
}

// An IPFIX exporter announces the name of interface 9 after the flow that went through it; the octets are by hand (RFC 7011
// section 3, options template with scope ingressInterface and interfaceName).
func TestNamesOfOptionsDataThatComesLaterAreInConnections(t *testing.T) {
	flows := "000a0058" + "6553f100" + "00000001" + "00000007" +
		"00020028" + "01000008" + "00080004" + "000c0004" + "00070002" + "000b0002" + "00040001" + "000a0004" + "00010004" + "00020004" +
		"01000020" + "c000020a" + "c6336450" + "9c40" + "01bb" + "06" + "00000009" + "00000064" + "00000014" + "000000"
	options := "000a0034" + "6553f101" + "00000002" + "00000007" +
		"00030012" + "01010002" + "0001" + "000a0004" + "0052ffff" +
		"01010012" + "00000009" + "08" + "67652d302f302f39" + "00"
	got := run(t, flows+"\n"+options+"\n", "connections", "--json", "-")
	if want := `"input_if":9,"input_if_name":"ge-0/0/9"`; got.code != 0 || !strings.Contains(got.out, want) {
		t.Errorf("want %s in %s%s", want, got.out, got.errout)
	}
}
