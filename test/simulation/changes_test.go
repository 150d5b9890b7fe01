//go:build synctests

package simulation

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"time"

	"weir/internal/kafka"
	"weir/internal/pair"
)

// The steps in this file change settings and clocks on which pairing depends, or destroy input.

// changeSettings restarts the members in turn with other settings of pairing.
type changeSettings struct {
	Idle, Linger, LateGrace time.Duration
	MaxOpen                 int
	Apart                   time.Duration // between two restarts
	TCPPause                time.Duration
}

func drawSettings(rng *rand.Rand) action {
	return changeSettings{
		Idle: time.Duration(16+rng.IntN(30)) * time.Second, Linger: time.Duration(1+rng.IntN(10)) * time.Second,
		LateGrace: time.Duration(rng.IntN(20)) * time.Second, MaxOpen: []int{1_000_000, 1_000_000, 40, 12}[rng.IntN(4)], Apart: duration(rng, 3*time.Second),
		TCPPause: time.Duration(rng.IntN(60)) * time.Second,
	}
}

func (a changeSettings) String() string {
	return fmt.Sprintf("members restart %v apart with PAIR_IDLE %v, PAIR_LINGER %v, PAIR_LATE_GRACE %v, PAIR_TCP_PAUSE %v, PAIR_MAX_OPEN %d",
		a.Apart, a.Idle, a.Linger, a.LateGrace, a.TCPPause, a.MaxOpen)
}

func (a changeSettings) run(w *world, _ *rand.Rand) {
	w.mu.Lock()
	w.pairing.Idle, w.pairing.Linger, w.pairing.LateGrace, w.pairing.MaxOpen = a.Idle, a.Linger, a.LateGrace, a.MaxOpen
	w.pairing.TCPPause = a.TCPPause
	n := len(w.members)
	w.mu.Unlock()
	for range n {
		if m := w.take(0); m != nil {
			w.terminate(m)
			w.start(w.newName())
			time.Sleep(a.Apart)
		}
	}
}

// setClock sets the clock of a member's host ahead or back for a while.
type setClock struct {
	Member  int
	By, For time.Duration
}

func drawClock(rng *rand.Rand) action {
	by := duration(rng, 10*time.Minute)
	if rng.IntN(2) == 0 {
		by = -by
	}
	return setClock{rng.IntN(64), by, duration(rng, 20*time.Second)}
}

func (a setClock) String() string {
	return fmt.Sprintf("the clock of member %d is %v off for %v", a.Member, a.By, a.For)
}

func (a setClock) run(w *world, _ *rand.Rand) {
	if m := w.pick(a.Member); m != nil {
		m.off.Store(int64(a.By))
		w.after(a.For, func() { m.off.Store(0) })
	}
}

// deleteFlows has the effect of retention on unread flows: all members are cut off, and return after the
// oldest part of the flows that arrived meanwhile has been deleted.
type deleteFlows struct {
	Away    time.Duration
	Records int
	Part    float64 // of the unread flows of each partition
}

func drawRetention(rng *rand.Rand) action {
	return deleteFlows{duration(rng, 15*time.Second), 1 + rng.IntN(40), rng.Float64()}
}

func (a deleteFlows) String() string {
	return fmt.Sprintf("all members are cut off for %v; of the flows on the topic then, with %d records more, %.0f %% are deleted unread", a.Away, a.Records, 100*a.Part)
}

func (a deleteFlows) run(w *world, rng *rand.Rand) {
	w.mu.Lock()
	members := append([]*member(nil), w.members...)
	w.mu.Unlock()
	for _, m := range members {
		m.host.cut()
	}
	traffic{Kind: tcp, Records: a.Records}.run(w, rng)
	time.Sleep(a.Away)
	topic := topicPrefix + string(kafka.Flows)
	info := w.cluster.GroupInfo(group)
	for _, p := range w.cluster.PartitionInfos(topic) {
		if info == nil {
			break
		}
		commit, committed := info.Commits[topic][p.Partition]
		if !committed {
			continue // a group without a position begins at the start of the topic and misses nothing
		}
		at := max(p.LogStartOffset, commit.Offset)
		if err := w.cluster.DeleteRecords(topic, p.Partition, at+int64(a.Part*float64(p.HighWatermark-at))); err != nil {
			panic(err)
		}
	}
	for _, m := range members {
		m.host.mend()
	}
}

// drawPlainTraffic draws flows of a single observation point: their sums must appear in the connections, however they
// are paired.
func drawPlainTraffic(rng *rand.Rand) action {
	kinds := []trafficKind{tcp, tcp, tcp, udp, icmp, nat, sampled, late, backwards}
	return traffic{kinds[rng.IntN(len(kinds))], 1 + rng.IntN(16)}
}

func crowdedSetup(rng *rand.Rand) setup {
	s := usualSetup(rng)
	s.MaxOpen = int(s.Partitions) * (1 + rng.IntN(20))
	return s
}

// pairing returns the initial settings of pairing: shorter than the defaults, so that a run has less silence.
func pairing(s setup) pair.Config {
	return pair.Config{
		Idle: 20 * time.Second, Linger: 3 * time.Second, LateGrace: cmp.Or(s.LateGrace, 10*time.Second), TCPPause: 40 * time.Second,
		ClockSkew: 2 * time.Second, MaxClockSkew: 10 * time.Second,
		UpdateInterval: 15 * time.Second, ActiveTimeout: 15 * time.Second, InactiveTimeout: 10 * time.Second, MaxOpen: s.MaxOpen, Scope: pair.ScopeGlobal,
	}
}
