package bench

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/proto"

	"weir/internal/kafka"
	"weir/internal/kafka/broker"
	kafkatest "weir/internal/weirtest/kafka"
	"weir/pkg/flowpb"
)

var (
	holdTable = flag.String("hold", "", "measure enrich with many held connections, and write the table into this document")
	holdHeld  = flag.Int("held", 10_000_000, "connections that enrich holds")
	holdBase  = flag.String("base", "", "commit whose enrich is measured too")
	holdReal  = flag.Bool("real", true, "three Kafka nodes; false: the embedded broker, which keeps the topics in memory")
)

const (
	// holdIdle is PAIR_IDLE of the measured enrich: no connection ends by silence while the test runs.
	holdIdle = 20 * time.Minute
	// expiring is the number of connections of partition 0, which end at once: all, if fewer are held.
	expiring = 1_000_000
	// probeEvery is the interval between two flows of the probe.
	probeEvery = 50 * time.Millisecond
)

// held are the figures of one enrich.
type held struct {
	rss, peak    float64       // GiB of the process with all connections held; the greatest of both processes
	restored     time.Duration // from the start of the second process until it was ready
	restoredRSS  float64       // GiB then
	refused      bool          // /readyz refused during the restore
	expiry       time.Duration // from the flow that ended the connections to the commit of its offset
	quiet, delay time.Duration // greatest time from a flow elsewhere to its commit: before, and during the expiry
}

// A holder measures an enrich that holds n connections of the topics of a prefix.
type holder struct {
	*bed
	enrich, prefix, listen string
	n                      int
	base                   time.Time // receive time of the first flow
	process                *exec.Cmd
	log                    bytes.Buffer
}

// flow returns an encoded flow of connection i: from its initiator or, with back, from its responder. UDP has no end:
// the connection stays open.
func (h *holder) flow(i uint32, back bool, at time.Time) []byte {
	m := &flowpb.FlowMessage{
		Type: flowpb.FlowMessage_IPFIX, SrcAddr: binary.BigEndian.AppendUint32(nil, 10<<24+i), DstAddr: []byte{192, 0, 2, byte(i)},
		SrcPort: 40000, DstPort: 53, Proto: 17, Bytes: 900 + uint64(i%100), Packets: 9, SamplingRate: 1,
		SamplerAddress: []byte{192, 0, 2, 1}, DatagramHash: uint64(i)*2 + 1, TimeReceivedNs: uint64(at.UnixNano()),
		TimeFlowStartNs: uint64(at.UnixNano()) - 1e9, TimeFlowEndNs: uint64(at.UnixNano()), TimeResolutionUs: 1000,
	}
	if back {
		m.SrcAddr, m.DstAddr, m.SrcPort, m.DstPort = m.DstAddr, m.SrcAddr, m.DstPort, m.SrcPort
		m.Bytes, m.Packets, m.DatagramHash = 9000, 12, m.DatagramHash+1
	}
	b, err := proto.Marshal(m)
	if err != nil {
		h.t.Error(err)
	}
	return b
}

// put appends a flow to a partition. done may be nil.
func (h *holder) put(ctx context.Context, partition int32, value []byte, done func(*kgo.Record, error)) {
	h.cl.Produce(ctx, &kgo.Record{Topic: h.prefix + "flows", Partition: partition, Value: value}, done)
}

// fillHeld makes the topics, with two flows of each connection within a minute of receive time. Partition 0 has the
// connections that will expire, the others share the rest.
func (h *holder) fillHeld(ctx context.Context) {
	tc := kafka.TopicConfig{
		Prefix: h.prefix, Mode: "create", Partitions: flowParts, Replication: -1, FlowsRetention: time.Hour, ConnRetention: time.Hour,
	}
	if len(h.brokers) == 1 {
		tc.Replication = 1
	}
	if err := kafka.Ensure(ctx, kafka.Config{Brokers: h.brokers}, tc, nil, kafka.Flows, kafka.Pairing, kafka.Connections); err != nil {
		h.t.Fatal(err)
	}
	h.base = time.Now().Add(-50 * time.Minute)
	first := min(h.n, expiring)
	for i := range h.n {
		partition := int32(0)
		// Partition 0 is filled beside the others, so that they all reach the end of their flows together.
		if share := uint64(i+1) * uint64(first) / uint64(h.n); share == uint64(i)*uint64(first)/uint64(h.n) {
			partition = int32(1 + i%(flowParts-1))
		}
		at := h.base.Add(time.Duration(float64(i) / float64(h.n) * float64(time.Minute)))
		h.put(ctx, partition, h.flow(uint32(i), false, at), nil)
		h.put(ctx, partition, h.flow(uint32(i), true, at), nil)
	}
	if err := h.cl.Flush(ctx); err != nil {
		h.t.Fatal(err)
	}
}

