package enrich

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/internal/kafka"
	"weir/internal/pair"
)

// The group grows to three members while no flow is received; then silence ends the open connections. Each must be
// reported once, by the member that owns its partition.
func TestAGroupThatGrowsInSilenceReportsEachConnectionOnce(t *testing.T) {
	c := cluster(t)
	cl := client(t, c)
	var now clock
	var workers []*Worker
	begin := func(name string) *Worker {
		w, stop := start(t, config(c, name), now.now)
		t.Cleanup(stop)
		workers = append(workers, w)
		return w
	}
	connections := func() (n uint64) {
		for _, w := range workers {
			n += w.Stats().Connections
		}
		return n
	}
	a := begin("a")
	put := func(port uint32) {
		for n := range int32(partitions) {
			putUDP(t, cl, n, time.Now(), port+uint32(n))
		}
	}
	put(40000)
	eventually(t, "a takes all", func() bool { return a.Stats().Flows == partitions })
	b := begin("b")
	eventually(t, "b has a partition", func() bool { return b.Stats().Restores >= 1 })
	c3 := begin("c")
	eventually(t, "c has a partition", func() bool { return c3.Stats().Restores >= 1 })

	// The clock goes on for as long as it takes: silence begins anew for a partition that is
	// still on its way to another member.
	silent := func(reports uint64) func() bool {
		return func() bool {
			now.ahead.Add(int64(time.Second))
			return connections() >= reports
		}
	}
	eventually(t, "silence ends what is open", silent(partitions))
	// A second round: by its end, a member that still processed a lost partition would have
	// reported the connections of the first.
	put(41000)
	eventually(t, "flows are taken again", func() bool {
		return workers[0].Stats().Flows+workers[1].Stats().Flows+workers[2].Stats().Flows >= 2*partitions
	})
	eventually(t, "silence ends these too", silent(2*partitions))
	if got := published(t, c); len(got) != 2*partitions {
		t.Errorf("%d reports of %d connections: %v", len(got), 2*partitions, got)
	}
}

// The connections of a quiet partition end while another partition of the member is busy.
func TestAQuietPartitionEndsItsConnectionsWhileAnotherIsBusy(t *testing.T) {
	c := cluster(t)
	cl := client(t, c)
	var now clock
	conf := config(c, "a")
	conf.CommitEvery = 500 * time.Millisecond // within it, records come at every poll
	w, stop := start(t, conf, now.now)
	t.Cleanup(stop)
	putUDP(t, cl, 1, time.Now(), 40001)
	eventually(t, "it is taken", func() bool { return w.Stats().Flows == 1 })

	busy, idle := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { // partition 0 has records in every transaction
		defer close(ended)
		for busy.Err() == nil {
			putUDP(t, cl, 0, time.Now(), 40000)
		}
	}()
	defer func() { idle(); <-ended }()
	eventually(t, "partition 0 is busy", func() bool { return w.Stats().Flows > 100 })
	now.ahead.Store(int64(2 * time.Minute)) // over PAIR_IDLE: partition 0 goes on
	eventually(t, "the connection of partition 1 is reported", func() bool { return w.Stats().Connections >= 1 })
	taken := w.Stats().Flows
	eventually(t, "partition 0 goes on", func() bool { return w.Stats().Flows > taken+100 })
	idle()
	<-ended
	if got := published(t, c); len(got) != 1 || !strings.Contains(got[0], "port:40001") {
		t.Errorf("want one report, of port 40001; got %v", got)
	}
	if w.Stats().Aborts != 0 {
		t.Errorf("%d transactions were aborted", w.Stats().Aborts)
	}
}

// The coordinator answers CONCURRENT_TRANSACTIONS while the markers of the transaction
// before are written: the position of a quiet partition is sent again, nothing is aborted.
func TestAQuietPartitionWaitsForTheTransactionBefore(t *testing.T) {
	for _, key := range []kmsg.Key{kmsg.AddOffsetsToTxn, kmsg.TxnOffsetCommit} {
		t.Run(key.Name(), func(t *testing.T) {
			c := cluster(t)
			cl := client(t, c)
			var now clock
			w, stop := start(t, config(c, "a"), now.now)
			t.Cleanup(stop)
			putUDP(t, cl, 0, time.Now(), 40000)
			eventually(t, "it is taken", func() bool { return w.Stats().Flows == 1 })
			fault := c.Fault(kfake.Fault{Keys: []kmsg.Key{key}, Err: kerr.ConcurrentTransactions, Count: 3})
			defer fault.Remove()
			now.ahead.Store(int64(10 * time.Minute))
			eventually(t, "its connection is reported", func() bool { return w.Stats().Connections == 1 })
			if s := w.Stats(); s.Aborts != 0 {
				t.Errorf("%d transactions were aborted", s.Aborts)
			}
		})
	}
}

// README promises that a service ends within 12 s of SIGTERM, also while Kafka takes no
// records and a transaction is open.
func TestAMemberEndsWithinTheTimePromised(t *testing.T) {
	c := cluster(t)
	cl := client(t, c)
	var now clock
	w, err := New(config(c, "a"), Deps{Log: slog.New(slog.DiscardHandler), Now: now.now})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	putUDP(t, cl, 0, time.Now(), 40000)
	eventually(t, "it is taken", func() bool { return w.Stats().Flows == 1 })
	var tries atomic.Int32
	c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		tries.Add(1)
		return nil, errors.New("the connection is closed"), true
	})
	now.ahead.Store(int64(10 * time.Minute)) // its connection ends in a transaction
	eventually(t, "records are not taken", func() bool { return tries.Load() > 2 })
	stop()
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("want no error, got %v", err)
		}
	case <-time.After(12 * time.Second):
		t.Fatal("it has not ended")
	}
}

// A restore that fails leaves no machine behind that holds a part of the state.
func TestAFailedRestoreLeavesNothingBehind(t *testing.T) {
	c := cluster(t)
	w := handlerOf(t, config(c, "a"))
	good := kafka.Position{Partition: 0, Offset: -1}
	if err := w.Assigned(t.Context(), partitions, []kafka.Position{good}); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		ctx  func() context.Context
		at   []kafka.Position
		want error
	}{
		{"metadata of another program", t.Context, []kafka.Position{good, {Partition: 1, Offset: 5}}, kafka.ErrFatal},
		{"ended while it reads", func() context.Context {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			return ctx
		}, []kafka.Position{good, {Partition: 1, Offset: 5, Metadata: restorePoint{format: pair.FirstFormat, streamTime: 1, from: 0, tip: 9}.String()}}, context.Canceled},
	} {
		if err := w.Assigned(tt.ctx(), partitions, tt.at); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
		if len(w.partitions) != 0 {
			t.Errorf("%s: %d partitions are held", tt.name, len(w.partitions))
		}
		if open := w.stats.open.Load(); open != 0 {
			t.Errorf("%s: %d connections are open", tt.name, open)
		}
	}
}
