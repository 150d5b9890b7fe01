package cli

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"weir/internal/decode"
	"weir/internal/kafka"
	"weir/internal/loss"
	"weir/internal/templates"
	"weir/internal/weirtest/hostile"
	"weir/pkg/flowpb"
)

// The texts are names of fields and values of JSON Lines, file names, and the error messages that quote them.
func TestNoTextOfAFileReachesTheTerminal(t *testing.T) {
	name := filepath.Join(t.TempDir(), strings.NewReplacer("/", "_", "\x00", "").Replace(hostile.Octets))
	quote := func(s string) string {
		b, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	h := quote(hostile.Text)
	octets := base64.StdEncoding.EncodeToString([]byte(hostile.Text))
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
	for i, line := range lines { // only the first error of a file is reported, so each line must be first once
		if err := os.WriteFile(name, []byte(line+"\n"+strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{{"decode"}, {"decode", "--json"}, {"flows"}, {"flows", "-v"}, {"flows", "--json"}, {"connections", "-n"}, {"connections", "-n", "--csv"}} {
			got := run(t, "", append(args, name)...)
			if got.code != 0 {
				t.Fatalf("line %d, %v: exit code %d: %s", i, args, got.code, got.errout)
			}
			hostile.Clean(t, fmt.Sprintf("line %d, %v", i, args), got.out, 0)
			hostile.Clean(t, fmt.Sprintf("line %d, errors of %v", i, args), got.errout, 5)
		}
	}
	for _, args := range [][]string{{"decode", name + "x"}, {"flows", name + "x"}, {"connections", name + "x"}, {"replay", name}, {"replay", name + "x"}} {
		hostile.Clean(t, fmt.Sprintf("errors of %q", args), run(t, "", args...).errout, 4)
	}
	// Arguments may contain line ends. Errors keep line ends, since they may join several errors.
	for _, args := range [][]string{
		{"decode", "--templates", name, "--hex", "00"}, {"decode", "--exporters", name, "--hex", "00"}, {"replay", "--to", hostile.Text, name},
		{hostile.Text}, {"decode", "--" + hostile.Text}, {"decode", "--port", hostile.Text}, {"sink", hostile.Text}, {"templates", hostile.Text},
		{"collect", "--listen", hostile.Text, "--out", name}, {"collect", "--out", filepath.Join(name, "x")}, {"up", "--listen", hostile.Text}, {"up", hostile.Text}, {"exporters", hostile.Text},
	} {
		got := run(t, "", args...)
		if bad := hostile.Unseen(got.errout, "\n\t") + hostile.Unseen(got.out, "\n\t"); bad != "" || got.code == 0 {
			t.Errorf("%q: exit code %d, %s in %q", args, got.code, bad, got.errout)
		}
	}
}

// The texts are written by replicas and exporters to the topics; all verbs that read topics must escape them.
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
	// poisonTexts sets only texts, since other fields of a record are validated.
	var poisonTexts func(m protoreflect.Message)
	poisonTexts = func(m protoreflect.Message) {
		fields := m.Descriptor().Fields()
		for i := range fields.Len() {
			switch fd := fields.Get(i); {
			case fd.Kind() == protoreflect.StringKind && !fd.IsList():
				m.Set(fd, protoreflect.ValueOfString(hostile.Text))
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
	store.LearnFact(&k, meta, &decode.Header{Version: 9}, decode.OptionsFact{What: flowpb.Fact_WHAT_INTERFACE_NAME, ID: 1, Text: "eth0"})
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
	flow, connection := hostile.Messages()
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
		hostile.Clean(t, fmt.Sprint(args), got.out, 0)
		hostile.Clean(t, "errors of "+fmt.Sprint(args), got.errout, 0)
	}
}
