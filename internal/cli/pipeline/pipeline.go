// Package pipeline runs all of Weir in one process: an embedded broker, two ingest replicas and enrich. It receives
// datagrams through calls; whoever uses it has the sockets.
package pipeline

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
	"weir/internal/transport"
	"weir/pkg/flowpb"
)

// ReplicaCount is the number of ingest replicas. With two of them templates must be shared, as in production.
const ReplicaCount = 2

// A Pipeline is a running broker, ReplicaCount ingest replicas and an enrich. Its methods may be called
// concurrently. Stop must be called once.
type Pipeline struct {
	broker   *broker.Broker
	replicas [ReplicaCount]*gate
	worker   *enrich.Worker
	Config   enrich.Config

	metrics prometheus.Gatherer
	ahead   atomic.Int64 // how far enrich's clock was moved on, ns

	stopIngest, stopEnrich context.CancelFunc
	ingest, enrich         sync.WaitGroup
	readers                atomic.Uint32 // calls of RoundRobin
	failed                 chan error    // a part that ended by itself
}

// Options are the settings of a Pipeline.
type Options struct {
	Kafka       string            // host:port of the broker; port 0: a free one
	Environ     map[string]string // variables of enrich: PAIR_*, DNS_*
	Exporters   string            // file of exporters; empty: none
	CommitEvery time.Duration     // between enrich's transactions
	Log         *slog.Logger
	Metrics     *prometheus.Registry       // of all services, with the label part
	Committed   func([]*flowpb.Connection) // receives connections after their transaction; called by one goroutine
	Sockets     []*transport.Socket        // read by the caller; Metrics shows what the kernel dropped there
}

// registerer is where a part's metrics go.
func (o *Options) registerer(part string) prometheus.Registerer {
	return prometheus.WrapRegistererWith(prometheus.Labels{"part": part}, o.Metrics)
}

// livePartitions is few: one process gains nothing by more, and each costs
// memory in the embedded broker.
const livePartitions = 3

// A BrokerError is the error of Start when the embedded broker cannot start.
type BrokerError struct{ error }

// Unwrap returns the reason.
func (e BrokerError) Unwrap() error { return e.error }

// Start starts all services. ctx bounds Start only: Stop ends the services.
func Start(ctx context.Context, o Options) (*Pipeline, error) {
	b, err := broker.Start(o.Kafka, true)
	if err != nil {
		return nil, BrokerError{err}
	}
	l := &Pipeline{broker: b, metrics: o.Metrics, failed: make(chan error, 2*ReplicaCount+1)}
	if err := l.start(context.WithoutCancel(ctx), o); err != nil {
		b.Close()
		return nil, err
	}
	return l, nil
}

// EnrichConfig returns the configuration of enrich for a broker (host:port), from variables PAIR_* and DNS_*.
func EnrichConfig(broker string, environ map[string]string) (enrich.Config, error) {
	all := map[string]string{"KAFKA_BROKERS": broker, "INSTANCE": "enrich"}
	maps.Copy(all, environ)
	return settings.Parse[enrich.Config](all)
}

