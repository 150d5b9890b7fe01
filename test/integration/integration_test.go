//go:build integration

package integration

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"weir/internal/kafka"
	kafkatest "weir/internal/weirtest/kafka"
	"weir/internal/weirtest/locked"
	"weir/internal/weirtest/payloads"
	"weir/pkg/flowpb"
)

const partitions = 6

// TestTheServicesOnRealKafka runs the built services on three Kafka nodes, from a start without
// Kafka to the kill of a broker under enrich.
func TestTheServicesOnRealKafka(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 12*time.Minute)
	defer cancel()
	bin := build(ctx, t, t.TempDir())
	c := kafkatest.New(ctx, t)
	w := &world{t: t, c: c, bin: bin}

	// Without Kafka at the start, ingest must report it and wait.
	first := w.ingest(ctx, "first")
	kafkatest.Poll(ctx, t, "ingest says why it is not ready", func() bool {
		code, body := first.ready()
		return code == http.StatusServiceUnavailable && strings.Contains(body, "does not answer")
	})
	for i := range kafkatest.Nodes {
		if err := c.StartNode(i); err != nil {
			t.Fatal(err)
		}
	}
	c.WaitUp(ctx, t, 3)
	kafkatest.Poll(ctx, t, "ingest is ready once Kafka is there", func() bool { code, _ := first.ready(); return code == http.StatusOK })

	t.Run("topics are made and verified, a mismatch is named", w.topics)
	second := w.ingest(ctx, "second")
	kafkatest.Poll(ctx, t, "the second replica is ready", func() bool { code, _ := second.ready(); return code == http.StatusOK })
	t.Run("a replica decodes data whose template only the other received", func(t *testing.T) { w.shared(ctx, t, first, second) })
	t.Run("connections stay exactly once when enrich and a broker are killed", func(t *testing.T) { w.killed(ctx, t, second) })
	for _, p := range []*process{first, second} {
		p.terminate(t)
	}
}

type world struct {
	t   *testing.T
	c   *kafkatest.Cluster // nil: KAFKA_BROKERS is given to start
	bin string
}

func build(ctx context.Context, t *testing.T, dir string) string {
	t.Helper()
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", dir+"/", "weir/cmd/ingest", "weir/cmd/enrich").CombinedOutput(); err != nil {
		t.Fatalf("building the services: %v\n%s", err, out)
	}
	return dir
}

// A process is a running service.
type process struct {
	cmd     *exec.Cmd
	out     *locked.Buffer
	udp     string
	metrics string
}

func (w *world) start(name string, env ...string) *process {
	w.t.Helper()
	ports, err := kafkatest.FreePorts(1)
	if err != nil {
		w.t.Fatal(err)
	}
	p := &process{cmd: exec.Command(filepath.Join(w.bin, name)), out: &locked.Buffer{}, metrics: fmt.Sprintf("127.0.0.1:%d", ports[0])}
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	p.cmd.Env = append(os.Environ(), "METRICS_LISTEN="+p.metrics, fmt.Sprintf("TOPIC_PARTITIONS=%d", partitions))
	if w.c != nil {
		p.cmd.Env = append(p.cmd.Env, "KAFKA_BROKERS="+strings.Join(w.c.Brokers(), ","))
	}
	p.cmd.Env = append(p.cmd.Env, env...)
	if err := p.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		if p.cmd.ProcessState == nil {
			_ = p.cmd.Process.Kill()
			_ = p.cmd.Wait()
		}
		if w.t.Failed() {
			w.t.Logf("%s:\n%.6000s", name, p.out)
		}
	})
	return p
}

func (w *world) ingest(ctx context.Context, name string, env ...string) *process {
	w.t.Helper()
	l, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	udp := l.LocalAddr().String()
	l.Close()
	p := w.start("ingest", append(env, "LISTEN_UDP="+udp, "REPLICA="+name)...)
	p.udp = udp
	kafkatest.Poll(ctx, w.t, "ingest listens", func() bool { return strings.Contains(p.out.String(), "msg=listening") })
	return p
}

func (p *process) ready() (code int, body string) {
	resp, err := http.Get("http://" + p.metrics + "/readyz")
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b)
}

// shown returns the text of the process's /metrics. ok is false if it does not answer.
func (p *process) shown() (text string, ok bool) {
	resp, err := http.Get("http://" + p.metrics + "/metrics")
	if err != nil {
		return "", false
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), err == nil
}

