package cli

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"weir/internal/decode"
	"weir/internal/kafka"
	"weir/internal/loss"
	"weir/internal/templates"
	"weir/pkg/flowpb"
)

// hostile is a text that clears a screen, rings, sets a title, goes back in its line,
// begins another line, a cell and a field, turns the direction of writing (U+202E, U+2066)
// and has C1 controls (U+0085, U+009B) and invisible characters in it.
const hostile = "a\x1b[2J\x1b]0;t\x07\r\nforged\t\x00\x08\x7f\u0085\u009b31m\u202eb\u2066c\u200bd\ufeff\u2028e\U000e0041=\"'\\"

// hostileOctets is hostile with octets that are not UTF-8: CSI of 8 bits.
const hostileOctets = hostile + "\x9b31m\xff"

func TestPlain(t *testing.T) {
	for in, want := range map[string]string{
		"":                        "",
		"plain, with Ümläuts → …": "plain, with Ümläuts → …",
		"a\x1b[31mb":              `a\x1b[31mb`,
		"a\nb\tc\r":               `a\nb\tc\r`,
		"\u202e\u200b\u009b":      `\u202e\u200b\u009b`,
		"\x9b31m":                 `\x9b31m`,
		"\U000e0041":              `\U000e0041`,
	} {
		if got := plain(in); got != want {
			t.Errorf("%q: want %q, got %q", in, want, got)
		}
	}
}

func FuzzPlain(f *testing.F) {
	f.Add(hostile)
	f.Add(hostileOctets)
	f.Fuzz(func(t *testing.T, s string) {
		for _, out := range []string{plain(s), quoted(s), harmless(s), clip(plain(s), 5)} {
			if bad := unseen(out, ""); bad != "" {
				t.Errorf("%q: %s in %q", s, bad, out)
			}
		}
		if bad := unseen(printable(s), "\n\t"); bad != "" {
			t.Errorf("%q: %s", s, bad)
		}
		var j jsonLine
		j.text(s)
		var back string
		if err := json.Unmarshal(j, &back); err != nil || back != strings.ToValidUTF8(s, "\ufffd") && utf8.ValidString(s) || unseen(string(j), "") != "" {
			t.Errorf("%q: JSON %q is %q, %v", s, j, back, err)
		}
	})
}

// unseen names the first character of s that a terminal would act on or not show, but
// for those of but. It does not use the code under test.
func unseen(s, but string) string {
	for i, r := range s {
		switch {
		case strings.ContainsRune(but, r):
		case r == utf8.RuneError && !strings.HasPrefix(s[i:], "\ufffd"):
			return fmt.Sprintf("octet %#02x", s[i])
		case unicode.In(r, unicode.Cc, unicode.Cf, unicode.Co, unicode.Cs, unicode.Zl, unicode.Zp):
			return fmt.Sprintf("%U", r)
		}
	}
	return ""
}

// poison sets every text and every list of octets of m and of the messages in it, so
// that fields which come later are tried too.
func poison(m protoreflect.Message, depth int) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		var v protoreflect.Value
		switch fd.Kind() {
		case protoreflect.StringKind:
			v = protoreflect.ValueOfString(hostile)
		case protoreflect.BytesKind:
			v = protoreflect.ValueOfBytes([]byte(hostileOctets))
		case protoreflect.MessageKind:
			if depth > 3 || fd.IsMap() {
				continue
			}
			if fd.IsList() {
				x := m.Mutable(fd).List().AppendMutable()
				poison(x.Message(), depth+1)
			} else {
				poison(m.Mutable(fd).Message(), depth+1)
			}
			continue
		case protoreflect.EnumKind:
			v = protoreflect.ValueOfEnum(1)
		case protoreflect.BoolKind:
			v = protoreflect.ValueOfBool(true)
		case protoreflect.Uint32Kind:
			v = protoreflect.ValueOfUint32(82) // interfaceName, a text, where it is an element's id
		default:
			continue
		}
		if fd.IsList() {
			m.Mutable(fd).List().Append(v)
		} else {
			m.Set(fd, v)
		}
	}
}

