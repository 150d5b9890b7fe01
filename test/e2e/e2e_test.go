// Package e2e runs the services over the embedded broker. enrich is a process of its own, so that
// the tests can kill it.
package e2e

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"weir/internal/ingest"
	"weir/internal/kafka"
	"weir/internal/kafka/broker"
	kafkatest "weir/internal/weirtest/kafka"
	"weir/internal/weirtest/payloads"
	"weir/pkg/flowpb"
)

const (
	partitions = 4
	// The capture has 381 IPFIX messages with 12 000 flows, which nfdump counts too. Some of the
	// messages begin with the templates.
	capturePath  = "../../testdata/captures/softflowd_v10_big.pcap"
	captureFlows = 12_000
)

// Templates reach one ingest replica and data the other, and enrich is killed repeatedly. Consumers
// must then read the connections that an undisturbed enrich makes of the same flows.
func TestScenario5ConnectionsAreThoseOfAnUndisturbedRunWhenEnrichIsKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED: starts and kills processes")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	bin := build(ctx, t)
	b, err := broker.Start("127.0.0.1:0", false)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	k := newKafka(t, b.Addr())
	feed(ctx, t, b.Addr(), "calm.")
	k.copyFlows(ctx, "calm.flows", "kill.flows")

	calm := start(ctx, t, bin, b.Addr(), "calm.", quick...)
	want := k.settled(ctx, "calm.")
	calm.stop()

	const kills = 3
	for i := range kills {
		p := start(ctx, t, bin, b.Addr(), "kill.", quick...)
		k.waitCommitted(ctx, "kill.", captureFlows*int64(i+1)/(kills+2))
		p.kill()
	}
	last := start(ctx, t, bin, b.Addr(), "kill.", quick...)
	got := k.settled(ctx, "kill.")
	last.stop()

	if len(want) < 1000 {
		t.Errorf("the undisturbed run made %d connections: too few to prove anything", len(want))
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("connections after %d kills: want %d, got %d (-undisturbed +killed):\n%.4000s", kills, len(want), len(got), d)
	}
	t.Logf("%d connections of %d flows, the same after %d kills", len(want), captureFlows, kills)
}

func topics(prefix string) kafka.TopicConfig {
	return kafka.TopicConfig{Prefix: prefix, Mode: "create", Partitions: partitions, Replication: 1, FlowsRetention: time.Hour, ConnRetention: time.Hour}
}

// feed sends the capture through two replicas: datagrams that begin with a template set to the
// first, all others to the second.
func feed(ctx context.Context, t *testing.T, addr, prefix string) {
	t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var rs [2]*ingest.Replica
	ended := make(chan error, len(rs))
	for i := range rs {
		r, err := ingest.New(ingest.Config{
			Elements: true, Undecoded: ingest.UndecodedConfig{Keep: time.Hour, Rate: 1 << 20, Burst: 64 << 20, Exporter: 16 << 20},
			Replica: fmt.Sprintf("r%d", i), Drain: time.Second, Flush: 10 * time.Second, Linger: 5 * time.Millisecond, ParkFor: time.Second,
			Kafka:  kafka.Config{Brokers: []string{addr}, ClientID: "e2e", SessionTimeout: 15 * time.Second},
			Topics: topics(prefix),
		}, ingest.Deps{Log: slog.New(slog.DiscardHandler), Now: time.Now})
		if err != nil {
			t.Fatal(err)
		}
		rs[i] = r
		go func() { ended <- r.Run(ctx) }()
	}
	for _, r := range rs {
		kafkatest.Poll(ctx, t, "a replica is ready", func() bool { return r.Ready() == nil })
	}
	began := time.Now()
	from := netip.MustParseAddrPort("192.0.2.1:40000")
	for n, pkt := range payloads.Of(t, capturePath) {
		to := rs[1]
		if set := binary.BigEndian.Uint16(pkt[16:]); set == 2 || set == 3 { // RFC 7011 section 3.3.2
			to = rs[0]
		}
		to.Receive(pkt, from, began.Add(time.Duration(n)*time.Millisecond))
	}
	kafkatest.Poll(ctx, t, "all flows are decoded", func() bool { return rs[0].Stats().Flows+rs[1].Stats().Flows == captureFlows })
	if s := rs[1].Stats(); s.TemplatesLearnt != 0 || s.Flows < captureFlows/2 {
		t.Fatalf("the second replica saw %d templates itself and decoded %d flows: want none, and most", s.TemplatesLearnt, s.Flows)
	}
	cancel()
	for range rs {
		if err := <-ended; err != nil {
			t.Fatalf("ingest: %v", err)
		}
	}
}

// A process is a running enrich.
type process struct {
	t   *testing.T
	cmd *exec.Cmd
	out *bytes.Buffer
}

func build(ctx context.Context, t *testing.T) (bin string) {
	t.Helper()
	bin = filepath.Join(t.TempDir(), "enrich")
	if runtime.GOOS == "windows" {
		bin += ".exe"
	}
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", bin, "weir/cmd/enrich").CombinedOutput(); err != nil {
		t.Fatalf("building enrich: %v\n%s", err, out)
	}
	return bin
}

// quick holds the settings of an enrich that is the only member and ends connections soon.
var quick = []string{
	"INSTANCE=one", "COMMIT_RECORDS=300", "COMMIT_INTERVAL=20ms", "PAIR_IDLE=2s", "PAIR_ACTIVE_TIMEOUT=1s", "PAIR_LINGER=500ms", "PAIR_LATE_GRACE=1s",
}

