//go:build synctests

package simulation

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"weir/internal/ingest"
)

// undecodedGroup is the consumer group of ingest on the undecoded topic.
const undecodedGroup = topicPrefix + "ingest"

// streamExporters is the number of the random stream from which exporters are drawn.
const streamExporters = 100

// A reception is the part of a world in front of the flows topic: exporters, a balancer that distributes
// datagrams at random, and ingest replicas. Datagrams are passed to the replicas behind their sockets, since
// the bubble has no real network.
type reception struct {
	w         *world
	exporters []*exporter
	records   uint64 // numbers given to records
	sent      []*sentDatagram

	mu       sync.Mutex // guards the fields below
	replicas []*replica // replicas that receive datagrams
	all      []*replica
	names    int
	over     bool // no replica starts any more
}

// A replica is an ingest process.
type replica struct {
	name     string
	number   int
	host     *host
	ingest   *ingest.Replica
	registry *prometheus.Registry
	queue    chan *sentDatagram // its socket's buffer
	drained  chan struct{}      // closed when the queue was closed and is empty
	cancel   func()
	ended    chan struct{}

	// Guarded by reception.mu.
	sigterm time.Time // time of SIGTERM; zero: none yet
	killed  time.Time // time of SIGKILL; zero: none
	calm    time.Time // time since which its network works
}

func newReception(w *world) *reception {
	r := &reception{w: w, exporters: newExporters(rand.New(rand.NewPCG(w.plan.Seed, streamExporters)))}
	for range w.plan.Setup.Replicas {
		r.start(r.newName())
	}
	return r
}

func (r *reception) config(name string, h *host) ingest.Config {
	c := r.w.config(name, h)
	return ingest.Config{
		Replica: name, Elements: true, Drain: time.Second, Flush: 5 * time.Second, Linger: 10 * time.Millisecond, ParkFor: time.Second, ParkMax: 64 << 20,
		Undecoded: ingest.UndecodedConfig{Keep: 24 * time.Hour, Rate: 1 << 20, Burst: 64 << 20, Exporter: 16 << 20},
		Kafka:     c.Kafka, Topics: c.Topics,
	}
}

func (r *reception) newName() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.names++
	return fmt.Sprint("i", r.names)
}

// start runs a replica with this name.
func (r *reception) start(name string) {
	w := r.w
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	i := &replica{
		name: name, number: len(r.all), host: &host{network: &w.network}, registry: prometheus.NewRegistry(), cancel: cancel,
		queue: make(chan *sentDatagram, 1000), drained: make(chan struct{}), ended: make(chan struct{}), calm: time.Now(),
	}
	log := slog.New(&counting{slog.NewTextHandler(w.trace, nil), w.watch, -1 - i.number}).With("ingest", i.number)
	var err error
	if i.ingest, err = ingest.New(r.config(name, i.host), ingest.Deps{Log: log, Now: time.Now, Metrics: i.registry}); err != nil {
		panic(err)
	}
	w.trace.printf("replica %d starts as %s", i.number, name)
	r.replicas, r.all = append(r.replicas, i), append(r.all, i)
	go func() {
		defer close(i.drained)
		for d := range i.queue {
			r.mu.Lock()
			dead := !i.killed.IsZero()
			r.mu.Unlock()
			if !dead {
				i.ingest.Receive(d.octets, d.from, time.Now())
			}
		}
	}()
	go func() {
		defer close(i.ended)
		r.ended(i, i.ingest.Run(ctx))
	}()
}

// ended records the end of a replica.
func (r *reception) ended(i *replica, err error) {
	r.mu.Lock()
	sigterm, killed := i.sigterm, !i.killed.IsZero()
	r.mu.Unlock()
	r.w.trace.printf("replica %d ended: %v", i.number, err)
	switch {
	case killed:
	case err != nil || sigterm.IsZero():
		r.w.find(findFatal, "replica %d (%s) ended: %v", i.number, i.name, err)
	case time.Since(sigterm) > shutdownWithin:
		r.w.find(findShutdown, "replica %d (%s) took %v to end", i.number, i.name, time.Since(sigterm))
	}
}

// running returns the number of replicas that receive datagrams.
func (r *reception) running() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.replicas)
}

// pick returns a replica that receives datagrams, or nil if there is none.
func (r *reception) pick(n int) *replica {
	r.mu.Lock()
	defer r.mu.Unlock()
	return pick(r.replicas, n)
}

