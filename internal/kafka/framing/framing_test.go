package framing

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

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
	got, err := Config{Format: "json"}.Append(nil, Flows, marshal(t, &flowpb.FlowMessage{Type: flowpb.FlowMessage_IPFIX, SrcAddr: []byte{192, 0, 2, 1}, Bytes: 7}))
	if err != nil {
		t.Fatal(err)
	}
	// protojson adds a space here or there, so that nobody takes its output for canonical.
	if s := strings.ReplaceAll(string(got), " ", ""); s != `{"type":"IPFIX","src_addr":"wAACAQ==","bytes":"7"}` {
		t.Error(s)
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
