package framing

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"weir/pkg/flowpb"
)

func flow(port uint32) *flowpb.FlowMessage {
	return &flowpb.FlowMessage{Type: flowpb.FlowMessage_IPFIX, SrcAddr: []byte{192, 0, 2, 1}, SrcPort: port, DatagramHash: 1, Bytes: 1 << 40}
}

func marshal(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// messages decodes the messages of a record.
func messages(k *Kind, record []byte) (out [][]byte, err error) {
	n, err := k.Each(record, func(m []byte) { out = append(out, m) })
	if n != len(out) {
		return nil, fmt.Errorf("%d messages counted, %d given", n, len(out))
	}
	return out, err
}

// TestEveryFormIsReadAgain checks that readers recognise the form of a record at all lengths, among them those
// that look like a tag or a brace (8, 10, 123).
func TestEveryFormIsReadAgain(t *testing.T) {
	for n := range 300 {
		f := flow(uint32(n))
		f.Site = strings.Repeat("x", n)
		c := &flowpb.Connection{ConnectionId: make([]byte, 16), Version: 1, Service: strings.Repeat("y", n)}
		for _, form := range []Config{{}, {Framing: "delimited"}, {Format: "json"}} {
			for _, x := range []struct {
				kind *Kind
				m    proto.Message
			}{{&Flows, f}, {&Connections, c}} {
				want := marshal(t, x.m)
				record, err := form.Append(nil, *x.kind, want)
				if err != nil {
					t.Fatal(err)
				}
				got, err := messages(x.kind, record)
				if err != nil || len(got) != 1 {
					t.Fatalf("%+v, %s of %d octets: %d messages, %v", form, x.kind.name, len(want), len(got), err)
				}
				again := x.kind.message()
				if err := proto.Unmarshal(got[0], again); err != nil || !proto.Equal(x.m, again) {
					t.Fatalf("%+v: want %v, got %v (%v)", form, x.m, again, err)
				}
			}
		}
	}
}

func TestSeveralMessagesOfARecord(t *testing.T) {
	var record []byte
	var want [][]byte
	for i := range 50 {
		f := flow(uint32(i))
		f.Site = strings.Repeat("x", i*4)
		want = append(want, marshal(t, f))
		record = AppendDelimited(record, want[i])
	}
	got, err := messages(&Flows, record)
	if err != nil || len(got) != len(want) {
		t.Fatalf("%d messages, %v", len(got), err)
	}
	for i := range want {
		if !bytes.Equal(got[i], want[i]) {
			t.Errorf("message %d: %x, want %x", i, got[i], want[i])
		}
	}
	if got, err := messages(&Flows, record[:len(record)-1]); err == nil || len(got) != 49 {
		t.Errorf("a record that is cut: %d messages, error %v; want 49 and an error", len(got), err)
	}
}

func TestTheFormOfJSON(t *testing.T) {
	for _, tt := range []struct {
		kind Kind
		m    proto.Message
		want string
	}{
		{
			Flows,
			&flowpb.FlowMessage{
				Type: flowpb.FlowMessage_IPFIX, SrcAddr: []byte{192, 0, 2, 1}, Bytes: math.MaxUint64, SrcPort: 7, SrcMac: 255,
				TimeReceivedNs: 1, DatagramHash: 1 << 63, FlowDirection: 77, VrfName: "a\"ü", Biflow: true,
				MplsLabel: []uint32{16, 0}, MplsIp: [][]byte{{10, 0, 0, 2}, {}},
				Elements: []*flowpb.Element{{Id: 276, Value: []byte{2}}},
			},
			`{"type":"IPFIX","src_addr":"wAACAQ==","bytes":18446744073709551615,"src_port":7,"src_mac":"255","mpls_label":[16,0],` +
				`"vrf_name":"a\"ü","mpls_ip":["CgAAAg==",""],"time_received_ns":"1","datagram_hash":"9223372036854775808",` +
				`"biflow":true,"elements":[{"id":276,"value":"Ag=="}],"flow_direction":77}`,
		},
		{
			Connections,
			&flowpb.Connection{
				ConnectionId: []byte{0xab}, StartUnixNs: -1, IcmpCode: proto.Uint32(0),
				Forward: &flowpb.Traffic{Octets: 1<<53 + 1, SamplingRateMax: 1000}, Quality: []flowpb.Quality{flowpb.Quality_QUALITY_NAT},
			},
			`{"connection_id":"qw==","start_unix_ns":"-1","icmp_code":0,"forward":{"octets":9007199254740993,"sampling_rate_max":1000},` +
				`"quality":["QUALITY_NAT"]}`,
		},
	} {
		got, err := Config{Format: "json"}.Append(nil, tt.kind, marshal(t, tt.m))
		if err != nil {
			t.Fatal(err)
		}
		var have, want map[string]any
		for _, x := range []struct {
			text []byte
			to   *map[string]any
		}{{got, &have}, {[]byte(tt.want), &want}} {
			d := json.NewDecoder(bytes.NewReader(x.text))
			d.UseNumber()
			if err := d.Decode(x.to); err != nil {
				t.Fatalf("%s: %v", x.text, err)
			}
		}
		if d := cmp.Diff(want, have); d != "" {
			t.Errorf("-want +got\n%s", d)
		}
		// Replicas of earlier versions read records with protojson.
		again := tt.kind.message()
		if err := protojson.Unmarshal(got, again); err != nil || !proto.Equal(tt.m, again) {
			t.Errorf("protojson reads %v, %v; want %v", again, err, tt.m)
		}
	}
}

// Records of earlier versions have all integers of 64 bits as strings.
func TestRecordsOfEarlierVersionsAreRead(t *testing.T) {
	for text, want := range map[string]proto.Message{
		`{"type":"IPFIX","bytes":"18446744073709551615","time_received_ns":"1","datagram_hash":"9223372036854775808"}`: &flowpb.FlowMessage{
			Type: flowpb.FlowMessage_IPFIX, Bytes: math.MaxUint64, TimeReceivedNs: 1, DatagramHash: 1 << 63,
		},
		`{"type":"IPFIX","bytes":18446744073709551615,"time_received_ns":1,"datagram_hash":9223372036854775808}`: &flowpb.FlowMessage{
			Type: flowpb.FlowMessage_IPFIX, Bytes: math.MaxUint64, TimeReceivedNs: 1, DatagramHash: 1 << 63,
		},
	} {
		got, err := messages(&Flows, []byte(text))
		m := &flowpb.FlowMessage{}
		if err != nil || len(got) != 1 || proto.Unmarshal(got[0], m) != nil || !proto.Equal(want, m) {
			t.Errorf("%s: %v, %v; want %v", text, m, err, want)
		}
	}
}

func TestWhatIsNoRecord(t *testing.T) {
	whole := AppendDelimited(nil, marshal(t, flow(1)))
	for name, b := range map[string][]byte{
		"empty":              {},
		"one octet":          {0x20},
		"a length alone":     {0x05},
		"length zero":        {0x00, 0x08, 0x04},
		"cut":                whole[:len(whole)-1],
		"another first":      {0x02, 0x18, 0x01},
		"a length of 2^63":   {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 0x08},
		"JSON that is wrong": []byte(`{"type":`),
		"JSON of others":     []byte(`{"colour":"red"}`),
	} {
		if m, err := messages(&Flows, b); err == nil {
			t.Errorf("%s: %x", name, m)
		}
	}
}

func TestValidateNamesVariableAndValue(t *testing.T) {
	for _, x := range []struct {
		c    Config
		want string
	}{
		{Config{}, ""},
		{Config{Format: "protobuf", Framing: "delimited"}, ""},
		{Config{Format: "json", Framing: "single"}, ""},
		{Config{Format: "xml"}, `FORMAT="xml"`},
		{Config{Framing: "double"}, `FRAMING="double"`},
		{Config{Format: "json", Framing: "delimited"}, "FRAMING=delimited with FORMAT=json"},
	} {
		err := x.c.Validate()
		if (err == nil) != (x.want == "") || err != nil && !strings.Contains(err.Error(), x.want) {
			t.Errorf("%+v: %v, want %q", x.c, err, x.want)
		}
	}
}

// FuzzNext checks that any record is decoded or refused, and that the messages are parts of the record.
func FuzzNext(f *testing.F) {
	one, err := proto.Marshal(flow(1))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(one)
	f.Add(AppendDelimited(AppendDelimited(nil, one), one))
	f.Add([]byte(`{"type":"IPFIX"}`))
	f.Add([]byte{0x7b, 0x08})
	f.Fuzz(func(t *testing.T, record []byte) {
		for _, k := range []*Kind{&Flows, &Connections} {
			got, _ := messages(k, record)
			n := 0
			for _, m := range got {
				n += len(m)
			}
			if n > len(record) && record[0] != '{' {
				t.Errorf("%d octets out of %d", n, len(record))
			}
		}
	})
}