// take removes a replica from the balancer and returns it, or nil if there is none.
func (r *reception) take(n int) *replica {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := take(&r.replicas, n)
	if i != nil {
		close(i.queue)
	}
	return i
}

// deal sends a datagram to a replica, and records the replica.
func (r *reception) deal(d *sentDatagram, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.replicas) == 0 {
		return // nobody receives it
	}
	d.to, d.at = r.replicas[n%len(r.replicas)], time.Now()
	r.sent = append(r.sent, d)
	select {
	case d.to.queue <- d:
	default:
		panic("a replica does not take its datagrams: Receive waits")
	}
}

// terminate sends SIGTERM to a replica that was taken, after it has read its socket.
func (r *reception) terminate(i *replica) {
	<-i.drained
	r.mu.Lock()
	if i.sigterm.IsZero() {
		i.sigterm = time.Now()
	}
	r.mu.Unlock()
	i.cancel()
}

// kill sends SIGKILL to a replica that was taken.
func (r *reception) kill(i *replica) {
	r.mu.Lock()
	i.killed = time.Now()
	r.mu.Unlock()
	i.host.cut()
	i.cancel()
}

// disturb disturbs a replica's network, which is mended later.
func (r *reception) disturb(i *replica, what func(), d time.Duration) {
	r.mu.Lock()
	if calm := time.Now().Add(d); calm.After(i.calm) {
		i.calm = calm
	}
	r.mu.Unlock()
	what()
	r.w.after(d, func() { r.mend(i) })
}

// mend restores the network of a replica, unless it was killed.
func (r *reception) mend(i *replica) {
	r.mu.Lock()
	killed := !i.killed.IsZero()
	r.mu.Unlock()
	if !killed {
		i.host.mend()
	}
}

// metric returns the sum of a replica's counter or gauge over its labels.
func (i *replica) metric(name string, without ...string) (sum float64) {
	families, err := i.registry.Gather()
	if err != nil {
		panic(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.Metric {
			if !slices.ContainsFunc(m.Label, func(l *dto.LabelPair) bool { return slices.Contains(without, l.GetValue()) }) {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

// settle ends all faults of networks, waits until no data waits in memory and all decodable data is decoded,
// and stops all replicas.
func (r *reception) settle() {
	r.mu.Lock()
	all := slices.Clone(r.all)
	r.mu.Unlock()
	for _, i := range all {
		r.mend(i)
	}
	if r.pick(0) == nil {
		r.start(r.newName())
	}
	time.Sleep(ingestSettles)
	for began := time.Now(); ; time.Sleep(2 * time.Second) {
		why := r.unsettled()
		if why == "" {
			break
		}
		if time.Since(began) > settleWithin {
			r.w.find(findStuck, "after %v without faults and datagrams: %s", settleWithin, why)
			break
		}
	}
	r.mu.Lock()
	r.over, all = true, slices.Clone(r.all)
	r.mu.Unlock()
	for i := r.take(0); i != nil; i = r.take(0) {
		go r.terminate(i)
	}
	for _, i := range all {
		select {
		case <-i.ended:
		case <-time.After(10 * time.Minute):
			r.w.find(findShutdown, "replica %d (%s) does not end", i.number, i.name)
			i.host.cut()
		}
	}
}

// ingestSettles exceeds the time for which the transaction of a killed replica can block the undecoded topic
// (10 s, and 10 s until a partition has a new owner), plus the time between two passes.
const ingestSettles = 40 * time.Second

// unsettled returns a description of unfinished work, or "".
func (r *reception) unsettled() string {
	r.mu.Lock()
	replicas := slices.Clone(r.replicas)
	r.mu.Unlock()
	for _, i := range replicas {
		if err := i.ingest.Ready(); err != nil {
			return fmt.Sprintf("replica %d is not ready: %v", i.number, err)
		}
		for _, name := range []string{"weir_ingest_buffered_flows", "weir_ingest_parked_sets"} {
			if n := i.metric(name); n != 0 {
				return fmt.Sprintf("replica %d: %s is %v", i.number, name, n)
			}
		}
	}
	info := r.w.cluster.GroupInfo(undecodedGroup)
	if info == nil || info.State != "Stable" {
		return "the group of the undecoded topic is not stable"
	}
	if len(info.Members) != len(replicas) {
		r.w.evictPhantoms(undecodedGroup, info)
		return fmt.Sprintf("the group of the undecoded topic has %d members, %d replicas run: %v", len(info.Members), len(replicas), info.Members)
	}
	return ""
}