func start(ctx context.Context, t *testing.T, bin, addr, prefix string, env ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: exec.CommandContext(ctx, bin), out: &bytes.Buffer{}}
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	p.cmd.Env = append(os.Environ(), "KAFKA_BROKERS="+addr, "TOPIC_PREFIX="+prefix, fmt.Sprintf("TOPIC_PARTITIONS=%d", partitions), "METRICS_LISTEN=",
		"KAFKA_SESSION_TIMEOUT=1500ms", "DNS_ENABLED=false")
	p.cmd.Env = append(p.cmd.Env, env...)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *process) kill() {
	if err := p.cmd.Process.Kill(); err != nil {
		p.t.Errorf("killing enrich: %v\n%s", err, p.out)
	}
	_ = p.cmd.Wait() // its error is the kill
}

func (p *process) stop() {
	p.t.Helper()
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
		p.t.Fatalf("enrich had ended: %v\n%s", err, p.out)
	}
	if err := p.cmd.Wait(); err != nil {
		p.t.Errorf("enrich: %v\n%s", err, p.out)
	}
}

// kafkaClient reads topics as a consumer does.
type kafkaClient struct {
	t    *testing.T
	addr string
	cl   *kgo.Client
	adm  *kadm.Client
}

func newKafka(t *testing.T, addr string) *kafkaClient {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.MetadataMinAge(50*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return &kafkaClient{t, addr, cl, kadm.NewClient(cl)}
}

// read returns the committed records of a topic to its present end.
func (k *kafkaClient) read(ctx context.Context, topic string) (out []*kgo.Record) {
	k.t.Helper()
	ends, err := k.adm.ListCommittedOffsets(ctx, topic)
	if err != nil {
		k.t.Fatal(err)
	}
	left := map[int32]int64{}
	ends.Each(func(o kadm.ListedOffset) {
		if o.Offset > 0 {
			left[o.Partition] = o.Offset
		}
	})
	if len(left) == 0 {
		return nil
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(k.addr), kgo.ConsumeTopics(topic), kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords(), kgo.FetchMaxWait(50*time.Millisecond))
	if err != nil {
		k.t.Fatal(err)
	}
	defer cl.Close()
	for len(left) > 0 {
		fetches := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			k.t.Fatalf("reading %s: %v", topic, ctx.Err())
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if end, ok := left[r.Partition]; ok && r.Offset+1 >= end {
				delete(left, r.Partition)
			}
			if !r.Attrs.IsControl() {
				out = append(out, r)
			}
		})
	}
	return out
}

// copyFlows creates a topic with the same records at the same offsets.
func (k *kafkaClient) copyFlows(ctx context.Context, from, to string) {
	k.t.Helper()
	if err := kafka.Ensure(ctx, kafka.Config{Brokers: []string{k.addr}}, topics(to[:len(to)-len("flows")]), nil, kafka.Flows); err != nil {
		k.t.Fatal(err)
	}
	records := k.read(ctx, from)
	if len(records) != captureFlows {
		k.t.Fatalf("flows on the topic: want %d, got %d", captureFlows, len(records))
	}
	var wg sync.WaitGroup
	for _, r := range records {
		wg.Add(1)
		k.cl.Produce(ctx, &kgo.Record{Topic: to, Partition: r.Partition, Key: r.Key, Value: r.Value, Timestamp: r.Timestamp}, func(_ *kgo.Record, err error) {
			if err != nil {
				k.t.Errorf("copying flows: %v", err)
			}
			wg.Done()
		})
	}
	wg.Wait()
}

// committed returns the number of flows that the group has consumed.
func (k *kafkaClient) committed(ctx context.Context, prefix string) (n int64) {
	offsets, err := k.adm.FetchOffsetsForTopics(ctx, "enrich", prefix+"flows")
	if err != nil {
		return 0
	}
	offsets.Each(func(o kadm.OffsetResponse) { n += max(0, o.At) })
	return n
}

func (k *kafkaClient) waitCommitted(ctx context.Context, prefix string, n int64) {
	k.t.Helper()
	kafkatest.Poll(ctx, k.t, fmt.Sprintf("%d flows are taken", n), func() bool { return k.committed(ctx, prefix) >= n })
}

// settled waits until all flows are consumed and no more connections arrive. It returns the
// connections, in order, without names and their status. Silence means the end only if there are
// enough connections: before, enrich may be waiting for the session of its killed predecessor to
// end.
func (k *kafkaClient) settled(ctx context.Context, prefix string) (out []string) {
	k.t.Helper()
	k.waitCommitted(ctx, prefix, captureFlows)
	before, since := -1, time.Now()
	kafkatest.Poll(ctx, k.t, "no more connections come", func() bool {
		n := len(k.read(ctx, prefix+"connections"))
		if n != before {
			before, since = n, time.Now()
		}
		quiet := 5 * time.Second // more than twice PAIR_IDLE
		if n < captureFlows/2 {  // softflowd exports two flows of a connection
			quiet = time.Minute
		}
		return time.Since(since) > quiet
	})
	for _, r := range k.read(ctx, prefix+"connections") {
		var c flowpb.Connection
		if err := proto.Unmarshal(r.Value, &c); err != nil {
			k.t.Fatal(err)
		}
		for _, e := range []*flowpb.Endpoint{c.Initiator, c.Responder} {
			e.Name, e.NameStatus, e.NameVerified, e.NameSource = "", 0, false, 0
		}
		out = append(out, hex.EncodeToString(c.ConnectionId)+" "+prototext.MarshalOptions{Multiline: false}.Format(&c))
	}
	slices.Sort(out)
	return out
}
