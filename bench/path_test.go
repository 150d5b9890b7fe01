package bench

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	goflow "github.com/netsampler/goflow2/v2/pb"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	kafkatest "weir/internal/weirtest/kafka"
	"weir/pkg/flowpb"
)

var (
	pathTable  = flag.String("path", "", "measure the whole path, and write the table into this document")
	pathBase   = flag.String("path-base", "b879fb6", "commit of Weir to compare with")
	pathOnly   = flag.String("path-only", "", "measure only the contenders whose names match; nothing is written")
	pathRuns   = flag.Int("path-runs", 3, "runs of each fixed rate")
	pathWarm   = flag.Duration("path-warm", 20*time.Second, "time before the window: connections end, Java compiles")
	pathWindow = flag.Duration("path-window", 20*time.Second, "time over which CPU and latency are measured")
)

const pathPartitions = 12

// A contender is a collector with a consumer that pairs its flows.
type contender struct {
	name string
	// collect and pair return the commands of both processes. Their topics have the given prefix.
	collect, pair func(ctx context.Context, prefix, addr string, port int) *exec.Cmd
	// input and output are the names of topics without prefix; group is the consumer group.
	input, output string
	topicConfig   map[string]*string
	group         func(prefix string) string
	// flowStamp and connectionStamp return the sender's stamp of a record.
	flowStamp, connectionStamp func(value []byte) (uint32, bool)
}

// A point holds the measurements at a rate.
type point struct {
	rate                       float64 // flows per second that reached the input topic
	collect, pair, brokers     float64 // CPU, µs a flow
	flow50, flow99             time.Duration
	connection50, connection99 time.Duration
	sustained                  bool
	why                        string // not sustained
}

// ages collects the ages of the records of a partition.
type ages struct {
	mu  sync.Mutex
	on  bool
	all []time.Duration
}

func (a *ages) add(d time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.on {
		a.all = append(a.all, d)
	}
}

func (a *ages) gather(on bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.on = on
}

// percentile returns the p-th percentile; 0 if there is no record.
func (a *ages) percentile(p float64) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.all) == 0 {
		return 0
	}
	slices.Sort(a.all)
	return a.all[min(int(p*float64(len(a.all))), len(a.all)-1)]
}

// A pathBed is a cluster on which the contenders are measured in turn.
type pathBed struct {
	t       *testing.T
	cluster *kafkatest.Cluster
	adm     *kadm.Client
	runs    int
}

// topics creates the topics of prefix.
func (b *pathBed) topics(ctx context.Context, s *contender, prefix string) {
	b.t.Helper()
	for _, name := range []string{s.input, s.output} {
		if _, err := b.adm.CreateTopic(ctx, pathPartitions, 3, s.topicConfig, prefix+name); err != nil {
			b.t.Fatal(err)
		}
	}
}

// watch reads partition 0 of a topic from its end and collects the ages of its records.
func (b *pathBed) watch(ctx context.Context, topic string, of func([]byte) (uint32, bool)) *ages {
	b.t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.cluster.Brokers()...), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().AtEnd()}}))
	if err != nil {
		b.t.Fatal(err)
	}
	a := &ages{}
	go func() {
		defer cl.Close()
		for ctx.Err() == nil {
			f := cl.PollFetches(ctx)
			now := time.Now()
			f.EachRecord(func(r *kgo.Record) {
				if v, ok := of(r.Value); ok {
					a.add(age(now, v))
				}
			})
		}
	}()
	return a
}

// A moment is the state of a contender at the beginning or the end of the window.
type moment struct {
	at                     time.Time
	flows, paired, dropped float64
	collect, pair, brokers float64 // CPU, s
}

func (b *pathBed) moment(ctx context.Context, s *contender, prefix string, r *receiver, pair *exec.Cmd) moment {
	b.t.Helper()
	m := moment{at: time.Now(), collect: r.cpu(), pair: (&receiver{t: b.t, cmd: pair}).cpu()}
	for _, pid := range b.cluster.PIDs() {
		m.brokers += cpuOf(b.t, pid)
	}
	_, drops, _ := r.socket()
	m.dropped = float64(drops)
	ends, err := b.adm.ListEndOffsets(ctx, prefix+s.input)
	if err != nil {
		b.t.Fatal(err)
	}
	ends.Each(func(o kadm.ListedOffset) { m.flows += float64(o.Offset) })
	offsets, err := b.adm.FetchOffsetsForTopics(ctx, s.group(prefix), prefix+s.input)
	if err != nil {
		b.t.Fatal(err)
	}
	offsets.Each(func(o kadm.OffsetResponse) { m.paired += float64(max(0, o.At)) })
	return m
}

