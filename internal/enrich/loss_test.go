package enrich

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"google.golang.org/protobuf/proto"

	"weir/internal/kafka"
	"weir/internal/weirtest/locked"
	"weir/pkg/flowpb"
)

// client returns a client of the test's own that picks partitions by number.
func client(t *testing.T, c *kfake.Cluster) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.MetadataMinAge(50*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

// putUDP produces a flow of a UDP conversation between 10.0.0.5:port and 192.0.2.80:443, received
// at at.
func putUDP(t *testing.T, cl *kgo.Client, partition int32, at time.Time, port uint32) {
	t.Helper()
	hash := uint64(partition)<<48 | uint64(at.UnixNano())&(1<<40-1)<<8 | uint64(port)&0xff
	m := &flowpb.FlowMessage{
		Type: flowpb.FlowMessage_IPFIX, SrcAddr: []byte{10, 0, 0, 5}, DstAddr: []byte{192, 0, 2, 80}, SrcPort: port, DstPort: 443, Proto: 17,
		SamplerAddress: []byte{192, 0, 2, 1}, Bytes: 900, Packets: 9, SamplingRate: 1, DatagramHash: hash, TimeResolutionUs: 1000,
		TimeReceivedNs: uint64(at.UnixNano()), TimeExportNs: uint64(at.UnixNano()),
		TimeFlowStartNs: uint64(at.Add(-2 * time.Second).UnixNano()), TimeFlowEndNs: uint64(at.Add(-time.Second).UnixNano()),
	}
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	r := &kgo.Record{Topic: "t.flows", Partition: partition, Value: b, Timestamp: at}
	if err := cl.ProduceSync(t.Context(), r).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

// committed returns the committed position of each partition of the flows topic.
func committed(t *testing.T, cl *kgo.Client) map[int32]kafka.Position {
	t.Helper()
	all, err := kadm.NewClient(cl).FetchOffsets(kadm.RequireStable(t.Context()), "enrich")
	if err != nil {
		t.Fatal(err)
	}
	at := map[int32]kafka.Position{}
	for n, o := range all["t.flows"] {
		at[n] = kafka.Position{Partition: n, Offset: o.At, Metadata: o.Metadata}
	}
	return at
}

// commit commits positions in place of the group, which must have no members.
func commit(t *testing.T, cl *kgo.Client, at ...kafka.Position) {
	t.Helper()
	offsets := kadm.Offsets{}
	for _, p := range at {
		offsets.Add(kadm.Offset{Topic: "t.flows", Partition: p.Partition, At: p.Offset, LeaderEpoch: -1, Metadata: p.Metadata})
	}
	if err := kadm.NewClient(cl).CommitAllOffsets(t.Context(), "enrich", offsets); err != nil {
		t.Fatal(err)
	}
}

// deleteBefore deletes the records of a partition before an offset; -1: all.
func deleteBefore(t *testing.T, cl *kgo.Client, topic string, partition int32, offset int64) {
	t.Helper()
	offsets := kadm.Offsets{}
	offsets.AddOffset(topic, partition, offset, -1)
	if r, err := kadm.NewClient(cl).DeleteRecords(t.Context(), offsets); err != nil || r.Error() != nil {
		t.Fatal(err, r.Error())
	}
}

// worked runs a member until it has taken n flows and ends it.
func worked(t *testing.T, c *kfake.Cluster, n uint64) {
	t.Helper()
	w, stop := start(t, config(c, "before"), time.Now)
	eventually(t, "flows are taken", func() bool { return w.Stats().Flows == n })
	stop()
}

func handlerOf(t *testing.T, c Config) handler {
	t.Helper()
	w, err := New(c, Deps{Log: slog.New(slog.DiscardHandler), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	return handler{w}
}

// A member that was cut off restores a position that its successor has passed and
// truncated. Nothing is lost: the member joins again instead of giving up.
func TestAStalePositionIsNotALostState(t *testing.T) {
	c := cluster(t)
	cl := client(t, c)
	putUDP(t, cl, 0, time.Now(), 40001)
	worked(t, c, 1)
	stale := committed(t, cl)[0]
	putUDP(t, cl, 0, time.Now(), 40001)
	worked(t, c, 1)
	now := committed(t, cl)[0]
	point, err := parsePoint(now.Metadata)
	if err != nil {
		t.Fatal(err)
	}
	deleteBefore(t, cl, "t.pairing", 0, point.from)
	for _, lost := range []string{"refuse", "continue"} {
		conf := config(c, "a")
		conf.StateLost = lost
		w := handlerOf(t, conf)
		err = w.Assigned(t.Context(), partitions, []kafka.Position{stale})
		if err == nil || errors.Is(err, kafka.ErrFatal) || !strings.Contains(err.Error(), "another owner") {
			t.Errorf("%s: a stale position: want an error that is not fatal, got %v", lost, err)
		}
		if n := w.stats.stateLost.Load(); n != 0 {
			t.Errorf("%s: %d states are counted as lost", lost, n)
		}
		if err := w.Assigned(t.Context(), partitions, []kafka.Position{now}); err != nil {
			t.Errorf("%s: the committed position: %v", lost, err)
		}
	}
	deleteBefore(t, cl, "t.pairing", 0, -1)
	err = handlerOf(t, config(c, "a")).Assigned(t.Context(), partitions, []kafka.Position{now})
	if !errors.Is(err, kafka.ErrFatal) || !strings.Contains(err.Error(), "t.pairing partition 0") {
		t.Errorf("the committed position is truncated: want a fatal error that names the partition, got %v", err)
	}
}

// Only the partition without its state continues with empty state, and it is counted once.
func TestAPartitionWhoseStateIsGoneLeavesTheOthersTheirs(t *testing.T) {
	c := cluster(t)
	cl := client(t, c)
	for n := range int32(partitions) {
		putUDP(t, cl, n, time.Now(), 40001+uint32(n))
	}
	worked(t, c, partitions)
	deleteBefore(t, cl, "t.pairing", 1, -1)
	conf := config(c, "a")
	conf.StateLost = "continue"
	w := handlerOf(t, conf)
	var at []kafka.Position
	for _, pos := range committed(t, cl) {
		at = append(at, pos)
	}
	for range 2 { // the second time as after an abort
		if err := w.Assigned(t.Context(), partitions, at); err != nil {
			t.Fatal(err)
		}
		for n, p := range w.partitions {
			want := 1
			if n == 1 {
				want = 0
			}
			if open, _ := p.machine.Held(); open != want {
				t.Errorf("partition %d: want %d open connections, got %d", n, want, open)
			}
		}
	}
	if n := w.stats.stateLost.Load(); n != 1 {
		t.Errorf("want one state lost, %d are counted", n)
	}
}

// The brokers lost the end of the pairing log: the wanted records never come.
func TestAPairingLogThatEndsBeforeTheStateIsTruncated(t *testing.T) {
	c := cluster(t)
	cl := client(t, c)
	putUDP(t, cl, 0, time.Now(), 40001)
	worked(t, c, 1)
	pos := committed(t, cl)[0]
	point, err := parsePoint(pos.Metadata)
	if err != nil {
		t.Fatal(err)
	}
	point.tip += 5
	pos.Metadata = point.String()
	commit(t, cl, pos)
	w, err := New(config(c, "a"), Deps{Log: slog.New(slog.DiscardHandler), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := w.Run(ctx); !errors.Is(err, kafka.ErrTruncated) || !strings.Contains(err.Error(), "ends before") {
		t.Errorf("want an error that says where the log ends, got %v", err)
	}
	conf := config(c, "b")
	conf.StateLost = "continue"
	w, stop := start(t, conf, time.Now)
	putUDP(t, cl, 0, time.Now(), 40002)
	eventually(t, "work goes on without the state", func() bool { return w.Stats().Flows == 1 && w.stats.stateLost.Load() == 1 })
	stop()
}

func recreate(t *testing.T, cl *kgo.Client, topic string) {
	t.Helper()
	adm := kadm.NewClient(cl)
	if _, err := adm.DeleteTopics(t.Context(), topic); err != nil {
		t.Fatal(err)
	}
	if _, err := adm.CreateTopic(t.Context(), partitions, 1, nil, topic); err != nil {
		t.Fatal(err)
	}
}

// logged returns a member whose log lines are counted.
func logged(t *testing.T, c Config, now func() time.Time) (w *Worker, ended <-chan error, lines *locked.Buffer) {
	t.Helper()
	lines = new(locked.Buffer)
	w, err := New(c, Deps{Log: slog.New(slog.NewTextHandler(lines, nil)), Now: now})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	end, over := make(chan error, 1), make(chan struct{})
	go func() {
		end <- w.Run(ctx)
		close(over)
	}()
	t.Cleanup(func() {
		cancel()
		<-over
		if n := strings.Count(lines.String(), "\n"); n > 100 {
			t.Errorf("%d log lines:\n%.2000s", n, lines.String())
		}
	})
	return w, end, lines
}

// If a topic is deleted and recreated while a member runs, only the records on it may be lost: the open connection
// of a partition of flows must be reported once.
func TestATopicRecreatedIsTakenUp(t *testing.T) {
	for _, topic := range []string{"t.flows", "t.connections", "t.pairing"} {
		t.Run(topic, func(t *testing.T) {
			c := cluster(t)
			cl := client(t, c)
			conf := config(c, "a")
			conf.StateLost = "continue"
			var now clock
			w, _, _ := logged(t, conf, now.now)
			putUDP(t, cl, 0, time.Now(), 40001)
			eventually(t, "the first flow is taken", func() bool { return w.Stats().Flows == 1 })
			want, lost, gone := uint64(2), uint64(0), 0
			switch topic {
			case "t.pairing": // the topic held the state
				want, lost = 1, 1
			case "t.connections": // the published connections are deleted with it
				now.ahead.Add(int64(10 * time.Minute))
				eventually(t, "the first connection ends", func() bool { return w.Stats().Connections == 1 })
				gone = 1
			}
			recreate(t, cl, topic)
			cl = client(t, c)
			putUDP(t, cl, 0, now.now(), 40002)
			eventually(t, "the second flow is taken", func() bool { return w.Stats().Flows == 2 })
			eventually(t, "the member is ready", func() bool { return w.Ready() == nil })
			eventually(t, "silence ends what is open", func() bool {
				now.ahead.Add(int64(time.Minute)) // again and again: after an abort it counts anew
				return w.Stats().Connections >= want
			})
			if got := len(published(t, c)) + gone; uint64(got) != want || w.Stats().Connections != want {
				t.Errorf("want %d connections, got %d", want, got)
			}
			if got := w.stats.stateLost.Load(); got != lost {
				t.Errorf("want %d states lost, %d are counted", lost, got)
			}
		})
	}
}

// Members hand the state of their partitions on when flows are recreated, whoever gets
// them next.
func TestMembersHandStateOnWhenFlowsAreRecreated(t *testing.T) {
	c := cluster(t)
	cl := client(t, c)
	var now clock
	a, _, _ := logged(t, config(c, "a"), now.now)
	for n := range int32(partitions) {
		putUDP(t, cl, n, time.Now(), 40001+uint32(n))
	}
	eventually(t, "the first flows are taken", func() bool { return a.Stats().Flows == partitions })
	b, _, _ := logged(t, config(c, "b"), now.now)
	eventually(t, "the members share the partitions", func() bool { return b.Stats().Restores > 0 })
	recreate(t, cl, "t.flows")
	cl = client(t, c)
	for n := range int32(partitions) {
		putUDP(t, cl, n, time.Now(), 41001+uint32(n))
	}
	eventually(t, "the other flows are taken", func() bool { return a.Stats().Flows+b.Stats().Flows == 2*partitions })
	eventually(t, "silence ends what is open", func() bool {
		now.ahead.Add(int64(time.Minute))
		return a.Stats().Connections+b.Stats().Connections >= 2*partitions
	})
	if got := published(t, c); len(got) != 2*partitions {
		t.Errorf("want %d connections, got %d", 2*partitions, len(got))
	}
}

// counted returns the value of a counter by its labels' values, in the order of their names.
func counted(t *testing.T, reg *prometheus.Registry, name string, values ...string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var have []string
			for _, l := range m.GetLabel() {
				have = append(have, l.GetValue())
			}
			if f.GetName() == name && slices.Equal(have, values) {
				return m.GetCounter().GetValue()
			}
		}
	}
	t.Fatalf("no %s%v", name, values)
	return 0
}

func measured(t *testing.T, c Config, now func() time.Time) (w *Worker, reg *prometheus.Registry) {
	t.Helper()
	reg = prometheus.NewRegistry()
	w, err := New(c, Deps{Log: slog.New(slog.DiscardHandler), Now: now, Metrics: reg})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("worker: %v", err)
		}
	})
	return w, reg
}

// Retention deletes unread flows: they must be counted, and open connections of their partition must end although no
// record follows.
func TestFlowsDeletedUnreadAreCountedAndThePartitionGoesOn(t *testing.T) {
	c := cluster(t)
	cl := client(t, c)
	putUDP(t, cl, 0, time.Now(), 40001)
	worked(t, c, 1)
	for i := range uint32(10) {
		putUDP(t, cl, 0, time.Now(), 41001+i)
	}
	deleteBefore(t, cl, "t.flows", 0, -1)
	var now clock
	w, reg := measured(t, config(c, "a"), now.now)
	eventually(t, "the member is ready", func() bool { return w.Ready() == nil })
	eventually(t, "the open connection ends", func() bool {
		now.ahead.Add(int64(time.Minute))
		return w.Stats().Connections == 1
	})
	if got := counted(t, reg, "weir_kafka_unread_records_lost_total", "retention", "t.flows"); got != 10 {
		t.Errorf("want 10 flows counted as lost, got %v", got)
	}
	if got := counted(t, reg, "weir_kafka_positions_moved_total", "retention", "t.flows"); got != 1 {
		t.Errorf("want one position moved, got %v", got)
	}
	if got := committed(t, cl)[0].Offset; got != 11 {
		t.Errorf("want offset 11 committed, got %d", got)
	}
	putUDP(t, cl, 0, now.now(), 42001)
	eventually(t, "the next flow is taken", func() bool { return w.Stats().Flows == 1 })
}

// The first transaction after a position was moved is aborted: its flows are read again.
func TestFlowsAfterAMovedPositionAreReadAgainAfterAnAbort(t *testing.T) {
	c := cluster(t)
	cl := client(t, c)
	putUDP(t, cl, 0, time.Now(), 40001)
	worked(t, c, 1)
	putUDP(t, cl, 0, time.Now(), 41001)
	deleteBefore(t, cl, "t.flows", 0, -1)
	putUDP(t, cl, 0, time.Now(), 42001)
	putUDP(t, cl, 0, time.Now(), 42002)
	fault := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.TxnOffsetCommit}, Err: kerr.RebalanceInProgress, Count: 2})
	w, reg := measured(t, config(c, "a"), time.Now)
	eventually(t, "two transactions are aborted", func() bool { return fault.Hits() == 2 })
	eventually(t, "both flows are taken", func() bool { return w.Stats().Flows == 2 })
	if got := counted(t, reg, "weir_kafka_unread_records_lost_total", "retention", "t.flows"); got != 1 {
		t.Errorf("want one flow counted as lost, got %v", got)
	}
}

