package broker

import (
	"context"
	"errors"
	"strconv"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// ask sends a request with a client of its own, so that no other request waits behind it.
func ask(ctx context.Context, t *testing.T, b *Broker, r kmsg.Request) (kmsg.Response, error) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.Addr()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if _, err := kadm.NewClient(cl).ListBrokers(ctx); err != nil {
		return nil, err
	}
	return cl.Broker(0).Request(ctx, r)
}

// join sends JoinGroup of a member, "" for a new member, and returns the response, nil if there is none within
// the time.
func join(t *testing.T, b *Broker, member string, wait time.Duration) *kmsg.JoinGroupResponse {
	t.Helper()
	r := kmsg.NewPtrJoinGroupRequest()
	r.Group, r.MemberID, r.ProtocolType = "g", member, "consumer"
	r.SessionTimeoutMillis, r.RebalanceTimeoutMillis = 60_000, 1000
	p := kmsg.NewJoinGroupRequestProtocol()
	p.Name = "range"
	r.Protocols = append(r.Protocols, p)
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	resp, err := ask(ctx, t, b, r)
	if err != nil {
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		return nil
	}
	return resp.(*kmsg.JoinGroupResponse)
}

// newMember returns the id that the group assigns to a new member.
func newMember(t *testing.T, b *Broker) string {
	t.Helper()
	resp := join(t, b, "", 10*time.Second)
	if resp == nil || resp.ErrorCode != kerr.MemberIDRequired.Code {
		t.Fatalf("JoinGroup of a new member: want MEMBER_ID_REQUIRED, got %+v", resp)
	}
	return resp.MemberID
}

// A member is dead, and another member joins again and again, as clients whose connection breaks or whose
// request times out. Its session lasts for a minute.
func TestAMemberThatJoinsAgainAndAgainDoesNotProlongARebalance(t *testing.T) {
	b := start(t, "127.0.0.1:0", false)
	dead := newMember(t, b)
	if resp := join(t, b, dead, 10*time.Second); resp == nil || resp.ErrorCode != 0 {
		t.Fatalf("the first member: %+v", resp)
	}
	sync := kmsg.NewPtrSyncGroupRequest()
	sync.Group, sync.MemberID, sync.Generation = "g", dead, 1
	if _, err := ask(t.Context(), t, b, sync); err != nil {
		t.Fatal(err)
	}
	live := newMember(t, b)
	began := time.Now()
	for try := 0; ; try++ {
		resp := join(t, b, live, 200*time.Millisecond)
		if resp != nil && resp.ErrorCode == 0 {
			if resp.Generation != 2 {
				t.Errorf("generation: want 2, got %d", resp.Generation)
			}
			return
		}
		if resp != nil && resp.ErrorCode != kerr.CoordinatorLoadInProgress.Code {
			t.Fatalf("try %d: %v", try, kerr.ErrorForCode(resp.ErrorCode))
		}
		if time.Since(began) > 15*time.Second {
			t.Fatalf("not a member after %d tries within 15 s: the rebalance timeout is 1 s", try+1)
		}
		time.Sleep(20 * time.Millisecond) // a refusal is answered at once
	}
}

func TestAJoinIsRefusedFromTheTimeoutUntilKfakesTimerExpires(t *testing.T) {
	t0 := time.Unix(1_790_000_000, 0)
	b := newJoinBarriers()
	r := kmsg.NewPtrJoinGroupRequest()
	r.Group, r.MemberID, r.RebalanceTimeoutMillis = "g", "m", 1000
	steps := []struct {
		at   int // ms
		want bool
	}{
		{0, false},     // begins the phase
		{900, false},   // kfake's timer now ends at 1900
		{1000, true},   // the phase has lasted for the timeout
		{1899, true},   // kfake's timer still runs
		{1900, false},  // it has expired: another phase
		{2899, false},  // kfake's timer now ends at 3899
		{2900, true},   // overdue again
		{10000, false}, // another phase
	}
	for _, s := range steps {
		if got := b.refuses(r, t0.Add(time.Duration(s.at)*time.Millisecond)); got != s.want {
			t.Errorf("after %d ms: want refused %t, got %t", s.at, s.want, got)
		}
	}
	b.end("g")
	if b.refuses(r, t0.Add(11_500*time.Millisecond)) {
		t.Error("a join after the phase has ended is refused")
	}
	for i := range 3 * maxGroups {
		r.Group = strconv.Itoa(i)
		b.refuses(r, t0)
	}
	if b.groups.Len() > maxGroups {
		t.Errorf("%d groups are remembered, want at most %d", b.groups.Len(), maxGroups)
	}
}

func TestAMovedLeaderIsNoLossOfRecords(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	c, err := kfake.NewCluster(kfake.NumBrokers(2), kfake.SeedTopics(1, "x"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	Mend(c)
	seeds := kgo.SeedBrokers(c.ListenAddrs()...)
	producer, err := kgo.NewClient(seeds, kgo.MetadataMinAge(50*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer producer.Close()
	consumer, err := kgo.NewClient(seeds, kgo.ConsumeTopics("x"), kgo.MetadataMinAge(50*time.Millisecond),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer consumer.Close()
	for i := range int64(5) {
		if err := producer.ProduceSync(ctx, &kgo.Record{Topic: "x", Value: []byte("v")}).FirstErr(); err != nil {
			t.Fatal(err)
		}
		for got := 0; got == 0; {
			fetches := consumer.PollFetches(ctx)
			if err := fetches.Err(); err != nil {
				t.Fatalf("after %d moves: %v", i, err)
			}
			fetches.EachRecord(func(r *kgo.Record) {
				if got++; r.Offset != i {
					t.Errorf("after %d moves: offset %d is read, want %d", i, r.Offset, i)
				}
			})
		}
		if err := c.MoveTopicPartition("x", 0, 1-c.LeaderFor("x", 0)); err != nil {
			t.Fatal(err)
		}
	}
}
