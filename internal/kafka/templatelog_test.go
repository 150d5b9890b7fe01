package kafka

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// A tail is a running TemplateLog, and the records that it applied as "key=value".
type tail struct {
	*TemplateLog
	applied *tally[string]
	renewed *tally[struct{}]
	stop    func()
}

func runTail(ctx context.Context, t *testing.T, addr, replica string) *tail {
	t.Helper()
	return runTailChecked(ctx, t, addr, replica, topicStateEvery)
}

// runTailChecked is runTail with the interval at which the topic's id is compared.
func runTailChecked(ctx context.Context, t *testing.T, addr, replica string, every time.Duration) *tail {
	t.Helper()
	l, err := NewTemplateLog(config(addr), "t.templates", replica)
	if err != nil {
		t.Fatal(err)
	}
	l.checkEvery = every
	x := &tail{TemplateLog: l, applied: newTally[string](), renewed: newTally[struct{}]()}
	l.Renewed = func() { x.renewed.add(struct{}{}) }
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() {
		ended <- l.Run(ctx, func(k, v []byte) {
			if v == nil {
				x.applied.add(string(k) + " is gone")
				return
			}
			x.applied.add(string(k) + "=" + string(v))
		})
	}()
	stopped := false
	x.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("run: %v", err)
		}
	}
	t.Cleanup(x.stop)
	return x
}

func (x *tail) put(ctx context.Context, t *testing.T, key, value string) {
	t.Helper()
	done := make(chan error, 1)
	var v []byte
	if value != "" {
		v = []byte(value)
	}
	x.Publish([]byte(key), v, func(err error) { done <- err })
	select {
	case err := <-done:
		if err != nil {
			t.Fatalf("publish %s: %v", key, err)
		}
	case <-ctx.Done():
		t.Fatalf("publish %s: no outcome", key)
	}
}

func untilReady(ctx context.Context, t *testing.T, x *tail) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		err := x.Ready()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("not ready: %v", err)
		}
	}
}

func TestAReplicaReadsAllThatWasThereBeforeItIsReadyAndAllThatComes(t *testing.T) {
	ctx := testContext(t)
	b := startBroker(t, "127.0.0.1:0")
	ensure(ctx, t, b.Addr(), Templates)
	first := runTail(ctx, t, b.Addr(), "r1")
	untilReady(ctx, t, first)
	first.put(ctx, t, "\x01a", "1")
	first.put(ctx, t, "\x01b", "2")

	second := runTail(ctx, t, b.Addr(), "r2")
	untilReady(ctx, t, second)
	if d := cmp.Diff([]string{"\x01a=1", "\x01b=2"}, second.applied.all()); d != "" {
		t.Errorf("applied when ready (-want +got):\n%s", d)
	}
	first.put(ctx, t, "\x01a", "")
	got := second.applied.wait(ctx, t, "the tombstone", atLeast[string](3))
	if d := cmp.Diff([]string{"\x01a=1", "\x01b=2", "\x01a is gone"}, got); d != "" {
		t.Errorf("applied (-want +got):\n%s", d)
	}
}

func TestAReplicaTakesItsBarrierBackWhenItEnds(t *testing.T) {
	ctx := testContext(t)
	b := startBroker(t, "127.0.0.1:0")
	ensure(ctx, t, b.Addr(), Templates)
	x := runTail(ctx, t, b.Addr(), "r1")
	untilReady(ctx, t, x)
	x.stop()
	c := config(b.Addr())
	cl, err := kgo.NewClient(append(c.opts(), kgo.ConsumeTopics("t.templates"), kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()))...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	var values []int
	for len(values) < 2 && ctx.Err() == nil {
		cl.PollFetches(ctx).EachRecord(func(r *kgo.Record) {
			if string(r.Key) != "\x00r1" {
				t.Errorf("want key 0|r1, got %q", r.Key)
			}
			values = append(values, len(r.Value))
		})
	}
	if len(values) != 2 || values[0] == 0 || values[1] != 0 {
		t.Errorf("octets of the barrier's values: want some, then none; got %v", values)
	}
}

func TestAnotherReplicasBarrierMakesNobodyReady(t *testing.T) {
	ctx := testContext(t)
	b := startBroker(t, "127.0.0.1:0")
	ensure(ctx, t, b.Addr(), Templates)
	l, err := NewTemplateLog(config(b.Addr()), "t.templates", "r1")
	if err != nil {
		t.Fatal(err)
	}
	earlier, err := NewTemplateLog(config(b.Addr()), "t.templates", "r1")
	if err != nil {
		t.Fatal(err)
	}
	other, err := NewTemplateLog(config(b.Addr()), "t.templates", "r2")
	if err != nil {
		t.Fatal(err)
	}
	ignore := func(_, _ []byte) { t.Error("a barrier is applied as a record") }
	for _, o := range []*TemplateLog{earlier, other} {
		l.take(o.barrier.Key, o.barrier.Value, ignore)
		if l.Ready() == nil {
			t.Errorf("ready after the barrier of %q", o.barrier.Key)
		}
	}
	l.take(l.barrier.Key, l.barrier.Value, ignore)
	if err := l.Ready(); err != nil {
		t.Errorf("not ready after its own barrier: %v", err)
	}
}

