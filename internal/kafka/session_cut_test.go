package kafka

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/internal/weirtest/locked"
)

// A collector is an owner that collects the values of partition 0.
type collector struct {
	*owner
	values *tally[string]
}

func (c collector) Records(tx *Tx, partition int32, records []Record) int {
	if partition == 0 {
		for _, r := range records {
			c.values.add(string(r.Value))
		}
	}
	return c.owner.Records(tx, partition, records)
}

// cutLogs returns a control function that answers OffsetForLeaderEpoch as brokers whose logs were cut: all
// epochs up to the requested epoch end at end. At 0 it does not answer.
func cutLogs(end *atomic.Int64) func(*kfake.Cluster) {
	return func(c *kfake.Cluster) {
		c.ControlKey(int16(kmsg.OffsetForLeaderEpoch), func(r kmsg.Request) (kmsg.Response, error, bool) {
			c.KeepControl()
			if end.Load() == 0 {
				return nil, nil, false
			}
			req := r.(*kmsg.OffsetForLeaderEpochRequest)
			resp := req.ResponseKind().(*kmsg.OffsetForLeaderEpochResponse)
			for _, t := range req.Topics {
				rt := kmsg.NewOffsetForLeaderEpochResponseTopic()
				rt.Topic = t.Topic
				for _, p := range t.Partitions {
					rp := kmsg.NewOffsetForLeaderEpochResponseTopicPartition()
					rp.Partition, rp.LeaderEpoch, rp.EndOffset = p.Partition, p.LeaderEpoch, end.Load()
					rt.Partitions = append(rt.Partitions, rp)
				}
				resp.Topics = append(resp.Topics, rt)
			}
			return resp, nil, true
		})
	}
}

// A session commits the position of a quiet partition and ends. Then brokers lose the records
// from offset 1 on, and others are written in their place before the next session looks: it
// must read all of those, whether the log ends before the committed position or not.
func TestWhatIsWrittenAfterALogWasCutIsRead(t *testing.T) {
	for _, tt := range []struct {
		name   string
		beyond int64 // distance of the position beyond the end of the log that has grown again
		logged string
	}{
		{"the log has grown beyond the position", 0, "cause=truncated position=3 goes_on_at=1 records_lost_unread=0"},
		{"the log ends before the position", 7, "cause=truncated position=10 goes_on_at=1 records_lost_unread=0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx := testContext(t)
			var end atomic.Int64
			_, addr := fakeCluster(t, cutLogs(&end))
			ensure(ctx, t, addr, Undecoded, Flows)
			tc := topicConfig()
			putter(ctx, t, addr, tc.Name(Undecoded))("a", "b", "c")
			first := runUntilQuiet(ctx, t, addr)
			if want := []string{"a", "b", "c"}; !slices.Equal(first, want) {
				t.Fatalf("the first session: want %q, got %q", want, first)
			}
			adm := admin(t, addr)
			at, err := adm.FetchOffsets(ctx, "g")
			if err != nil {
				t.Fatal(err)
			}
			pos, _ := at.Lookup(tc.Name(Undecoded), 0)
			if pos.At != 3 || pos.LeaderEpoch < 0 {
				t.Errorf("committed: want offset 3 with the epoch of its leader, got %+v", pos.Offset)
			}
			if tt.beyond > 0 {
				var beyond kadm.Offsets
				beyond.AddOffset(tc.Name(Undecoded), 0, pos.At+tt.beyond, pos.LeaderEpoch)
				if err := adm.CommitAllOffsets(ctx, "g", beyond); err != nil {
					t.Fatal(err)
				}
			}
			end.Store(1)
			var log locked.Buffer
			s := ownerSession(addr, "b", time.Now)
			s.sc.Log = slog.New(slog.NewTextHandler(&log, nil))
			h := collector{newOwner(tc.Name(Flows)), newTally[string]()}
			runSession(t, s, h)
			// A record written now shows that the session reads, in the cases in which it skips the records
			// before.
			h.assigned.wait(ctx, t, "partitions are assigned", atLeast[int](1))
			putter(ctx, t, addr, tc.Name(Undecoded))("d")
			got := h.values.wait(ctx, t, "the record written last", func(got []string) bool { return slices.Contains(got, "d") })
			if want := []string{"b", "c", "d"}; !slices.Equal(got, want) {
				t.Errorf("after the cut: want %q, got %q", want, got)
			}
			if !strings.Contains(log.String(), tt.logged) {
				t.Errorf("log: want %q, got %s", tt.logged, log.String())
			}
		})
	}
}

