package kafka

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"weir/internal/weirtest/locked"
)

// The client does not consume the co-partitioned topic, so the session must watch it itself.
func TestASessionEndsWhenACoPartitionedTopicHasAnotherNumberOfPartitions(t *testing.T) {
	ctx := testContext(t)
	b := startBroker(t, "127.0.0.1:0")
	ensure(ctx, t, b.Addr(), Undecoded, Flows, Pairing)
	tc := topicConfig()
	s := ownerSession(b.Addr(), "a", time.Now)
	s.sc.CoPartitioned, s.every = tc.Name(Pairing), 10*time.Millisecond
	o := newOwner(tc.Name(Flows))
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx, o) }()
	o.assigned.wait(ctx, t, "partitions are assigned", atLeast[int](1))
	adm := admin(t, b.Addr())
	if _, err := adm.DeleteTopics(ctx, s.sc.CoPartitioned); err != nil {
		t.Fatal(err)
	}
	if _, err := adm.CreateTopic(ctx, 3, 1, nil, s.sc.CoPartitioned); err != nil {
		t.Fatal(err)
	}
	o.assigned.wait(ctx, t, "the twin recreated is taken up", atLeast[int](2))
	if _, err := adm.CreatePartitions(ctx, 2, s.sc.CoPartitioned); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if !errors.Is(err, ErrFatal) || !strings.Contains(err.Error(), "has 3 partitions and "+s.sc.CoPartitioned+" has 5") {
			t.Errorf("want a fatal error that names the numbers, got %v", err)
		}
	case <-ctx.Done():
		t.Fatal("the session has not ended")
	}
}

// Kafka deletes the positions of a topic with the topic. A member commits the start of the new topic, with the
// metadata that was committed last, before it gives up its partitions.
func TestAMemberHandsItsPositionsOnToATopicRecreated(t *testing.T) {
	ctx := testContext(t)
	b := startBroker(t, "127.0.0.1:0")
	ensure(ctx, t, b.Addr(), Undecoded, Flows)
	tc := topicConfig()
	s := ownerSession(b.Addr(), "a", time.Now)
	o := newOwner(tc.Name(Flows))
	runSession(t, s, o)
	putter(ctx, t, b.Addr(), s.sc.Input)("x")
	o.committed.wait(ctx, t, "the record is taken", atLeast[int32](1))
	adm := admin(t, b.Addr())
	if _, err := adm.DeleteTopics(ctx, s.sc.Input); err != nil {
		t.Fatal(err)
	}
	if _, err := adm.CreateTopic(ctx, 3, 1, nil, s.sc.Input); err != nil {
		t.Fatal(err)
	}
	o.assigned.wait(ctx, t, "the new topic is taken up", atLeast[int](2))
	at, err := adm.FetchOffsets(ctx, "g")
	if err != nil {
		t.Fatal(err)
	}
	if got, ok := at.Lookup(s.sc.Input, 0); !ok || got.At != 0 || got.Metadata != "state" {
		t.Errorf("want offset 0 with the metadata of the last commit, got %+v", got)
	}
}

// lossy is a life that owns partition 0 of the input, at offset 100 of 120.
func lossy(t *testing.T, log *locked.Buffer) *life {
	t.Helper()
	s := NewSession(config("127.0.0.1:9"), SessionConfig{Group: "g", Input: "in", Now: time.Now, Log: slog.New(slog.NewTextHandler(log, nil))})
	l := s.newLife(newOwner("out"))
	l.owned[0] = &progress{next: 100, end: 120}
	return l
}

// Brokers lost the records from offset 90 on, of which 20 were not read: reading goes on
// at 90, and the partition counts as read to its end there.
func TestALogThatWasCutIsReadFromTheCut(t *testing.T) {
	var log locked.Buffer
	l := lossy(t, &log)
	l.noteDataLoss(&kgo.ErrDataLoss{Topic: "in", Partition: 0, ConsumedTo: 100, ResetTo: 90})
	if p := l.owned[0]; p.next != 90 || p.end != 90 {
		t.Errorf("want offset 90 of 90, got %d of %d", p.next, p.end)
	}
	if !strings.Contains(log.String(), "cause=truncated position=100 goes_on_at=90 records_lost_unread=20") {
		t.Errorf("log: %s", log.String())
	}
}