func TestALogThatFindsNoKafkaSaysWhyAndGoesOnOnceItIsThere(t *testing.T) {
	ctx := testContext(t)
	addr := freeAddr(t)
	x := runTail(ctx, t, addr, "r1")
	done := newTally[error]()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for ; ; <-tick.C {
		err := x.Ready()
		if err == nil {
			t.Fatal("ready without Kafka")
		}
		if strings.Contains(err.Error(), "connection refused") && strings.Contains(err.Error(), "127.0.0.1") {
			break
		}
		if ctx.Err() != nil {
			t.Fatalf("the reason names no broker: %v", err)
		}
	}
	x.Publish([]byte("\x01a"), []byte("1"), done.add)
	startBroker(t, addr)
	ensure(ctx, t, addr, Templates)
	untilReady(ctx, t, x)
	if got := done.wait(ctx, t, "the record published while Kafka was away", atLeast[error](1)); got[0] != nil {
		t.Errorf("published while Kafka was away: %v", got[0])
	}
	x.applied.wait(ctx, t, "the record comes back", atLeast[string](1))
}

func TestALogWhoseTopicComesLateWritesFewBarriersUntilThen(t *testing.T) {
	ctx := testContext(t)
	b := startBroker(t, "127.0.0.1:0")
	x := runTail(ctx, t, b.Addr(), "r1")
	for i := range 10 { // each makes the client forget the topic
		x.recover(ctx, kerr.UnknownTopicOrPartition, 0, func() {})
		if x.Ready() == nil {
			t.Fatalf("ready without a topic, try %d", i)
		}
	}
	ensure(ctx, t, b.Addr(), Templates)
	untilReady(ctx, t, x)
	x.put(ctx, t, "\x01a", "1")
	x.applied.wait(ctx, t, "a record", atLeast[string](1))
	ends, err := admin(t, b.Addr()).ListEndOffsets(ctx, "t.templates")
	if err != nil {
		t.Fatal(err)
	}
	if o, _ := ends.Lookup("t.templates", 0); o.Offset < 2 || o.Offset > 3 {
		t.Errorf("records on the topic: want the barrier (at most twice) and one more, got %d", o.Offset)
	}
}

func TestALogGoesOnWhenTheBrokerRestartsWithNothing(t *testing.T) {
	ctx := testContext(t)
	b := startBroker(t, "127.0.0.1:0")
	ensure(ctx, t, b.Addr(), Templates)
	x := runTail(ctx, t, b.Addr(), "r1")
	untilReady(ctx, t, x)
	x.put(ctx, t, "\x01a", "1")
	x.applied.wait(ctx, t, "the first record", atLeast[string](1))
	b.Close()
	again := startBroker(t, b.Addr())
	ensure(ctx, t, again.Addr(), Templates)
	if err := x.Ready(); err != nil {
		t.Errorf("an outage changed readiness: %v", err)
	}
	x.renewed.wait(ctx, t, "notice that the topic is new", atLeast[struct{}](1))
	x.put(ctx, t, "\x01b", "2")
	got := x.applied.wait(ctx, t, "what was published after the restart", func(got []string) bool {
		return len(got) > 0 && got[len(got)-1] == "\x01b=2"
	})
	if got[0] != "\x01a=1" {
		t.Errorf("applied first: want a=1, got %q", got[0])
	}
}

func TestALogGoesOnWhenItsTopicIsDeletedAndRecreated(t *testing.T) {
	ctx := testContext(t)
	b := startBroker(t, "127.0.0.1:0")
	ensure(ctx, t, b.Addr(), Templates)
	x := runTail(ctx, t, b.Addr(), "r1")
	untilReady(ctx, t, x)
	if _, err := admin(t, b.Addr()).DeleteTopics(ctx, "t.templates"); err != nil {
		t.Fatal(err)
	}
	ensure(ctx, t, b.Addr(), Templates)
	x.renewed.wait(ctx, t, "notice that the topic is new", atLeast[struct{}](1))
	x.put(ctx, t, "\x01b", "2")
	x.applied.wait(ctx, t, "what was published to the new topic", atLeast[string](1))
}