// clean fails unless a verb's output has nothing in it that a terminal acts on; lines
// are as many as are expected, so that no text began one.
func clean(t *testing.T, what, out string, most int) {
	t.Helper()
	if bad := unseen(out, "\n"); bad != "" {
		t.Errorf("%s: %s in %.2000q", what, bad, out)
	}
	if strings.Contains(out, "\nforged") || most > 0 && strings.Count(out, "\n") > most {
		t.Errorf("%s: a line that is none of ours: %q", what, out)
	}
}

// hostileMessages are a flow and a connection whose texts are all hostile.
func hostileMessages() (*flowpb.FlowMessage, *flowpb.Connection) {
	f, c := &flowpb.FlowMessage{}, &flowpb.Connection{}
	poison(f.ProtoReflect(), 0)
	poison(c.ProtoReflect(), 0)
	f.Type = flowpb.FlowMessage_IPFIX
	for _, e := range []*flowpb.Endpoint{c.GetInitiator(), c.GetResponder()} {
		e.Address = []byte{192, 0, 2, 1}
	}
	return f, c
}

func TestNoTextOfAMessageReachesTheTerminal(t *testing.T) {
	flow, connection := hostileMessages()
	r := &decode.Result{Messages: []*flowpb.FlowMessage{flow}}
	text, lines := &bytes.Buffer{}, 1
	outputs := map[string]output{
		"decode":        &decodeText{lines: newLines(text)},
		"decode --json": &decodeJSON{lines: newLines(text)},
	}
	for name, p := range map[string]*flowPrinter{"flows": {}, "flows -v": {wide: true}, "flows --json": {json: true}} {
		p.filter, p.stderr = &trafficFilter{protocol: -1, port: new(uint16)}, io.Discard
		p.to(text)
		outputs[name] = p
	}
	for name, o := range outputs {
		text.Reset()
		lines = 2 // with a head
		if err := o.take(origin{}, r); err != nil {
			t.Fatal(err)
		}
		if err := o.flush(); err != nil {
			t.Fatal(err)
		}
		if text.Len() < 20 {
			t.Errorf("%s: nothing printed", name)
		}
		clean(t, name, text.String(), lines)
	}
	for name, form := range map[string]outputForm{"brief": asBrief, "wide": asWide, "JSON": asJSONLines, "CSV": asCSV} {
		text.Reset()
		p := newLivePrinter(text, form)
		p.print([]*flowpb.Connection{connection})
		if text.Len() < 20 || p.err() != nil {
			t.Errorf("connections, %s: nothing printed: %v", name, p.err())
		}
		clean(t, "connections, "+name, text.String(), 2)
	}
}

// Options data: a text of an element that has one.
func TestNoTextOfOptionsDataReachesTheTerminal(t *testing.T) {
	r := &decode.Result{Options: []decode.OptionsRecord{{TemplateID: 256, Values: []decode.Value{
		{ID: 10, Scope: true, Octets: []byte{1}}, {ID: 82, Octets: []byte(hostileOctets)}, {PEN: 9, ID: 12345, Octets: []byte(hostileOctets)},
	}}}}
	for name, make := range map[string]func(io.Writer) output{
		"text": func(w io.Writer) output { return &decodeText{lines: newLines(w)} },
		"JSON": func(w io.Writer) output { return &decodeJSON{lines: newLines(w)} },
	} {
		text := &bytes.Buffer{}
		o := make(text)
		if err := o.take(origin{header: decode.Header{Version: 10}}, r); err != nil {
			t.Fatal(err)
		}
		if err := o.flush(); err != nil {
			t.Fatal(err)
		}
		clean(t, "options data, "+name, text.String(), 1)
	}
}

