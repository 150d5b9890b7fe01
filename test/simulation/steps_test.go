//go:build synctests

package simulation

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func duration(rng *rand.Rand, most time.Duration) time.Duration {
	return time.Duration(rng.Int64N(int64(most/time.Millisecond))+1) * time.Millisecond
}

// A startMember adds a member, up to maxMembers.
type startMember struct{}

const maxMembers = 4

func drawStart(*rand.Rand) action  { return startMember{} }
func (startMember) String() string { return "start a member" }
func (startMember) run(w *world, _ *rand.Rand) {
	if len(w.members) < maxMembers {
		w.start(w.newName())
	}
}

// A stopMember ends a member by SIGTERM, and may start another in its place.
type stopMember struct {
	Member  int
	Replace bool
}

func drawStop(rng *rand.Rand) action { return stopMember{rng.IntN(64), rng.IntN(3) > 0} }

func (a stopMember) String() string {
	return fmt.Sprintf("SIGTERM to member %d, replaced: %v", a.Member, a.Replace)
}

func (a stopMember) run(w *world, _ *rand.Rand) {
	if m := w.take(a.Member); m != nil {
		w.terminate(m)
		if a.Replace {
			w.start(w.newName())
		}
	}
}

// A killMember ends a member by SIGKILL: no further request of it reaches a broker. Another member takes its
// name after a while.
type killMember struct {
	Member   int
	SameName bool
	After    time.Duration
}

func drawKill(rng *rand.Rand) action {
	return killMember{rng.IntN(64), rng.IntN(2) == 0, duration(rng, 10*time.Second)}
}

func (a killMember) String() string {
	return fmt.Sprintf("SIGKILL to member %d, restarted after %v, under the same name: %v", a.Member, a.After, a.SameName)
}

func (a killMember) run(w *world, _ *rand.Rand) {
	m := w.take(a.Member)
	if m == nil {
		return
	}
	w.kill(m)
	name := m.name
	if !a.SameName {
		name = w.newName()
	}
	w.after(a.After, func() { w.start(name) })
}

// A zombie is a member that is cut off, replaced under its own name, comes back, and stops soon after.
type zombie struct {
	Member    int
	Away      time.Duration
	Overlap   time.Duration
	Blackhole bool
}

func drawZombie(rng *rand.Rand) action {
	return zombie{rng.IntN(64), duration(rng, 30*time.Second), duration(rng, 3*time.Second), rng.IntN(2) == 0}
}

func (a zombie) String() string {
	return fmt.Sprintf("member %d is cut off (held: %v) and replaced under its name; it is back after %v and ends %v later", a.Member, a.Blackhole, a.Away, a.Overlap)
}

func (a zombie) run(w *world, _ *rand.Rand) {
	m := w.take(a.Member)
	if m == nil {
		return
	}
	if a.Blackhole {
		m.host.blackhole(sending)
		m.host.blackhole(receiving)
	} else {
		m.host.cut()
	}
	w.start(m.name)
	w.after(a.Away, m.host.mend)
	w.after(a.Away+a.Overlap, func() { w.terminate(m) })
}

// A cutNetwork closes a member's connections and refuses new ones for a while.
type cutNetwork struct {
	Member int
	For    time.Duration
}

func drawCut(rng *rand.Rand) action { return cutNetwork{rng.IntN(64), duration(rng, 20*time.Second)} }
func (a cutNetwork) String() string { return fmt.Sprintf("cut member %d off for %v", a.Member, a.For) }

func (a cutNetwork) run(w *world, _ *rand.Rand) {
	if m := w.pick(a.Member); m != nil {
		m.host.cut()
		w.after(a.For, m.host.mend)
	}
}

// A blackhole holds the octets that a member sends, receives, or both, for a while.
type blackhole struct {
	Member          int
	Sends, Receives bool
	For             time.Duration
}

func drawBlackhole(rng *rand.Rand) action {
	which := rng.IntN(3)
	return blackhole{rng.IntN(64), which != 1, which != 0, duration(rng, 20*time.Second)}
}

func (a blackhole) String() string {
	return fmt.Sprintf("hold the network of member %d (sending %v, receiving %v) for %v", a.Member, a.Sends, a.Receives, a.For)
}

func (a blackhole) run(w *world, _ *rand.Rand) {
	m := w.pick(a.Member)
	if m == nil {
		return
	}
	if a.Sends {
		m.host.blackhole(sending)
	}
	if a.Receives {
		m.host.blackhole(receiving)
	}
	w.after(a.For, m.host.mend)
}

// A slowNetwork delays the octets that a member sends.
type slowNetwork struct {
	Member  int
	By, For time.Duration
}

func drawSlow(rng *rand.Rand) action {
	return slowNetwork{rng.IntN(64), duration(rng, 800*time.Millisecond), duration(rng, 20*time.Second)}
}

func (a slowNetwork) String() string {
	return fmt.Sprintf("delay what member %d sends by %v for %v", a.Member, a.By, a.For)
}

func (a slowNetwork) run(w *world, _ *rand.Rand) {
	if m := w.pick(a.Member); m != nil {
		m.host.slow(a.By)
		w.after(a.For, m.host.mend)
	}
}

// lostReplies delivers a member's requests and drops the replies: brokers act, and the member does not know.
type lostReplies struct {
	Member int
	For    time.Duration
}

func drawLostReplies(rng *rand.Rand) action {
	return lostReplies{rng.IntN(64), duration(rng, 2*time.Second)}
}

