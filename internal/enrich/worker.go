package enrich

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"weir/internal/annotate"
	"weir/internal/kafka"
	"weir/internal/pair"
	"weir/internal/services"
	"weir/pkg/flowpb"
)

// Deps is what a Worker does not make itself.
type Deps struct {
	Log       *slog.Logger
	Now       func() time.Time           // the idle rule's clock
	Committed func([]*flowpb.Connection) // told of connections after their transaction committed; may be nil
	Metrics   prometheus.Registerer      // nil: metrics are kept but shown nowhere
}

// A Worker is one member of the group.
type Worker struct {
	c         Config
	deps      Deps
	log       *slog.Logger
	session   *kafka.Session
	facts     *facts
	annotator *annotate.Annotator
	metrics   *metrics
	traffic   *traffic
	clock     clockCheck

	mu      sync.Mutex
	waiting error // why the topics are not there yet

	// Of the session's goroutine, one call at a time:
	partitions map[int32]*partition
	learned    *annotate.Learned
	timeouts   *timeouts
	flow       flowpb.FlowMessage     // the one that is taken
	buf        []byte                 // of records: what is produced is a part of it
	plain      []byte                 // a connection on its way into another form
	truncated  time.Time              // old state was last deleted
	tx         *kafka.Tx              // in which reported counts
	reported   int                    // connections, in a transaction
	left       map[int32]restorePoint // whose state was gone, by partition

	truncations chan map[int32]int64 // to deleteOldState: the first offset that each partition needs
	stats       struct {
		flows, notPairable, duplicates, connections, commits, aborts, restores, poison, ahead, stateLost atomic.Uint64
		open, grace, octets, restoring                                                                   atomic.Int64
		logged                                                                                           atomic.Uint64
	}
}

// New returns a Worker; it is inert until Run.
func New(c Config, d Deps) (*Worker, error) {
	if c.Instance == "" {
		host, err := os.Hostname()
		if err != nil {
			host = "unknown"
		}
		c.Instance = host + "-" + strconv.Itoa(os.Getpid())
	}
	if c.Pair.Service == nil {
		c.Pair.Service = func(proto uint8, port uint16) bool { return services.Name(proto, port) != "" }
	}
	if d.Metrics == nil {
		d.Metrics = prometheus.NewRegistry()
	}
	c.StateFormat = cmp.Or(c.StateFormat, pair.FirstFormat)
	c.Pair.StateFormat = c.StateFormat
	c.Kafka.Log, c.Kafka.Metrics = d.Log, d.Metrics
	known := newFacts()
	annotator, err := annotate.New(c.Annotate, annotate.NewLearned(known.name))
	if err != nil {
		return nil, err
	}
	w := &Worker{
		c: c, deps: d, log: d.Log.With("instance", c.Instance), facts: known, annotator: annotator, learned: annotator.Learned,
		waiting: errors.New("starting: kafka is not reached yet"), partitions: map[int32]*partition{},
		truncations: make(chan map[int32]int64), left: map[int32]restorePoint{},
	}
	w.session = kafka.NewSession(c.Kafka, kafka.SessionConfig{
		Group: c.Group, Member: c.Instance, Input: c.Topics.Name(kafka.Flows), CoPartitioned: c.Topics.Name(kafka.Pairing),
		ManualPartitioning: []string{c.Topics.Name(kafka.Pairing)}, MaxRecords: c.CommitRecords, Every: c.CommitEvery,
		Now: d.Now, Log: w.log,
	})
	w.metrics = newMetrics(d.Metrics, w)
	w.traffic = newTraffic(c.MetricsSeries, d.Metrics)
	w.traffic.now = d.Now
	w.timeouts = newTimeouts(d.Metrics, c.Pair.ActiveTimeout, w.log)
	return w, nil
}

// Run works until ctx ends: the open transaction is committed, the group left.
func (w *Worker) Run(ctx context.Context) error {
	err := kafka.Ensure(ctx, w.c.Kafka, w.c.Topics, func(why error) {
		w.mu.Lock()
		w.waiting = fmt.Errorf("kafka: %w", why)
		w.mu.Unlock()
		w.log.Warn("waiting for kafka", "brokers", w.c.Kafka.Brokers, "err", why)
	}, kafka.Flows, kafka.Pairing, kafka.Connections)
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return err
	}
	w.mu.Lock()
	w.waiting = nil
	w.mu.Unlock()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return w.annotator.Run(ctx, w.log) })
	group.Go(func() error { return w.deleteOldState(ctx) })
	known := make(chan struct{})
	group.Go(func() error {
		return w.facts.follow(ctx, w.c.Kafka, w.c.Topics.Name(kafka.Templates), func() { close(known) })
	})
	group.Go(func() error {
		<-known // soon, whatever happens
		return w.session.Run(ctx, handler{w})
	})
	err = group.Wait()
	s := w.Stats()
	w.log.Info("ended", "flows", s.Flows, "connections", s.Connections, "commits", s.Commits, "aborts", s.Aborts)
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// Ready returns nil when /readyz would be 200, else the reason.
func (w *Worker) Ready() error {
	w.mu.Lock()
	waiting := w.waiting
	w.mu.Unlock()
	if waiting != nil {
		return waiting
	}
	if err := w.session.Ready(); err != nil {
		return err
	}
	return w.clock.wrong(w.session.Behind())
}

// Stats are totals since the start, for people. Poison are records of the flows
// topic that are no FlowMessage, Ahead flows whose receive time is far in the
// future.
type Stats struct {
	Flows, NotPairable, Duplicates, Connections, Commits, Aborts, Restores, Poison, Ahead uint64
}

// Stats returns the totals.
func (w *Worker) Stats() Stats {
	s := &w.stats
	return Stats{
		Flows: s.flows.Load(), NotPairable: s.notPairable.Load(), Duplicates: s.duplicates.Load(), Connections: s.connections.Load(),
		Commits: s.commits.Load(), Aborts: s.aborts.Load(), Restores: s.restores.Load(), Poison: s.poison.Load(), Ahead: s.ahead.Load(),
	}
}
