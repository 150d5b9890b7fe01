package query_test

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"weir/internal/query"
	"weir/internal/weirtest/captures"
	"weir/pkg/flowpb"
)

func addr(s string) []byte { return netip.MustParseAddr(s).AsSlice() }

// aFlow is a TLS flow of 12 s with 1:100 sampling.
var aFlow = &flowpb.FlowMessage{
	SrcAddr: addr("10.1.2.3"), DstAddr: addr("192.0.2.80"), SrcPort: 40000, DstPort: 443, Proto: 6, TcpFlags: 0x1b,
	Bytes: 3_000_000, Packets: 2500, TimeFlowStartNs: 1_700_000_000_400_999_999, TimeFlowEndNs: 1_700_000_012_400_000_000,
	SamplerAddress: addr("198.51.100.1"), ExporterName: "edge-1.lab", InIf: 3, OutIf: 7, InIfName: "Gi0/3", OutIfName: "uplink to core",
	SrcAs: 64500, SamplingRate: 100, SrcMac: 0x020000000001, FlowDirection: flowpb.FlowDirection_FLOW_DIRECTION_EGRESS, IngressVrfId: 5,
	IngressVrfName: "red", ApplicationName: "ssl", UserName: "Alice", IpTtl: 61, SrcVlan: 100, PostNatSrcAddr: addr("203.0.113.9"),
	Elements: []*flowpb.Element{{Pen: 0, Id: 187, Value: []byte{1, 2}}, {Pen: 0, Id: 361, Value: []byte{0x17, 0x70}}},
}

// aConnection is a connection of two exporters.
var aConnection = &flowpb.Connection{
	Protocol: 6, Service: "https", StartUnixNs: 1_700_000_000_000_000_000, EndUnixNs: 1_700_000_002_000_000_000,
	Initiator: &flowpb.Endpoint{Address: addr("10.1.2.3"), Port: 40000, Name: "pc7.example.net", Asn: 64500, Country: "DE"},
	Responder: &flowpb.Endpoint{Address: addr("2001:db8::80"), Port: 443, Name: "WWW.example.com", NatAddress: addr("192.0.2.80")},
	Forward:   &flowpb.Traffic{Octets: 1000, Packets: 3, Records: 2, TcpFlags: 2, Exporter: addr("198.51.100.1"), InputIf: 3, InputIfName: "Gi0/3", OutputIf: 7},
	Reverse:   &flowpb.Traffic{Octets: 9000, Packets: 7, Records: 1, TcpFlags: 0x12, InputIf: 7, OutputIf: 3, SamplingRateMax: 10},
	ConnState: flowpb.ConnState_CONN_STATE_SF, DirectionMethod: flowpb.DirectionMethod_DIRECTION_METHOD_TCP_SYN,
}

func matches(t *testing.T, s *query.Schema, expression string, m proto.Message) bool {
	t.Helper()
	f, err := query.Parse(s, expression)
	if err != nil {
		t.Fatalf("%s: %v", expression, err)
	}
	r := query.NewReader(s)
	match, err := f.Compile(r)
	if err != nil {
		t.Fatal(err)
	}
	wire, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	row, err := r.Read(wire)
	if err != nil {
		t.Fatal(err)
	}
	return match(row)
}

func TestPredicatesOfFlows(t *testing.T) {
	for expression, want := range map[string]bool{
		"src net 10/8 and (dst port 443 or service ssh) and not proto udp": true,
		"net 10.1/16 and tcp": true, "udp port 443": false, "tcp port 443": true, "tcp and port ssh": false, "port https": true,
		"port 400-500": true, "src port 400-500": false, "port != 443": false, "port != 80": true, "src port <> 40000": false,
		"exporter 198.51.100.1": true, "exporter edge-*": true, "exporter EDGE-1.lab": true, "exporter core": false,
		"exporter in [198.51.100.0/24, 10.0.0.1]": true, "exporter != 198.51.100.1": false, "router ip 198.51.100.1": true,
		"if 3": true, "if in 3": true, "in if 3": true, "out if 3": false, "if out 7": true, "if Gi0/3": true, "if in gi0/*": true,
		`if "uplink to core"`: true, `out if "uplink*"`: true, "if out Gi0/3": false, "if in [3 4]": true,
		"as 64500": true, "dst as 64500": false, "vrf red": true, "vrf 5": true, "vrf blue": false, "app ssl": true, "app http*": false,
		"service https": true, "service in [ssh https]": true, "flags S/SA": false, "flags SA": true, "flags SA/SA": true,
		"flags 27": true, "flags 2": false, "flags S/SR": true, "octets > 1M": true, "octets > 3M": false, "bytes >= 3m": true,
		"duration > 10s": true, "duration = 12000": true, "duration < 12s": false, "duration <= 1min": true, "duration >= 1h": false,
		"rate > 1Mbps": true, "rate > 10Mbps": false, "bps = 2000000": true, "rate > 1.5": false, "pps > 208": false, "pps 208": true,
		"bpp 1200": true, "sampled": true, "not sampled": false, "ipv4": true, "inet6": false, "flowdir egress": true, "vlan 100": true,
		"src mac 02:00:00:00:00:01": true, "dst mac 2:0:0:0:0:1": false, "user_name alice": true, "userName AL?CE": true, "ip_ttl < 64": true,
		"ipTTL 61": true, "tcpControlBits 27": true, "post_nat_src_addr 203.0.113.9": true, "postNATSourceIPv4Address in [203.0.113.0/24]": true,
		"flowStartSysUpTime 1": false, "portRangeStart 6000": true, "portRangeStart > 6000": false, "portRangeEnd != 5": false, "flow_direction egress": true,
		"flow_direction FLOW_DIRECTION_INGRESS": false, "flow_direction 2": true, "any": true, "flows 1": true, "flows > 1": false,
		"flows != 1": false, "flows ne 2": true, "not flows != 1": true,
		"src or dst host 192.0.2.80": true, "src and dst net 0.0.0.0/0": true, "proto in [6 udp]": true, "mask 0": true,
		"sampling_rate 100": true, "time_flow_start_ns > 0": true, "net 10.0.0.0 255.0.0.0": true, "# nothing\nport 443 # https": true,
	} {
		if expression == "rate > 1.5" {
			continue // see TestErrorsOfExpressions
		}
		if got := matches(t, query.Flows(), expression, aFlow); got != want {
			t.Errorf("%s: want %v, got %v", expression, want, got)
		}
	}
}

