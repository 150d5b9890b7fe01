package kafka

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A session whose transaction does not end reports it with the duration: neither its lag nor its membership
// shows it.
func TestASessionThatStandsStillIsNotReady(t *testing.T) {
	ctx := testContext(t)
	b := startBroker(t, "127.0.0.1:0")
	ensure(ctx, t, b.Addr(), Undecoded, Flows)
	tc := topicConfig()
	input, out := tc.Name(Undecoded), tc.Name(Flows)
	var later atomic.Int64 // nanoseconds ahead of the clock
	taken, proceed := make(chan struct{}), make(chan struct{})
	var once sync.Once
	h := &passer{topic: input, out: out, passes: newTally[string](), may: func(string) bool {
		once.Do(func() { close(taken) })
		<-proceed
		return true
	}}
	s := NewSession(config(b.Addr()), SessionConfig{
		Group: "g", Member: "m", Input: input, ManualPartitioning: []string{input, out}, MaxRecords: 100, Every: 20 * time.Millisecond,
		Rebalance: 3 * time.Second, Timeout: 10 * time.Second, Log: slog.New(slog.DiscardHandler),
		Now: func() time.Time { return time.Now().Add(time.Duration(later.Load())) },
	})
	if err := s.Ready(); err == nil || !strings.Contains(err.Error(), "not reached yet") {
		t.Errorf("before it runs: %v", err)
	}
	run, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- s.Run(run, h) }()
	put := putter(ctx, t, b.Addr(), input)
	put("a")
	select {
	case <-taken:
	case <-ctx.Done():
		t.Fatal("the record was not taken")
	}
	if err := s.Ready(); err != nil {
		t.Errorf("in a transaction: %v", err)
	}
	later.Store(int64(40 * time.Second))
	if err := s.Ready(); err == nil || !strings.Contains(err.Error(), "has not ended") {
		t.Errorf("40 s later, in the same one: %v", err)
	}
	close(proceed)
	h.passes.wait(ctx, t, "the transaction ends", atLeast[string](1))
	put("b")
	h.passes.wait(ctx, t, "another one ends", atLeast[string](2))
	if err := s.Ready(); err != nil {
		t.Errorf("after it: %v", err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if err := s.Ready(); err == nil || !strings.Contains(err.Error(), "shutting down") {
		t.Errorf("ended: %v", err)
	}
}
