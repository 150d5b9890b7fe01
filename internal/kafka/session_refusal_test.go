package kafka

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/internal/kafka/broker"
	"weir/internal/weirtest/locked"
)

// refusingBroker starts a broker that answers produce requests to the flows topic with the error code that code
// returns for the latest timestamp of their batches, unless it is 0.
func refusingBroker(t *testing.T, code func(latest time.Time) int16) (addr string) {
	t.Helper()
	tc := topicConfig()
	topic := tc.Name(Flows)
	c, addr := fakeCluster(t)
	c.ControlKey(int16(kmsg.Produce), func(r kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		req := r.(*kmsg.ProduceRequest)
		resp := req.ResponseKind().(*kmsg.ProduceResponse)
		refused := int16(0)
		for _, rt := range req.Topics {
			name := rt.Topic
			if name == "" {
				if info := c.TopicInfo(topic); info != nil && info.TopicID == rt.TopicID {
					name = topic
				}
			}
			for _, rp := range rt.Partitions {
				var b kmsg.RecordBatch
				if name == topic && len(rp.Records) > 0 && b.ReadFrom(rp.Records) == nil {
					refused = max(refused, code(time.UnixMilli(b.MaxTimestamp)))
				}
			}
		}
		if refused == 0 {
			return nil, nil, false
		}
		for _, rt := range req.Topics {
			to := kmsg.NewProduceResponseTopic()
			to.Topic, to.TopicID = rt.Topic, rt.TopicID
			for _, rp := range rt.Partitions {
				p := kmsg.NewProduceResponseTopicPartition()
				p.Partition, p.ErrorCode = rp.Partition, refused
				to.Partitions = append(to.Partitions, p)
			}
			resp.Topics = append(resp.Topics, to)
		}
		return resp, nil, true
	})
	return addr
}

// fakeCluster starts an embedded broker whose responses a test can change. control is called before broker.Mend,
// so that its control functions answer first.
func fakeCluster(t *testing.T, control ...func(*kfake.Cluster)) (c *kfake.Cluster, addr string) {
	t.Helper()
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c, err = kfake.NewCluster(kfake.NumBrokers(1), kfake.Ports(ln.Addr().(*net.TCPAddr).Port),
		kfake.ListenFn(func(_, _ string) (net.Listener, error) { return ln, nil }),
		kfake.BrokerConfigs(map[string]string{"group.min.session.timeout.ms": "1000"}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	for _, add := range control {
		add(c)
	}
	broker.Mend(c)
	return c, ln.Addr().String()
}

// A stamper produces each record again, with the timestamp in its value.
type stamper struct {
	passer

	refused *tally[string]
}

func (h *stamper) Records(tx *Tx, partition int32, records []Record) int {
	for _, r := range records {
		if r.Refused != nil {
			h.refused.add(string(r.Value))
			continue
		}
		at, err := time.Parse(time.RFC3339, string(r.Value[2:]))
		if err != nil {
			panic(err)
		}
		h.seen = append(h.seen, string(r.Value[:1]))
		tx.ProduceAt(h.out, partition, r.Key, r.Value, at, nil)
	}
	return len(records)
}

func stampSession(t *testing.T, addr string, log *locked.Buffer) (s *Session, h *stamper, input string) {
	t.Helper()
	ctx := testContext(t)
	ensure(ctx, t, addr, Undecoded, Flows)
	tc := topicConfig()
	input = tc.Name(Undecoded)
	h = &stamper{passer{topic: input, out: tc.Name(Flows), passes: newTally[string]()}, newTally[string]()}
	s = NewSession(config(addr), SessionConfig{
		Group: "g", Member: "m", Input: input, ManualPartitioning: []string{input, h.out}, MaxRecords: 100, Every: 20 * time.Millisecond, SkipRefused: true,
		Rebalance: 3 * time.Second, Timeout: 10 * time.Second, Now: time.Now, Log: slog.New(slog.NewTextHandler(log, nil)),
	})
	return s, h, input
}

func runSession(t *testing.T, s *Session, h Handler) {
	t.Helper()
	run, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(run, h) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("session: %v", err)
		}
	})
}

