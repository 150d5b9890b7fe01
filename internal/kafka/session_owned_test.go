package kafka

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// An owner is a Handler that notes the partitions assigned to it, and produces a record in each transaction.
type owner struct {
	out  string
	due  func(n int32) bool
	work func(tx *Tx) // called by Quiet and Records
	// restore is called by Assigned.
	restore func(ctx context.Context) error

	mu        sync.Mutex
	owned     map[int32]bool
	assigned  *tally[int]   // number of partitions, by call of Assigned
	committed *tally[int32] // partitions of committed transactions
}

func newOwner(out string) *owner {
	return &owner{
		out: out, due: func(int32) bool { return false }, work: func(*Tx) {}, restore: func(context.Context) error { return nil }, owned: map[int32]bool{},
		assigned: newTally[int](), committed: newTally[int32](),
	}
}

func (o *owner) Assigned(ctx context.Context, _ int, at []Position) error {
	o.assigned.add(len(at))
	if err := o.restore(ctx); err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, p := range at {
		o.owned[p.Partition] = true
	}
	return nil
}

func (o *owner) Lost(partitions []int32) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, n := range partitions {
		delete(o.owned, n)
	}
}

func (o *owner) partitions() []int32 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Sorted(maps.Keys(o.owned))
}

func (o *owner) Records(tx *Tx, _ int32, r []Record) int     { o.work(tx); return len(r) }
func (o *owner) Due(n int32, _ time.Duration) bool           { return o.due(n) }
func (o *owner) Quiet(tx *Tx, _ int32, _ time.Duration) bool { o.work(tx); return false }
func (o *owner) Metadata(int32) string                       { return "state" }
func (o *owner) Finish(tx *Tx, partitions []int32) {
	for _, n := range partitions {
		tx.Produce(o.out, n, nil, []byte("x"), nil)
	}
}

func (o *owner) Committed(partitions []int32) {
	for _, n := range partitions {
		o.committed.add(n)
	}
}

func ownerSession(addr, member string, now func() time.Time) *Session {
	tc := topicConfig()
	c := config(addr)
	c.ClientID = member
	return NewSession(c, SessionConfig{
		Group: "g", Member: member, Input: tc.Name(Undecoded), ManualPartitioning: []string{tc.Name(Flows)}, MaxRecords: 100, Every: 20 * time.Millisecond,
		Rebalance: 3 * time.Second, Timeout: 10 * time.Second, Now: now, Log: slog.New(slog.DiscardHandler),
	})
}

// A group grows to three members while no record arrives, so that no transaction ends between the revocations.
// Every member must own exactly the partitions that the group assigned to it.
func TestMembersOwnWhatTheGroupAssigned(t *testing.T) {
	ctx := testContext(t)
	b := startBroker(t, "127.0.0.1:0")
	ensure(ctx, t, b.Addr(), Undecoded, Flows)
	tc := topicConfig()
	adm, input := admin(t, b.Addr()), tc.Name(Undecoded)
	owners := map[string]*owner{}
	for i, member := range []string{"a", "b", "c"} {
		owners[member] = newOwner(tc.Name(Flows))
		runSession(t, ownerSession(b.Addr(), member, time.Now), owners[member])
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			want, got := assignments(ctx, adm, input), map[string][]int32{}
			for member, o := range owners {
				got[member+"-g"] = o.partitions()
			}
			if len(want) == i+1 && maps.EqualFunc(want, got, slices.Equal) {
				break
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				t.Fatalf("%d members: the group assigned %v, the members own %v", i+1, want, got)
			}
		}
	}
}

// assignments returns the partitions of topic by client id, nil unless the group is stable
// and all three partitions are assigned.
func assignments(ctx context.Context, adm *kadm.Client, topic string) map[string][]int32 {
	groups, err := adm.DescribeGroups(ctx, "g")
	if err != nil || groups["g"].State != "Stable" {
		return nil
	}
	got, n := map[string][]int32{}, 0
	for _, m := range groups["g"].Members {
		if a, ok := m.Assigned.AsConsumer(); ok {
			for _, tp := range a.Topics {
				if tp.Topic == topic {
					got[m.ClientID] = slices.Sorted(slices.Values(tp.Partitions))
					n += len(tp.Partitions)
				}
			}
		}
	}
	if n != 3 {
		return nil
	}
	return got
}