func TestPredicatesOfConnections(t *testing.T) {
	for expression, want := range map[string]bool{
		"initiator net 10/8": true, "responder net 10/8": false, "src ip 10.1.2.3": true, "host 192.0.2.80": true, "responder ip 192.0.2.80": true,
		"host *.example.net": true, "initiator host *.example.com": false, "host www.example.com": true, "host in [www.example.com 1.2.3.4]": true,
		"octets 10000": true, "packets 10": true, "flows 3": true, "bpp 1000": true, "bps = 40k": true, "duration 2s": true,
		"state SF": true, "state S0": false, "state in [S0 sf]": true, "service https": true, "country de": true, "responder country de": false,
		"sampled": true, "forward.octets 1000": true, "reverse.packets > 7": false, "direction_method tcp_syn": true, "ipv4": true, "ipv6": false,
		"flags SA": true, "as 64500": true, "initiator as 64500": true, "in if 3": true, "if Gi0/3": true, "out if 3": false,
		"exporter 198.51.100.1": true, "port 443 and tcp": true, "responder port 443": true,
	} {
		if got := matches(t, query.Connections(), expression, aConnection); got != want {
			t.Errorf("%s: want %v, got %v", expression, want, got)
		}
	}
}

func TestErrorsOfExpressions(t *testing.T) {
	for _, tt := range []struct {
		schema     *query.Schema
		expression string
		offset     int
		text       string
	}{
		{query.Flows(), "src net 10/8 and prot 6", 17, "is proto meant?"},
		{query.Flows(), "port 80 and (host 10.0.0.1", 26, "want ) for the ( at character 13"},
		{query.Flows(), "port 65536", 5, "0 to 65535"},
		{query.Flows(), "host 10.0.0.0/8", 5, "want net 10.0.0.0/8"},
		{query.Flows(), "host www.example.net", 0, "no names of host"},
		{query.Flows(), "initiator port 80", 0, "a flow has no initiator"},
		{query.Flows(), "state S0", 0, "a flow has no state"},
		{query.Flows(), "country DE", 0, "a flow has no country"},
		{query.Flows(), "rate > 1.5", 7, `".5" is not a unit`},
		{query.Flows(), "duration > 10y", 11, "want ms, s, min, h, d"},
		{query.Flows(), `app "ssl`, 4, `closing '"' is missing`},
		{query.Flows(), "flags SZ", 6, "want letters of FSRPAUEC"},
		{query.Flows(), "proto < udp and", 15, "a condition is missing"},
		{query.Flows(), "app > x", 4, "cannot be ordered"},
		{query.Flows(), "flow_direction sideways", 0, "FLOW_DIRECTION_INGRESS"},
		{query.Flows(), strings.Repeat("(", 10_000), 100, "within each other"},
		{query.Flows(), strings.Repeat("not ", 10_000) + "any", 400, "within each other"},
		{query.Connections(), "next ip 10.0.0.1", 0, "a connection has no next ip"},
		{query.Connections(), "state S9", 0, "CONN_STATE_SF"},
	} {
		_, err := query.Parse(tt.schema, tt.expression)
		var e *query.SyntaxError
		if !errors.As(err, &e) || e.Offset != tt.offset || !strings.Contains(e.Msg, tt.text) {
			t.Errorf("%.60s: want %d %q, got %+v", tt.expression, tt.offset, tt.text, err)
		}
	}
	e := &query.SyntaxError{Offset: 14, Msg: "not so"}
	if got, want := e.Show("port 80\nand \x1bport x"), "and  port x\n      ^ not so"; got != want {
		t.Errorf("want\n%s\ngot\n%s", want, got)
	}
}

