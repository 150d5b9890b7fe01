package sink

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"

	"weir/internal/kafka"
	"weir/internal/kafka/broker"
)

// A journal is a Sink that records its calls.
type journal struct {
	calls []string
	full  int // number of calls of Write that fail with ErrFull
	fail  error
	done  func() // called after each call
}

func (j *journal) add(format string, args ...any) {
	j.calls = append(j.calls, fmt.Sprintf(format, args...))
	if j.done != nil {
		j.done()
	}
}

func (j *journal) Epochs(context.Context) (map[int32]int32, error) { return nil, nil }

func (j *journal) Begin(_ context.Context, topic Topic) (Beginning, error) {
	return Beginning{From: topic.First}, nil
}

func (j *journal) Write(_ context.Context, records []Record) (rows, bad int, err error) {
	if j.full > 0 {
		j.full--
		j.add("full")
		return 0, 0, fmt.Errorf("write: %w", ErrFull)
	}
	j.add("write %d", len(records))
	return len(records), 0, nil
}

func (j *journal) Trim(_ context.Context, now time.Time) (int64, error) {
	j.add("trim %d", now.Unix())
	return 1, j.fail
}

func (j *journal) Close() error { return nil }

// newFeeding returns a feeding with sink j, its ticks, and the failures that it reports.
func newFeeding(j *journal) (*feeding, chan time.Time, *[]error) {
	ticks, failures := make(chan time.Time), &[]error{}
	return &feeding{Feed: Feed{
		Sink: j, Options: Options{Path: "f", Topic: "flows", Rows: "flows"}, Ticks: ticks,
		Failed:   func(err error) { *failures = append(*failures, err) },
		Progress: func(Kept) {},
	}}, ticks, failures
}

// silent is a topic without records.
func silent(ctx context.Context, _ func([]kafka.Record) error, _ func(error)) error {
	<-ctx.Done()
	return nil
}

func expectCalls(t *testing.T, j *journal, want ...string) {
	t.Helper()
	if d := cmp.Diff(want, j.calls); d != "" {
		t.Errorf("calls of the sink: -want +got\n%s", d)
	}
}

// Rows must be deleted at their age although no record arrives.
func TestOldRowsAreDeletedWhileNoRecordArrives(t *testing.T) {
	j := &journal{}
	r, ticks, _ := newFeeding(j)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		ticks <- time.Unix(10, 0)
		ticks <- time.Unix(20, 0)
		cancel()
	}()
	if err := r.follow(ctx, silent); err != nil {
		t.Error(err)
	}
	expectCalls(t, j, "trim 10", "trim 20")
	if r.kept.Deleted != 2 {
		t.Errorf("%d deleted, want 2", r.kept.Deleted)
	}
}

func TestAFailedDeletionEndsTheReading(t *testing.T) {
	broken := errors.New("disk I/O error")
	j := &journal{fail: broken}
	r, ticks, _ := newFeeding(j)
	go func() { ticks <- time.Unix(10, 0) }()
	if err := r.follow(t.Context(), silent); !errors.Is(err, broken) {
		t.Errorf("want %v, got %v", broken, err)
	}
}

// A deletion on a full disk may need room itself. The next tick tries again.
func TestAFullDiskIsTriedAgain(t *testing.T) {
	j := &journal{full: 3, fail: ErrFull}
	r, ticks, failures := newFeeding(j)
	one := func(ctx context.Context, apply func([]kafka.Record) error, _ func(error)) error {
		return apply([]kafka.Record{{Value: []byte{8, 4}}})
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		ticks <- time.Unix(1<<40, 0)
	}()
	if err := r.follow(ctx, one); err != nil {
		t.Error(err)
	}
	// The time of the first deletion is that of the clock.
	if len(j.calls) == 6 {
		j.calls[1] = "trim now"
	}
	expectCalls(t, j, "full", "trim now", "full", "full", "trim 1099511627776", "write 1")
	if len(*failures) != 4 || !errors.Is((*failures)[0], ErrFull) {
		t.Errorf("want four reports of a full disk, got %v", *failures)
	}
}

func TestAFullDiskDoesNotDelayTheEnd(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	j := &journal{full: 1 << 30}
	calls := 0
	j.done = func() {
		if calls++; calls == 3 {
			cancel()
		}
	}
	r, _, _ := newFeeding(j)
	err := r.follow(ctx, func(_ context.Context, apply func([]kafka.Record) error, _ func(error)) error {
		return apply([]kafka.Record{{Value: []byte{8, 4}}})
	})
	if !errors.Is(err, ErrFull) {
		t.Errorf("want ErrFull, got %v", err)
	}
}

// A disk that is full at the start has room after the deletion of old rows only.
func TestOldRowsAreDeletedBeforeTheFirstWrite(t *testing.T) {
	b, err := broker.Start("127.0.0.1:0", false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	config := kafka.Config{Brokers: []string{b.Addr()}}
	topics := kafka.TopicConfig{
		Prefix: "t.", Mode: "create", Partitions: 1, Replication: 1, FlowsRetention: time.Hour, ConnRetention: time.Hour,
	}
	if err := kafka.Ensure(t.Context(), config, topics, nil, kafka.Flows); err != nil {
		t.Fatal(err)
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.Addr()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: "t.flows", Value: []byte{8, 4}}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	j := &journal{}
	r, ticks, _ := newFeeding(j)
	feed := r.Feed
	feed.Kafka, feed.Options.Topic, feed.Once, feed.Ticks = config, "t.flows", true, ticks
	feed.Began, feed.Notice = func() {}, func(error) {}
	kept, err := feed.Run(t.Context())
	if err != nil || kept.Rows != 1 || kept.Deleted != 2 {
		t.Errorf("kept %+v, %v", kept, err)
	}
	for i, c := range j.calls {
		j.calls[i] = c[:4] // without the time
	}
	expectCalls(t, j, "trim", "writ", "trim")
}
