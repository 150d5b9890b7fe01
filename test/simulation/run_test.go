//go:build synctests

package simulation

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"weir/internal/kafka"
	"weir/internal/kafka/broker"
)

const (
	brokers          = 3
	sessionTimeout   = 6 * time.Second
	rebalanceTimeout = 10 * time.Second // as kafka.Session derives it from the session timeout
)

// A result holds the outcome of a run.
type result struct {
	Findings    []finding
	Flows       int // records on the flows topic
	Connections int
	Reports     int
	Merged      int // connections whose last report is MERGED
	Lost        int // records that members counted as lost unread
	Members     int
	Took        time.Duration // fake time
}

// simulate runs a plan in a bubble. It fails t only if the simulation itself does not work.
func simulate(t *testing.T, p plan, tr *trace) (r result) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		w := newWorld(t, p, tr)
		w.perform()
		w.settle()
		if w.sinks != nil {
			w.sinks.settle(t)
		}
		r = w.judge(t)
		r.Took = time.Since(began)
		w.close()
	})
	return r
}

func newWorld(t *testing.T, p plan, tr *trace) *world {
	t.Helper()
	w := &world{plan: p, trace: tr, ctx: context.Background(), pairing: pairing(p.Setup), remade: map[kafka.Topic]bool{}}
	if p.Setup.Names {
		w.resolver = newNameServers(p.Seed)
	}
	w.watch = &watch{find: w.find, now: &tr.now, heard: map[string]time.Time{}, requests: map[kmsg.Key]*window{}, lines: map[int]*window{}}
	versions := kversion.Stable()
	versions.SetMaxKeyVersion(kmsg.GetTelemetrySubscriptions.Int16(), -1) // clients push metrics only to brokers that support it
	c, err := kfake.NewCluster(kfake.NumBrokers(brokers), kfake.MaxVersions(versions), kfake.Ports(19092, 19093, 19094), kfake.ListenFn(w.network.Listen), kfake.WithLogger(tr),
		kfake.BrokerConfigs(map[string]string{"group.min.session.timeout.ms": "1000"}))
	if err != nil {
		t.Fatal(err)
	}
	w.cluster = c
	c.Control(w.watch.request) // first: it sees what broker.Mend answers, too
	c.ControlKey(int16(kmsg.OffsetForLeaderEpoch), func(r kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		return w.watch.epochEnds(r)
	})
	broker.Mend(c)
	w.admin = &host{network: &w.network}
	conf := w.config("admin", w.admin)
	if err := kafka.Ensure(t.Context(), conf.Kafka, conf.Topics, nil, kafka.Flows, kafka.Pairing, kafka.Connections, kafka.Templates, kafka.Undecoded, kafka.Exporters); err != nil {
		t.Fatal(err)
	}
	w.client = w.newClient()
	return w
}

// perform executes the steps.
func (w *world) perform() {
	for range w.plan.Setup.Members {
		w.start(w.newName())
	}
	if w.plan.Setup.Replicas > 0 {
		w.reception = newReception(w)
	}
	if w.plan.Setup.Sinks {
		w.sinks = newSinks(w)
	}
	time.Sleep(3 * time.Second)
	for _, s := range w.plan.Steps {
		w.trace.printf("STEP %d %v", s.Index, s.Action)
		w.step = uint64(s.Index) + 1
		s.Action.run(w, rand.New(rand.NewPCG(s.Seed, streamRun)))
		time.Sleep(s.Wait)
	}
}

