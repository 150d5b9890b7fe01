//go:build integration

package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	kafkatest "weir/internal/weirtest/kafka"
	"weir/internal/weirtest/payloads"
	"weir/pkg/flowpb"
)

// repo is the root of the module.
const repo = "../.."

// sums holds the totals that a consumer computes.
type sums struct {
	N       int
	Octets  uint64
	Packets uint64
}

// TestConsumersOfEveryKind runs the programs of docs/consumers.md on the topics, in each form and
// framing.
func TestConsumersOfEveryKind(t *testing.T) {
	python, err := filepath.Abs(filepath.Join(repo, ".cache/python/bin/python"))
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), python, "-c", "import confluent_kafka, chdb, grpc_tools").CombinedOutput(); err != nil {
		t.Skipf("SKIPPED: no Python with confluent-kafka, chdb and grpcio-tools in .cache/python: %v\n%s", err, out)
	}
	for _, tool := range []string{"kcat", "protoc"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("SKIPPED: %v (Debian: kcat protobuf-compiler)", err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	bin := build(ctx, t, t.TempDir())
	generated := t.TempDir()
	run(ctx, t, nil, python, "-m", "grpc_tools.protoc", "-I", filepath.Join(repo, "proto/weir/v1"), "--python_out="+generated, "flow.proto", "connection.proto")
	for _, form := range []struct {
		name string
		env  []string
	}{
		{"single", nil}, {"delimited", []string{"FRAMING=delimited"}}, {"packed", []string{"FRAMING=delimited", "PACK=20"}}, {"json", []string{"FORMAT=json"}},
	} {
		t.Run(form.name, func(t *testing.T) {
			w := &world{t: t, bin: bin, c: kafkatest.Start(ctx, t)}
			ingest := form.env
			var enrich []string
			for _, e := range form.env {
				if !strings.HasPrefix(e, "PACK") {
					enrich = append(enrich, e)
				}
			}
			flows, talks := w.filled(ctx, t, ingest, enrich)
			c := &consumers{w.c.Brokers()[0], python, generated, flows, talks}
			c.python3(ctx, t)
			switch form.name {
			case "single":
				c.kcat(ctx, t)
				c.golang(ctx, t)
				c.goflow2(ctx, t)
				c.clickhouse(ctx, t, "single")
			case "json":
				c.kcatJSON(ctx, t)
			default:
				c.clickhouse(ctx, t, "delimited")
			}
		})
	}
}

// filled sends captures of all kinds through ingest and enrich, and returns the sums of the topics
// as this test's own reader computes them.
func (w *world) filled(ctx context.Context, t *testing.T, in, out []string) (flows, talks sums) {
	t.Helper()
	i := w.ingest(ctx, "consumers", in...)
	e := w.start("enrich", append(out, "INSTANCE=one", "DNS_ENABLED=false", "PAIR_IDLE=3s", "PAIR_ACTIVE_TIMEOUT=2s", "PAIR_LINGER=1s", "PAIR_LATE_GRACE=2s")...)
	for _, p := range []*process{i, e} {
		kafkatest.Poll(ctx, t, "ready", func() bool { code, _ := p.ready(); return code == http.StatusOK })
	}
	want := 0
	files, err := filepath.Glob(filepath.Join(repo, "testdata/captures/softflowd_*synth*.pcap"))
	if err != nil || len(files) < 3 {
		t.Fatalf("captures: %v, %v", files, err)
	}
	for _, f := range files {
		to := send(t, i, f)
		want += to
	}
	kafkatest.Poll(ctx, t, "all datagrams are received", func() bool { return int(i.sum("weir_ingest_datagrams_total", "")) == want })
	kafkatest.Poll(ctx, t, "nothing waits", func() bool {
		return i.sum("weir_ingest_flows_total", "") > 0 && i.sum("weir_ingest_buffered_flows", "") == 0 && i.sum("weir_ingest_parked_sets", "") == 0
	})
	kafkatest.Poll(ctx, t, "enrich has taken all", func() bool {
		return e.sum("weir_enrich_flows_total", "") >= i.sum("weir_ingest_flows_total", "") && e.sum("weir_enrich_connections_open", "") == 0
	})
	i.terminate(t)
	e.terminate(t)
	w.all(ctx, t, "netflow.flows", func(value []byte) {
		for _, m := range unframed(t, value, func() proto.Message { return &flowpb.FlowMessage{} }, 0x08) {
			f := m.(*flowpb.FlowMessage)
			flows.add(f.Bytes, f.Packets)
		}
	})
	latest := map[string]*flowpb.Connection{}
	w.all(ctx, t, "netflow.connections", func(value []byte) {
		for _, m := range unframed(t, value, func() proto.Message { return &flowpb.Connection{} }, 0x0a) {
			c := m.(*flowpb.Connection)
			if c.Version > latest[string(c.ConnectionId)].GetVersion() {
				latest[string(c.ConnectionId)] = c
			}
		}
	})
	for _, c := range latest {
		talks.add(c.GetForward().GetOctets()+c.GetReverse().GetOctets(), c.GetForward().GetPackets()+c.GetReverse().GetPackets())
	}
	if flows.N < 100 || talks.N < 30 {
		t.Fatalf("%+v flows and %+v connections are too few", flows, talks)
	}
	return flows, talks
}

func (s *sums) add(octets, packets uint64) {
	s.N, s.Octets, s.Packets = s.N+1, s.Octets+octets, s.Packets+packets
}

// send sends the datagrams of a capture and returns their number.
func send(t *testing.T, to *process, path string) int {
	t.Helper()
	x := newExporter(t)
	all := payloads.Of(t, path)
	for _, pkt := range all {
		x.send(t, to, pkt)
	}
	return len(all)
}

// all reads a topic to its present end, read_committed.
func (w *world) all(ctx context.Context, t *testing.T, topic string, take func(value []byte)) {
	t.Helper()
	ends, err := w.admin(t).ListCommittedOffsets(ctx, topic)
	if err != nil {
		t.Fatal(err)
	}
	left := map[int32]int64{}
	ends.Each(func(o kadm.ListedOffset) {
		if o.Offset > 0 {
			left[o.Partition] = o.Offset
		}
	})
	cl, err := kgo.NewClient(kgo.SeedBrokers(w.c.Brokers()...), kgo.ConsumeTopics(topic), kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords())
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	for len(left) > 0 {
		f := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			t.Fatalf("reading %s: not in time", topic)
		}
		f.EachRecord(func(r *kgo.Record) {
			if !r.Attrs.IsControl() {
				take(r.Value)
			}
			if r.Offset+1 >= left[r.Partition] {
				delete(left, r.Partition)
			}
		})
	}
}