// A broker that lags behind answers with the id of the deleted topic: positions in the new topic must not be
// taken for those of a topic made after it.
func TestTheIdOfADeletedTopicIsNoNewTopic(t *testing.T) {
	s := NewSession(config("127.0.0.1:9"), SessionConfig{Group: "g", Input: "in", Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	old, made, unknown := [16]byte{1}, [16]byte{2}, [16]byte{}
	for i, step := range []struct {
		id      [16]byte
		renewed bool
		refused bool
	}{{old, false, false}, {old, false, false}, {unknown, false, false}, {made, true, false}, {old, false, true}, {unknown, false, false}, {made, false, false}} {
		renewed, err := s.adopt(step.id)
		if renewed != step.renewed || (err != nil) != step.refused {
			t.Errorf("step %d: want renewed %t, refused %t; got %t, %v", i, step.renewed, step.refused, renewed, err)
		}
	}
	for _, tt := range []struct {
		id, was [16]byte
		want    bool
	}{{made, old, true}, {old, made, false}, {made, made, false}, {unknown, made, false}, {made, unknown, false}} {
		if got := s.isNewTopic(tt.id, tt.was); got != tt.want {
			t.Errorf("topic %x after %x: want another topic %t, got %t", tt.id[0], tt.was[0], tt.want, got)
		}
	}
	// A position committed in the new topic is not moved while a broker answers with the old id.
	committed := Position{Partition: 0, Offset: 100, Metadata: "state"}
	s.kept[0] = memory{topic: made, committed: committed}
	if _, err := s.adopt(old); err == nil {
		t.Error("the id of the deleted topic is taken over")
	}
	if got := s.recall(committed); got != committed {
		t.Errorf("want the committed position, got %+v", got)
	}
}

// A session keeps the position of a partition that it owned in a topic. When the topic was recreated, another
// member may own that partition and commit. When the topic is recreated a second time, Kafka has no position of
// it, and the kept position is stale: its connections would be reported twice.
func TestAPositionIsKeptForTheNextTopicAlone(t *testing.T) {
	first, second, third := [16]byte{1}, [16]byte{2}, [16]byte{3}
	none := Position{Partition: 0, Offset: -1}
	session := func() *Session {
		s := NewSession(config("127.0.0.1:9"), SessionConfig{Group: "g", Input: "in", Now: time.Now, Log: slog.New(slog.DiscardHandler)})
		if _, err := s.adopt(first); err != nil {
			t.Fatal(err)
		}
		s.kept[0] = memory{topic: first, committed: Position{Partition: 0, Offset: 50, Metadata: "state"}}
		if _, err := s.adopt(second); err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := session()
	if got, want := s.recall(none), (Position{Partition: 0, Metadata: "state"}); got != want {
		t.Errorf("in the next topic: want %+v, got %+v", want, got)
	}
	s = session()
	if _, err := s.adopt(third); err != nil {
		t.Fatal(err)
	}
	if got := s.recall(none); got != none {
		t.Errorf("in the topic after that: want %+v, got %+v", none, got)
	}
}

func TestTheNearestOffsetOfALog(t *testing.T) {
	for _, tt := range []struct {
		name           string
		at, first, end int64
		want           int64
		logged         string
	}{
		{"held", 100, 50, 120, 100, ""},
		{"at its end", 120, 50, 120, 120, ""},
		{"nothing was committed", -1, 50, 120, -1, ""},
		{"deleted by retention", 40, 50, 120, 50, "cause=retention position=40 goes_on_at=50 records_lost_unread=10"},
		{"all deleted", 40, 120, 120, 120, "cause=retention position=40 goes_on_at=120 records_lost_unread=80"},
		{"the end is lost", 130, 50, 120, 120, "cause=truncated position=130 goes_on_at=120 records_lost_unread=0"},
	} {
		var log locked.Buffer
		l := lossy(t, &log)
		for range 2 { // the second time, as after an abort, counts nothing
			if got := l.nearest(Position{Offset: tt.at}, bounds{tt.first, tt.end}); got.Offset != tt.want {
				t.Errorf("%s: want %d, got %d", tt.name, tt.want, got.Offset)
			}
		}
		lines := strings.Count(log.String(), "\n")
		if want := min(len(tt.logged), 1); lines != want || !strings.Contains(log.String(), tt.logged) {
			t.Errorf("%s: want %q once, got %d lines: %s", tt.name, tt.logged, lines, log.String())
		}
	}
}

// Failed polls are repeated after a delay that grows to a second.
func TestTheDelayAfterPollsThatFailGrowsToASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log locked.Buffer
		l := lossy(t, &log)
		for n, want := range map[int]time.Duration{0: 0, 1: 50 * time.Millisecond, 2: 100 * time.Millisecond, 100: time.Second} {
			l.unreadable = n
			began := time.Now()
			l.pause(t.Context())
			if took := time.Since(began); took > want || took < want*4/5 {
				t.Errorf("after %d polls that failed: want %v less at most a fifth, got %v", n, want, took)
			}
		}
	})
}
