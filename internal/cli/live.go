package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"weir/internal/enrich"
	"weir/internal/ingest"
	"weir/internal/kafka"
	"weir/internal/kafka/broker"
	"weir/internal/settings"
	"weir/pkg/flowpb"
)

// replicaCount is how many ingest replicas share the datagrams, so that templates
// have to travel between them as in production.
const replicaCount = 2

// A live is the whole pipeline in one process: an embedded broker, two ingest
// replicas, one enrich.
type live struct {
	broker   *broker.Broker
	replicas [replicaCount]*gate
	worker   *enrich.Worker
	config   enrich.Config

	metrics prometheus.Gatherer
	ahead   atomic.Int64 // how far enrich's clock was moved on, ns

	stopIngest, stopEnrich context.CancelFunc
	ingest, enrich         sync.WaitGroup
	failed                 chan error // a part that ended by itself
}

// liveOptions say how a live is to run.
type liveOptions struct {
	kafka       string            // host:port of the broker; port 0: a free one
	environ     map[string]string // settings of enrich: PAIR_*, DNS_*
	exporters   string            // file of exporters; empty: none
	commitEvery time.Duration     // between enrich's transactions
	log         *slog.Logger
	metrics     *prometheus.Registry       // of all parts, told apart by the label part
	committed   func([]*flowpb.Connection) // called by one goroutine
}

// registerer is where a part's metrics go.
func (o *liveOptions) registerer(part string) prometheus.Registerer {
	return prometheus.WrapRegistererWith(prometheus.Labels{"part": part}, o.metrics)
}

// livePartitions is few: one process gains nothing by more, and each costs
// memory in the embedded broker.
const livePartitions = 3

// errBroker is a broker that could not start.
type errBroker struct{ error }

// Unwrap returns the reason.
func (e errBroker) Unwrap() error { return e.error }

// startLive starts every part. The parts go on when ctx ends: stop ends them in order.
func startLive(ctx context.Context, o liveOptions) (*live, error) {
	b, err := broker.Start(o.kafka, true)
	if err != nil {
		return nil, errBroker{err}
	}
	l := &live{broker: b, metrics: o.metrics, failed: make(chan error, 2*replicaCount+1)}
	if err := l.start(context.WithoutCancel(ctx), o); err != nil {
		b.Close()
		return nil, err
	}
	return l, nil
}

// enrichConfig is enrich's configuration against a broker, from PAIR_* and DNS_*.
func enrichConfig(broker string, environ map[string]string) (enrich.Config, error) {
	all := map[string]string{"KAFKA_BROKERS": broker, "INSTANCE": "enrich"}
	maps.Copy(all, environ)
	return settings.Parse[enrich.Config](all)
}

func (l *live) start(ctx context.Context, o liveOptions) error {
	c, err := enrichConfig(l.broker.Addr(), o.environ)
	if err != nil {
		return err
	}
	c.MetricsListen, c.CommitEvery = "", o.commitEvery
	c.Kafka.ClientID = "weir-enrich"
	c.Topics.Partitions = livePartitions
	l.config = c
	// Made here once: an embedded broker's small topics are set otherwise than
	// the services would have them, of which each of them would warn.
	if err := kafka.Ensure(ctx, c.Kafka, c.Topics, nil, kafka.Flows, kafka.Templates, kafka.Undecoded, kafka.Exporters, kafka.Pairing, kafka.Connections); err != nil {
		return err
	}
	c.Topics.Mode = "off"
	l.worker, err = enrich.New(c, enrich.Deps{
		Log: o.log, Metrics: o.registerer("enrich"),
		Now:       func() time.Time { return time.Now().Add(time.Duration(l.ahead.Load())) },
		Committed: o.committed,
	})
	if err != nil {
		return err
	}
	for i := range l.replicas {
		name := fmt.Sprintf("ingest-%d", i+1)
		ic, err := settings.Parse[ingest.Config](map[string]string{"KAFKA_BROKERS": l.broker.Addr(), "REPLICA": name, "EXPORTERS_FILE": o.exporters})
		if err != nil {
			return err
		}
		ic.Listen, ic.MetricsListen = nil, ""
		ic.Kafka.ClientID = "weir-" + name
		ic.Topics = c.Topics
		r, err := ingest.New(ic, ingest.Deps{Log: o.log, Now: time.Now, Metrics: o.registerer(name)})
		if err != nil {
			return err
		}
		l.replicas[i] = &gate{replica: r}
	}

	ingestCtx, stopIngest := context.WithCancel(ctx)
	enrichCtx, stopEnrich := context.WithCancel(ctx)
	l.stopIngest, l.stopEnrich = stopIngest, stopEnrich
	for i, g := range l.replicas {
		l.ingest.Go(func() { l.ended(ingestCtx, fmt.Sprintf("ingest-%d", i+1), g.replica.Run(ingestCtx)) })
	}
	l.enrich.Go(func() { l.ended(enrichCtx, "enrich", l.worker.Run(enrichCtx)) })
	return nil
}

