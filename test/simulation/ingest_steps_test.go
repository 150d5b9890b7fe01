//go:build synctests

package simulation

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// receptionProfile runs ingest without enrich.
var receptionProfile = profile{
	name: "ingest", class: exact, share: 2,
	setup: func(rng *rand.Rand) setup {
		return setup{Partitions: 2 + rng.Int32N(3), Replicas: 1 + rng.IntN(3), MaxOpen: 1_000_000}
	},
	weight: []weighted{
		{40, drawExport}, {6, drawRestartExporter}, {4, drawStartReplica}, {4, drawStopReplica}, {4, drawKillReplica}, {3, drawZombieReplica},
		{8, drawReplicaNetwork}, {12, drawIngestFault}, {2, drawLeaders}, {3, drawCoordinators}, {2, drawSilence},
	},
}

// export lets an exporter send datagrams, each to a random replica.
type export struct{ Exporter, Datagrams int }

func drawExport(rng *rand.Rand) action { return export{rng.IntN(64), 1 + rng.IntN(8)} }

func (a export) String() string {
	return fmt.Sprintf("%d datagrams of exporter %d", a.Datagrams, a.Exporter)
}

func (a export) run(w *world, rng *rand.Rand) {
	r := w.reception
	e := r.exporters[a.Exporter%len(r.exporters)]
	for range a.Datagrams {
		d := e.datagram(r.records+1, time.Now())
		r.records += uint64(len(d.records))
		r.deal(d, rng.IntN(64))
		time.Sleep(time.Duration(rng.IntN(20)) * time.Millisecond)
	}
}

// restartExporter restarts an exporter: its uptime and sequence numbers start again.
type restartExporter struct {
	Exporter int
	Anew     bool // with another template
}

func drawRestartExporter(rng *rand.Rand) action {
	return restartExporter{rng.IntN(64), rng.IntN(2) == 0}
}

func (a restartExporter) String() string {
	return fmt.Sprintf("exporter %d restarts, with a new template: %v", a.Exporter, a.Anew)
}

func (a restartExporter) run(w *world, rng *rand.Rand) {
	r := w.reception
	r.exporters[a.Exporter%len(r.exporters)].restart(rng, a.Anew)
}

// startReplica adds a replica, up to maxMembers.
type startReplica struct{}

func drawStartReplica(*rand.Rand) action { return startReplica{} }
func (startReplica) String() string      { return "start a replica" }
func (startReplica) run(w *world, _ *rand.Rand) {
	if r := w.reception; r.running() < maxMembers {
		r.start(r.newName())
	}
}

// stopReplica ends a replica by SIGTERM.
type stopReplica struct {
	Replica int
	Replace bool
}

func drawStopReplica(rng *rand.Rand) action { return stopReplica{rng.IntN(64), rng.IntN(3) > 0} }

func (a stopReplica) String() string {
	return fmt.Sprintf("SIGTERM to replica %d, replaced: %v", a.Replica, a.Replace)
}

func (a stopReplica) run(w *world, _ *rand.Rand) {
	r := w.reception
	if i := r.take(a.Replica); i != nil {
		go r.terminate(i)
		if a.Replace {
			r.start(r.newName())
		}
	}
}

// killReplica ends a replica by SIGKILL: data in its memory is lost.
type killReplica struct {
	Replica  int
	SameName bool
	After    time.Duration // until another replica runs
}

func drawKillReplica(rng *rand.Rand) action {
	return killReplica{rng.IntN(64), rng.IntN(2) == 0, duration(rng, 10*time.Second)}
}

func (a killReplica) String() string {
	return fmt.Sprintf("SIGKILL to replica %d, another runs after %v, under its name: %v", a.Replica, a.After, a.SameName)
}

func (a killReplica) run(w *world, _ *rand.Rand) {
	r := w.reception
	i := r.take(a.Replica)
	if i == nil {
		return
	}
	r.kill(i)
	name := i.name
	if !a.SameName {
		name = r.newName()
	}
	w.after(a.After, func() { r.start(name) })
}

// zombieReplica cuts a replica off and starts another under its name. The first comes back and stops.
type zombieReplica struct {
	Replica       int
	Away, Overlap time.Duration
	Blackhole     bool
}

func drawZombieReplica(rng *rand.Rand) action {
	return zombieReplica{rng.IntN(64), duration(rng, 30*time.Second), duration(rng, 3*time.Second), rng.IntN(2) == 0}
}

func (a zombieReplica) String() string {
	return fmt.Sprintf("replica %d is cut off (held: %v) and replaced under its name; it is back after %v and ends %v later", a.Replica, a.Blackhole, a.Away, a.Overlap)
}

func (a zombieReplica) run(w *world, _ *rand.Rand) {
	r := w.reception
	i := r.take(a.Replica)
	if i == nil {
		return
	}
	r.disturb(i, func() { isolate(i.host, a.Blackhole) }, a.Away)
	r.start(i.name)
	w.after(a.Away+a.Overlap, func() { r.terminate(i) })
}

