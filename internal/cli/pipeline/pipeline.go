// Package pipeline runs all of Weir in one process: an embedded broker, two ingest replicas and enrich. It
// receives datagrams through calls; the caller owns the sockets.
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

// ReplicaCount is the number of ingest replicas. Two replicas must share templates, as in production.
const ReplicaCount = 2

// A Pipeline is a running broker, ReplicaCount ingest replicas and an enrich. Its methods may be called
// concurrently. Stop must be called once.
type Pipeline struct {
	broker   *broker.Broker
	replicas [ReplicaCount]*gate
	worker   *enrich.Worker
	Config   enrich.Config

	metrics prometheus.Gatherer
	ahead   atomic.Int64 // offset of enrich's clock from the real time, ns

	stopIngest, stopEnrich context.CancelFunc
	ingest, enrich         sync.WaitGroup
	readers                atomic.Uint32 // number of calls of RoundRobin
	failed                 chan error    // errors of services that ended before Stop
}

// Options are the settings of a Pipeline.
type Options struct {
	Kafka       string            // host:port of the broker; port 0: any free port
	Environ     map[string]string // variables of enrich: PAIR_*, DNS_*
	Exporters   string            // path of the exporters file; empty: none
	CommitEvery time.Duration     // interval between the transactions of enrich
	Log         *slog.Logger
	Metrics     *prometheus.Registry       // of all services, with the label part
	Committed   func([]*flowpb.Connection) // receives connections after their transaction; called by one goroutine
	Sockets     []*transport.Socket        // the caller reads them; Metrics shows their kernel drops
}

// registerer returns the registerer for the metrics of a part.
func (o *Options) registerer(part string) prometheus.Registerer {
	return prometheus.WrapRegistererWith(prometheus.Labels{"part": part}, o.Metrics)
}

// livePartitions is the number of partitions of each topic. It is small because one process gains nothing from
// more partitions, and each partition takes memory in the embedded broker.
const livePartitions = 3

// A BrokerError is the error of Start when the embedded broker cannot start.
type BrokerError struct{ error }

// Unwrap returns the cause.
func (e BrokerError) Unwrap() error { return e.error }

// Start starts all services. ctx bounds the start only. The services run until Stop, which the caller must call.
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
	// The topics must exist before the services start: the small topics of an embedded broker have
	// other settings than the services expect, and each service would log a warning.
	if err := kafka.Ensure(ctx, c.Kafka, c.Topics, nil, kafka.Flows, kafka.Templates, kafka.Undecoded,
		kafka.Exporters, kafka.Pairing, kafka.Connections); err != nil {
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
		ic, err := settings.Parse[ingest.Config](map[string]string{
			"KAFKA_BROKERS": l.broker.Addr(), "REPLICA": name, "EXPORTERS_FILE": o.Exporters,
		})
		if err != nil {
			return err
		}
		ic.Listen, ic.MetricsListen = nil, ""
		ic.Linger = 10 * time.Millisecond // an embedded broker gains nothing from large batches
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

// ended reports a part that ended with an error or before ctx ended.
func (l *Pipeline) ended(ctx context.Context, part string, err error) {
	switch {
	case err != nil:
		l.failed <- fmt.Errorf("%s: %w", part, err)
	case ctx.Err() == nil:
		l.failed <- fmt.Errorf("%s ended unexpectedly", part)
	}
}

// KafkaAddr returns the host:port of the broker.
func (l *Pipeline) KafkaAddr() string { return l.broker.Addr() }

// EnrichStats returns the counters of enrich.
func (l *Pipeline) EnrichStats() enrich.Stats { return l.worker.Stats() }

// ReplicaStats returns the counters of the ingest replica i, from 0.
func (l *Pipeline) ReplicaStats(i int) ingest.Stats { return l.replicas[i].replica.Stats() }

// Receive passes a datagram to the ingest replica i, from 0. It may be called concurrently.
func (l *Pipeline) Receive(i int, b []byte, from netip.AddrPort, at time.Time) {
	l.replicas[i].receive(b, from, at)
}

// Fail reports a failure of the caller, for example of a socket, like the failure of a service.
func (l *Pipeline) Fail(err error) { l.failed <- err }

// Failure returns a channel of the errors of services that ended before Stop. WaitFor and Stop receive from the
// same channel, so each error is delivered only once.
func (l *Pipeline) Failure() <-chan error { return l.failed }

// Ready returns nil when all services are ready, otherwise the reasons.
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

// CloseOpen waits until enrich has read all flows, advances its clock by PAIR_IDLE and PAIR_LINGER, so that the
// idle rule closes all connections, and waits for the closing or until ctx ends. The caller must not receive
// further datagrams.
func (l *Pipeline) CloseOpen(ctx context.Context) error {
	err := l.WaitFor(ctx, "enrich to read every flow", func() bool { return l.worker.Stats().Flows >= l.Stats().Flows })
	if err != nil {
		return err
	}
	l.ahead.Store(int64(l.Config.Pair.Idle + l.Config.Pair.Linger))
	// The first poll is delayed: enrich updates the number of open connections shortly after the
	// number of flows.
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

// open returns the number of open connections in enrich as of its last transaction.
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
	return 0, errors.New("enrich has no metric of open connections")
}

// pollEvery is the interval at which WaitFor polls.
const pollEvery = 5 * time.Millisecond

// WaitFor polls done until it returns true, ctx ends or a service fails. event names the awaited event in the
// error.
func (l *Pipeline) WaitFor(ctx context.Context, event string, done func() bool) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for !done() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w", event, context.Cause(ctx))
		case err := <-l.failed:
			return err
		case <-tick.C:
		}
	}
	return nil
}

// Stop ends the ingest replicas, then enrich, then the broker, so that received flows are published. It returns
// the errors of the services. It must be called once.
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

// Stats returns the sum of the counters of the ingest replicas.
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
		s.Buffered += r.Buffered
	}
	return s
}

// A gate serialises the datagrams of several sockets for a replica, whose decoder must not be used concurrently.
type gate struct {
	mu      sync.Mutex
	replica *ingest.Replica
}

func (g *gate) receive(b []byte, from netip.AddrPort, at time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.replica.Receive(b, from, at)
}

// RoundRobin returns a function that distributes datagrams over the replicas in turn, like a load balancer without
// affinity. The function must not be called concurrently: each socket needs its own.
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