// settle ends all faults and waits until every connection is reported.
func (w *world) settle() {
	for _, f := range w.faults {
		f.Remove()
	}
	if err := w.client.Flush(w.ctx); err != nil {
		panic(err)
	}
	w.trace.printf("all faults are over")
	if w.reception != nil {
		w.reception.settle()
	}
	if w.plan.Setup.Members == 0 {
		return
	}
	w.mu.Lock()
	all, staying := slices.Clone(w.all), slices.Clone(w.members)
	w.mu.Unlock()
	for _, m := range all {
		if m.killed {
			continue
		}
		m.host.mend()
		m.off.Store(0)
		if !slices.Contains(staying, m) {
			w.terminate(m)
		}
	}
	if !w.grown.IsZero() {
		w.refused()
		w.endAll()
		return
	}
	if w.pick(0) == nil {
		w.start(w.newName())
	}
	if w.resolver != nil {
		w.resolver.settle(w)
	}
	time.Sleep(w.pairing.Idle + w.pairing.Linger)
	for began := time.Now(); ; time.Sleep(2 * time.Second) {
		why := w.unsettled()
		if why == "" {
			break
		}
		if time.Since(began) > settleWithin {
			w.find(findStuck, "after %v without faults and flows: %s", settleWithin, why)
			break
		}
	}
	w.endAll()
}

// settleWithin bounds the time until everything is reported: a transaction of a killed member blocks readers
// until it times out (45 s), and back-off doubles delays up to half a minute.
const settleWithin = 3 * time.Minute

// unsettled returns a description of unfinished work, or "".
func (w *world) unsettled() string {
	w.mu.Lock()
	members := slices.Clone(w.members)
	w.mu.Unlock()
	info := w.cluster.GroupInfo(group)
	if info == nil || info.State != "Stable" {
		return "the group is not stable"
	}
	if len(info.Members) != len(members) {
		w.evictPhantoms(group, info)
		return fmt.Sprintf("the group has %d members, %d run: %v", len(info.Members), len(members), info.Members)
	}
	flows := topicPrefix + string(kafka.Flows)
	for _, p := range w.cluster.PartitionInfos(flows) {
		if at := info.Commits[flows][p.Partition].Offset; at < p.HighWatermark {
			return fmt.Sprintf("flows of partition %d are committed up to %d of %d", p.Partition, at, p.HighWatermark)
		}
	}
	for _, topic := range []kafka.Topic{kafka.Connections, kafka.Pairing} {
		for _, p := range w.cluster.PartitionInfos(topicPrefix + string(topic)) {
			if p.LastStableOffset < p.HighWatermark {
				return fmt.Sprintf("a transaction is open on %s partition %d", topic, p.Partition)
			}
		}
	}
	for _, m := range members {
		// A member whose clock was behind checks it again only when flows arrive, and none do. Every other
		// reason for not being ready counts: a member that restores its state shows no open connections.
		if err := m.worker.Ready(); err != nil && (w.plan.Profile.name != "clocks" || !strings.Contains(err.Error(), "clock")) {
			return fmt.Sprintf("member %d is not ready: %v", m.number, err)
		}
		if n := m.gauge("weir_enrich_connections_open"); n != 0 {
			return fmt.Sprintf("member %d has %v open connections", m.number, n)
		}
	}
	return ""
}

// gauge returns the value of a metric without labels.
func (m *member) gauge(name string) float64 {
	families, err := m.registry.Gather()
	if err != nil {
		panic(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			if g := f.Metric[0].GetGauge(); g != nil {
				return g.GetValue()
			}
			return f.Metric[0].GetCounter().GetValue()
		}
	}
	panic("no metric " + name)
}

// counter sums up a metric of all members that ran, over its labels.
func (w *world) counter(name string) (sum float64) {
	for _, m := range w.all {
		families, err := m.registry.Gather()
		if err != nil {
			panic(err)
		}
		for _, f := range families {
			if f.GetName() == name {
				for _, x := range f.Metric {
					sum += x.GetCounter().GetValue()
				}
			}
		}
	}
	return sum
}

// endAll stops every member.
func (w *world) endAll() {
	w.mu.Lock()
	w.over = true
	all := slices.Clone(w.all)
	w.mu.Unlock()
	for _, m := range all {
		w.terminate(m)
	}
	for _, m := range all {
		select {
		case <-m.ended:
		case <-time.After(10 * time.Minute):
			w.find(findShutdown, "member %d (%s) does not end", m.number, m.name)
			m.host.cut()
		}
	}
}

func (w *world) close() {
	w.client.Close()
	w.cluster.Close()
}
