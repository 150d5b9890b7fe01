package enrich

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"weir/internal/kafka"
	"weir/internal/kafka/broker"
	"weir/internal/kafka/framing"
	"weir/internal/pair"
	"weir/internal/services"
	"weir/pkg/flowpb"
)

const partitions = 3

var pairing = pair.Config{
	Idle: 75 * time.Second, Linger: 5 * time.Second, LateGrace: 60 * time.Second, ClockSkew: 2 * time.Second,
	MaxClockSkew: 10 * time.Second, UpdateInterval: 30 * time.Minute, ActiveTimeout: 60 * time.Second,
	InactiveTimeout: 15 * time.Second, MaxOpen: 1_000_000,
	Service: services.HasName,
}

func config(cluster *kfake.Cluster, instance string) Config {
	return Config{
		Instance: instance, Group: "enrich", CommitRecords: 100, CommitEvery: 20 * time.Millisecond, Pair: pairing,
		Kafka:  kafka.Config{Brokers: cluster.ListenAddrs(), ClientID: "test", SessionTimeout: 5 * time.Second},
		Topics: kafka.TopicConfig{Prefix: "t.", Mode: "create", Partitions: partitions, Replication: 1, FlowsRetention: time.Hour, ConnRetention: time.Hour},
	}
}

func cluster(t *testing.T) *kfake.Cluster {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.BrokerConfigs(map[string]string{"group.min.session.timeout.ms": "1000"}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	broker.Mend(c)
	ctx := t.Context()
	w := config(c, "")
	if err := kafka.Ensure(ctx, w.Kafka, w.Topics, nil, kafka.Flows, kafka.Pairing, kafka.Connections); err != nil {
		t.Fatal(err)
	}
	return c
}

// clock is the wall clock, with a jump that a test makes.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time { return time.Now().Add(time.Duration(c.ahead.Load())) }

func start(t *testing.T, c Config, now func() time.Time) (w *Worker, stop func()) {
	t.Helper()
	w, err := New(c, Deps{Log: slog.New(slog.DiscardHandler), Now: now})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	return w, func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("worker: %v", err)
		}
	}
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	end := time.After(60 * time.Second)
	for !is() {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("not within 60 s: %s", what)
		}
	}
}

// produce produces n flows to the topic, of conversations that complete, stay one-sided, or get a late record. It
// returns the reports of a separate machine per partition.
func produce(t *testing.T, c *kfake.Cluster, n int) (want []string) {
	t.Helper()
	return produceAs(t, c, n, 1)
}

// produceAs is produce in records of each form in turn, pack flows of a partition
// in those that can have several.
func produceAs(t *testing.T, c *kfake.Cluster, n, pack int) (want []string) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...), kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	rng := rand.New(rand.NewPCG(1, 2))
	at := time.Now().Add(-time.Hour).UnixNano()
	machines := map[int32]*pair.Machine{}
	var records []*kgo.Record
	for i := range n {
		at += rng.Int64N(200) * int64(time.Millisecond)
		client, server := []byte{10, 0, 0, byte(rng.IntN(40))}, []byte{192, 0, 2, byte(rng.IntN(4))}
		m := &flowpb.FlowMessage{
			Type: flowpb.FlowMessage_NETFLOW_V9, SrcAddr: client, DstAddr: server, SrcPort: 40000, DstPort: 443, Proto: 6,
			SamplerAddress: []byte{192, 0, 2, 1}, Bytes: 900, Packets: 9, TcpFlags: uint32(rng.IntN(32)),
			TimeReceivedNs: uint64(at), TimeFlowStartNs: uint64(at - 2e9), TimeFlowEndNs: uint64(at - 1e9), TimeResolutionUs: 1000,
			DatagramHash: uint64(i) + 1,
		}
		key := []byte{m.SrcAddr[3], m.DstAddr[3]}
		if rng.IntN(2) == 0 {
			m.SrcAddr, m.DstAddr, m.SrcPort, m.DstPort = m.DstAddr, m.SrcAddr, m.DstPort, m.SrcPort
		}
		b, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		records = append(records, &kgo.Record{Topic: "t.flows", Key: key, Value: b, Timestamp: time.Unix(0, at)})
	}
	if pack == 1 {
		if err := cl.ProduceSync(t.Context(), records...).FirstErr(); err != nil {
			t.Fatal(err)
		}
	} else {
		produceInForms(t, c, records, pack)
	}
	out := func(e *pair.Emission) {
		c := proto.CloneOf(e.Connection)
		c.CommunityId = pair.CommunityID(c)
		want = append(want, plain(c))
	}
	slices.SortFunc(records, func(a, b *kgo.Record) int { return int(a.Offset - b.Offset) })
	for _, r := range records {
		m := machines[r.Partition]
		if m == nil {
			m = pair.New(pairing, partitions, out)
			machines[r.Partition] = m
		}
		var fm flowpb.FlowMessage
		if err := proto.Unmarshal(r.Value, &fm); err != nil {
			t.Fatal(err)
		}
		if f, ok := pair.FromMessage(&fm, &pairing); ok {
			m.Observe(&f)
		}
	}
	for _, m := range machines {
		m.Advance(m.StreamTime() + int64(10*time.Minute))
	}
	slices.Sort(want)
	return want
}

