//go:build synctests

package simulation

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"weir/internal/kafka"
)

// The steps in this file change topics while members use them.

// topicsProfile deletes and recreates topics: members must continue with the new topic.
var topicsProfile = profile{
	name: "topics", class: remade, share: 1,
	setup: func(rng *rand.Rand) setup {
		s := usualSetup(rng)
		s.StateLost = "continue"
		return s
	},
	weight: []weighted{
		{24, drawPlainTraffic}, {2, drawRemake}, {2, drawStart}, {2, drawStop}, {1, drawKill}, {1, drawCut}, {3, drawSilence},
	},
}

// partitionsProfile adds partitions to the flows topic: members must end with an error that names the remedy.
// A plan without such a step is judged like a plan of profile exact.
var partitionsProfile = profile{
	name: "partitions", class: exact, share: 1, setup: usualSetup,
	weight: []weighted{
		{24, drawTraffic}, {2, drawAddPartitions}, {2, drawStart}, {2, drawStop}, {1, drawKill}, {1, drawCut}, {2, drawSilence},
	},
}

// restoreProfile blocks the network of members while they restore state with which others then continue.
var restoreProfile = profile{
	name: "restore", class: exact, share: 1, setup: usualSetup,
	weight: []weighted{
		{20, drawTraffic}, {6, drawHeldRestore}, {2, drawStop}, {1, drawKill}, {1, drawCut}, {1, drawSilence},
	},
}

// remakeTopic deletes and recreates a topic.
type remakeTopic struct {
	Topic kafka.Topic
	Away  time.Duration
}

func drawRemake(rng *rand.Rand) action {
	topics := []kafka.Topic{kafka.Flows, kafka.Flows, kafka.Connections, kafka.Pairing}
	return remakeTopic{topics[rng.IntN(len(topics))], duration(rng, 5*time.Second)}
}

func (a remakeTopic) String() string {
	return fmt.Sprintf("topic %s is deleted, and recreated after %v", a.Topic, a.Away)
}

func (a remakeTopic) run(w *world, _ *rand.Rand) {
	if err := w.client.Flush(w.ctx); err != nil {
		panic(err)
	}
	w.remade[a.Topic] = true
	if _, err := kadm.NewClient(w.client).DeleteTopic(w.ctx, topicPrefix+string(a.Topic)); err != nil {
		panic(err)
	}
	time.Sleep(a.Away)
	conf := w.config("admin", w.admin)
	if err := kafka.Ensure(w.ctx, conf.Kafka, conf.Topics, nil, a.Topic); err != nil {
		panic(err)
	}
	w.client.Close() // a client does not adopt the new topic ID
	w.client = w.newClient()
}

// newClient returns a client of the test itself.
func (w *world) newClient() *kgo.Client {
	cl, err := kgo.NewClient(kgo.SeedBrokers(w.cluster.ListenAddrs()...), kgo.Dialer(w.admin.dial), kgo.MetadataMinAge(10*time.Millisecond),
		kgo.RetryBackoffFn(func(int) time.Duration { return 10 * time.Millisecond }))
	if err != nil {
		panic(err)
	}
	return cl
}

// addPartitions adds partitions to the flows topic, and not to the pairing topic.
type addPartitions struct{ Add int }

func drawAddPartitions(rng *rand.Rand) action { return addPartitions{1 + rng.IntN(2)} }

func (a addPartitions) String() string { return fmt.Sprintf("%d partitions are added to flows", a.Add) }

func (a addPartitions) run(w *world, _ *rand.Rand) {
	resp, err := kadm.NewClient(w.client).CreatePartitions(w.ctx, a.Add, topicPrefix+string(kafka.Flows))
	if err == nil {
		err = resp.Error()
	}
	if err != nil {
		panic(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.grown.IsZero() {
		w.grown = time.Now()
	}
}

// noticeWithin is the time within which members must end after partitions were added: they check their topics
// every 30 s.
const noticeWithin = time.Minute

// refusesPartitions reports whether an error states that partitions were added, their number and the remedy:
// as a running member detects it, beside the pairing topic, or a starting member, beside its settings.
func (w *world) refusesPartitions(err error) bool {
	text := err.Error()
	now := len(w.cluster.PartitionInfos(topicPrefix + string(kafka.Flows)))
	for _, want := range []string{fmt.Sprintf("topic %s%s has %d partitions", topicPrefix, kafka.Flows, now), "fixed for life", "another TOPIC_PREFIX"} {
		if !strings.Contains(text, want) {
			return false
		}
	}
	return errors.Is(err, kafka.ErrFatal) && strings.Contains(text, topicPrefix+string(kafka.Pairing)) || strings.Contains(text, "set TOPIC_PARTITIONS=")
}

// refused waits until members must have detected the added partitions. A member that still runs is a finding.
func (w *world) refused() {
	time.Sleep(noticeWithin + rebalanceTimeout)
	w.mu.Lock()
	var run []*member
	for _, m := range w.members {
		if time.Since(m.began) > noticeWithin {
			run = append(run, m)
		}
	}
	w.mu.Unlock()
	for _, m := range run {
		w.find(findStuck, "member %d runs on, %v after partitions were added to its input", m.number, time.Since(w.grown))
	}
}

// heldRestore starts a member on a slow network and blocks the network while the member restores state: the
// group removes it, and others continue from the positions that it restores. Then the network is restored.
type heldRestore struct {
	Slow  time.Duration
	After time.Duration // from the start of the restore until the network is blocked
	Hold  time.Duration
}

func drawHeldRestore(rng *rand.Rand) action {
	return heldRestore{duration(rng, 400*time.Millisecond), duration(rng, time.Second), sessionTimeout + duration(rng, 40*time.Second)}
}

func (a heldRestore) String() string {
	return fmt.Sprintf("start a member that sends %v late; its network is held for %v, from %v after it begins to restore state", a.Slow, a.Hold, a.After)
}

func (a heldRestore) run(w *world, rng *rand.Rand) {
	if len(w.members) >= maxMembers {
		w.terminate(w.take(0))
	}
	w.start(w.newName())
	m := w.pick(len(w.members) - 1)
	m.host.slow(a.Slow)
	for began := time.Now(); time.Since(began) < rebalanceTimeout; time.Sleep(20 * time.Millisecond) {
		if err := m.worker.Ready(); err != nil && strings.Contains(err.Error(), "being restored") {
			break
		}
	}
	time.Sleep(a.After)
	m.host.blackhole(sending)
	m.host.blackhole(receiving)
	step, began := w.step, time.Now()
	for i := uint64(1); time.Since(began) < a.Hold; i++ {
		w.step = step | i<<24 // from which the hashes of datagrams are made
		traffic{tcp, 4}.run(w, rng)
		time.Sleep(time.Second)
	}
	w.step = step
	m.host.mend()
}