// Retention deletes flows under a running member that is behind.
func TestFlowsDeletedUnderARunningMemberAreCounted(t *testing.T) {
	c := cluster(t)
	cl := client(t, c)
	w, reg := measured(t, config(c, "a"), time.Now)
	putUDP(t, cl, 0, time.Now(), 40001)
	eventually(t, "the first flow is taken", func() bool { return w.Stats().Flows == 1 })
	hold := make(chan struct{})
	var held atomic.Bool
	c.ControlKey(int16(kmsg.Fetch), func(kmsg.Request) (kmsg.Response, error, bool) {
		if held.CompareAndSwap(false, true) {
			c.SleepControl(func() { <-hold })
		}
		return nil, nil, false
	})
	eventually(t, "a fetch is held", held.Load)
	for i := range uint32(3) {
		putUDP(t, cl, 0, time.Now(), 41001+i)
	}
	deleteBefore(t, cl, "t.flows", 0, -1)
	close(hold)
	putUDP(t, cl, 0, time.Now(), 42001)
	eventually(t, "the last flow is taken", func() bool { return w.Stats().Flows == 2 })
	if got := counted(t, reg, "weir_kafka_unread_records_lost_total", "retention", "t.flows"); got != 3 {
		t.Errorf("want 3 flows counted as lost, got %v", got)
	}
}