// unframed returns the messages of a record. It detects the framing as docs/receiving.md describes.
func unframed(t *testing.T, value []byte, kind func() proto.Message, first byte) (all []proto.Message) {
	t.Helper()
	read := func(b []byte, of func([]byte, proto.Message) error) {
		m := kind()
		if err := of(b, m); err != nil {
			t.Fatalf("%x: %v", b, err)
		}
		all = append(all, m)
	}
	switch {
	case bytes.HasPrefix(value, []byte(`{"`)):
		read(value, protojson.Unmarshal)
	case value[0] == first:
		read(value, proto.Unmarshal)
	default:
		for len(value) > 0 {
			b, n := protowire.ConsumeBytes(value)
			if n < 0 {
				t.Fatalf("%x: want a length", value)
			}
			read(b, proto.Unmarshal)
			value = value[n:]
		}
	}
	return all
}

// consumers runs programs of others on a broker.
type consumers struct {
	broker, python, generated string
	flows, talks              sums
}

// run returns the standard output of a program.
func run(ctx context.Context, t *testing.T, env []string, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), env...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out, &errs)
	}
	return strings.TrimSpace(string(out))
}

// added compares the sums that a program printed as JSON with want.
func added(t *testing.T, who, out string, n string, want sums) {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		t.Fatalf("%s: %v\n%s", who, err, out)
	}
	number := func(name string) float64 { f, _ := v[name].(float64); return f }
	got := sums{int(number(n)), uint64(number("octets")), uint64(number("packets"))}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("%s, %s (-on the topic +read):\n%s", who, n, d)
	}
}