func (a lostReplies) String() string {
	return fmt.Sprintf("lose the replies to member %d for %v", a.Member, a.For)
}

func (a lostReplies) run(w *world, _ *rand.Rand) {
	m := w.pick(a.Member)
	if m == nil {
		return
	}
	m.host.blackhole(receiving)
	w.after(a.For, func() {
		m.host.cut()
		m.host.mend()
	})
}

// A brokerFault makes the brokers answer the next requests of a kind with an error.
type brokerFault struct {
	Key   kmsg.Key
	Err   *kerr.Error
	Count int
	Topic string
}

// brokerErrors lists, for each request that enrich sends, the errors that brokers return when leaders,
// coordinators and generations change. The test itself produces the flows; these requests get no errors.
var brokerErrors = []struct {
	key   kmsg.Key
	topic string
	errs  []*kerr.Error
}{
	{kmsg.Produce, "connections", []*kerr.Error{kerr.NotLeaderForPartition, kerr.RequestTimedOut, kerr.NotEnoughReplicas, kerr.NotEnoughReplicasAfterAppend}},
	{kmsg.Produce, "pairing", []*kerr.Error{kerr.NotLeaderForPartition, kerr.RequestTimedOut, kerr.NotEnoughReplicas, kerr.NotEnoughReplicasAfterAppend}},
	{kmsg.Fetch, "", []*kerr.Error{kerr.NotLeaderForPartition, kerr.FencedLeaderEpoch}},
	{kmsg.TxnOffsetCommit, "", []*kerr.Error{kerr.RebalanceInProgress, kerr.IllegalGeneration, kerr.UnknownMemberID, kerr.NotCoordinator, kerr.CoordinatorLoadInProgress, kerr.RequestTimedOut}},
	{kmsg.EndTxn, "", []*kerr.Error{kerr.CoordinatorNotAvailable, kerr.NotCoordinator, kerr.ConcurrentTransactions, kerr.ProducerFenced, kerr.InvalidProducerEpoch}},
	{kmsg.AddPartitionsToTxn, "", []*kerr.Error{kerr.ConcurrentTransactions, kerr.CoordinatorLoadInProgress}},
	{kmsg.AddOffsetsToTxn, "", []*kerr.Error{kerr.ConcurrentTransactions, kerr.NotCoordinator}},
	{kmsg.Heartbeat, "", []*kerr.Error{kerr.RebalanceInProgress, kerr.UnknownMemberID, kerr.NotCoordinator, kerr.IllegalGeneration}},
	{kmsg.JoinGroup, "", []*kerr.Error{kerr.NotCoordinator, kerr.UnknownMemberID}},
	{kmsg.SyncGroup, "", []*kerr.Error{kerr.RebalanceInProgress, kerr.NotCoordinator}},
	{kmsg.LeaveGroup, "", []*kerr.Error{kerr.NotCoordinator}},
	{kmsg.OffsetFetch, "", []*kerr.Error{kerr.UnstableOffsetCommit, kerr.NotCoordinator}},
	{kmsg.InitProducerID, "", []*kerr.Error{kerr.ConcurrentTransactions, kerr.NotCoordinator, kerr.CoordinatorLoadInProgress}},
	{kmsg.ListOffsets, "", []*kerr.Error{kerr.NotLeaderForPartition, kerr.LeaderNotAvailable}},
	{kmsg.FindCoordinator, "", []*kerr.Error{kerr.CoordinatorNotAvailable}},
	{kmsg.DeleteRecords, "", []*kerr.Error{kerr.NotLeaderForPartition, kerr.TopicAuthorizationFailed}},
}

func drawFault(rng *rand.Rand) action {
	f := brokerErrors[rng.IntN(len(brokerErrors))]
	return brokerFault{f.key, f.errs[rng.IntN(len(f.errs))], 1 + rng.IntN(3), f.topic}
}

func (a brokerFault) String() string {
	return fmt.Sprintf("%d times %s for %s %s", a.Count, a.Err.Message, a.Key.Name(), a.Topic)
}

func (a brokerFault) run(w *world, _ *rand.Rand) {
	f := kfake.Fault{Keys: []kmsg.Key{a.Key}, Err: a.Err, Count: a.Count}
	if a.Topic != "" {
		f.Topic = topicPrefix + a.Topic
	}
	w.faults = append(w.faults, w.cluster.Fault(f))
}

// moveLeaders gives all partitions new leaders.
type moveLeaders struct{}

func drawLeaders(*rand.Rand) action              { return moveLeaders{} }
func (moveLeaders) String() string               { return "all partitions get new leaders" }
func (moveLeaders) run(w *world, rng *rand.Rand) { w.moveLeaders(rng) }

// moveCoordinators moves all groups and transactions to other coordinators.
type moveCoordinators struct{}

func drawCoordinators(*rand.Rand) action            { return moveCoordinators{} }
func (moveCoordinators) String() string             { return "all coordinators move" }
func (moveCoordinators) run(w *world, _ *rand.Rand) { w.cluster.RehashCoordinators() }

// silence lets time pass without flows, so that connections end by the idle rule.
type silence struct{ For time.Duration }

func drawSilence(rng *rand.Rand) action      { return silence{duration(rng, 40*time.Second)} }
func (a silence) String() string             { return fmt.Sprintf("silence for %v", a.For) }
func (a silence) run(w *world, _ *rand.Rand) { time.Sleep(a.For) }