// measure runs a contender at a rate, flows per second.
func (b *pathBed) measure(ctx context.Context, s *contender, rate float64) (p point) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, *pathWarm+*pathWindow+3*time.Minute)
	defer cancel()
	b.runs++
	prefix := fmt.Sprintf("path%d.", b.runs)
	b.topics(ctx, s, prefix)
	var log bytes.Buffer
	r := receive(b.t, func(addr string, port int) *exec.Cmd {
		c := s.collect(ctx, prefix, addr, port)
		c.Stderr = &log
		return c
	})
	defer r.stop()
	pair := s.pair(ctx, prefix, r.addr, r.port)
	var pairLog bytes.Buffer
	pair.Stderr = &pairLog
	if err := pair.Start(); err != nil {
		b.t.Fatal(err)
	}
	defer func() {
		_ = pair.Process.Signal(syscall.SIGTERM) // it may have ended
		_ = pair.Wait()
	}()
	watching, stop := context.WithCancel(ctx)
	defer stop()
	flows := b.watch(watching, prefix+s.input, s.flowStamp)
	connections := b.watch(watching, prefix+s.output, s.connectionStamp)
	lasts := *pathWarm + *pathWindow + 2*time.Second
	send := exec.CommandContext(ctx, os.Args[0])
	send.Env = append(os.Environ(), receiveRole+"=talk",
		fmt.Sprintf("%s=%s %d %d", receiveArgs, r.addr, int(rate/v9Flows), lasts.Milliseconds()))
	if err := send.Start(); err != nil {
		b.t.Fatal(err)
	}
	time.Sleep(*pathWarm)
	from := b.moment(ctx, s, prefix, r, pair)
	flows.gather(true)
	connections.gather(true)
	time.Sleep(*pathWindow)
	flows.gather(false)
	connections.gather(false)
	to := b.moment(ctx, s, prefix, r, pair)
	if err := send.Wait(); err != nil {
		b.t.Fatal(err)
	}
	n := to.flows - from.flows
	paired := to.paired - from.paired
	if n == 0 || paired == 0 {
		b.t.Fatalf("%s at %.0f flows/s: %.0f flows on the topic, %.0f paired\n%s\n%.4000s",
			s.name, rate, n, paired, log.String(), pairLog.String())
	}
	p = point{
		rate:    n / to.at.Sub(from.at).Seconds(),
		collect: 1e6 * (to.collect - from.collect) / n,
		pair:    1e6 * (to.pair - from.pair) / paired,
		brokers: 1e6 * (to.brokers - from.brokers) / n,
		flow50:  flows.percentile(.5), flow99: flows.percentile(.99),
		connection50: connections.percentile(.5), connection99: connections.percentile(.99),
	}
	switch behind := to.flows - to.paired; {
	case to.dropped > 0:
		p.why = fmt.Sprintf("the kernel dropped %.0f datagrams", to.dropped)
	case p.rate < 0.97*rate:
		p.why = fmt.Sprintf("%.0f flows/s reached the topic", p.rate)
	case behind > 3*rate:
		p.why = fmt.Sprintf("pairing is %.1f s behind", behind/rate)
	case connections.percentile(.5) == 0:
		p.why = "no connection was committed"
	default:
		p.sustained = true
	}
	b.t.Logf("%s at %.0f flows/s: %.0f on the topic, %s; CPU µs a flow: collector %.2f, pairing %.2f, brokers %.2f",
		s.name, rate, p.rate, cmp.Or(p.why, "sustained"), p.collect, p.pair, p.brokers)
	b.t.Logf("age of a flow p50 %v p99 %v, of a connection p50 %v p99 %v", p.flow50, p.flow99, p.connection50, p.connection99)
	return p
}

// highest searches the highest rate that a contender sustains, in steps of a quarter from low on.
func (b *pathBed) highest(ctx context.Context, s *contender, low float64) (best point) {
	b.t.Helper()
	for rate := low; ; rate *= 1.25 {
		p := b.measure(ctx, s, rate)
		if !p.sustained {
			return best
		}
		best = p
	}
}

