package kafka

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/internal/kafka/broker"
)

// A broker of three cannot be reached, and no other broker leads its partition. The other partitions must be
// assigned, read, and completed when they are quiet.
func TestABrokerThatIsAwayHoldsUpNoPartitionOfOthers(t *testing.T) {
	ctx := testContext(t)
	c, err := kfake.NewCluster(kfake.NumBrokers(3), kfake.SeedTopics(3, "t.undecoded", "t.flows"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	broker.Mend(c)
	away := int32(0)
	for away == c.CoordinatorFor("g") || away == c.CoordinatorFor("g-a") {
		away++
	}
	here := c.CoordinatorFor("g")
	for n, topic := range []string{"t.undecoded", "t.undecoded", "t.undecoded", "t.flows", "t.flows", "t.flows"} {
		to := here
		if n == 1 {
			to = away
		}
		if err := c.MoveTopicPartition(topic, int32(n%3), to); err != nil {
			t.Fatal(err)
		}
	}
	addrs := c.ListenAddrs()
	unreachable := addrs[away]
	var ahead atomic.Int64
	s := ownerSession(addrs[here], "a", func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) })
	s.c.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if addr == unreachable {
			return nil, errors.New("the broker is away")
		}
		return new(net.Dialer).DialContext(ctx, network, addr)
	}
	h := newOwner("t.flows")
	h.due = func(n int32) bool { return ahead.Load() > 0 && n > 0 }
	runSession(t, s, h)
	h.assigned.wait(ctx, t, "partitions are assigned", atLeast[int](1))
	putter(ctx, t, addrs[here], "t.undecoded")("a")
	h.committed.wait(ctx, t, "the record of partition 0 is committed", atLeast[int32](1))
	ahead.Store(int64(time.Minute))
	h.committed.wait(ctx, t, "the quiet partition 2 commits", func(got []int32) bool { return slices.Contains(got, 2) })
	if slices.Contains(h.committed.all(), 1) {
		t.Error("a partition whose leader is away counts as read to its end")
	}
}

// Kafka refuses the positions of a quiet partition again and again: the session must report that.
func TestASessionIsNotReadyWhileQuietPartitionsAreNotCommitted(t *testing.T) {
	ctx := testContext(t)
	c, addr := fakeCluster(t)
	ensure(ctx, t, addr, Undecoded, Flows)
	c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.TxnOffsetCommit}, Err: kerr.GroupAuthorizationFailed, Count: -1})
	var ahead atomic.Int64
	s := ownerSession(addr, "a", func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) })
	h := newOwner("t.flows")
	h.due = func(int32) bool { return ahead.Load() > 0 }
	runSession(t, s, h)
	h.assigned.wait(ctx, t, "partitions are assigned", atLeast[int](1))
	ahead.Store(int64(time.Minute))
	h.assigned.wait(ctx, t, "transactions are aborted", atLeast[int](4))
	if err := s.Aborting(); !errors.Is(err, kerr.GroupAuthorizationFailed) {
		t.Errorf("want the reason for which transactions are aborted, got %v", err)
	}
}
