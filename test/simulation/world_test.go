//go:build synctests

package simulation

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/proto"

	"weir/internal/annotate"
	"weir/internal/enrich"
	"weir/internal/kafka"
	"weir/internal/pair"
	"weir/pkg/flowpb"
)

const (
	topicPrefix = "t."
	group       = "enrich"
)

// A finding is a broken promise of a run.
type finding struct {
	Kind string // one of the kinds below
	Text string
}

// Kinds of findings.
const (
	findVersion   = "version"   // (id, version) not unique, not contiguous, or the last not final
	findModel     = "model"     // the connections are not those of the model
	findSum       = "sum"       // octets or records are missing, or counted twice
	findFatal     = "fatal"     // a member ended with an error
	findShutdown  = "shutdown"  // a member took too long to end
	findStuck     = "stuck"     // connections do not end, or flows are not taken
	findOwnership = "ownership" // a member commits for a partition that the group gave to another
	findHot       = "hot"       // too many requests or log lines
)

// A world is the state of a run of a plan.
type world struct {
	plan      plan
	trace     *trace
	cluster   *kfake.Cluster
	network   kfake.VirtualNetwork
	admin     *host
	client    *kgo.Client // of the test: produces flows, reads the outcome
	faults    []*kfake.FaultHandle
	watch     *watch
	reception *reception   // nil if the plan has no replicas
	sinks     *sinks       // nil if the plan has no sinks
	resolver  *nameServers // nil: members look up no names
	step      uint64       // index of the step that runs, from 1
	ctx       context.Context
	remade    map[kafka.Topic]bool // topics that were deleted and recreated
	tails     int                  // partitions of flows that ended before the group's position
	tips      int                  // partitions whose state ended before it should

	mu       sync.Mutex // guards what follows: timers run beside the steps
	pairing  pair.Config
	sent     totals    // what the flows topic took
	members  []*member // that run, without those that are about to end
	all      []*member
	names    int
	findings []finding
	over     bool
	grown    time.Time // partitions were added to flows; zero: none
}

// totals are sums over flow records, or over the last reports of connections.
type totals struct{ records, octets uint64 }

// A member is one enrich process.
type member struct {
	off      atomic.Int64 // how far its host's clock is off, ns
	name     string
	number   int
	host     *host
	worker   *enrich.Worker
	registry *prometheus.Registry
	cancel   func()
	ended    chan struct{}
	began    time.Time
	sigterm  time.Time // SIGTERM; zero: none yet
	killed   bool
	err      error
}

func (w *world) find(kind, format string, args ...any) {
	f := finding{kind, fmt.Sprintf(format, args...)}
	w.trace.printf("FINDING %s: %s", f.Kind, f.Text)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.findings = append(w.findings, f)
}

func (w *world) config(name string, h *host) enrich.Config {
	return enrich.Config{
		Instance: name, Group: group, CommitRecords: 50, CommitEvery: 200 * time.Millisecond, StateLost: cmp.Or(w.plan.Setup.StateLost, "refuse"),
		Pair: w.pairing, MetricsSeries: 100,
		Kafka: kafka.Config{Brokers: w.cluster.ListenAddrs(), ClientID: name, SessionTimeout: sessionTimeout, Dial: h.dial},
		Topics: kafka.TopicConfig{
			Prefix: topicPrefix, Mode: "create", Partitions: w.plan.Setup.Partitions, Replication: 1, FlowsRetention: 24 * time.Hour, ConnRetention: 24 * time.Hour,
		},
		Annotate: annotate.Config{DNS: w.resolver.config(h)},
	}
}

func (w *world) newName() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.names++
	return fmt.Sprint("m", w.names)
}

// start runs a member with this name.
func (w *world) start(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	m := &member{began: time.Now(), name: name, number: len(w.all), host: &host{network: &w.network}, registry: prometheus.NewRegistry(), cancel: cancel, ended: make(chan struct{})}
	log := slog.New(&counting{slog.NewTextHandler(w.trace, nil), w.watch, m.number}).With("member", m.number)
	now := func() time.Time { return time.Now().Add(time.Duration(m.off.Load())) }
	worker, err := enrich.New(w.config(name, m.host), enrich.Deps{Log: log, Now: now, Metrics: m.registry})
	if err != nil {
		panic(err)
	}
	m.worker = worker
	w.trace.printf("member %d starts as %s", m.number, name)
	w.members, w.all = append(w.members, m), append(w.all, m)
	go func() {
		defer close(m.ended)
		m.err = worker.Run(ctx)
		w.memberEnded(m)
	}()
}

