package kafka

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"weir/test/locked"
)

// A session whose broker stops answering within a transaction ends all the same when
// it is told to.
func TestASessionEndsWhileKafkaIsAway(t *testing.T) {
	ctx := testContext(t)
	held, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	addr := refusingBroker(t, func(time.Time) int16 { // the whole broker waits
		once.Do(func() { close(held) })
		<-release
		return 0
	})
	t.Cleanup(func() { close(release) }) // before the broker closes
	var log locked.Buffer
	s, h, input := stampSession(t, addr, &log)
	s.sc.Rebalance = 100 * time.Millisecond
	putter(ctx, t, addr, input)("a " + time.Now().Format(time.RFC3339))
	run, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- s.Run(run, h) }()
	select {
	case <-held:
	case <-ctx.Done():
		t.Fatal("no transaction began")
	}
	stop()
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("want no error, got %v", err)
		}
	case <-ctx.Done():
		t.Fatalf("the session has not ended:\n%s", log.String())
	}
}

// A member whose partitions go to another one has nothing left that could commit: what
// was aborted before must not keep it unready.
func TestAMemberWithoutPartitionsIsReady(t *testing.T) {
	s, h, input := stampSession(t, refusingBroker(t, func(time.Time) int16 { return 0 }), &locked.Buffer{})
	l := s.newLife(h)
	for n := range int32(2) {
		l.ownership.tenures[n] = &tenure{}
		l.owned[n] = &progress{tenure: l.ownership.tenures[n]}
	}
	s.note(nil) // a member of its group
	s.noteAbort(errors.New("the broker is read-only"))
	if s.Ready() == nil || s.Aborting() == nil {
		t.Fatal("transactions are aborted: want the session not ready")
	}
	l.revoked(t.Context(), nil, map[string][]int32{input: {0, 1}})
	if err := l.follow(); err != nil {
		t.Fatal(err)
	}
	if s.Ready() != nil || s.Aborting() != nil {
		t.Errorf("its partitions are gone: want it ready, got %v, %v", s.Ready(), s.Aborting())
	}
}
