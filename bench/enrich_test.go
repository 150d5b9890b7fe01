package bench

import (
	"bytes"
	"cmp"
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/proto"

	"weir/internal/flowkey"
	"weir/internal/kafka"
	"weir/internal/kafka/broker"
	"weir/internal/pair"
	kafkatest "weir/internal/weirtest/kafka"
	"weir/internal/weirtest/workload"
	"weir/pkg/flowpb"
)

var enrichTable = flag.String("enrich", "", "measure enrich, and write the table into this document")

const (
	flowParts   = 8
	enrichRuns  = 3
	pairs       = 400_000 // connections a run end to end, of about two flows
	copyRole    = "WEIR_BENCH_COPY"
	stateOctets = "WEIR_BENCH_STATE_OCTETS"
)

// TestMain runs the copying worker if the program is started in that role.
func TestMain(m *testing.M) {
	if os.Getenv(copyRole) != "" {
		copier()
		return
	}
	if role := os.Getenv(receiveRole); role != "" {
		receiveRoles[role](strings.Fields(os.Getenv(receiveArgs)))
		return
	}
	os.Exit(m.Run())
}

// copier does the least work of any exactly-once consumer: a GroupTransactSession that copies its
// input to the output and writes as many octets of state as enrich.
func copier() {
	prefix, brokers := os.Getenv("TOPIC_PREFIX"), strings.Split(os.Getenv("KAFKA_BROKERS"), ",")
	state, err := strconv.ParseFloat(os.Getenv(stateOctets), 64)
	if err != nil {
		panic(err)
	}
	s, err := kgo.NewGroupTransactSession(
		kgo.SeedBrokers(brokers...), kgo.TransactionalID(os.Getenv("INSTANCE")), kgo.ConsumerGroup("enrich"), kgo.ConsumeTopics(prefix+"flows"),
		kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.Balancers(kgo.CooperativeStickyBalancer()),
		kgo.BlockRebalanceOnPoll(), kgo.ProducerLinger(2*time.Millisecond), kgo.ProducerBatchCompression(kgo.SnappyCompression()), kgo.FetchMaxWait(200*time.Millisecond),
		kgo.FetchMaxPartitionBytes(256<<10), kgo.UnknownTopicRetries(-1))
	if err != nil {
		panic(err)
	}
	filler := make([]byte, 900_000)
	for i := range filler { // about as compressible as state
		filler[i] = byte(i * i >> 3)
	}
	ctx, stop := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	go func() { <-signals; stop() }()
	for ctx.Err() == nil {
		until, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
		n := 0
		for n < 20_000 && until.Err() == nil {
			f := s.PollRecords(until, 20_000-n)
			if f.NumRecords() > 0 && n == 0 {
				if err := s.Begin(); err != nil {
					panic(err)
				}
			}
			f.EachRecord(func(r *kgo.Record) {
				n++
				s.Produce(ctx, &kgo.Record{Topic: prefix + "connections", Key: r.Key, Value: r.Value}, nil)
			})
		}
		cancel()
		if n > 0 {
			for left := int(float64(n) * state); left > 0; left -= len(filler) {
				s.Produce(ctx, &kgo.Record{Topic: prefix + "pairing", Value: filler[:min(left, len(filler))]}, nil)
			}
			if _, err := s.End(context.WithoutCancel(ctx), kgo.TryCommit); err != nil {
				panic(err)
			}
		}
		s.AllowRebalance()
	}
	s.Close()
}

// figures holds the results of a subject on a broker, one per run.
type figures struct{ rate, cpu, state []float64 }

// A bed is a broker with a topic of flows for each run.
type bed struct {
	t       *testing.T
	brokers []string
	cl      *kgo.Client
}

// fill creates the topics of prefix and produces the flows of the workload.
func (b *bed) fill(ctx context.Context, prefix string) (flows int64) {
	b.t.Helper()
	tc := kafka.TopicConfig{Prefix: prefix, Mode: "create", Partitions: flowParts, Replication: -1, FlowsRetention: time.Hour, ConnRetention: time.Hour}
	if len(b.brokers) == 1 {
		tc.Replication = 1
	}
	if err := kafka.Ensure(ctx, kafka.Config{Brokers: b.brokers}, tc, nil, kafka.Flows, kafka.Pairing, kafka.Connections); err != nil {
		b.t.Fatal(err)
	}
	workload.Flows(pairs, time.Now().Add(-50*time.Minute), 1, func(_ int, key []byte, m *flowpb.FlowMessage) {
		value, err := proto.Marshal(m)
		if err != nil {
			b.t.Fatal(err)
		}
		flows++
		b.cl.Produce(ctx, &kgo.Record{Topic: prefix + "flows", Key: key, Value: value, Timestamp: time.Unix(0, int64(m.TimeReceivedNs))}, nil)
	})
	if err := b.cl.Flush(ctx); err != nil {
		b.t.Fatal(err)
	}
	return flows
}