// A transaction commits in the generation in which its partitions were assigned, not in the client's current
// generation: the broker must refuse an owner that is behind.
func TestAStaleGenerationCommitsNothing(t *testing.T) {
	for _, quiet := range []bool{false, true} {
		t.Run(fmt.Sprintf("quiet %v", quiet), func(t *testing.T) {
			ctx := testContext(t)
			b := startBroker(t, "127.0.0.1:0")
			ensure(ctx, t, b.Addr(), Undecoded, Flows)
			tc := topicConfig()
			var ahead atomic.Int64
			s := ownerSession(b.Addr(), "a", func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) })
			h := newOwner(tc.Name(Flows))
			h.due = func(n int32) bool { return quiet && n == 0 }
			stale := true
			h.work = func(tx *Tx) {
				// In the first transaction the session takes another generation for the current generation.
				_, generation := tx.l.gts.Client().GroupMetadata()
				if stale {
					generation++
				}
				stale = false
				tx.l.generation = generation
				tx.l.ownership.mu.Lock()
				tx.l.ownership.generation = generation
				tx.l.ownership.mu.Unlock()
			}
			runSession(t, s, h)
			if quiet {
				ahead.Store(int64(time.Minute))
			} else {
				putter(ctx, t, b.Addr(), tc.Name(Undecoded))("a")
			}
			h.committed.wait(ctx, t, "a transaction commits", atLeast[int32](1))
			// At the assignment, after the stale generation was refused, and perhaps once more: the commit after that may meet
			// the rebalance that the refusal began.
			if got := len(h.assigned.all()); got < 2 || got > 3 {
				t.Errorf("positions were given %d times, want 2 or 3", got)
			}
		})
	}
}

// A member that the group forgot joins again under another id, and the client keeps its old positions. The
// session must fetch the committed positions, and go on.
func TestAForgottenMemberFetchesItsPositionsAgain(t *testing.T) {
	ctx := testContext(t)
	c, addr := fakeCluster(t)
	ensure(ctx, t, addr, Undecoded, Flows)
	tc := topicConfig()
	h := newOwner(tc.Name(Flows))
	runSession(t, ownerSession(addr, "a", time.Now), h)
	h.assigned.wait(ctx, t, "partitions are assigned", atLeast[int](1))
	forgotten := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.JoinGroup}, Err: kerr.UnknownMemberID})
	c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Heartbeat}, Err: kerr.RebalanceInProgress})
	if err := forgotten.Wait(ctx, 1); err != nil {
		t.Fatal(err)
	}
	h.assigned.wait(ctx, t, "the positions are fetched again", atLeast[int](2))
	putter(ctx, t, addr, tc.Name(Undecoded))("a")
	h.committed.wait(ctx, t, "a transaction commits", atLeast[int32](1))
}

// A clock that was an hour ahead is corrected. The silence of a partition must count from then on, not from an
// hour later.
func TestSilenceCountsAfterTheClockIsPutRight(t *testing.T) {
	ctx := testContext(t)
	b := startBroker(t, "127.0.0.1:0")
	ensure(ctx, t, b.Addr(), Undecoded, Flows)
	tc := topicConfig()
	var ahead atomic.Int64
	ahead.Store(int64(time.Hour))
	s := ownerSession(b.Addr(), "a", func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) })
	h := newOwner(tc.Name(Flows))
	var right atomic.Bool
	h.due = func(int32) bool { return right.Load() }
	runSession(t, s, h)
	h.assigned.wait(ctx, t, "partitions are assigned", atLeast[int](1))
	ahead.Store(0)
	right.Store(true)
	h.committed.wait(ctx, t, "a quiet partition commits", atLeast[int32](1))
}