// medians returns the medians of points of the same rate.
func medians(all []point) (m point) {
	of := func(get func(*point) float64) float64 {
		var v []float64
		for i := range all {
			v = append(v, get(&all[i]))
		}
		return middle(v)
	}
	took := func(get func(*point) time.Duration) time.Duration {
		return time.Duration(of(func(p *point) float64 { return float64(get(p)) }))
	}
	m = point{
		rate:         of(func(p *point) float64 { return p.rate }),
		collect:      of(func(p *point) float64 { return p.collect }),
		pair:         of(func(p *point) float64 { return p.pair }),
		brokers:      of(func(p *point) float64 { return p.brokers }),
		flow50:       took(func(p *point) time.Duration { return p.flow50 }),
		flow99:       took(func(p *point) time.Duration { return p.flow99 }),
		connection50: took(func(p *point) time.Duration { return p.connection50 }),
		connection99: took(func(p *point) time.Duration { return p.connection99 }),
		sustained:    true,
	}
	for _, p := range all {
		if !p.sustained {
			m.sustained, m.why = false, p.why
		}
	}
	return m
}

func (p *point) row(name, rate string) string {
	if !p.sustained {
		rate += ", not sustained: " + p.why
	}
	ms := func(d time.Duration) string { return fmt.Sprintf("%.3g", float64(d)/1e6) }
	return fmt.Sprintf("| %s | %s | %.2f | %.2f | **%.2f** | %.2f | %s / %s | %s / %s |\n", name, rate, p.collect, p.pair, p.collect+p.pair, p.brokers,
		ms(p.flow50), ms(p.flow99), ms(p.connection50), ms(p.connection99))
}

// weirContender returns ingest and enrich, built from a source tree. The settings are added to the environment of ingest.
func weirContender(t *testing.T, name, tree string, settings ...string) *contender {
	t.Helper()
	bin := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-C", tree, "-o", bin+"/", "./cmd/ingest", "./cmd/enrich")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
	env := func(c *exec.Cmd, prefix string, more ...string) *exec.Cmd {
		c.Env = append(append(os.Environ(), "TOPIC_PREFIX="+prefix, "TOPIC_REPLICATION=3", "METRICS_LISTEN="), more...)
		return c
	}
	return &contender{
		name: name, input: "flows", output: "connections",
		collect: func(ctx context.Context, prefix, addr string, _ int) *exec.Cmd {
			settings := append([]string{"LISTEN_UDP=" + addr, fmt.Sprintf("RCVBUF=%d", enlarged)}, settings...)
			return env(exec.CommandContext(ctx, filepath.Join(bin, "ingest")), prefix, settings...)
		},
		pair: func(ctx context.Context, prefix, _ string, _ int) *exec.Cmd {
			return env(exec.CommandContext(ctx, filepath.Join(bin, "enrich")), prefix, "DNS_ENABLED=false", "GROUP="+prefix+"enrich", "INSTANCE="+prefix+"enrich")
		},
		group: func(prefix string) string { return prefix + "enrich" },
		flowStamp: func(value []byte) (uint32, bool) {
			var m flowpb.FlowMessage
			err := proto.Unmarshal(value, &m)
			return uint32(m.GetBytes()), err == nil
		},
		connectionStamp: func(value []byte) (uint32, bool) {
			var m flowpb.Connection
			err := proto.Unmarshal(value, &m)
			return uint32(m.GetForward().GetOctets()), err == nil && m.GetForward() != nil && m.GetReverse() != nil
		},
	}
}

// streamsContender returns goflow2 with bench/streams.
func streamsContender(t *testing.T, brokers string) *contender {
	t.Helper()
	dir := t.TempDir()
	install := exec.CommandContext(t.Context(), "go", "install", "github.com/netsampler/goflow2/v2/cmd/goflow2@v2.2.6")
	install.Env, install.Dir = append(os.Environ(), "GOBIN="+dir), dir
	if out, err := install.CombinedOutput(); err != nil {
		t.Fatalf("goflow2: %v\n%s", err, out)
	}
	classPath, err := buildStreams(dir)
	if err != nil {
		t.Fatal(err)
	}
	return &contender{
		name: "goflow2 2.2.6 and Kafka Streams 4.4.0", input: "goflow", output: "joined",
		// goflow2 writes no timestamps, and Kafka Streams needs them.
		topicConfig: map[string]*string{"message.timestamp.type": new("LogAppendTime")},
		collect: func(ctx context.Context, prefix, _ string, port int) *exec.Cmd {
			return exec.CommandContext(ctx, filepath.Join(dir, "goflow2"), "-listen", fmt.Sprintf("netflow://127.0.0.1:%d?count=1&blocking=true", port),
				"-addr", "", "-format", "bin", "-transport", "kafka", "-transport.kafka.brokers", brokers, "-transport.kafka.topic", prefix+"goflow",
				"-transport.kafka.compression", "snappy")
		},
		pair: func(ctx context.Context, prefix, _ string, _ int) *exec.Cmd {
			return exec.CommandContext(ctx, "java", "-Xmx1g", "-cp", classPath, "weir.bench.Pairing", brokers, prefix+"goflow", prefix+"joined",
				prefix+"streams", filepath.Join(dir, prefix))
		},
		group: func(prefix string) string { return prefix + "streams" },
		flowStamp: func(value []byte) (uint32, bool) {
			_, n := protowire.ConsumeVarint(value) // the message's length
			var m goflow.FlowMessage
			err := proto.Unmarshal(value[max(0, n):], &m)
			return uint32(m.GetBytes()), err == nil
		},
		connectionStamp: func(value []byte) (uint32, bool) {
			if len(value) != 48 || binary.BigEndian.Uint64(value[24:]) == 0 {
				return 0, false
			}
			return uint32(binary.BigEndian.Uint64(value)), true
		},
	}
}