// measure runs two workers on the flows of prefix. It returns the flows per second from the first
// commit to the last, and the CPU time of both workers, µs per flow.
func (b *bed) measure(ctx context.Context, prefix string, flows int64, command func(i int) *exec.Cmd) (rate, cpu float64) {
	b.t.Helper()
	var workers [2]*exec.Cmd
	var log bytes.Buffer
	for i := range workers {
		workers[i] = command(i)
		workers[i].Env = append(append(os.Environ(), workers[i].Env...), "KAFKA_BROKERS="+strings.Join(b.brokers, ","), "TOPIC_PREFIX="+prefix, fmt.Sprintf("INSTANCE=%sw%d", prefix, i))
		workers[i].Stderr = &log
		if err := workers[i].Start(); err != nil {
			b.t.Fatal(err)
		}
	}
	adm := kadm.NewClient(b.cl)
	var began time.Time
	var first int64
	for {
		var at int64
		offsets, err := adm.FetchOffsetsForTopics(ctx, "enrich", prefix+"flows")
		if err == nil {
			offsets.Each(func(o kadm.OffsetResponse) { at += max(0, o.At) })
		}
		if began.IsZero() && at > 0 {
			began, first = time.Now(), at
		}
		if at >= flows {
			break
		}
		if ctx.Err() != nil {
			b.t.Fatalf("%d of %d flows consumed in time\n%s", at, flows, log.String())
		}
		time.Sleep(10 * time.Millisecond)
	}
	rate = float64(flows-first) / time.Since(began).Seconds()
	for _, w := range workers {
		if err := w.Process.Signal(syscall.SIGTERM); err != nil {
			b.t.Fatal(err)
		}
		if err := w.Wait(); err != nil {
			b.t.Fatalf("%v\n%s", err, log.String())
		}
		cpu += (w.ProcessState.UserTime() + w.ProcessState.SystemTime()).Seconds() * 1e6 / float64(flows)
	}
	return rate, cpu
}

// subjects measures in turn enrich without names, enrich with a name server that answers, enrich
// with a name server that never answers, and the copying worker.
func (b *bed) subjects(ctx context.Context, enrich string) (weir, named, silent, bare figures) {
	hole, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		b.t.Fatal(err)
	}
	defer hole.Close()
	socket, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		b.t.Fatal(err)
	}
	server := &dns.Server{PacketConn: socket, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, m *dns.Msg) {
		_ = w.WriteMsg(new(dns.Msg).SetRcode(m, dns.RcodeNameError))
	})}
	go func() { _ = server.ActivateAndServe() }()
	defer func() { _ = server.Shutdown() }()
	self, err := os.Executable()
	if err != nil {
		b.t.Fatal(err)
	}
	for run := range enrichRuns + 1 {
		with := func(env ...string) func(int) *exec.Cmd {
			return func(int) *exec.Cmd {
				c := exec.CommandContext(ctx, enrich)
				c.Env = append(env, "METRICS_LISTEN=", "TOPIC_PARTITIONS="+strconv.Itoa(flowParts))
				return c
			}
		}
		asking := func(name string, at net.PacketConn) (rate, cpu float64) {
			prefix := fmt.Sprintf("%s%d.", name, run)
			rate, cpu = b.measure(ctx, prefix, b.fill(ctx, prefix), with("DNS_PRIVATE_SERVERS="+at.LocalAddr().String(), "DNS_SERVERS="+at.LocalAddr().String()))
			return rate, cpu
		}
		namedRate, namedCPU := asking("named", socket)
		silentRate, silentCPU := asking("silent", hole)
		prefix := fmt.Sprintf("weir%d.", run)
		flows := b.fill(ctx, prefix)
		rate, cpu := b.measure(ctx, prefix, flows, with("DNS_ENABLED=false"))
		state := b.octets(ctx, prefix+"pairing") / float64(flows)
		prefix = fmt.Sprintf("copy%d.", run)
		flows = b.fill(ctx, prefix)
		bareRate, bareCPU := b.measure(ctx, prefix, flows, func(int) *exec.Cmd {
			c := exec.CommandContext(ctx, self)
			c.Env = []string{copyRole + "=1", fmt.Sprintf("%s=%f", stateOctets, state)}
			return c
		})
		b.t.Logf("weir %.0f flows/s, %.2f µs CPU, %.0f octets of state a flow; with names %.0f flows/s, %.2f µs; silent name server %.0f flows/s, %.2f µs; copying %.0f flows/s, %.2f µs",
			rate, cpu, state, namedRate, namedCPU, silentRate, silentCPU, bareRate, bareCPU)
		if run == 0 {
			continue // the first run only warms up the brokers
		}
		weir.rate, weir.cpu, weir.state = append(weir.rate, rate), append(weir.cpu, cpu), append(weir.state, state)
		named.rate, named.cpu = append(named.rate, namedRate), append(named.cpu, namedCPU)
		silent.rate, silent.cpu = append(silent.rate, silentRate), append(silent.cpu, silentCPU)
		bare.rate, bare.cpu = append(bare.rate, bareRate), append(bare.cpu, bareCPU)
	}
	return weir, named, silent, bare
}

