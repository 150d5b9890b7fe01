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

// Deps holds the dependencies that the caller of New injects.
type Deps struct {
	Log *slog.Logger
	// Now is the clock of idle partitions and of metrics. It must be safe for concurrent use.
	Now func() time.Time
	// Committed receives copies of the connections of each transaction after its commit, and owns them. It runs on
	// the session's goroutine and must not block. May be nil.
	Committed func([]*flowpb.Connection)
	// Metrics registers the metrics; nil: they are counted but not exported.
	Metrics prometheus.Registerer
}

// A Worker is a member of the consumer group. New creates it, Run must be called at most once. Ready and Stats may be
// called from any goroutine.
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

	mu      sync.Mutex // guards waiting
	waiting error      // the reason why Run still waits for the topics; nil: it does not

	// Owned by the session's goroutine:
	partitions map[int32]*partition
	learned    *annotate.Learned
	timeouts   *timeouts
	flow       flowpb.FlowMessage     // the current flow; its octets belong to the record
	slabs      octetSlabs             // back keys and values of records produced in the open transaction
	plain      []byte                 // scratch: a connection before its conversion to another form
	truncated  time.Time              // start of the last deletion of old state
	tx         *kafka.Tx              // the transaction that reported counts
	reported   int                    // connections produced in tx
	left       map[int32]restorePoint // restore points without state, by partition; see lose

	truncations chan map[int32]int64 // to deleteOldState: the first offset that each partition needs; unbuffered
	stats       struct {
		flows, notPairable, duplicates, connections, commits, aborts, restores, poison, ahead, stateLost atomic.Uint64
		open, grace, octets, restoring                                                                   atomic.Int64
		logged                                                                                           atomic.Uint64
	}
}

// New returns a Worker. It starts no goroutine and opens no connection before Run. It completes c: an empty Instance
// becomes host name and pid. The error is that of annotate.New, for example a database that cannot be read.
func New(c Config, d Deps) (*Worker, error) {
	if c.Instance == "" {
		host, err := os.Hostname()
		if err != nil {
			host = "unknown"
		}
		c.Instance = host + "-" + strconv.Itoa(os.Getpid())
	}
	if c.Pair.Service == nil {
		c.Pair.Service = services.HasName
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
		c: c, deps: d, log: d.Log.With("instance", c.Instance), facts: known,
		annotator: annotator, learned: annotator.Learned,
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

// Run waits for the topics, then pairs flows until ctx ends. Before it returns, it commits the open transaction and
// leaves the group. All goroutines that it started have then ended. It returns nil after the end of ctx, else the
// error that ended it, for instance kafka.ErrFatal.
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
		<-known // closed after firstFacts at the latest
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

// Ready returns nil if /readyz must answer 200, else the reason against it. It is called for each request of /readyz
// and must not wait.
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

// Stats holds totals since the start, of committed transactions. Poison counts records of the flows topic that are not
// a FlowMessage; Ahead counts flows with a receive time more than maxAhead in the future.
type Stats struct {
	Flows, NotPairable, Duplicates, Connections, Commits, Aborts, Restores, Poison, Ahead uint64
}

// Stats returns the current totals. They are read in turn, not as a snapshot.
func (w *Worker) Stats() Stats {
	s := &w.stats
	return Stats{
		Flows:       s.flows.Load(),
		NotPairable: s.notPairable.Load(),
		Duplicates:  s.duplicates.Load(),
		Connections: s.connections.Load(),
		Commits:     s.commits.Load(),
		Aborts:      s.aborts.Load(),
		Restores:    s.restores.Load(),
		Poison:      s.poison.Load(),
		Ahead:       s.ahead.Load(),
	}
}