// The brokers lost the end of the flows topic, or say for a moment that they do not hold an
// offset that they hold: no flow is read twice.
func TestNoFlowIsReadTwiceAfterALossOfTheBrokers(t *testing.T) {
	c := cluster(t)
	cl := client(t, c)
	putUDP(t, cl, 0, time.Now(), 40001)
	worked(t, c, 1)
	pos := committed(t, cl)[0]
	pos.Offset += 5
	commit(t, cl, pos)
	w, reg := measured(t, config(c, "a"), time.Now)
	eventually(t, "the position is moved", func() bool {
		return counted(t, reg, "weir_kafka_positions_moved_total", "truncated", "t.flows") == 1
	})
	eventually(t, "the member is ready", func() bool { return w.Ready() == nil })
	putUDP(t, cl, 0, time.Now(), 40002)
	eventually(t, "the new flow is taken", func() bool { return w.Stats().Flows >= 1 })
	fault := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Topic: "t.flows", Err: kerr.OffsetOutOfRange, Count: 1})
	eventually(t, "a fetch has failed", func() bool { return fault.Hits() == 1 })
	putUDP(t, cl, 0, time.Now(), 40003)
	eventually(t, "the next flow is taken", func() bool { return w.Stats().Flows >= 2 })
	if s := w.Stats(); s.Flows != 2 || s.Duplicates != 0 {
		t.Errorf("want two flows and no duplicate, got %+v", s)
	}
}

