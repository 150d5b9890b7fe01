package enrich

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/proto"

	"weir/internal/kafka"
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

// putUDP produces one flow of a UDP conversation between 10.0.0.5:port and 192.0.2.80:443,
// received at.
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

// Only the partition whose state is gone goes on without it, and it counts once.
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
