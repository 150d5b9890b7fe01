package kafka

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/internal/kafka/broker"
)

// The group removes a member between the last record of its transaction and the commit of its offsets, as when
// all brokers are killed at once. The client's End then waits for a heartbeat that never comes. The session must
// begin again, and count every record once.
func TestAMemberThatIsPutOutWhileItCommitsBeginsAnew(t *testing.T) {
	ctx := testContext(t)
	b, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "t.undecoded", "t.flows"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	broker.Mend(b)
	addr := b.ListenAddrs()[0]
	var armed atomic.Bool
	out := make(chan struct{})
	b.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		if req.(*kmsg.ProduceRequest).TransactionID == nil { // of this test
			b.KeepControl()
			return nil, nil, false
		}
		armed.Store(true)
		b.SleepControl(func() {
			<-out
			// The client has to read that answer before this one's; if it does not, this
			// test shows nothing, and passes.
			time.Sleep(200 * time.Millisecond)
		})
		return nil, nil, false
	})
	b.ControlKey(int16(kmsg.Heartbeat), func(req kmsg.Request) (kmsg.Response, error, bool) {
		if !armed.Load() {
			b.KeepControl()
			return nil, nil, false
		}
		resp := req.ResponseKind().(*kmsg.HeartbeatResponse)
		resp.ErrorCode = kerr.UnknownMemberID.Code
		close(out)
		return resp, nil, true
	})

	put := putter(ctx, t, addr, "t.undecoded") // the topic has a single partition
	put("a")
	h := &passer{topic: "t.undecoded", out: "t.flows", passes: newTally[string](), may: func(string) bool { return true }}
	c := config(addr)
	c.SessionTimeout = 6 * time.Second
	s := NewSession(c, SessionConfig{
		Group: "g", Member: "m", Input: "t.undecoded", ManualPartitioning: []string{"t.undecoded", "t.flows"}, MaxRecords: 100, Every: 20 * time.Millisecond,
		Rebalance: time.Second, Timeout: 10 * time.Second, Now: time.Now, Log: slog.New(slog.DiscardHandler),
	})
	run, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- s.Run(run, h) }()
	h.passes.wait(ctx, t, "the record is taken in a transaction that commits", atLeast[string](1))
	put("b")
	h.passes.wait(ctx, t, "work goes on", atLeast[string](2))
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if !armed.Load() {
		t.Error("nothing was committed")
	}
	reader, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.ConsumeTopics("t.flows"), kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(reader.Close)
	var got []string
	for len(got) < 2 && ctx.Err() == nil {
		reader.PollFetches(ctx).EachRecord(func(r *kgo.Record) { got = append(got, string(r.Value)) })
	}
	if len(got) != 2 || got[0] != "a" || got[1] != "b" {
		t.Errorf("handed on: %v, want a and b, once each", got)
	}
}