// Only the producer notices here that the topic was recreated: fetches find nothing, as in a client whose
// consumer and producer learnt the topic from two brokers.
func TestALogGoesOnWhenOnlyItsProducerSeesThatTheTopicIsNew(t *testing.T) {
	ctx := testContext(t)
	c, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	addr := c.ListenAddrs()[0]
	ensure(ctx, t, addr, Templates)
	x := runTail(ctx, t, addr, "r1")
	untilReady(ctx, t, x)
	c.ControlKey(int16(kmsg.Fetch), func(r kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		return r.ResponseKind(), nil, true
	})
	if _, err := admin(t, addr).DeleteTopics(ctx, "t.templates"); err != nil {
		t.Fatal(err)
	}
	ensure(ctx, t, addr, Templates)
	done := newTally[error]()
	x.Publish([]byte("\x01b"), []byte("2"), done.add)
	x.renewed.wait(ctx, t, "Renewed", atLeast[struct{}](1))
	if got := done.wait(ctx, t, "the outcome", atLeast[error](1)); !errors.Is(got[0], kerr.UnknownTopicID) {
		t.Errorf("the record for the old topic: want %v, got %v", kerr.UnknownTopicID, got[0])
	}
	x.put(ctx, t, "\x01b", "3")
}

// A client may never see an error of the deleted topic: its fetches are answered, and it produces nothing until the
// metadata of the new topic is there.
func TestALogPublishesItsStateAgainWhenNoErrorShowsThatTheTopicIsNew(t *testing.T) {
	ctx := testContext(t)
	c := startFake(t)
	addr := c.ListenAddrs()[0]
	adm := makeTopic(ctx, t, addr, "t.templates", 1)
	x := runTailChecked(ctx, t, addr, "r1", 50*time.Millisecond)
	untilReady(ctx, t, x)
	x.put(ctx, t, "\x01a", "1")
	x.applied.wait(ctx, t, "the record of the first topic", atLeast[string](1))
	answerFetchesOf(c, c.TopicInfo("t.templates").TopicID)
	remake(ctx, t, adm, "t.templates", 1)
	x.renewed.wait(ctx, t, "Renewed", atLeast[struct{}](1))
	x.put(ctx, t, "\x01b", "2")
	x.applied.wait(ctx, t, "the record of the new topic", func(got []string) bool { return slices.Contains(got, "\x01b=2") })
}

// A check that fails says nothing about the topic: the log must not read and publish everything again.
func TestALogTakesAFailedCheckForNoNewTopic(t *testing.T) {
	ctx := testContext(t)
	c := startFake(t)
	addr := c.ListenAddrs()[0]
	makeTopic(ctx, t, addr, "t.templates", 1)
	x := runTailChecked(ctx, t, addr, "r1", 50*time.Millisecond)
	untilReady(ctx, t, x)
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	leader := kmsg.NewMetadataResponseBroker()
	leader.Host = host
	if _, err := fmt.Sscan(port, &leader.Port); err != nil {
		t.Fatal(err)
	}
	failed := newTally[struct{}]()
	c.ControlKey(int16(kmsg.Metadata), func(r kmsg.Request) (kmsg.Response, error, bool) {
		if len(failed.all()) < 5 {
			c.KeepControl()
		}
		resp := r.ResponseKind().(*kmsg.MetadataResponse)
		resp.Brokers = append(resp.Brokers, leader)
		for _, topic := range r.(*kmsg.MetadataRequest).Topics {
			st := kmsg.NewMetadataResponseTopic()
			st.Topic, st.TopicID, st.ErrorCode = topic.Topic, topic.TopicID, kerr.UnknownTopicOrPartition.Code
			resp.Topics = append(resp.Topics, st)
		}
		failed.add(struct{}{})
		return resp, nil, true
	})
	failed.wait(ctx, t, "checks that fail", atLeast[struct{}](5))
	x.put(ctx, t, "\x01a", "1")
	x.applied.wait(ctx, t, "a record", atLeast[string](1))
	if got := x.renewed.all(); len(got) > 0 {
		t.Errorf("Renewed: want no call, got %d", len(got))
	}
}

func TestPublishingToALogThatDoesNotRunFails(t *testing.T) {
	l, err := NewTemplateLog(config("127.0.0.1:1"), "t.templates", "r1")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	l.Publish([]byte("\x01a"), nil, func(err error) { done <- err })
	if err := <-done; !errors.Is(err, ErrClosed) {
		t.Errorf("want ErrClosed, got %v", err)
	}
}

// While Kafka is away the octets that wait for it are bounded, not the number of records alone.
func TestATemplateLogHoldsABoundedNumberOfOctets(t *testing.T) {
	ctx := testContext(t)
	b := startBroker(t, "127.0.0.1:0")
	ensure(ctx, t, b.Addr(), Templates)
	x := runTail(ctx, t, b.Addr(), "r")
	untilReady(ctx, t, x)
	b.Close()
	const size = 64 << 10
	outcomes := make(chan error, 2*maxTemplatesBuffered/size)
	for range cap(outcomes) {
		x.Publish([]byte("\x01k"), make([]byte, size), func(err error) { outcomes <- err })
	}
	for range cap(outcomes)/2 - 1 {
		select {
		case err := <-outcomes:
			if !errors.Is(err, ErrBufferFull) {
				t.Fatalf("want the outcome of what does not fit to be %v, got %v", ErrBufferFull, err)
			}
		case <-ctx.Done():
			t.Fatal("more than its bound waits")
		}
	}
}