func (c *consumers) python3(ctx context.Context, t *testing.T) {
	example := filepath.Join(repo, "docs/examples/consume.py")
	env := []string{"PYTHONPATH=" + c.generated}
	added(t, "Python", run(ctx, t, env, c.python, example, c.broker, "netflow.flows"), "flows", c.flows)
	added(t, "Python", run(ctx, t, env, c.python, example, c.broker, "netflow.connections"), "connections", c.talks)
}

func (c *consumers) kcat(ctx context.Context, t *testing.T) {
	lines := run(ctx, t, nil, "kcat", "-b", c.broker, "-C", "-t", "netflow.flows", "-e", "-q", "-X", "isolation.level=read_committed", "-f", `%p %o %T\n`)
	if n := len(strings.Split(lines, "\n")); n != c.flows.N {
		t.Errorf("kcat reads %d records of flows, want %d", n, c.flows.N)
	}
	one := run(ctx, t, nil, "bash", "-c", "set -o pipefail; kcat -b "+c.broker+" -C -t netflow.connections -o beginning -c 1 -e -q -D '' | protoc -I "+repo+"/proto/weir/v1 --decode weir.v1.Connection connection.proto")
	if !strings.Contains(one, "initiator {") || !strings.Contains(one, "emit_reason: EMIT_REASON_") {
		t.Errorf("protoc decodes a connection as %s", one)
	}
}

func (c *consumers) kcatJSON(ctx context.Context, t *testing.T) {
	lines := strings.Split(run(ctx, t, nil, "kcat", "-b", c.broker, "-C", "-t", "netflow.flows", "-e", "-q"), "\n")
	var got sums
	addressed := 0
	for _, l := range lines {
		var f struct {
			Bytes, Packets uint64 // counters are numbers
			Received       string `json:"time_received_ns"` // times in ns are strings
			SrcAddr        []byte `json:"src_addr"`
		}
		if err := json.Unmarshal([]byte(l), &f); err != nil {
			t.Fatalf("%v: %s", err, l)
		}
		if len(f.SrcAddr) == 4 || len(f.SrcAddr) == 16 { // samples of packets have none
			addressed++
		}
		if _, err := strconv.ParseUint(f.Received, 10, 64); err != nil {
			t.Errorf("time_received_ns: %v", err)
		}
		got.add(f.Bytes, f.Packets)
	}
	if d := cmp.Diff(c.flows, got); d != "" {
		t.Errorf("kcat and JSON (-on the topic +read):\n%s", d)
	}
	if addressed < got.N/2 {
		t.Errorf("of %d flows %d have a source address", got.N, addressed)
	}
}

func (c *consumers) golang(ctx context.Context, t *testing.T) {
	added(t, "Go", run(ctx, t, nil, "go", "run", "weir/docs/examples/consume", c.broker), "connections", c.talks)
}

func (c *consumers) goflow2(ctx context.Context, t *testing.T) {
	added(t, "goflow2", run(ctx, t, nil, "go", "-C", filepath.Join(repo, "test/compat"), "run", "./consume", c.broker), "flows", c.flows)
}

func (c *consumers) clickhouse(ctx context.Context, t *testing.T, framing string) {
	out := run(ctx, t, nil, c.python, filepath.Join(repo, "test/consumers/clickhouse.py"), c.broker, framing)
	var got struct {
		Flows, Connections struct {
			N                           int
			Octets, Packets             uint64
			Exporter                    string
			Undated, Untyped, Stateless int
		}
		Queries []int
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if d := cmp.Diff([]sums{c.flows, c.talks}, []sums{{got.Flows.N, got.Flows.Octets, got.Flows.Packets}, {got.Connections.N, got.Connections.Octets, got.Connections.Packets}}); d != "" {
		t.Errorf("ClickHouse (-on the topic +in its tables):\n%s", d)
	}
	if got.Flows.Exporter != "::ffff:127.0.0.1" || got.Flows.Undated+got.Flows.Untyped+got.Connections.Stateless != 0 {
		t.Errorf("the view's addresses, times and enumerations: %s", out)
	}
	if len(got.Queries) != 5 || got.Queries[0] == 0 || got.Queries[1] == 0 || got.Queries[4] == 0 { // 2: firewalls, 3: scans
		t.Errorf("rows of the documented queries: %v", got.Queries)
	}
}