// octets returns the size of the records of a topic before compression.
func (b *bed) octets(ctx context.Context, topic string) (n float64) {
	b.t.Helper()
	if err := (kafka.Tail{Start: true, Once: true}).Read(ctx, kafka.Config{Brokers: b.brokers}, topic, func(rs []kafka.Record) error {
		for _, r := range rs {
			n += float64(len(r.Value))
		}
		return nil
	}, func(err error) { b.t.Error(err) }); err != nil {
		b.t.Fatal(err)
	}
	return n
}

// alone holds the cost of each part of enrich's work, measured without the others, in ns of one goroutine.
type alone struct {
	read    float64 // FlowMessage from protobuf to the machine's Flow, per flow
	machine float64 // Machine.Observe, with reports and the pieces of its log, per flow
	append  float64 // Community ID of a Connection, then the Connection to protobuf, per connection
	mapped  float64 // a get and a put on a Go map with the same key, per flow
}

// perFlow returns the sum of the parts, µs a flow. A connection has about two flows.
func (a *alone) perFlow() float64 { return (a.read + a.machine + a.append/2) / 1000 }

// keyed sets the key and times of the n-th flow of a stream in which every flow is a new
// conversation.
func keyed(f *pair.Flow, n uint32, now int64) {
	conn := n / 2
	t := flowkey.Tuple{Src: [16]byte{10: 0xff, 11: 0xff, 12: 10, 13: byte(conn >> 16), 14: byte(conn >> 8), 15: byte(conn)}, Dst: [16]byte{10: 0xff, 11: 0xff, 12: 192, 14: byte(conn >> 24), 15: 1}, SrcPort: 40000, DstPort: 443, Proto: 6}
	if n%2 == 1 {
		t.Src, t.Dst, t.SrcPort, t.DstPort = t.Dst, t.Src, t.DstPort, t.SrcPort
	}
	f.Key, f.SrcIsLo = t.Canon()
	f.Ident, f.Received, f.Start, f.End, f.Export = uint64(n)+1, now, now-1e9, now, 0
}

const heldConnections = 1_000_000

// parts measures the functions that enrich calls, on one goroutine: medians of five benchmarks.
func parts(t *testing.T) (a alone) {
	var value []byte
	workload.Flows(1, time.Now(), 1, func(_ int, _ []byte, f *flowpb.FlowMessage) {
		if value == nil {
			value, _ = proto.Marshal(f)
		}
	})
	var m flowpb.FlowMessage
	read := func() pair.Flow {
		if err := flowpb.ReadPairingFields(value, &m); err != nil {
			t.Fatal(err)
		}
		flow, ok := pair.FromMessage(&m, &workload.Config)
		if !ok {
			t.Fatal("the workload's first flow cannot be paired")
		}
		return flow
	}
	flow := read()
	var last *flowpb.Connection
	c := workload.Config
	c.MaxOpen = 1 << 30
	machine := pair.New(c, 1, func(e *pair.Emission) {
		if last == nil {
			last = proto.CloneOf(e.Connection)
			last.Service = "https"
		}
	})
	step := int64(c.Linger+c.LateGrace) / heldConnections / 2
	n, now, dirty := uint32(0), int64(1_700_000_000e9), 0
	observe := func() {
		keyed(&flow, n, now)
		n, now = n+1, now+step
		machine.Observe(&flow)
		if dirty++; dirty == 20_000 {
			machine.Deltas(900_000)
			dirty = 0
		}
	}
	for open, grace := 0, 0; open+grace < heldConnections*98/100; open, grace = machine.Held() {
		for range 100_000 {
			observe()
		}
	}
	at := map[flowkey.Key]int64{}
	for i := range uint32(2 * heldConnections) {
		keyed(&flow, i, 0)
		at[flow.Key] = 1
	}
	i := uint32(0)
	a.mapped = medianOf(func() {
		keyed(&flow, i, 0)
		if i++; i == 2*heldConnections {
			i = 0
		}
		v := at[flow.Key]
		at[flow.Key] = v + 1
	})
	a.machine = medianOf(observe)
	a.read = medianOf(func() { flow = read() })
	buf := make([]byte, 0, 4096)
	a.append = medianOf(func() {
		last.CommunityId = pair.CommunityID(last)
		buf = flowpb.AppendConnection(buf[:0], last)
	})
	return a
}