// shutdownWithin is the time within which a member must end after SIGTERM.
const shutdownWithin = 12 * time.Second

func (w *world) memberEnded(m *member) {
	w.mu.Lock()
	if i := slices.Index(w.members, m); i >= 0 {
		w.members = slices.Delete(w.members, i, i+1)
	}
	sigterm, killed, grown := m.sigterm, m.killed, !w.grown.IsZero()
	w.mu.Unlock()
	w.trace.printf("member %d ended: %v", m.number, m.err)
	if killed {
		return
	}
	if m.err != nil && grown && w.refusesPartitions(m.err) {
		w.after(rebalanceTimeout, func() { w.start(m.name) })
	} else if m.err != nil {
		w.find(findFatal, "member %d (%s): %v", m.number, m.name, m.err)
		w.after(time.Second, func() { w.start(m.name) }) // as its supervisor does
	}
	if took := time.Since(sigterm); !sigterm.IsZero() && took > shutdownWithin {
		w.find(findShutdown, "member %d (%s) took %v to end", m.number, m.name, took)
	}
}

// pick returns item n modulo the length of all, or nil if there is none.
func pick[T any](all []*T, n int) *T {
	if len(all) == 0 {
		return nil
	}
	return all[n%len(all)]
}

// take removes and returns item n modulo the length of all, or nil if there is none.
func take[T any](all *[]*T, n int) *T {
	x := pick(*all, n)
	if x != nil {
		n %= len(*all)
		*all = slices.Delete(*all, n, n+1)
	}
	return x
}

// pick returns a running member, or nil if there is none.
func (w *world) pick(n int) *member {
	w.mu.Lock()
	defer w.mu.Unlock()
	return pick(w.members, n)
}

// take picks a member and excludes it from later steps.
func (w *world) take(n int) *member {
	w.mu.Lock()
	defer w.mu.Unlock()
	return take(&w.members, n)
}

// terminate sends SIGTERM.
func (w *world) terminate(m *member) {
	w.mu.Lock()
	if m.sigterm.IsZero() {
		m.sigterm = time.Now()
	}
	w.mu.Unlock()
	m.cancel()
}

// kill sends SIGKILL.
func (w *world) kill(m *member) {
	w.mu.Lock()
	m.killed = true
	w.mu.Unlock()
	m.host.cut()
	m.cancel()
}

// after runs f later, beside the steps.
func (w *world) after(d time.Duration, f func()) { time.AfterFunc(d, f) }

// moveLeaders gives every partition of every topic a leader drawn from rng.
func (w *world) moveLeaders(rng *rand.Rand) {
	for _, t := range []kafka.Topic{kafka.Flows, kafka.Pairing, kafka.Connections, kafka.Templates, kafka.Undecoded, kafka.Exporters} {
		topic := topicPrefix + string(t)
		for _, p := range w.cluster.PartitionInfos(topic) {
			if err := w.cluster.MoveTopicPartition(topic, p.Partition, rng.Int32N(brokers)); err != nil {
				panic(err)
			}
		}
	}
}

// send produces a flow.
func (w *world) send(m *flowpb.FlowMessage) {
	value, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	w.client.Produce(w.ctx, &kgo.Record{
		Topic: topicPrefix + string(kafka.Flows), Key: recordKey(m), Value: value, Timestamp: time.Unix(0, int64(m.TimeReceivedNs)),
	}, func(_ *kgo.Record, err error) {
		if err != nil {
			w.trace.printf("a flow is not produced: %v", err)
			return
		}
		w.mu.Lock()
		w.sent.records, w.sent.octets = w.sent.records+1, w.sent.octets+m.Bytes+m.ReverseBytes
		w.mu.Unlock()
	})
}

func clone(m *flowpb.FlowMessage) *flowpb.FlowMessage { return proto.CloneOf(m) }
