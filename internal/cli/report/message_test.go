package report

import (
	"encoding/hex"
	"encoding/json"
	"math"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"weir/pkg/flowpb"
)

func TestFieldsAreJSONMembersByTheirProtoNames(t *testing.T) {
	tests := []struct {
		name string
		in   proto.Message
		want string
	}{
		{"an empty message has no members", &flowpb.FlowMessage{}, `{}`},
		{
			"addresses and MACs are text",
			&flowpb.FlowMessage{
				SrcAddr: []byte{192, 0, 2, 1}, DstAddr: []byte{0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1},
				SamplerAddress: []byte{10, 0, 0, 1}, SrcMac: 0x001122334455, DstMac: 0xff0000000001,
				MplsIp: [][]byte{{10, 0, 0, 2}, {10, 0, 0, 3}},
			},
			`{"src_addr":"192.0.2.1","dst_addr":"2001:db8::1","sampler_address":"10.0.0.1","src_mac":"00:11:22:33:44:55","dst_mac":"ff:00:00:00:00:01","mpls_ip":["10.0.0.2","10.0.0.3"]}`,
		},
		{
			"what is no address is hex text",
			&flowpb.FlowMessage{SrcAddr: []byte{1, 2, 3}, ApplicationId: []byte{3, 0, 1, 0xbb}},
			`{"src_addr":"010203","application_id":"030001bb"}`,
		},
		{
			"counters are exact numbers; times, hashes and identifiers are strings",
			&flowpb.FlowMessage{Bytes: math.MaxUint64, Packets: 1<<53 + 1, DatagramHash: math.MaxUint64 - 1, TimeReceivedNs: 5, FlowId: 6, TunnelId: 7, SamplerId: 8},
			`{"bytes":18446744073709551615,"packets":9007199254740993,"time_received_ns":"5",` +
				`"datagram_hash":"18446744073709551614","flow_id":"6","sampler_id":"8","tunnel_id":"7"}`,
		},
		{
			"enums are names, unknown ones numbers",
			&flowpb.FlowMessage{
				Type: flowpb.FlowMessage_IPFIX, FlowDirection: 77,
				LayerStack: []flowpb.FlowMessage_LayerStack{flowpb.FlowMessage_Ethernet, flowpb.FlowMessage_IPv6},
			},
			`{"type":"IPFIX","layer_stack":["Ethernet","IPv6"],"flow_direction":77}`,
		},
		{
			"booleans and lists of numbers",
			&flowpb.FlowMessage{Biflow: true, MplsLabel: []uint32{16, 0, 17}},
			`{"mpls_label":[16,0,17],"biflow":true}`,
		},
		{
			"text is escaped",
			&flowpb.FlowMessage{InterfaceName: "a\"b\\c\x1b[31m", VrfName: "zürich"},
			`{"vrf_name":"zürich","interface_name":"a\"b\\c\u001b[31m"}`,
		},
		{
			"elements have names, octets and what they say",
			&flowpb.FlowMessage{Type: flowpb.FlowMessage_IPFIX, Elements: []*flowpb.Element{
				{Id: 276, Value: []byte{2}},
				{Pen: 29305, Id: 313, Value: []byte{0xde, 0xad}},
				{Pen: 4242, Id: 9, Value: []byte{1}},
			}},
			`{"type":"IPFIX","elements":[{"pen":0,"id":276,"name":"dataRecordsReliability","value":"02","decoded":false},` +
				`{"pen":29305,"id":313,"name":"reverseIpHeaderPacketSection","value":"dead"},{"pen":4242,"id":9,"value":"01"}]}`,
		},
		{
			"elements that only their exporter names are read by its type",
			&flowpb.FlowMessage{Type: flowpb.FlowMessage_IPFIX, Elements: []*flowpb.Element{
				{Pen: 4242, Id: 9, Value: []byte{0, 1, 0}, Name: "queueDepth", Type: 3},
				{Pen: 4242, Id: 10, Value: []byte{192, 0, 2, 1}, Name: "nearest hop", Type: 18},
				{Pen: 4242, Id: 11, Value: []byte{1}, Name: "opaque"},
				{Id: 276, Value: []byte{2}, Name: "theirs", Type: 13},
			}},
			`{"type":"IPFIX","elements":[{"pen":4242,"id":9,"name":"queueDepth","value":"000100","decoded":256,"type":3},` +
				`{"pen":4242,"id":10,"name":"nearest hop","value":"c0000201","decoded":"192.0.2.1","type":18},` +
				`{"pen":4242,"id":11,"name":"opaque","value":"01","type":0},` +
				`{"pen":0,"id":276,"name":"dataRecordsReliability","value":"02","decoded":false,"type":13}]}`,
		},
		{
			"NetFlow v9 has field types of its own",
			&flowpb.FlowMessage{Type: flowpb.FlowMessage_NETFLOW_V9, Elements: []*flowpb.Element{{Id: 40000, Value: []byte("alice\x00\x00")}}},
			`{"type":"NETFLOW_V9","elements":[{"pen":0,"id":40000,"name":"userName","value":"616c6963650000","decoded":"alice"}]}`,
		},
		{
			"messages within messages; optional fields are present at zero",
			&flowpb.Connection{
				ConnectionId: []byte{0xab, 0xcd}, Final: true, StartUnixNs: -1, IcmpCode: proto.Uint32(0),
				Initiator: &flowpb.Endpoint{Address: []byte{10, 0, 0, 5}, Port: 40000, Mac: []byte{0, 1, 2, 3, 4, 5}},
				Reverse:   &flowpb.Traffic{Exporter: []byte{10, 0, 0, 1}},
				Quality:   []flowpb.Quality{flowpb.Quality_QUALITY_ONE_SIDED},
			},
			`{"connection_id":"abcd","final":true,"start_unix_ns":"-1","icmp_code":0,"initiator":{"address":"10.0.0.5","port":40000,"mac":"00:01:02:03:04:05"},` +
				`"reverse":{"exporter":"10.0.0.1"},"quality":["QUALITY_ONE_SIDED"]}`,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got jsonLine
			got.open('{')
			got.fields(tt.in.ProtoReflect(), nil)
			got.close('}')
			if string(got) != tt.want {
				t.Errorf("want %s\n got %s", tt.want, got)
			}
			if !json.Valid(got) {
				t.Error("not valid JSON")
			}
		})
	}
}