// sum adds up the samples of a metric whose labels contain part.
func (p *process) sum(name, part string) (sum float64) {
	text, _ := p.shown()
	for line := range strings.Lines(text) {
		labels, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		if rest, is := strings.CutPrefix(labels, name); ok && is && (rest == "" || rest[0] == '{') && strings.Contains(rest, part) {
			v, _ := strconv.ParseFloat(value, 64)
			sum += v
		}
	}
	return sum
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

// terminate sends SIGTERM and wants exit code 0 within 12 s.
func (p *process) terminate(t *testing.T) {
	t.Helper()
	began := time.Now()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Errorf("%s had ended: %v\n%s", p.cmd.Path, err, p.out)
		return
	}
	if err := p.cmd.Wait(); err != nil || time.Since(began) > 12*time.Second {
		t.Errorf("%s: want exit code 0 within 12 s of SIGTERM, got %v after %v\n%s", p.cmd.Path, err, time.Since(began), p.out)
	}
}

func config(prefix string, n int32) kafka.TopicConfig {
	return kafka.TopicConfig{Prefix: prefix, Mode: "create", Partitions: n, Replication: -1, FlowsRetention: time.Hour, ConnRetention: time.Hour}
}

var all = []kafka.Topic{kafka.Flows, kafka.Templates, kafka.Undecoded, kafka.Exporters, kafka.Pairing, kafka.Connections}

func (w *world) topics(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	kc := kafka.Config{Brokers: w.c.Brokers()}
	for _, mode := range []string{"create", "verify"} {
		tc := config("table.", 4)
		tc.Mode = mode
		if err := kafka.Ensure(ctx, kc, tc, nil, all...); err != nil {
			t.Fatalf("%s: %v", mode, err)
		}
	}
	err := kafka.Ensure(ctx, kc, config("table.", 5), nil, kafka.Flows)
	if err == nil || !strings.Contains(err.Error(), "table.flows") || !strings.Contains(err.Error(), "4") || !strings.Contains(err.Error(), "5") {
		t.Errorf("want an error that names the topic and both numbers, got %v", err)
	}
}

func packet(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "internal", "decode", "testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	p, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// shared sends a template to one replica and its data to the other, from the same socket, hence as
// the same exporter.
func (w *world) shared(ctx context.Context, t *testing.T, first, second *process) {
	from, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	for _, d := range []struct {
		to   *process
		name string
	}{{second, "v9_data.hex"}, {first, "v9_template.hex"}} {
		to, err := net.ResolveUDPAddr("udp", d.to.udp)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := from.WriteTo(packet(t, d.name), to); err != nil {
			t.Fatal(err)
		}
	}
	got := 0
	w.consume(ctx, t, "netflow.flows", func(r *kgo.Record) bool {
		var m flowpb.FlowMessage
		if err := proto.Unmarshal(r.Value, &m); err != nil || m.Replica != "second" || m.DstPort != 443 && m.SrcPort != 443 {
			t.Errorf("%v: %v", err, &m)
		}
		got++
		return got == 24
	})
}

// consume reads a topic from its start, read_committed, until enough returns true.
func (w *world) consume(ctx context.Context, t *testing.T, topic string, enough func(*kgo.Record) bool) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(w.c.Brokers()...), kgo.ConsumeTopics(topic), kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	for done := false; !done; {
		f := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			t.Fatalf("reading %s: not in time", topic)
		}
		f.EachRecord(func(r *kgo.Record) { done = done || enough(r) })
	}
}

// killed compares the connections of two consumer groups over equal flows: an undisturbed group,
// and a group whose member and broker are killed. Each group has its own copy of the flows.
func (w *world) killed(ctx context.Context, t *testing.T, in *process) {
	calm, kill := "calm.", "kill."
	kc := kafka.Config{Brokers: w.c.Brokers()}
	for _, prefix := range []string{calm, kill} {
		if err := kafka.Ensure(ctx, kc, config(prefix, partitions), nil, kafka.Flows); err != nil {
			t.Fatal(err)
		}
	}
	n := w.replay(ctx, t, in, calm, kill)
	settings := func(prefix string) []string {
		return []string{
			"TOPIC_PREFIX=" + prefix, "INSTANCE=" + prefix + "one", "GROUP=" + prefix + "enrich", "KAFKA_SESSION_TIMEOUT=3s", "COMMIT_RECORDS=600", "DNS_ENABLED=false",
			"PAIR_IDLE=3s", "PAIR_ACTIVE_TIMEOUT=2s", "PAIR_LINGER=1s", "PAIR_LATE_GRACE=2s",
		}
	}
	undisturbed := w.start("enrich", settings(calm)...)
	want := w.connections(ctx, t, calm, n/2)
	undisturbed.terminate(t)

	for i := range 2 {
		p := w.start("enrich", settings(kill)...)
		some := 0
		kafkatest.Poll(ctx, t, "enrich works", func() bool { code, _ := p.ready(); return code == http.StatusOK })
		w.consume(ctx, t, kill+"connections", func(*kgo.Record) bool { some++; return some > 300*(i+1) })
		p.kill()
		if i == 0 {
			w.c.Kill(2)
		}
	}
	last := w.start("enrich", settings(kill)...)
	if err := w.c.StartNode(2); err != nil {
		t.Fatal(err)
	}
	got := w.connections(ctx, t, kill, n/2)
	if len(want) > n*2/3 {
		t.Errorf("%d connections of %d flows: want more of them paired", len(want), n)
	}
	last.terminate(t)
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("want %d connections, got %d (-undisturbed +killed):\n%.3000s", len(want), len(got), d)
	}
	t.Logf("%d connections of %d flows", len(got), n)
}