// start starts enrich.
func (h *holder) start(ctx context.Context) {
	h.process = exec.CommandContext(ctx, h.enrich)
	h.process.Env = append(os.Environ(), "KAFKA_BROKERS="+strings.Join(h.brokers, ","), "TOPIC_PREFIX="+h.prefix, "INSTANCE="+h.prefix+"w",
		"METRICS_LISTEN="+h.listen, "TOPIC_PARTITIONS="+strconv.Itoa(flowParts), "DNS_ENABLED=false",
		"PAIR_IDLE="+holdIdle.String(), "PAIR_MAX_OPEN=100000000")
	h.process.Stderr = &h.log
	if err := h.process.Start(); err != nil {
		h.t.Fatal(err)
	}
}

// stop ends enrich as an operator does.
func (h *holder) stop() {
	if err := h.process.Process.Signal(syscall.SIGTERM); err != nil {
		h.t.Fatal(err)
	}
	if err := h.process.Wait(); err != nil {
		h.t.Fatalf("%v\n%s", err, h.log.String())
	}
}

// get returns a page of enrich and its status; 0 without an answer.
func (h *holder) get(ctx context.Context, path string) (status int, body string) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+h.listen+path, nil)
	if err != nil {
		h.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, ""
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text)
}

// open returns the metric of open connections, -1 without an answer.
func (h *holder) open(ctx context.Context) int {
	_, body := h.get(ctx, "/metrics")
	for line := range strings.Lines(body) {
		if v, ok := strings.CutPrefix(line, "weir_enrich_connections_open "); ok {
			n, _ := strconv.ParseFloat(strings.TrimSpace(v), 64)
			return int(n)
		}
	}
	return -1
}

// wait waits until done returns true.
func (h *holder) wait(ctx context.Context, what string, every time.Duration, done func() bool) {
	h.t.Helper()
	for !done() {
		if ctx.Err() != nil {
			h.t.Fatalf("no end in time: %s\n%.4000s", what, h.log.String())
		}
		time.Sleep(every)
	}
}

// memory returns fields of /proc/PID/status, GiB: the resident set and its greatest size.
func (h *holder) memory() (rss, peak float64) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", h.process.Process.Pid))
	if err != nil {
		h.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		name, rest, _ := strings.Cut(line, ":")
		kib, _ := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 64)
		switch name {
		case "VmRSS":
			rss = kib / (1 << 20)
		case "VmHWM":
			peak = kib / (1 << 20)
		}
	}
	return rss, peak
}

// committed returns the committed offsets of the flows, by partition.
func (h *holder) committed(ctx context.Context, adm *kadm.Client) map[int32]int64 {
	at := map[int32]int64{}
	offsets, err := adm.FetchOffsetsForTopics(ctx, "enrich", h.prefix+"flows")
	if err == nil {
		offsets.Each(func(o kadm.OffsetResponse) { at[o.Partition] = o.At })
	}
	return at
}

// A probe sends a flow to partition 1 at each probeEvery and measures the time until its offset is committed. All
// flows are of one connection.
type probe struct {
	mu      sync.Mutex
	pending []sent
	longest time.Duration
}

type sent struct {
	offset int64
	at     time.Time
}

// run sends until ctx ends.
func (p *probe) run(ctx context.Context, h *holder) {
	for n := uint32(0); ctx.Err() == nil; n++ {
		at := time.Now()
		value := h.flow(1<<24-1, n%2 == 1, h.base.Add(time.Minute+time.Duration(n)*time.Millisecond))
		h.put(context.WithoutCancel(ctx), 1, value, func(r *kgo.Record, err error) {
			if err == nil {
				p.mu.Lock()
				p.pending = append(p.pending, sent{r.Offset, at})
				p.mu.Unlock()
			}
		})
		time.Sleep(probeEvery)
	}
}

// committed takes note of a committed offset, and returns the greatest delay since the last reset.
func (p *probe) committed(offset int64, reset bool) (longest time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.pending) > 0 && (p.pending[0].offset < offset) {
		p.longest = max(p.longest, time.Since(p.pending[0].at))
		p.pending = p.pending[1:]
	}
	if len(p.pending) > 0 {
		p.longest = max(p.longest, time.Since(p.pending[0].at))
	}
	longest = p.longest
	if reset {
		p.longest = 0
	}
	return longest
}

// expire lets the connections of partition 0 end at once, while flows of another partition go on.
func (h *holder) expire(ctx context.Context, f *held) {
	var p probe
	probing, stop := context.WithCancel(ctx)
	var ended sync.WaitGroup
	ended.Go(func() { p.run(probing, h) })
	defer ended.Wait()
	defer stop()
	adm := kadm.NewClient(h.cl)
	until := time.Now().Add(10 * time.Second)
	warm := time.Now().Add(3 * time.Second)
	h.wait(ctx, "the probe alone", 5*time.Millisecond, func() bool {
		f.quiet = p.committed(h.committed(ctx, adm)[1], time.Now().Before(warm))
		return time.Now().After(until)
	})
	p.committed(h.committed(ctx, adm)[1], true)
	began, last := time.Now(), int64(-1)
	h.put(ctx, 0, h.flow(1<<24-2, false, h.base.Add(holdIdle+2*time.Minute)), func(r *kgo.Record, err error) {
		if err != nil {
			h.t.Errorf("the flow that ends connections: %v", err)
		}
		p.mu.Lock()
		last = r.Offset
		p.mu.Unlock()
	})
	h.wait(ctx, "the expiry", 5*time.Millisecond, func() bool {
		at := h.committed(ctx, adm)
		f.delay = p.committed(at[1], false)
		p.mu.Lock()
		defer p.mu.Unlock()
		return last >= 0 && at[0] > last
	})
	f.expiry = time.Since(began)
}

