package kafka

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/internal/weirtest/locked"
)

// A session whose broker stops answering within a transaction must end when its context ends.
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

// A session must end with its context, whatever it waits for.
func TestASessionEndsWhateverItWaitsFor(t *testing.T) {
	for _, tt := range []struct {
		name string
		// set makes the session wait and returns a channel that is closed when it waits.
		set func(h *owner, b *kfake.Cluster) <-chan struct{}
	}{
		{"a restore", func(h *owner, _ *kfake.Cluster) <-chan struct{} {
			waits := make(chan struct{})
			h.restore = func(ctx context.Context) error {
				close(waits)
				<-ctx.Done()
				return ctx.Err()
			}
			return waits
		}},
		{"produce requests that fail", func(_ *owner, b *kfake.Cluster) <-chan struct{} {
			waits := make(chan struct{})
			tries := 0
			b.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
				b.KeepControl()
				if req.(*kmsg.ProduceRequest).TransactionID == nil { // of this test
					return nil, nil, false
				}
				if tries++; tries == 3 {
					close(waits)
				}
				return nil, errors.New("the connection is closed"), true
			})
			return waits
		}},
		{"room for records to produce", func(h *owner, b *kfake.Cluster) <-chan struct{} {
			waits := make(chan struct{})
			b.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
				b.KeepControl()
				if req.(*kmsg.ProduceRequest).TransactionID == nil {
					return nil, nil, false
				}
				return nil, errors.New("the connection is closed"), true
			})
			h.work = func(tx *Tx) {
				close(waits)
				for range 150_000 { // more than the client buffers
					tx.Produce(h.out, 0, nil, []byte("x"), nil)
				}
			}
			return waits
		}},
		{"an end of a transaction that is not answered", func(_ *owner, b *kfake.Cluster) <-chan struct{} {
			waits := make(chan struct{})
			var once sync.Once
			b.ControlKey(int16(kmsg.EndTxn), func(kmsg.Request) (kmsg.Response, error, bool) {
				b.KeepControl()
				once.Do(func() { close(waits) })
				return nil, errors.New("the connection is closed"), true
			})
			return waits
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx := testContext(t)
			b, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(3, "t.undecoded", "t.flows"))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(b.Close)
			h := newOwner("t.flows")
			waits := tt.set(h, b)
			s := ownerSession(b.ListenAddrs()[0], "a", time.Now)
			s.sc.Rebalance = 100 * time.Millisecond
			run, stop := context.WithCancel(ctx)
			defer stop()
			ended := make(chan error, 1)
			go func() { ended <- s.Run(run, h) }()
			putter(ctx, t, b.ListenAddrs()[0], "t.undecoded")("a")
			select {
			case <-waits:
			case <-ctx.Done():
				t.Fatal("the session did not come to wait")
			}
			stop()
			select {
			case err := <-ended:
				if err != nil {
					t.Errorf("want no error, got %v", err)
				}
			case <-ctx.Done():
				t.Fatal("the session has not ended")
			}
		})
	}
}

// A member whose partitions go to another member cannot commit any more: earlier aborts must not keep it
// unready.
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