// A group whose positions another program committed must work after each remedy that the error
// names.
func TestTheWaysOutOfAGroupOfAnotherProgramWork(t *testing.T) {
	for _, metadata := range []string{"", "weir/1 1 5 9"} {
		c := cluster(t)
		cl := client(t, c)
		for i := range uint32(10) {
			putUDP(t, cl, 0, time.Now(), 40001+i)
		}
		deleteBefore(t, cl, "t.flows", 0, 5)
		commit(t, cl, kafka.Position{Partition: 0, Offset: 7, Metadata: metadata})
		w, err := New(config(c, "a"), Deps{Log: slog.New(slog.DiscardHandler), Now: time.Now})
		if err != nil {
			t.Fatal(err)
		}
		err = w.Run(t.Context())
		if !errors.Is(err, kafka.ErrFatal) || !strings.Contains(err.Error(), "--group enrich --topic t.flows --reset-offsets --to-earliest") {
			t.Fatalf("metadata %q: want a fatal error that says what to do, got %v", metadata, err)
		}
		if metadata == "" { // STATE_LOST=continue: from the committed offset on
			conf := config(c, "b")
			conf.StateLost, conf.Instance = "continue", "continuing"
			w, stop := start(t, conf, time.Now)
			eventually(t, "the flows from there on are taken", func() bool { return w.Stats().Flows == 3 && w.stats.stateLost.Load() == 1 })
			stop()
		}
		// As kafka-consumer-groups.sh --reset-offsets --to-earliest: offsets without metadata.
		starts, err := kadm.NewClient(cl).ListStartOffsets(t.Context(), "t.flows")
		if err != nil {
			t.Fatal(err)
		}
		if err := kadm.NewClient(cl).CommitAllOffsets(t.Context(), "enrich", starts.Offsets()); err != nil {
			t.Fatal(err)
		}
		w, stop := start(t, config(c, "c"), time.Now)
		eventually(t, "all flows that are there are taken", func() bool { return w.Stats().Flows == 5 })
		stop()
		conf := config(c, "d")
		conf.Group = "another"
		w, stop = start(t, conf, time.Now)
		eventually(t, "another group takes them", func() bool { return w.Stats().Flows == 5 })
		stop()
	}
}