// Names of fields and values of JSON Lines, names of files, and what is wrong with them.
func TestNoTextOfAFileReachesTheTerminal(t *testing.T) {
	name := filepath.Join(t.TempDir(), strings.NewReplacer("/", "_", "\x00", "").Replace(hostileOctets))
	quote := func(s string) string {
		b, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	h := quote(hostile)
	octets := base64.StdEncoding.EncodeToString([]byte(hostile))
	lines := []string{
		`{"1700000000.25": {"client": ["192.0.2.1", 4], "header": {"version": 9}, "flows": [{` + h + `: 1, "IN_BYTES": 7}]}}`,
		`{"1700000000.25": {"client": [` + h + `, 4], "header": {"version": 9}, "flows": []}}`,
		`{"1700000000.25": {"client": ["192.0.2.1", 4], "header": {"version": 9}, "flows": [{"IN_BYTES": ["` + octets + `", ` + h + `]}]}}`,
		`{"1700000000.25": {"client": ["192.0.2.1", 4], "header": {"version": 5}, "flows": [{"IPV4_SRC_ADDR": ` + h + `}]}}`,
		`{"record": "flow", "type": "IPFIX", "src_addr": ` + h + `}`,
		`{"record": "flow", "type": "IPFIX", "packets": ` + h + `}`,
		`{"record": "flow", "type": ` + h + `}`,
		`{"record": "flow", "type": "IPFIX", "exporter_name": ` + h + `, ` + h + `: 1, "time_received_ns": 1790000000000000000}`,
		`{` + h + `}`,
	}
	for i, line := range lines { // what is wrong with the first is told, so each is the first once
		if err := os.WriteFile(name, []byte(line+"\n"+strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{{"decode"}, {"decode", "--json"}, {"flows"}, {"flows", "-v"}, {"flows", "--json"}, {"connections", "-n"}, {"connections", "-n", "--csv"}} {
			got := run(t, "", append(args, name)...)
			if got.code != 0 {
				t.Fatalf("line %d, %v: exit code %d: %s", i, args, got.code, got.errout)
			}
			clean(t, fmt.Sprintf("line %d, %v", i, args), got.out, 0)
			clean(t, fmt.Sprintf("line %d, errors of %v", i, args), got.errout, 5)
		}
	}
	for _, args := range [][]string{{"decode", name + "x"}, {"flows", name + "x"}, {"connections", name + "x"}, {"replay", name}, {"replay", name + "x"}} {
		clean(t, fmt.Sprintf("errors of %q", args), run(t, "", args...).errout, 4)
	}
	// What somebody types himself may have line ends, which errors keep; they join others.
	for _, args := range [][]string{
		{"decode", "--templates", name, "--hex", "00"}, {"decode", "--exporters", name, "--hex", "00"}, {"replay", "--to", hostile, name},
		{hostile}, {"decode", "--" + hostile}, {"decode", "--port", hostile}, {"sink", hostile}, {"templates", hostile},
		{"collect", "--listen", hostile, "--out", name}, {"collect", "--out", filepath.Join(name, "x")}, {"up", "--listen", hostile}, {"up", hostile}, {"exporters", hostile},
	} {
		got := run(t, "", args...)
		if bad := unseen(got.errout, "\n\t") + unseen(got.out, "\n\t"); bad != "" || got.code == 0 {
			t.Errorf("%q: exit code %d, %s in %q", args, got.code, bad, got.errout)
		}
	}
}

// What replicas and exporters wrote on the topics, in all verbs that read them.
func TestNoTextOfATopicReachesTheTerminal(t *testing.T) {
	b := onBroker(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	c := kafka.Config{Brokers: []string{b.Addr()}}
	tc := kafka.TopicConfig{Prefix: "t.", Mode: "create", Partitions: 1, Replication: 1, FlowsRetention: time.Hour, ConnRetention: time.Hour}
	all := []kafka.Topic{kafka.Flows, kafka.Templates, kafka.Exporters, kafka.Connections}
	if err := kafka.Ensure(ctx, c, tc, nil, all...); err != nil {
		t.Fatal(err)
	}
	write := func(topic kafka.Topic, key []byte, m proto.Message) {
		t.Helper()
		value, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if err := kafka.Write(ctx, c, tc.Name(topic), []kafka.Record{{Key: key, Value: value}}); err != nil {
			t.Fatal(err)
		}
	}
	// poisonTexts sets texts alone: what else is in a record of the topic is checked.
	var poisonTexts func(m protoreflect.Message)
	poisonTexts = func(m protoreflect.Message) {
		fields := m.Descriptor().Fields()
		for i := range fields.Len() {
			switch fd := fields.Get(i); {
			case fd.Kind() == protoreflect.StringKind && !fd.IsList():
				m.Set(fd, protoreflect.ValueOfString(hostile))
			case fd.Kind() == protoreflect.MessageKind && !fd.IsList() && !fd.IsMap() && m.Has(fd):
				poisonTexts(m.Mutable(fd).Message())
			}
		}
	}
	now := time.Now()
	store := templates.New(templates.Options{Replica: "r"})
	k := decode.TemplateKey{Exporter: decode.Map16(netip.MustParseAddr("192.0.2.1")), Version: 9, ID: 300}
	meta := &decode.Meta{Exporter: netip.MustParseAddr("192.0.2.1"), Port: 9, Received: now.UnixNano()}
	if _, err := store.Learn(&k, meta, &decode.Header{Version: 9}, &decode.Template{ID: 300, Fields: []decode.Field{{ID: 8, Length: 4}}}); err != nil {
		t.Fatal(err)
	}
	store.LearnFact(&k, meta, &decode.Header{Version: 9}, decode.Fact{What: flowpb.Fact_WHAT_INTERFACE_NAME, ID: 1, Text: "eth0"})
	for _, r := range store.Due() {
		st := &flowpb.ExporterState{}
		if err := proto.Unmarshal(r.Value, st); err != nil {
			t.Fatal(err)
		}
		poisonTexts(st.ProtoReflect())
		write(kafka.Templates, r.Key, st)
	}
	tally := &loss.Tally{}
	book := loss.NewBook("r", now.Add(-time.Minute))
	d := loss.Of(netip.MustParseAddr("192.0.2.1"), &decode.Header{Version: 9}, 1, 0, 1)
	d.Received = now.UnixNano()
	tally.Add(&d)
	for _, r := range book.Gather(now, []*loss.Tally{tally}) {
		report := &flowpb.ExporterReport{}
		if err := proto.Unmarshal(r.Value, report); err != nil {
			t.Fatal(err)
		}
		poisonTexts(report.ProtoReflect())
		write(kafka.Exporters, r.Key, report)
	}
	flow, connection := hostileMessages()
	write(kafka.Flows, nil, flow)
	write(kafka.Connections, connection.GetConnectionId(), connection)
	for _, args := range [][]string{
		{"templates", "list", "--facts"}, {"templates", "list", "--facts", "--json"}, {"templates", "show"},
		{"exporters"}, {"exporters", "--json"},
		{"flows", "--once"}, {"flows", "--once", "-v"}, {"flows", "--once", "--json"},
		{"connections", "--once", "-n"}, {"connections", "--once", "-n", "-v"}, {"connections", "--once", "-n", "--json"}, {"connections", "--once", "-n", "--csv"},
	} {
		got := run(t, "", args...)
		if got.code != 0 || !strings.Contains(got.out, "forged") {
			t.Errorf("%v: exit code %d; want the text, harmless, in %q, %s", args, got.code, got.out, got.errout)
		}
		clean(t, fmt.Sprint(args), got.out, 0)
		clean(t, "errors of "+fmt.Sprint(args), got.errout, 0)
	}
}