// measureHeld fills the topics and measures an enrich on them.
func (h *holder) measureHeld(ctx context.Context) (f held) {
	h.fillHeld(ctx)
	h.start(ctx)
	h.wait(ctx, "connections are opened", 200*time.Millisecond, func() bool { return h.open(ctx) == h.n })
	f.rss, f.peak = h.memory()
	h.stop()
	h.log.Reset()
	began := time.Now()
	h.start(ctx)
	h.wait(ctx, "the restore", 20*time.Millisecond, func() bool {
		status, _ := h.get(ctx, "/readyz")
		f.refused = f.refused || status == http.StatusServiceUnavailable
		return status == http.StatusOK && h.open(ctx) == h.n
	})
	f.restored = time.Since(began)
	f.restoredRSS, _ = h.memory()
	h.expire(ctx, &f)
	_, peak := h.memory()
	f.peak = max(f.peak, peak)
	h.stop()
	return f
}

// buildEnrich builds enrich of the working tree, or of a commit, and returns the program.
func buildEnrich(ctx context.Context, t *testing.T, commit string) string {
	t.Helper()
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	tree, program := root, filepath.Join(t.TempDir(), "enrich")
	git := func(ctx context.Context, args ...string) {
		if out, err := exec.CommandContext(ctx, "git", append([]string{"-C", root}, args...)...).CombinedOutput(); err != nil {
			t.Errorf("git %v: %v\n%s", args, err, out)
		}
	}
	if commit != "" {
		tree = filepath.Join(t.TempDir(), "tree")
		git(ctx, "worktree", "add", "--detach", tree, commit)
		defer git(context.WithoutCancel(ctx), "worktree", "remove", "--force", tree)
	}
	if out, err := exec.CommandContext(ctx, "go", "build", "-C", tree, "-o", program, "./cmd/enrich").CombinedOutput(); err != nil {
		t.Fatalf("building enrich %s: %v\n%s", commit, err, out)
	}
	return program
}

// TestHoldTable writes the section of held connections of docs/performance.md: make bench-hold.
func TestHoldTable(t *testing.T) {
	if *holdTable == "" {
		t.Skip("SKIPPED: takes minutes and up to 16 GiB: make bench-hold")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Minute)
	defer cancel()
	subjects := []string{""}
	if *holdBase != "" {
		subjects = append(subjects, *holdBase)
	}
	var rows strings.Builder
	kind := "three Kafka nodes, RF 3"
	for i, commit := range subjects {
		program := buildEnrich(ctx, t, commit)
		var brokers []string
		if *holdReal {
			brokers = kafkatest.Start(ctx, t).Brokers()
		} else {
			b, err := broker.Start("127.0.0.1:0", false)
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			kind, brokers = "the embedded broker", []string{b.Addr()}
		}
		cl, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.RecordPartitioner(kgo.ManualPartitioner()),
			kgo.UnknownTopicRetries(-1), kgo.MaxBufferedRecords(50_000), kgo.ProducerLinger(2*time.Millisecond))
		if err != nil {
			t.Fatal(err)
		}
		defer cl.Close()
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		listen := l.Addr().String()
		l.Close()
		h := &holder{
			bed: &bed{t: t, brokers: brokers, cl: cl}, enrich: program, listen: listen, n: *holdHeld, prefix: fmt.Sprintf("hold%d.", i),
		}
		f := h.measureHeld(ctx)
		readyz := "refused meanwhile"
		if !f.refused {
			readyz = "not refused"
		}
		fmt.Fprintf(&rows, "| %s | %.2f | %.2f | %.1f | %s | %.2f | %.1f | %.2f | %.2f |\n", cmp.Or(commit, "this commit"), f.rss, f.peak,
			f.restored.Seconds(), readyz, f.restoredRSS, f.expiry.Seconds(), f.delay.Seconds(), f.quiet.Seconds())
	}
	text := fmt.Sprintf(`%s, %s; one run on %s: %d connections of two flows held, %d of them in the partition that expires.

| enrich | RSS, GiB | greatest RSS, GiB | restore, s | /readyz | RSS after it, GiB | expiry, s | longest delay of a flow elsewhere meanwhile, s | before, s |
|---|---|---|---|---|---|---|---|---|
%s`, cmp.Or(model(), "unknown CPU"), runtime.Version(), kind, *holdHeld, min(*holdHeld, expiring), rows.String())
	fmt.Print(text)
	document(t, *holdTable, "<!-- held: written by make bench-hold -->", "<!-- held: end -->", text)
}