func TestALongListIsSearchedByLengthOfPrefix(t *testing.T) {
	var b strings.Builder
	b.WriteString("host in [")
	for i := range 20_000 {
		b.WriteString(netip.AddrFrom4([4]byte{172, 16, byte(i >> 8), byte(i)}).String() + " ")
	}
	if !matches(t, query.Flows(), b.String()+"192.0.2.0/24]", aFlow) || matches(t, query.Flows(), b.String()+"192.0.3.0/24]", aFlow) {
		t.Error("want a match by the last network alone")
	}
}

// An expression that parses has a canonical form, which parses to itself. Matching never fails.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"src net 10/8 and (dst port 443 or service ssh) and not proto udp", "flags S/SA or flags 0 or flags X", `if in "a b"`, "port in [80-90, ssh, 7]",
		"net 10.0.0.0 255.0.0.0", "duration > 10s && rate <= 10Mbps", "host in [::1/128 10.0.0.1]", "state in [S0, SF]", "flow_direction egress", "# c\nany",
		"portRangeStart != 0", "mac 00:11:22:33:44:55", "src and dst as 64500", "in src mac 2:0:0:0:0:1", "prev as 0", "tcp udp port 1-2",
	} {
		f.Add(s)
	}
	flow, _ := proto.Marshal(aFlow)
	connection, _ := proto.Marshal(aConnection)
	f.Fuzz(func(t *testing.T, expression string) {
		for schema, wire := range map[*query.Schema][]byte{query.Flows(): flow, query.Connections(): connection} {
			filter, err := query.Parse(schema, expression)
			if err != nil {
				var e *query.SyntaxError
				if !errors.As(err, &e) || e.Offset < 0 || e.Offset > len(expression) {
					t.Fatalf("%q: %v", expression, err)
				}
				_ = e.Show(expression)
				continue
			}
			text := filter.String()
			again, err := query.Parse(schema, text)
			if err != nil || again.String() != text {
				t.Fatalf("%q is %q in its canonical form, which is %v, %v", expression, text, again, err)
			}
			var answers [2]bool
			for i, f := range []*query.Filter{filter, again} {
				r := query.NewReader(schema)
				match, err := f.Compile(r)
				if err != nil {
					t.Fatal(err)
				}
				row, err := r.Read(wire)
				if err != nil {
					t.Fatal(err)
				}
				answers[i] = match(row)
			}
			if answers[0] != answers[1] {
				t.Fatalf("%q matches: %v, %q matches: %v", expression, answers[0], text, answers[1])
			}
		}
	})
}

// Octets that are no message are an error, not a panic.
func FuzzRead(f *testing.F) {
	flow, _ := proto.Marshal(aFlow)
	f.Add(flow)
	filter, err := query.Parse(query.Flows(), "src net 10/8 or portRangeStart 5 or app x or service y or bps 7 or mac 0:0:0:0:0:0 or userName x")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, wire []byte) {
		r := query.NewReader(query.Flows())
		match, err := filter.Compile(r)
		if err != nil {
			t.Fatal(err)
		}
		row, err := r.Read(wire)
		_ = match(row)
		if invalid := proto.Unmarshal(wire, &flowpb.FlowMessage{}) != nil; err != nil && !invalid {
			t.Fatalf("protobuf reads what Read refuses: %v", err)
		}
	})
}

func BenchmarkFilter(b *testing.B) {
	wire, err := proto.Marshal(aFlow)
	if err != nil {
		b.Fatal(err)
	}
	for name, expression := range map[string]string{
		"short": "port 22",
		"usual": "src net 172.16/12 and (dst port 443 or service ssh) and not proto udp",
		"rate":  "tcp and rate > 10Mbps and duration > 10s",
	} {
		b.Run(name, func(b *testing.B) {
			f, err := query.Parse(query.Flows(), expression)
			if err != nil {
				b.Fatal(err)
			}
			r := query.NewReader(query.Flows())
			match, err := f.Compile(r)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				row, err := r.Read(wire)
				if err != nil || match(row) && name != "rate" {
					b.Fatal(err)
				}
			}
		})
	}
}

// Every example of docs/filter.md is an expression of the schema of its column.
func TestExamplesOfTheDocument(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(captures.Root(), "docs", "filter.md"))
	if err != nil {
		t.Fatal(err)
	}
	examples := 0
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(line, " | ")
		if !strings.HasPrefix(line, "| `") || len(cells) != 4 {
			continue
		}
		for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cells[1], -1) {
			examples++
			for _, side := range []struct {
				schema *query.Schema
				cell   string
			}{{query.Flows(), cells[2]}, {query.Connections(), cells[3]}} {
				_, err := query.Parse(side.schema, m[1])
				wrong := strings.Contains(side.cell, "an error") ||
					strings.Contains(side.cell, "without `mask`") && strings.Contains(m[1], "mask")
				if (err != nil) != wrong {
					t.Errorf("%s about a %s: %v", m[1], side.schema.Name, err)
				}
			}
		}
	}
	if examples < 40 {
		t.Errorf("only %d examples found", examples)
	}
}