// Partitions that are added to the flows topic end the member: its keys lie elsewhere now.
func TestPartitionsAddedAtRunTimeEndTheMember(t *testing.T) {
	c := cluster(t)
	cl := client(t, c)
	w, ended, _ := logged(t, config(c, "a"), time.Now)
	putUDP(t, cl, 0, time.Now(), 40001)
	eventually(t, "the first flow is taken", func() bool { return w.Stats().Flows == 1 })
	if _, err := kadm.NewClient(cl).CreatePartitions(t.Context(), 1, "t.flows"); err != nil {
		t.Fatal(err)
	}
	// The client reads its metadata again.
	fault := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Topic: "t.flows", Err: kerr.NotLeaderForPartition, Count: 3})
	defer fault.Remove()
	var err error
	eventually(t, "the member ends", func() bool {
		select {
		case err = <-ended:
			return true
		default:
			return false
		}
	})
	if !errors.Is(err, kafka.ErrFatal) || !strings.Contains(err.Error(), "topic t.flows has 4 partitions and t.pairing has 3") {
		t.Errorf("want an error that names the numbers, got %v", err)
	}
}

// Kafka is unavailable for longer than PAIR_IDLE while exporters and ingest continue. The silence
// must not count, and a conversation that continues afterwards must be a single connection.
func TestAnOutageOfKafkaIsNoSilence(t *testing.T) {
	c := cluster(t)
	cl := client(t, c)
	var now clock
	w, stop := start(t, config(c, "a"), now.now)
	began := now.now()
	putUDP(t, cl, 0, began, 40001)
	eventually(t, "the flow is taken", func() bool { return w.Stats().Flows == 1 })
	var away atomic.Bool
	var failed, fetched atomic.Int32
	c.Control(func(req kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if away.Load() {
			failed.Add(1)
			return nil, errors.New("away"), true
		}
		if req.Key() == int16(kmsg.Fetch) {
			fetched.Add(1)
		}
		return nil, nil, false
	})
	away.Store(true)
	eventually(t, "requests fail", func() bool { return failed.Load() > 0 })
	now.ahead.Add(int64(70 * time.Second)) // PAIR_IDLE is 75 s
	away.Store(false)
	fetched.Store(0)
	eventually(t, "the member reads again", func() bool { return fetched.Load() >= 5 })
	now.ahead.Add(int64(30 * time.Second))
	fetched.Store(0)
	eventually(t, "the member looks after quiet partitions", func() bool { return fetched.Load() >= 5 })
	if n := w.Stats().Connections; n != 0 {
		t.Errorf("%d connections ended while Kafka was away", n)
	}
	putUDP(t, cl, 0, began.Add(50*time.Second), 40001) // kept by ingest meanwhile
	putUDP(t, cl, 0, began.Add(100*time.Second), 40001)
	eventually(t, "the other flows are taken", func() bool { return w.Stats().Flows == 3 })
	eventually(t, "silence ends the connection", func() bool {
		now.ahead.Add(int64(time.Minute))
		return w.Stats().Connections > 0
	})
	stop()
	if got := published(t, c); len(got) != 1 {
		t.Errorf("want one connection, got %d", len(got))
	}
}