// ended reports a part that ended with an error or before it was told to.
func (l *live) ended(ctx context.Context, part string, err error) {
	switch {
	case err != nil:
		l.failed <- fmt.Errorf("%s: %w", part, err)
	case ctx.Err() == nil:
		l.failed <- fmt.Errorf("%s ended by itself", part)
	}
}

// kafkaAddr returns host:port of the broker.
func (l *live) kafkaAddr() string { return l.broker.Addr() }

// enrichStats returns the counters of enrich.
func (l *live) enrichStats() enrich.Stats { return l.worker.Stats() }

// replicaStats returns the counters of the ingest replica i, from 0.
func (l *live) replicaStats(i int) ingest.Stats { return l.replicas[i].replica.Stats() }

// receive hands a datagram to the ingest replica i, from 0. It may be called concurrently.
func (l *live) receive(i int, b []byte, from netip.AddrPort, at time.Time) {
	l.replicas[i].receive(b, from, at)
}

// fail makes until and stop return err, as when a part has failed.
func (l *live) fail(err error) { l.failed <- err }

// failure returns the channel on which a part that ended by itself is reported.
func (l *live) failure() <-chan error { return l.failed }

// ready returns nil when every part is ready, else the reasons.
func (l *live) ready() error {
	var errs []error
	for i, g := range l.replicas {
		if err := g.replica.Ready(); err != nil {
			errs = append(errs, fmt.Errorf("ingest-%d: %w", i+1, err))
		}
	}
	if err := l.worker.Ready(); err != nil {
		errs = append(errs, fmt.Errorf("enrich: %w", err))
	}
	return errors.Join(errs...)
}

// closeOpen moves enrich's clock on by the idle time and the linger, so that
// the idle rule closes what is open, and waits for that or until ctx ends. It
// is for when no more flows come.
func (l *live) closeOpen(ctx context.Context) error {
	err := l.until(ctx, "enrich to read every flow", func() bool { return l.worker.Stats().Flows >= l.stats().Flows })
	if err != nil {
		return err
	}
	l.ahead.Store(int64(l.config.Pair.Idle + l.config.Pair.Linger))
	// The first look comes after a moment: the number of open connections is
	// brought up to date a little later than that of flows.
	next := time.Now().Add(100 * time.Millisecond)
	return l.until(ctx, "the open connections to close", func() bool {
		if time.Now().Before(next) {
			return false
		}
		next = time.Now().Add(50 * time.Millisecond)
		n, err := l.open()
		return err == nil && n == 0
	})
}

// open is how many connections enrich holds open as of its last transaction.
func (l *live) open() (int, error) {
	families, err := l.metrics.Gather()
	if err != nil {
		return 0, err
	}
	for _, f := range families {
		if f.GetName() == "weir_enrich_connections_open" && len(f.GetMetric()) == 1 {
			return int(f.GetMetric()[0].GetGauge().GetValue()), nil
		}
	}
	return 0, errors.New("enrich does not tell how many connections are open")
}

// pollEvery is how often until looks.
const pollEvery = 5 * time.Millisecond

// until polls for something to happen until ctx ends.
func (l *live) until(ctx context.Context, what string, done func() bool) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for !done() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w", what, context.Cause(ctx))
		case err := <-l.failed:
			return err
		case <-tick.C:
		}
	}
	return nil
}

// stop ends the parts in the order of the flow, so that what was received is
// published: ingest, enrich, broker. It returns what went wrong meanwhile.
func (l *live) stop() error {
	l.endIngest()
	l.stopEnrich()
	l.enrich.Wait()
	l.broker.Close()
	var errs []error
	for {
		select {
		case err := <-l.failed:
			errs = append(errs, err)
		default:
			return errors.Join(errs...)
		}
	}
}

// endIngest ends the replicas: what they received is published then.
func (l *live) endIngest() {
	l.stopIngest()
	l.ingest.Wait()
}

// stats sums up the replicas'.
func (l *live) stats() (s ingest.Stats) {
	for _, g := range l.replicas {
		r := g.replica.Stats()
		s.Datagrams += r.Datagrams
		s.Flows += r.Flows
		s.Options += r.Options
		s.TemplatesLearnt += r.TemplatesLearnt
		s.TemplatesPublished += r.TemplatesPublished
		s.TemplatesFromOthers += r.TemplatesFromOthers
		s.Errors += r.Errors
		s.Dropped += r.Dropped
		s.Parked += r.Parked
	}
	return s
}

// A gate lets datagrams into a replica one at a time, from several sockets.
type gate struct {
	mu      sync.Mutex
	replica *ingest.Replica
}

func (g *gate) receive(b []byte, from netip.AddrPort, at time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.replica.Receive(b, from, at)
}

// turns hands datagrams to the replicas turn by turn, as a balancer that knows
// nothing of flows would.
func (l *live) turns() func([]byte, netip.AddrPort, time.Time) {
	var n atomic.Uint32
	return func(b []byte, from netip.AddrPort, at time.Time) {
		l.replicas[(n.Add(1)-1)%replicaCount].receive(b, from, at)
	}
}