func isolate(h *host, hold bool) {
	if hold {
		h.blackhole(sending)
		h.blackhole(receiving)
	} else {
		h.cut()
	}
}

// replicaNetwork disturbs the network of a replica.
type replicaNetwork struct {
	Replica int
	What    networkFault
	For     time.Duration
}

type networkFault int

const (
	networkCut networkFault = iota
	networkHeld
	networkDeaf  // replies do not arrive
	networkMute  // requests do not arrive
	networkSlow  // 200 ms
	networkLossy // replies are lost: brokers act, and the replica does not know
	networkFaults
)

func drawReplicaNetwork(rng *rand.Rand) action {
	return replicaNetwork{rng.IntN(64), networkFault(rng.IntN(int(networkFaults))), duration(rng, 15*time.Second)}
}

func (a replicaNetwork) String() string {
	return fmt.Sprintf("network of replica %d: %v for %v", a.Replica, a.What, a.For)
}

// String names the fault.
func (f networkFault) String() string {
	return [networkFaults]string{"cut", "held", "deaf", "mute", "slow", "lossy"}[f]
}

// begin begins the fault. It lasts until the host is mended, which must be after d.
func (f networkFault) begin(w *world, h *host, d time.Duration) {
	switch f {
	case networkCut:
		h.cut()
	case networkHeld:
		isolate(h, true)
	case networkDeaf:
		h.blackhole(receiving)
	case networkMute:
		h.blackhole(sending)
	case networkSlow:
		h.slow(200 * time.Millisecond)
	case networkLossy:
		h.blackhole(receiving)
		w.after(d-time.Millisecond, h.cut)
	case networkFaults:
	}
}

func (a replicaNetwork) run(w *world, _ *rand.Rand) {
	r := w.reception
	i := r.pick(a.Replica)
	if i == nil {
		return
	}
	r.disturb(i, func() { a.What.begin(w, i.host, a.For) }, a.For)
}

// ingestErrors are the errors of each request that ingest sends.
var ingestErrors = []struct {
	key   kmsg.Key
	topic string
	errs  []*kerr.Error
}{
	{kmsg.Produce, "flows", []*kerr.Error{kerr.NotLeaderForPartition, kerr.RequestTimedOut, kerr.NotEnoughReplicas, kerr.NotEnoughReplicasAfterAppend}},
	{kmsg.Produce, "templates", []*kerr.Error{kerr.NotLeaderForPartition, kerr.RequestTimedOut, kerr.NotEnoughReplicas}},
	{kmsg.Produce, "undecoded", []*kerr.Error{kerr.NotLeaderForPartition, kerr.RequestTimedOut, kerr.NotEnoughReplicas}},
	{kmsg.Fetch, "templates", []*kerr.Error{kerr.NotLeaderForPartition, kerr.FencedLeaderEpoch}},
	{kmsg.Fetch, "undecoded", []*kerr.Error{kerr.NotLeaderForPartition, kerr.FencedLeaderEpoch}},
	{kmsg.TxnOffsetCommit, "", []*kerr.Error{kerr.RebalanceInProgress, kerr.IllegalGeneration, kerr.UnknownMemberID, kerr.NotCoordinator, kerr.RequestTimedOut}},
	{kmsg.EndTxn, "", []*kerr.Error{kerr.CoordinatorNotAvailable, kerr.NotCoordinator, kerr.ConcurrentTransactions, kerr.InvalidProducerEpoch}},
	{kmsg.AddPartitionsToTxn, "", []*kerr.Error{kerr.ConcurrentTransactions, kerr.CoordinatorLoadInProgress}},
	{kmsg.AddOffsetsToTxn, "", []*kerr.Error{kerr.ConcurrentTransactions, kerr.NotCoordinator}},
	{kmsg.Heartbeat, "", []*kerr.Error{kerr.RebalanceInProgress, kerr.UnknownMemberID, kerr.NotCoordinator}},
	{kmsg.JoinGroup, "", []*kerr.Error{kerr.NotCoordinator, kerr.UnknownMemberID}},
	{kmsg.SyncGroup, "", []*kerr.Error{kerr.RebalanceInProgress, kerr.NotCoordinator}},
	{kmsg.OffsetFetch, "", []*kerr.Error{kerr.UnstableOffsetCommit, kerr.NotCoordinator}},
	{kmsg.InitProducerID, "", []*kerr.Error{kerr.ConcurrentTransactions, kerr.NotCoordinator}},
	{kmsg.ListOffsets, "", []*kerr.Error{kerr.NotLeaderForPartition}},
	{kmsg.CreateTopics, "", []*kerr.Error{kerr.NotController}},
}

func drawIngestFault(rng *rand.Rand) action {
	f := ingestErrors[rng.IntN(len(ingestErrors))]
	return brokerFault{f.key, f.errs[rng.IntN(len(f.errs))], 1 + rng.IntN(3), f.topic}
}