// runUntilQuiet runs a session until it has committed the position of partition 0 both with
// records and without, and returns the values that it read.
func runUntilQuiet(ctx context.Context, t *testing.T, addr string) []string {
	t.Helper()
	var ahead atomic.Int64
	s := ownerSession(addr, "a", func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) })
	h := collector{newOwner("t.flows"), newTally[string]()}
	h.due = func(n int32) bool { return n == 0 && ahead.Load() > 0 }
	run, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- s.Run(run, h) }()
	h.committed.wait(ctx, t, "the records are committed", func([]int32) bool { return len(h.values.all()) == 3 && len(h.committed.all()) > 0 })
	before := len(h.committed.all())
	ahead.Store(int64(time.Minute))
	h.committed.wait(ctx, t, "the quiet partition commits", atLeast[int32](before+1))
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	return h.values.all()
}

// Brokers lose the records from offset 1 on while a Tail reads, and others are written in their place.
func TestATailThatReadsNoticesThatItsLogWasCut(t *testing.T) {
	ctx := testContext(t)
	var end atomic.Int64
	c, addr := fakeCluster(t, cutLogs(&end))
	makeTopic(ctx, t, addr, "x", 1)
	putTo(ctx, t, addr, "x", 0, "a", "b", "c")
	begins, err := Begins(ctx, config(addr), "x", nil)
	if err != nil {
		t.Fatal(err)
	}
	r := readTail(ctx, t, addr, "x", Tail{From: begins.First, ID: begins.ID})
	r.values.wait(ctx, t, "the records before the loss", atLeast[string](3))
	end.Store(1)
	if err := c.MoveTopicPartition("x", 0, 0); err != nil { // a new epoch
		t.Fatal(err)
	}
	putTo(ctx, t, addr, "x", 0, "d")
	got := r.values.wait(ctx, t, "the record written last", func(got []string) bool { return slices.Contains(got, "d") })
	if want := []string{"a", "b", "c", "b", "c", "d"}; !slices.Equal(got, want) {
		t.Errorf("want what was written after the cut, %q, got %q", want, got)
	}
	if got := r.failed.all(); len(got) == 0 {
		t.Error("the loss is not reported")
	}
}

// Brokers lost the records from offset 2 on, and the log has grown beyond the last record read.
func TestTheEndOfAnEpochIsThatOfTheLogThatWasCut(t *testing.T) {
	ctx := testContext(t)
	var end atomic.Int64
	_, addr := fakeCluster(t, cutLogs(&end))
	makeTopic(ctx, t, addr, "x", 2)
	putTo(ctx, t, addr, "x", 0, "a", "b", "c", "d")
	var epochs []int32
	tail := Tail{Start: true, Once: true}
	if err := tail.Read(ctx, config(addr), "x", func(rs []Record) error {
		for _, r := range rs {
			epochs = append(epochs, r.Epoch)
		}
		return nil
	}, func(err error) { t.Error(err) }); err != nil {
		t.Fatal(err)
	}
	if len(epochs) != 4 || epochs[3] < 0 {
		t.Fatalf("want 4 records with an epoch, got epochs %v", epochs)
	}
	end.Store(2)
	b, err := Begins(ctx, config(addr), "x", map[int32]int32{0: epochs[3], 1: noEpoch, 7: 0}) // 7: of a topic with more partitions
	if err != nil {
		t.Fatal(err)
	}
	if want := map[int32]int64{0: 2}; b.End[0] != 4 || !maps.Equal(b.EpochEnds, want) {
		t.Errorf("want an end of 4 and ends of epochs %v, got %d and %v", want, b.End[0], b.EpochEnds)
	}
}