// medianOf returns the median of five benchmarks of f, ns.
func medianOf(f func()) float64 {
	var all []float64
	for range 5 {
		r := testing.Benchmark(func(b *testing.B) {
			for b.Loop() {
				f()
			}
		})
		all = append(all, float64(r.T.Nanoseconds())/float64(r.N))
	}
	return middle(all)
}

func middle(all []float64) float64 {
	all = slices.Sorted(slices.Values(all))
	if len(all) == 0 {
		return 0
	}
	return all[len(all)/2]
}

// TestEnrichTable writes the pairing section of docs/performance.md: make bench-enrich.
func TestEnrichTable(t *testing.T) {
	if *enrichTable == "" {
		t.Skip("SKIPPED: takes minutes: make bench-enrich")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Minute)
	defer cancel()
	enrich := filepath.Join(t.TempDir(), "enrich")
	if out, err := exec.CommandContext(ctx, "go", "build", "-C", "..", "-o", enrich, "./cmd/enrich").CombinedOutput(); err != nil {
		t.Fatalf("building enrich: %v\n%s", err, out)
	}
	a := parts(t)
	t.Logf("alone: read %.0f, machine %.0f, append %.0f, map %.0f ns", a.read, a.machine, a.append, a.mapped)
	var rows strings.Builder
	row := func(name string, brokers []string) {
		cl, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)), kgo.UnknownTopicRetries(-1), kgo.MaxBufferedRecords(50_000))
		if err != nil {
			t.Fatal(err)
		}
		defer cl.Close()
		b := &bed{t: t, brokers: brokers, cl: cl}
		weir, named, silent, bare := b.subjects(ctx, enrich)
		bound := middle(bare.cpu) + a.perFlow()
		fmt.Fprintf(&rows, "| %s | %.0f | %.0f | %.0f %% | %.2f | %.2f | %.2f | %.2f | %.0f | %.0f | %.0f %% |\n",
			name, middle(weir.rate), middle(bare.rate), 100*middle(weir.rate)/middle(bare.rate),
			middle(weir.cpu), middle(bare.cpu), bound, middle(weir.cpu)/bound,
			middle(weir.state), middle(named.rate), 100*middle(silent.rate)/middle(named.rate))
	}
	b, err := broker.Start("127.0.0.1:0", false)
	if err != nil {
		t.Fatal(err)
	}
	row("embedded broker", []string{b.Addr()})
	b.Close()
	c := kafkatest.Start(ctx, t)
	row("three Kafka nodes, RF 3", c.Brokers())

	text := fmt.Sprintf(`%s, %s; medians of %d runs.

| alone, ns a flow, %d connections held | |
|---|---|
| FlowMessage from protobuf to the machine's form | %.0f |
| the pairing machine, its reports and the pieces of its log included | %.0f |
| one get and one put on a Go map with the same key | %.0f |
| the machine, times that | %.1f |
| Connection to protobuf, Community ID included (one for about two flows) | %.0f |

| two workers | flows/s | copying, flows/s | of it | CPU, µs a flow | copying, µs | bound, µs | CPU / bound | state, octets a flow | with a name server, flows/s | with a silent one, of that |
|---|---|---|---|---|---|---|---|---|---|---|
%s`, cmp.Or(model(), "unknown CPU"), runtime.Version(), enrichRuns, heldConnections, a.read, a.machine, a.mapped, a.machine/a.mapped, a.append, rows.String())
	fmt.Print(text)
	document(t, *enrichTable, "<!-- pairing: written by make bench-enrich -->", "<!-- pairing: end -->", text)
}

// document replaces the text between two lines of a document.
func document(t *testing.T, path, begin, end, text string) {
	t.Helper()
	doc, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok := strings.Cut(string(doc), begin)
	_, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s: want the lines %q and %q around the table", path, begin, end)
	}
	if err := os.WriteFile(path, []byte(head+begin+"\n"+text+end+tail), 0o644); err != nil {
		t.Fatal(err)
	}
}

// model returns the name of this machine's CPU.
func model() string {
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		if name, ok := strings.CutPrefix(line, "model name\t: "); ok {
			return strings.TrimSpace(name)
		}
	}
	return ""
}