func TestPairsSayEverythingThatIsPresent(t *testing.T) {
	m := &flowpb.FlowMessage{
		Type: flowpb.FlowMessage_IPFIX, SrcAddr: []byte{192, 0, 2, 1}, SrcMac: 1, TimeReceivedNs: 1700000000_500000000,
		MplsLabel: []uint32{16, 17}, InterfaceName: "Gi 0/1", VrfName: "\x1b[31m",
		Elements: []*flowpb.Element{{Id: 434, Value: []byte{0xff, 0xfe}}, {Pen: 4242, Id: 9, Value: []byte{1}},
			{Pen: 4242, Id: 10, Value: []byte{0, 1, 0}, Name: "queueDepth", Type: 3}, {Pen: 4242, Id: 11, Value: []byte("a"), Name: "a b=c", Type: 13}},
	}
	want := ` src_mac=00:00:00:00:00:01 mpls_label=16,17 time_received_ns=2023-11-14T22:13:20.5Z vrf_name="\x1b[31m"` +
		` interface_name="Gi 0/1" mibObjectValueInteger=-2 4242/9=01 queueDepth=256 "a b=c"=a`
	if got := string(appendFields(nil, m.ProtoReflect(), map[protoreflect.Name]bool{"type": true, "src_addr": true}, nil)); got != want {
		t.Errorf("want %s\n got %s", want, got)
	}
}

// FuzzText checks that a text is unchanged after a round trip through JSON, except for octets that are not UTF-8.
func FuzzText(f *testing.F) {
	for _, s := range []string{"", "plain", "\"\\\x00\x7f", "\xff", "\u2028", "</script>"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var j jsonLine
		j.text(s)
		var got string
		if err := json.Unmarshal(j, &got); err != nil {
			t.Fatal(err)
		}
		if want := string([]rune(s)); got != want {
			t.Fatalf("want %q, got %q", want, got)
		}
	})
}

func TestMACsAreReadAsTheyAreWritten(t *testing.T) {
	for _, tt := range []struct {
		text, hex string // hex "": an error
	}{
		{"00:1b:63:84:45:e6", "001b638445e6"},
		{"00-1B-63-84-45-E6", "001b638445e6"},
		{"00:1b:63:84:45:e6:01", "001b638445e601"}, // an exporter may send 7 octets
		{"ff", "ff"},
		{"001b638445e6", "001b638445e6"},
		{"00:1b:63:84:45:e", ""},
		{"00:1b:63:84:45:eg", ""},
		{"0:1b:63:84:45:e6", ""},
		{"00:1b:63:84:45:", ""},
	} {
		c := &flowpb.Connection{}
		err := SetFields(c.ProtoReflect(), map[string]any{"initiator": map[string]any{"mac": tt.text}})
		if got := hex.EncodeToString(c.GetInitiator().GetMac()); (err != nil) != (tt.hex == "") || err == nil && got != tt.hex {
			t.Errorf("%s: want %q, got %q, %v", tt.text, tt.hex, got, err)
		}
	}
}

// In files of earlier versions all integers are numbers.
func TestIntegersAreReadInBothForms(t *testing.T) {
	want := &flowpb.FlowMessage{
		Type: flowpb.FlowMessage_IPFIX, Bytes: math.MaxUint64, TimeReceivedNs: 1_790_000_000_000_000_001, DatagramHash: math.MaxUint64,
		SrcPort: 53, SrcMac: 0x0a, FlowId: 1 << 63,
	}
	for _, text := range []string{
		`{"type":"IPFIX","bytes":18446744073709551615,"src_port":53,"src_mac":"00:00:00:00:00:0a","time_received_ns":"1790000000000000001",` +
			`"datagram_hash":"18446744073709551615","flow_id":"9223372036854775808"}`,
		`{"type":4,"bytes":"18446744073709551615","src_port":"53","src_mac":10,"time_received_ns":1790000000000000001,` +
			`"datagram_hash":18446744073709551615,"flow_id":9223372036854775808}`,
	} {
		var members map[string]any
		d := json.NewDecoder(strings.NewReader(text))
		d.UseNumber()
		if err := d.Decode(&members); err != nil {
			t.Fatal(err)
		}
		got := &flowpb.FlowMessage{}
		if err := SetFields(got.ProtoReflect(), members); err != nil || !proto.Equal(want, got) {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	for _, wrong := range []string{"", "x", "-1", "18446744073709551616", "1e3"} {
		err := SetFields((&flowpb.FlowMessage{}).ProtoReflect(), map[string]any{"bytes": wrong})
		if err == nil {
			t.Errorf("bytes of %q: no error", wrong)
		}
	}
}