func (l *Pipeline) start(ctx context.Context, o Options) error {
	c, err := EnrichConfig(l.broker.Addr(), o.Environ)
	if err != nil {
		return err
	}
	c.MetricsListen, c.CommitEvery = "", o.CommitEvery
	c.Kafka.ClientID = "weir-enrich"
	c.Topics.Partitions = livePartitions
	l.Config = c
	// Made here once: an embedded broker's small topics are set otherwise than
	// the services would have them, of which each of them would warn.
	if err := kafka.Ensure(ctx, c.Kafka, c.Topics, nil, kafka.Flows, kafka.Templates, kafka.Undecoded, kafka.Exporters, kafka.Pairing, kafka.Connections); err != nil {
		return err
	}
	c.Topics.Mode = "off"
	l.worker, err = enrich.New(c, enrich.Deps{
		Log: o.Log, Metrics: o.registerer("enrich"),
		Now:       func() time.Time { return time.Now().Add(time.Duration(l.ahead.Load())) },
		Committed: o.Committed,
	})
	if err != nil {
		return err
	}
	for i := range l.replicas {
		name := fmt.Sprintf("ingest-%d", i+1)
		ic, err := settings.Parse[ingest.Config](map[string]string{"KAFKA_BROKERS": l.broker.Addr(), "REPLICA": name, "EXPORTERS_FILE": o.Exporters})
		if err != nil {
			return err
		}
		ic.Listen, ic.MetricsListen = nil, ""
		ic.Kafka.ClientID = "weir-" + name
		ic.Topics = c.Topics
		r, err := ingest.New(ic, ingest.Deps{Log: o.Log, Now: time.Now, Metrics: o.registerer(name)})
		if err != nil {
			return err
		}
		l.replicas[i] = &gate{replica: r}
	}

	o.registerer("sockets").MustRegister(ingest.NewSocketMetrics(func() []*transport.Socket { return o.Sockets }))
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
func (l *Pipeline) ended(ctx context.Context, part string, err error) {
	switch {
	case err != nil:
		l.failed <- fmt.Errorf("%s: %w", part, err)
	case ctx.Err() == nil:
		l.failed <- fmt.Errorf("%s ended by itself", part)
	}
}

// KafkaAddr returns the host:port of the broker.
func (l *Pipeline) KafkaAddr() string { return l.broker.Addr() }

// EnrichStats returns the counters of enrich.
func (l *Pipeline) EnrichStats() enrich.Stats { return l.worker.Stats() }

// ReplicaStats returns the counters of the ingest replica i, from 0.
func (l *Pipeline) ReplicaStats(i int) ingest.Stats { return l.replicas[i].replica.Stats() }

// Receive hands a datagram to the ingest replica i, from 0. It may be called concurrently.
func (l *Pipeline) Receive(i int, b []byte, from netip.AddrPort, at time.Time) {
	l.replicas[i].receive(b, from, at)
}

// Fail reports a failure of the caller, a socket for example, as the failure of a service.
func (l *Pipeline) Fail(err error) { l.failed <- err }

// Failure returns a channel of the errors of services that ended before Stop. WaitFor and Stop read it too.
func (l *Pipeline) Failure() <-chan error { return l.failed }

// Ready returns nil when all services are ready, else the reasons.
func (l *Pipeline) Ready() error {
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

// CloseOpen waits until enrich has read all flows, advances its clock by PAIR_IDLE and PAIR_LINGER, so that the idle
// rule closes all connections, and waits for that or until ctx ends. No more datagrams must be received.
func (l *Pipeline) CloseOpen(ctx context.Context) error {
	err := l.WaitFor(ctx, "enrich to read every flow", func() bool { return l.worker.Stats().Flows >= l.Stats().Flows })
	if err != nil {
		return err
	}
	l.ahead.Store(int64(l.Config.Pair.Idle + l.Config.Pair.Linger))
	// The first look comes after a moment: the number of open connections is
	// brought up to date a little later than that of flows.
	next := time.Now().Add(100 * time.Millisecond)
	return l.WaitFor(ctx, "the open connections to close", func() bool {
		if time.Now().Before(next) {
			return false
		}
		next = time.Now().Add(50 * time.Millisecond)
		n, err := l.open()
		return err == nil && n == 0
	})
}

// open is how many connections enrich holds open as of its last transaction.
func (l *Pipeline) open() (int, error) {
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

// WaitFor polls done until it is true, ctx ends or a service fails. what names the event in the error.
func (l *Pipeline) WaitFor(ctx context.Context, what string, done func() bool) error {
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

// Stop ends the ingest replicas, then enrich, then the broker, so that received flows are published. It returns the
// errors of the services.
func (l *Pipeline) Stop() error {
	l.StopIngest()
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

// StopIngest ends the ingest replicas after they have published their flows. Stop does so too.
func (l *Pipeline) StopIngest() {
	l.stopIngest()
	l.ingest.Wait()
}

// Stats returns the counters of the ingest replicas, summed up.
func (l *Pipeline) Stats() (s ingest.Stats) {
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

// RoundRobin returns a function that distributes datagrams over the replicas in turn, as a balancer without
// affinity does. It must be called by one goroutine at a time: each socket needs one of its own.
func (l *Pipeline) RoundRobin() func([]byte, netip.AddrPort, time.Time) {
	var to [ReplicaCount]func([]byte, netip.AddrPort, time.Time)
	for i, g := range l.replicas {
		to[i] = g.replica.Receiver()
	}
	turn := l.readers.Add(1) - 1
	return func(b []byte, from netip.AddrPort, at time.Time) {
		to[turn%ReplicaCount](b, from, at)
		turn++
	}
}
