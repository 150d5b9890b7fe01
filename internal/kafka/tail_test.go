package kafka

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// A reading is a running Tail.
type reading struct {
	values *tally[string]
	failed *tally[string]
	ended  chan error
}

func readTail(ctx context.Context, t *testing.T, addr, topic string, tail Tail) *reading {
	t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	r := &reading{values: newTally[string](), failed: newTally[string](), ended: make(chan error, 1)}
	tail.checkEvery = 50 * time.Millisecond
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.ended <- tail.Read(ctx, config(addr), topic, func(records []Record) error {
			for _, rec := range records {
				r.values.add(string(rec.Value))
			}
			return nil
		}, func(err error) { r.failed.add(err.Error()) })
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return r
}

func makeTopic(ctx context.Context, t *testing.T, addr, topic string, partitions int32) *kadm.Client {
	t.Helper()
	adm := admin(t, addr)
	if _, err := adm.CreateTopic(ctx, partitions, 1, nil, topic); err != nil {
		t.Fatal(err)
	}
	return adm
}

// putTo writes values to a partition, with a client that has never seen the topic.
func putTo(ctx context.Context, t *testing.T, addr, topic string, partition int32, values ...string) {
	t.Helper()
	c := config(addr)
	cl, err := kgo.NewClient(append(c.opts(), kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	for _, v := range values {
		r := &kgo.Record{Topic: topic, Partition: partition, Value: []byte(v)}
		if err := cl.ProduceSync(ctx, r).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
}

func remake(ctx context.Context, t *testing.T, adm *kadm.Client, topic string, partitions int32) {
	t.Helper()
	if _, err := adm.DeleteTopic(ctx, topic); err != nil {
		t.Fatal(err)
	}
	if _, err := adm.CreateTopic(ctx, partitions, 1, nil, topic); err != nil {
		t.Fatal(err)
	}
}

func TestATailGoesOnWhenItsTopicIsDeletedAndRecreated(t *testing.T) {
	for name, tail := range map[string]Tail{"from the start": {Start: true}, "since": {Since: time.Unix(1, 0)}} {
		t.Run(name, func(t *testing.T) {
			ctx := testContext(t)
			b := startBroker(t, "127.0.0.1:0")
			adm := makeTopic(ctx, t, b.Addr(), "x", 1)
			putTo(ctx, t, b.Addr(), "x", 0, "a", "b", "c")
			r := readTail(ctx, t, b.Addr(), "x", tail)
			r.values.wait(ctx, t, "the first topic", atLeast[string](3))
			remake(ctx, t, adm, "x", 2)
			putTo(ctx, t, b.Addr(), "x", 1, "d")
			putTo(ctx, t, b.Addr(), "x", 0, "e")
			got := r.values.wait(ctx, t, "the second topic", atLeast[string](5))
			slices.Sort(got)
			if want := []string{"a", "b", "c", "d", "e"}; !slices.Equal(got, want) {
				t.Errorf("read: want %q, got %q", want, got)
			}
			if got := r.failed.all(); len(got) == 0 || len(got) > 10 {
				t.Errorf("reported: want 1 to 10 lines, got %d: %q", len(got), got)
			}
		})
	}
}

func TestATailAtTheEndReadsATopicThatIsRecreatedFromItsStart(t *testing.T) {
	ctx := testContext(t)
	b := startBroker(t, "127.0.0.1:0")
	adm := makeTopic(ctx, t, b.Addr(), "x", 1)
	r := readTail(ctx, t, b.Addr(), "x", Tail{})
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for len(r.values.all()) == 0 { // until the Tail has found the end
		putTo(ctx, t, b.Addr(), "x", 0, "a")
		<-tick.C
	}
	remake(ctx, t, adm, "x", 1)
	putTo(ctx, t, b.Addr(), "x", 0, "b")
	r.values.wait(ctx, t, "the second topic", func(got []string) bool { return slices.Contains(got, "b") })
}

// Without a start the first record to read comes after those that are there now: waiting for them would not end.
func TestATailThatReadsOnceWithoutAStartEndsAtOnce(t *testing.T) {
	ctx := testContext(t)
	b := startBroker(t, "127.0.0.1:0")
	makeTopic(ctx, t, b.Addr(), "x", 1)
	putTo(ctx, t, b.Addr(), "x", 0, "a", "b")
	r := readTail(ctx, t, b.Addr(), "x", Tail{Once: true})
	select {
	case err := <-r.ended:
		if err != nil {
			t.Errorf("Read: %v", err)
		}
	case <-ctx.Done():
		t.Error("it does not end")
	}
	if got := r.values.all(); len(got) > 0 {
		t.Errorf("read: want nothing, got %q", got)
	}
	if err := (Tail{Once: true}).Read(ctx, config(b.Addr()), "missing", nil, nil); err == nil {
		t.Error("a missing topic: want an error, got none")
	}
}

func TestATailReadsPartitionsThatAreAddedFromTheirStart(t *testing.T) {
	ctx := testContext(t)
	b := startBroker(t, "127.0.0.1:0")
	adm := makeTopic(ctx, t, b.Addr(), "x", 1)
	putTo(ctx, t, b.Addr(), "x", 0, "a")
	r := readTail(ctx, t, b.Addr(), "x", Tail{Start: true})
	r.values.wait(ctx, t, "the first partition", atLeast[string](1))
	if _, err := adm.UpdatePartitions(ctx, 2, "x"); err != nil {
		t.Fatal(err)
	}
	putTo(ctx, t, b.Addr(), "x", 1, "b")
	got := r.values.wait(ctx, t, "the added partition", atLeast[string](2))
	if want := []string{"a", "b"}; !slices.Equal(got, want) {
		t.Errorf("read: want %q, got %q", want, got)
	}
}

func TestATailWithPositionsEndsWhenTheyAreNotTheTopicsAnyMore(t *testing.T) {
	tests := []struct {
		name   string
		id     string // other than the topic's
		from   map[int32]int64
		change func(ctx context.Context, t *testing.T, adm *kadm.Client)
		want   int // values read before
	}{
		{"another id", "other", map[int32]int64{0: 0}, nil, 0},
		{"a position behind the end", "", map[int32]int64{0: 100}, nil, 0},
		{"fewer positions than partitions", "", map[int32]int64{}, nil, 0},
		{"recreated", "", map[int32]int64{0: 1}, func(ctx context.Context, t *testing.T, adm *kadm.Client) {
			t.Helper()
			remake(ctx, t, adm, "x", 1)
		}, 2},
		{"a partition is added", "", map[int32]int64{0: 1}, func(ctx context.Context, t *testing.T, adm *kadm.Client) {
			t.Helper()
			if _, err := adm.UpdatePartitions(ctx, 2, "x"); err != nil {
				t.Fatal(err)
			}
		}, 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx := testContext(t)
			b := startBroker(t, "127.0.0.1:0")
			adm := makeTopic(ctx, t, b.Addr(), "x", 1)
			putTo(ctx, t, b.Addr(), "x", 0, "a", "b", "c")
			begins, err := Begins(ctx, config(b.Addr()), "x", nil)
			if err != nil {
				t.Fatal(err)
			}
			if begins.First[0] != 0 || begins.End[0] != 3 {
				t.Errorf("Begins: want 0 to 3, got %+v", begins)
			}
			if tt.id != "" {
				begins.ID = tt.id
			}
			r := readTail(ctx, t, b.Addr(), "x", Tail{From: tt.from, ID: begins.ID})
			if tt.change != nil {
				r.values.wait(ctx, t, "the values before", atLeast[string](tt.want))
				tt.change(ctx, t, adm)
			}
			select {
			case err := <-r.ended:
				if !errors.Is(err, ErrTopicChanged) {
					t.Errorf("want %v, got %v", ErrTopicChanged, err)
				}
			case <-ctx.Done():
				t.Fatal("it reads on")
			}
			if got := r.values.all(); len(got) != tt.want {
				t.Errorf("read: want %d values, got %q", tt.want, got)
			}
		})
	}
}

func TestAFollowerGoesOnWhenItsTopicIsDeletedAndRecreated(t *testing.T) {
	ctx := testContext(t)
	b := startBroker(t, "127.0.0.1:0")
	adm := makeTopic(ctx, t, b.Addr(), "x", 2)
	putTo(ctx, t, b.Addr(), "x", 0, "a")
	f, values := NewFollower(config(b.Addr()), "x"), newTally[string]()
	f.Add(0, -1)
	f.Add(1, 0)
	running, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- f.Run(running, func(_ int32, r Record) { values.add(string(r.Value)) }) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	values.wait(ctx, t, "the first topic", atLeast[string](1))
	remake(ctx, t, adm, "x", 2)
	putTo(ctx, t, b.Addr(), "x", 0, "b")
	putTo(ctx, t, b.Addr(), "x", 1, "c")
	values.wait(ctx, t, "the second topic", func(all []string) bool { // an error that comes late begins it once more
		got := slices.Clone(all)
		slices.Sort(got)
		return slices.Equal(slices.Compact(got), []string{"a", "b", "c"})
	})
}

func TestAFollowerReadsANewTopicWhenNoErrorShowsThatItIsNew(t *testing.T) {
	ctx := testContext(t)
	c := startFake(t)
	addr := c.ListenAddrs()[0]
	adm := makeTopic(ctx, t, addr, "x", 1)
	putTo(ctx, t, addr, "x", 0, "a")
	f, values := NewFollower(config(addr), "x"), newTally[string]()
	f.checkEvery = 50 * time.Millisecond
	f.Add(0, -1)
	running, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- f.Run(running, func(_ int32, r Record) { values.add(string(r.Value)) }) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	values.wait(ctx, t, "the first topic", atLeast[string](1))
	answerFetchesOf(c, c.TopicInfo("x").TopicID)
	remake(ctx, t, adm, "x", 1)
	putTo(ctx, t, addr, "x", 0, "b")
	values.wait(ctx, t, "the second topic", func(got []string) bool { return slices.Contains(got, "b") })
}

func TestAReporterBoundsWhatItReports(t *testing.T) {
	tests := []struct {
		name     string
		text     func(i int) string
		min, max int
	}{
		{"one text", func(int) string { return "same" }, 4, 4},                   // at 0, 30, 60 and 90 s
		{"two in turn", func(i int) string { return strconv.Itoa(i % 2) }, 8, 8}, // as often each
		{"ever another", strconv.Itoa, 14, 15},                                   // 5, and one in 10 s
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := 0
				r := newReporter(func(error) { n++ })
				for i := range 100 * 1000 {
					r.report(errors.New(tt.text(i)))
					time.Sleep(time.Millisecond)
				}
				if n < tt.min || n > tt.max || len(r.last) > maxReported {
					t.Errorf("within 100 s: want %d to %d reports, got %d; %d texts remembered", tt.min, tt.max, n, len(r.last))
				}
			})
		})
	}
}