// A single record among others lies in the future: only it must be skipped, the search for it must take few
// transactions, and the session must stay ready.
func TestARecordWhoseTimestampKafkaRefusesIsPassedOver(t *testing.T) {
	ctx := testContext(t)
	var refusals atomic.Int32
	addr := refusingBroker(t, func(latest time.Time) int16 {
		if latest.After(time.Now().Add(time.Hour)) {
			refusals.Add(1)
			return kerr.InvalidTimestamp.Code
		}
		return 0
	})
	var log locked.Buffer
	s, h, input := stampSession(t, addr, &log)
	now, future := time.Now().Format(time.RFC3339), time.Now().Add(24*time.Hour).Format(time.RFC3339)
	var values, want []string
	for i := range byte(20) {
		at := now
		if i == 7 || i == 12 {
			at = future
		} else {
			want = append(want, string('a'+i))
		}
		values = append(values, string('a'+i)+" "+at)
	}
	putter(ctx, t, addr, input)(values...)
	runSession(t, s, h)
	h.refused.wait(ctx, t, "two are passed over", atLeast[string](2))
	passed := h.passes.wait(ctx, t, "all others are handed on", func(got []string) bool {
		return len(strings.Fields(strings.Join(got, " "))) >= len(want)
	})
	if got := strings.Fields(strings.Join(passed, " ")); !slices.Equal(got, want) {
		t.Errorf("handed on: want %v, got %v", want, got)
	}
	if n := refusals.Load(); n > 20 {
		t.Errorf("want a search by halves, got %d refused batches", n)
	}
	if err := s.Ready(); err != nil {
		t.Errorf("want the session ready, got %v", err)
	}
}

// An error that does not concern the content of a record must not skip any. The session is not ready, waits
// longer before each retry, and goes on when the error is gone.
func TestAnErrorThatIsNotTheRecordsHoldsTheInput(t *testing.T) {
	ctx := testContext(t)
	var denied atomic.Bool
	var tries atomic.Int32
	denied.Store(true)
	addr := refusingBroker(t, func(time.Time) int16 {
		if !denied.Load() {
			return 0
		}
		tries.Add(1)
		return kerr.TopicAuthorizationFailed.Code
	})
	var log locked.Buffer
	s, h, input := stampSession(t, addr, &log)
	putter(ctx, t, addr, input)("a " + time.Now().Format(time.RFC3339))
	runSession(t, s, h)
	eventuallyTrue(ctx, t, "transactions are aborted", func() bool { return tries.Load() >= 4 })
	if err := s.Ready(); !errors.Is(err, kerr.TopicAuthorizationFailed) || !errors.Is(s.Aborting(), kerr.TopicAuthorizationFailed) {
		t.Errorf("want the session not ready and why, got %v", err)
	}
	denied.Store(false)
	h.passes.wait(ctx, t, "the record is handed on", atLeast[string](1))
	eventuallyTrue(ctx, t, "the session is ready", func() bool { return s.Ready() == nil && s.Aborting() == nil })
	if n := len(h.refused.wait(ctx, t, "any", atLeast[string](0))); n != 0 {
		t.Errorf("want nothing passed over, got %d records", n)
	}
}

func eventuallyTrue(ctx context.Context, t *testing.T, what string, is func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("not in time: %s", what)
		}
	}
}

func TestTheDelayAfterAbortedTransactionsGrowsAndIsBounded(t *testing.T) {
	for n, want := range map[int]time.Duration{0: 50 * time.Millisecond, 1: 100 * time.Millisecond, 8: 12800 * time.Millisecond, 9: 30 * time.Second, 1000: 30 * time.Second} {
		if got := abortBackoff(n); got > want || got < want*4/5 {
			t.Errorf("after %d: want %v less at most a fifth, got %v", n+1, want, got)
		}
	}
}

func TestRefusalsNarrowToOneRecord(t *testing.T) {
	why := errors.New("refused")
	r := refusals{max: 1000}
	for _, want := range []int{500, 250, 125, 62, 31, 15, 7, 3, 1} {
		if !r.noteRefused(r.recordLimit(), Position{Offset: 7}, why) || r.recordLimit() != want {
			t.Fatalf("want transactions of %d records, got %d", want, r.recordLimit())
		}
	}
	if !r.noteRefused(1, Position{Offset: 7}, why) || r.causeOf(0, 7) == nil || r.causeOf(0, 8) != nil {
		t.Fatal("want record 7 refused")
	}
	if r.noteRefused(1, Position{Offset: 7}, why) {
		t.Error("passed over already: want no progress")
	}
	if r.noteRefused(0, Position{Offset: 9}, why) || r.causeOf(0, 9) != nil {
		t.Error("a transaction without input: want no record refused")
	}
	r.forget(0, 8)
	for range 9 {
		r.committed()
	}
	if r.causeOf(0, 7) != nil || len(r.records) != 0 || r.recordLimit() != 512 {
		t.Errorf("want nothing remembered and 512 records, got %v, %d", r.records, r.recordLimit())
	}
	r.committed()
	if r.recordLimit() != 1000 {
		t.Errorf("want 1000 records again, got %d", r.recordLimit())
	}
}