// produceInForms produces packs of flows of a key, each in another form, and notes
// partition and order in records.
func produceInForms(t *testing.T, c *kfake.Cluster, records []*kgo.Record, pack int) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	send := func(partition int32, at time.Time, value []byte) int64 {
		r := &kgo.Record{Topic: "t.flows", Partition: partition, Value: value, Timestamp: at}
		if err := cl.ProduceSync(t.Context(), r).FirstErr(); err != nil {
			t.Fatal(err)
		}
		return r.Offset
	}
	place := kgo.StickyKeyPartitioner(nil).ForTopic("t.flows")
	packs := map[int32][]*kgo.Record{}
	turn := 0
	flush := func(p int32) {
		form := []framing.Config{{}, {Format: "json"}, {Framing: "delimited"}, {Framing: "delimited"}}[turn%4]
		several, record := turn%4 == 3, []byte(nil)
		for _, r := range packs[p] {
			var err error
			if record, err = form.Append(record, framing.Flows, r.Value); err != nil {
				t.Fatal(err)
			}
			if r.Partition = p; !several {
				r.Offset, record = send(p, r.Timestamp, record)<<16, nil
			}
		}
		if several {
			offset := send(p, packs[p][0].Timestamp, record)
			for i, r := range packs[p] {
				r.Offset = offset<<16 | int64(i)
			}
		}
		turn++
		delete(packs, p)
	}
	for _, r := range records {
		p := int32(place.Partition(r, partitions))
		if packs[p] = append(packs[p], r); len(packs[p]) == pack {
			flush(p)
		}
	}
	for p := range packs {
		flush(p)
	}
}

// plain is a connection without names and their status.
func plain(c *flowpb.Connection) string {
	c = proto.CloneOf(c)
	for _, e := range []*flowpb.Endpoint{c.Initiator, c.Responder} {
		e.Name, e.NameStatus, e.NameVerified, e.NameSource = "", 0, false, 0
	}
	c.Service = ""
	return prototext.MarshalOptions{Multiline: false}.Format(c)
}

// published returns the records that consumers at isolation level read_committed receive.
func published(t *testing.T, c *kfake.Cluster) (out []string) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...), kgo.ConsumeTopics("t.connections"),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(50*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	for quiet := 0; quiet < 4; {
		ctx, cancel := context.WithTimeout(t.Context(), 250*time.Millisecond)
		f := cl.PollFetches(ctx)
		cancel()
		if f.NumRecords() == 0 {
			quiet++
			continue
		}
		quiet = 0
		f.EachRecord(func(r *kgo.Record) {
			var m flowpb.Connection
			value, left, err := framing.Connections.Next(r.Value)
			if err != nil || len(left) > 0 || proto.Unmarshal(value, &m) != nil {
				t.Fatalf("record %x: %v, %d octets left", r.Value, err, len(left))
			}
			if string(r.Key) != string(m.ConnectionId) {
				t.Errorf("key: want the connection's id %x, got %x", m.ConnectionId, r.Key)
			}
			out = append(out, plain(&m))
		})
	}
	slices.Sort(out)
	return out
}

func same(t *testing.T, want, got []string) {
	t.Helper()
	if len(want) < 50 {
		t.Fatalf("%d connections prove nothing", len(want))
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("want %d connections, got %d (-want +got):\n%.3000s", len(want), len(got), d)
	}
}

func TestConnectionsAreThoseOfTheMachineAlone(t *testing.T) {
	c := cluster(t)
	want := produce(t, c, 3000)
	var now clock
	w, stop := start(t, config(c, "a"), now.now)
	eventually(t, "all flows are taken", func() bool { return w.Stats().Flows == 3000 })
	if err := w.Ready(); err != nil {
		t.Errorf("ready: %v", err)
	}
	now.ahead.Store(int64(10 * time.Minute))
	eventually(t, "silence ends what is open", func() bool { return w.Stats().Connections == uint64(len(want)) })
	stop()
	same(t, want, published(t, c))
}

// Flows come in records of all forms, and connections leave in each.
func TestTheFormOfRecords(t *testing.T) {
	for _, form := range []framing.Config{{Framing: "delimited"}, {Format: "json"}} {
		t.Run(form.Framing+form.Format, func(t *testing.T) {
			c := cluster(t)
			want := produceAs(t, c, 3000, 20)
			var now clock
			conf := config(c, "a")
			conf.Form = form
			w, stop := start(t, conf, now.now)
			eventually(t, "all flows are taken", func() bool { return w.Stats().Flows == 3000 })
			now.ahead.Store(int64(10 * time.Minute))
			eventually(t, "silence ends what is open", func() bool { return w.Stats().Connections == uint64(len(want)) })
			if s := w.Stats(); s.Poison != 0 {
				t.Errorf("%d records were no flows", s.Poison)
			}
			stop()
			same(t, want, published(t, c))
		})
	}
}