// capturedMessages returns the export messages of the capture.
func capturedMessages(t *testing.T) (all [][]byte) {
	t.Helper()
	return payloads.Of(t, filepath.Join("..", "..", "testdata", "captures", "softflowd_v10_big.pcap"))
}

// replay sends a capture through ingest and copies its flows to both prefixes, record by record in
// the same order. The receive times are spread so that some connections end while enrich works.
func (w *world) replay(ctx context.Context, t *testing.T, in *process, prefixes ...string) (n int) {
	t.Helper()
	const flows = 12_000 // of the capture
	conn, err := net.Dial("udp", in.udp)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	pause := time.NewTicker(time.Millisecond) // slow enough for the socket's buffer
	defer pause.Stop()
	for _, m := range capturedMessages(t) {
		if _, err := conn.Write(m); err != nil {
			t.Fatal(err)
		}
		<-pause.C
	}
	var records []*kgo.Record
	w.consume(ctx, t, "netflow.flows", func(r *kgo.Record) bool {
		records = append(records, r)
		return len(records) == flows+24
	})
	cl, err := kgo.NewClient(kgo.SeedBrokers(w.c.Brokers()...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	base := time.Now().Add(-30 * time.Minute)
	for i, r := range records {
		// The receive times span one minute.
		var m flowpb.FlowMessage
		if err := proto.Unmarshal(r.Value, &m); err != nil {
			t.Fatal(err)
		}
		at := base.Add(time.Duration(i) * 5 * time.Millisecond)
		m.TimeReceivedNs = uint64(at.UnixNano())
		value, err := proto.Marshal(&m)
		if err != nil {
			t.Fatal(err)
		}
		for _, prefix := range prefixes {
			cl.Produce(ctx, &kgo.Record{Topic: prefix + "flows", Partition: r.Partition, Key: r.Key, Value: value, Timestamp: at}, func(_ *kgo.Record, err error) {
				if err != nil {
					t.Errorf("copying flows: %v", err)
				}
			})
		}
	}
	if err := cl.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	return len(records)
}

// connections reads until at least least connections have arrived and no more arrive.
func (w *world) connections(ctx context.Context, t *testing.T, prefix string, least int) (out []string) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(w.c.Brokers()...), kgo.ConsumeTopics(prefix+"connections"), kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.UnknownTopicRetries(-1), kgo.MetadataMinAge(250*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	seen := map[string]bool{}
	for last := time.Now(); len(out) < least || time.Since(last) < 12*time.Second; {
		try, cancel := context.WithTimeout(ctx, time.Second)
		f := cl.PollFetches(try)
		cancel()
		if ctx.Err() != nil {
			t.Fatalf("%d connections of %d came in time", len(out), least)
		}
		f.EachRecord(func(r *kgo.Record) {
			last = time.Now()
			var m flowpb.Connection
			if err := proto.Unmarshal(r.Value, &m); err != nil {
				t.Fatal(err)
			}
			if id := fmt.Sprintf("%x %d", m.ConnectionId, m.Version); seen[id] {
				t.Errorf("connection %s was read twice", id)
			} else {
				seen[id] = true
			}
			for _, e := range []*flowpb.Endpoint{m.Initiator, m.Responder} {
				e.Name, e.NameStatus, e.NameVerified, e.NameSource = "", 0, false, 0
			}
			out = append(out, prototext.MarshalOptions{Multiline: false}.Format(&m))
		})
	}
	slices.Sort(out)
	return out
}
