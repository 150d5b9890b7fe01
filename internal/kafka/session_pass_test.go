package kafka

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// A passer appends records that it may not take yet to the input again, as ingest does with sets of unknown
// templates, and produces the others.
type passer struct {
	topic, out string
	may        func(string) bool
	passes     *tally[string] // committed transactions: the values seen in each

	seen []string
}

func (p *passer) Assigned(context.Context, int, []Position) error { p.seen = nil; return nil }
func (p *passer) Lost([]int32)                                    { p.seen = nil }
func (p *passer) Due(int32, time.Duration) bool                   { return false }
func (p *passer) Quiet(*Tx, int32, time.Duration) bool            { return false }
func (p *passer) Finish(*Tx, []int32)                             {}
func (p *passer) Metadata(int32) string                           { return "" }

func (p *passer) Records(tx *Tx, partition int32, records []Record) int {
	for _, r := range records {
		p.seen = append(p.seen, string(r.Value))
		if p.may(string(r.Value)) {
			tx.Produce(p.out, partition, r.Key, r.Value, nil)
		} else {
			tx.Produce(p.topic, partition, r.Key, r.Value, nil)
		}
	}
	return len(records)
}

func (p *passer) Committed([]int32) {
	p.passes.add(strings.Join(p.seen, " "))
	p.seen = nil
}

// putter returns a function that publishes values to partition 0 of a topic.
func putter(ctx context.Context, t *testing.T, addr, topic string) func(values ...string) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return func(values ...string) {
		t.Helper()
		for _, v := range values {
			if err := cl.ProduceSync(ctx, &kgo.Record{Topic: topic, Value: []byte(v)}).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// Records that are appended again are not read again in the same pass. A requested pass reads them, and the
// records that have arrived meanwhile, once.
func TestAPassReadsToTheEndAsOfItsStart(t *testing.T) {
	ctx := testContext(t)
	b := startBroker(t, "127.0.0.1:0")
	ensure(ctx, t, b.Addr(), Undecoded, Flows)
	tc := topicConfig()
	input, out := tc.Name(Undecoded), tc.Name(Flows)
	put := putter(ctx, t, b.Addr(), input)
	put("a1", "b1", "a2")

	may := make(chan string, 1) // letters that may be produced
	may <- "b"
	h := &passer{topic: input, out: out, passes: newTally[string](), may: func(v string) bool {
		letters := <-may
		may <- letters
		return strings.Contains(letters, v[:1])
	}}
	s := NewSession(config(b.Addr()), SessionConfig{
		Group: "g", Member: "m", Input: input, ManualPartitioning: []string{input, out}, MaxRecords: 100, Every: 20 * time.Millisecond,
		Passes: true, Rebalance: 3 * time.Second, Timeout: 10 * time.Second, Now: time.Now, Log: slog.New(slog.DiscardHandler),
	})
	run, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- s.Run(run, h) }()

	follower := NewFollower(config(b.Addr()), input)
	follower.Add(0, -1)
	followed := newTally[string]()
	go func() { _ = follower.Run(run, func(_ int32, r Record) { followed.add(string(r.Value)) }) }() // ends with run

	want := func(passes ...string) {
		t.Helper()
		got := h.passes.wait(ctx, t, "passes", atLeast[string](len(passes)))
		if strings.Join(got, "|") != strings.Join(passes, "|") {
			t.Fatalf("passes: want %q, got %q", passes, got)
		}
	}
	want("a1 b1 a2") // at the assignment
	put("c1")
	followed.wait(ctx, t, "all is followed: three, the two that were appended again, and what came", atLeast[string](6))
	want("a1 b1 a2") // no pass was requested
	s.Pass(0)
	want("a1 b1 a2", "a1 a2 c1")
	<-may
	may <- "ac"
	s.Pass(0)
	want("a1 b1 a2", "a1 a2 c1", "a1 a2 c1")
	s.Pass(0) // over nothing
	put("d1")
	followed.wait(ctx, t, "the last one is followed", func(got []string) bool { return got[len(got)-1] == "d1" })
	stop()
	if err := <-ended; err != nil {
		t.Errorf("session: %v", err)
	}
	var values []string
	for _, r := range consume(ctx, t, b.Addr(), 4) {
		values = append(values, string(r.Value))
	}
	if got := strings.Join(values, " "); got != "b1 a1 a2 c1" {
		t.Errorf("handed on: want b1 a1 a2 c1, got %s", got)
	}
}