// baseTree checks out a commit of this repository.
func baseTree(t *testing.T, commit string) string {
	t.Helper()
	tree := filepath.Join(t.TempDir(), "tree")
	if out, err := exec.CommandContext(t.Context(), "git", "worktree", "add", "--detach", tree, commit).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("git", "worktree", "remove", "--force", tree).CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	})
	return tree
}

// TestPathTable writes the section on the whole path of docs/performance.md: make bench-path.
func TestPathTable(t *testing.T) {
	if *pathTable == "" {
		t.Skip("SKIPPED: takes half an hour: make bench-path")
	}
	ctx := t.Context()
	c := kafkatest.New(ctx, t)
	for i := range kafkatest.Nodes {
		if err := c.StartNode(i); err != nil {
			t.Fatal(err)
		}
	}
	c.WaitUp(ctx, t, kafkatest.Nodes)
	brokers := strings.Join(c.Brokers(), ",")
	t.Setenv("KAFKA_BROKERS", brokers)
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.Brokers()...))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	b := &pathBed{t: t, cluster: c, adm: kadm.NewClient(cl)}
	contenders := []*contender{
		weirContender(t, "Weir", ".."),
		weirContender(t, "Weir at "+*pathBase, baseTree(t, *pathBase)),
		streamsContender(t, brokers),
		weirContender(t, "Weir, PRODUCER=batches", "..", "PRODUCER=batches"),
	}
	if *pathOnly != "" {
		only := regexp.MustCompile(*pathOnly)
		contenders = slices.DeleteFunc(contenders, func(s *contender) bool { return !only.MatchString(s.name) })
	}
	rates := []float64{20_000, 100_000}
	points := make([][][]point, len(contenders)) // by contender, rate and run
	for i := range points {
		points[i] = make([][]point, len(rates))
	}
	for range *pathRuns {
		for i, s := range contenders {
			for k, rate := range rates {
				points[i][k] = append(points[i][k], b.measure(ctx, s, rate))
			}
		}
	}
	var text strings.Builder
	fmt.Fprintf(&text, `%s, %s, %d CPUs shared with the sender, three Kafka nodes at RF 3 and the readers; medians of %d runs
of %v, the highest rate from a single run.

| | flows/s | collector | pairing | both | brokers | datagram to flow, p50 / p99, ms | last flow to committed connection, ms |
|---|---|---|---|---|---|---|---|
`, cmp.Or(model(), "unknown CPU"), runtime.Version(), runtime.NumCPU(), *pathRuns, *pathWindow)
	for i, s := range contenders {
		from := rates[0]
		for k, rate := range rates {
			m := medians(points[i][k])
			if m.sustained {
				from = rate
			}
			text.WriteString(m.row(s.name, fmt.Sprintf("%.0f", rate)))
			points[i][k] = []point{m}
		}
		if best := b.highest(ctx, s, from*1.25); best.sustained {
			text.WriteString(best.row(s.name, fmt.Sprintf("%.0f, the highest", best.rate)))
		}
	}
	if *pathOnly != "" {
		fmt.Print(text.String())
		return
	}
	slow := func(i int) float64 { p := points[i][0][0]; return p.collect + p.pair }
	fmt.Fprintf(&text, "\nCPU in µs a flow. At %.0f flows/s Weir needs %.2f of the CPU of %s and %.2f of that of goflow2 and Kafka Streams.\n",
		rates[0], slow(0)/slow(1), *pathBase, slow(0)/slow(2))
	fmt.Print(text.String())
	document(t, *pathTable, "<!-- path: written by make bench-path -->", "<!-- path: end -->", text.String())
}