// Workers join and leave, and transactions fail at their end and while offsets are committed. Each time the state must
// continue from the last commit.
func TestConnectionsStayExactlyOnceUnderFailuresAndRebalances(t *testing.T) {
	c := cluster(t)
	want := produce(t, c, 6000)
	var failures atomic.Int32
	rng := rand.New(rand.NewPCG(7, 7))
	c.ControlKey(int16(kmsg.TxnOffsetCommit), func(req kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if rng.IntN(5) != 0 || failures.Load() > 15 {
			return nil, nil, false
		}
		failures.Add(1)
		r := req.(*kmsg.TxnOffsetCommitRequest)
		resp := r.ResponseKind().(*kmsg.TxnOffsetCommitResponse)
		for _, t := range r.Topics {
			rt := kmsg.NewTxnOffsetCommitResponseTopic()
			rt.Topic, rt.TopicID = t.Topic, t.TopicID
			for _, p := range t.Partitions {
				rp := kmsg.NewTxnOffsetCommitResponseTopicPartition()
				rp.Partition, rp.ErrorCode = p.Partition, kerr.RebalanceInProgress.Code
				rt.Partitions = append(rt.Partitions, rp)
			}
			resp.Topics = append(resp.Topics, rt)
		}
		return resp, nil, true
	})
	var now clock
	taken := uint64(0)
	for i := range 4 { // one after the other, each stopped in the middle
		w, stop := start(t, config(c, fmt.Sprintf("w%d", i)), now.now)
		eventually(t, "some flows are taken", func() bool { return w.Stats().Flows > 500 })
		stop()
		taken += w.Stats().Flows
	}
	a, stopA := start(t, config(c, "a"), now.now)
	b, stopB := start(t, config(c, "b"), now.now)
	eventually(t, "all flows are taken", func() bool { return taken+a.Stats().Flows+b.Stats().Flows == 6000 })
	eventually(t, "silence ends what is open", func() bool {
		now.ahead.Add(int64(10 * time.Minute)) // again and again: after an abort it counts anew
		return len(published(t, c)) >= len(want)
	})
	stopA()
	stopB()
	if failures.Load() == 0 {
		t.Error("no commit failed: nothing was proved")
	}
	same(t, want, published(t, c))
}

func TestARecordThatIsNoFlowIsCountedAndPassed(t *testing.T) {
	c := cluster(t)
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: "t.flows", Value: []byte("\xff\xff")}, &kgo.Record{Topic: "t.flows", Value: []byte{8, 2}}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	w, stop := start(t, config(c, "a"), time.Now)
	eventually(t, "both are passed", func() bool { s := w.Stats(); return s.Poison == 1 && s.NotPairable == 1 })
	stop()
}

func TestAGroupOfAnotherProgramIsRefused(t *testing.T) {
	c := cluster(t)
	produce(t, c, 100)
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...), kgo.ConsumerGroup("enrich"), kgo.ConsumeTopics("t.flows"), kgo.DisableAutoCommit(), kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	f := cl.PollFetches(t.Context())
	if err := errors.Join(f.Err(), cl.CommitUncommittedOffsets(t.Context())); err != nil {
		t.Fatal(err)
	}
	cl.LeaveGroup()
	cl.Close()
	w, err := New(config(c, "a"), Deps{Log: slog.New(slog.DiscardHandler), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "another program") || !strings.Contains(err.Error(), "GROUP") {
		t.Errorf("got %v", err)
	}
}

func TestRestorePoints(t *testing.T) {
	for _, tt := range []struct {
		name, in string
		want     restorePoint
		ok       bool
	}{
		{"as written", "weir/2 1700000000000000000 5 9", restorePoint{2, 1_700_000_000_000_000_000, 5, 9}, true},
		{"format 3", "weir/3 1 5 9", restorePoint{3, 1, 5, 9}, true},
		{"format 3, an optional field more", "weir/3 1 5 9 a=7 b=", restorePoint{3, 1, 5, 9}, true},
		{"format 3, a required field more", "weir/3 1 5 9 a=7 B=8", noState, false},
		{"format 3, a field without a key", "weir/3 1 5 9 =7", noState, false},
		{"format 3, no field", "weir/3 1 5 9 ", noState, false},
		{"an earlier form", "weir/1 1 5 9", noState, false},
		{"a later form", "weir/4 1 5 9", noState, false},
		{"something else", "consumer metadata", noState, false},
		{"more than it should be", "weir/2 1 5 9 7", noState, false},
		{"empty", "", noState, false},
	} {
		got, err := parsePoint(tt.in)
		if got != tt.want || (err == nil) != tt.ok {
			t.Errorf("%s: want %+v %v, got %+v %v", tt.name, tt.want, tt.ok, got, err)
		}
	}
}

func TestConfigReportsEveryMistake(t *testing.T) {
	err := Config{CommitEvery: time.Hour, StateLost: "maybe"}.Validate()
	for _, want := range []string{"GROUP is empty", "COMMIT_RECORDS=0", "COMMIT_INTERVAL=1h0m0s", `STATE_LOST="maybe"`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q in %v", want, err)
		}
	}
}
