//go:build integration

package integration

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/proto"

	"weir/internal/kafka"
	kafkatest "weir/internal/weirtest/kafka"
	"weir/internal/weirtest/workload"
	"weir/pkg/flowpb"
)

// TestAMillionConnectionsExactlyOnce pairs a million connections, with late records among them.
// Workers are killed eight times and a node once, then the group scales from one member to three,
// to one and to four. Consumers must read the same connections as after an undisturbed run. Then
// the group scales in the same way while no flow arrives.
func TestAMillionConnectionsExactlyOnce(t *testing.T) {
	const (
		connections = 1_000_000
		parts       = 8 // partitions of the flows
		kills       = 8
		workers     = 3
		session     = 6 * time.Second
		prefix      = "million."
	)
	ctx, cancel := context.WithTimeout(t.Context(), 14*time.Minute)
	defer cancel()
	c := kafkatest.Start(ctx, t)
	w := &world{t: t, bin: build(ctx, t, t.TempDir()), c: c}
	if err := kafka.Ensure(ctx, kafka.Config{Brokers: c.Brokers()}, config(prefix, parts), nil, kafka.Flows); err != nil {
		t.Fatal(err)
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.Brokers()...), kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)), kgo.ProducerLinger(5*time.Millisecond),
		kgo.MaxBufferedRecords(20_000), kgo.UnknownTopicRetries(-1))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()

	// The flows are sent in shares, one more than there are kills and changes of scale. Each share
	// has work for every partition when a worker is killed.
	undisturbed := workload.NewUndisturbed(parts)
	shares := kills + len(scales) + 1
	next := make(chan struct{}, shares)
	produced := make(chan int, shares)
	go func() {
		flows, share := 0, -1
		workload.Flows(connections, time.Now().Add(-50*time.Minute), shares, func(part int, key []byte, m *flowpb.FlowMessage) {
			if part != share {
				if share >= 0 {
					if err := cl.Flush(ctx); err != nil {
						t.Errorf("producing: %v", err)
					}
					produced <- flows
				}
				share = part
				<-next
			}
			flows++
			undisturbed.Publish(ctx, t, cl, prefix+"flows", key, m)
		})
		if err := cl.Flush(ctx); err != nil {
			t.Errorf("producing: %v", err)
		}
		produced <- flows
	}()

	settings := func(i int) []string {
		return []string{
			"TOPIC_PREFIX=" + prefix, fmt.Sprintf("INSTANCE=w%d", i), fmt.Sprintf("TOPIC_PARTITIONS=%d", parts), "KAFKA_SESSION_TIMEOUT=" + session.String(),
			"DNS_ENABLED=false",
		}
	}
	members := make([]*process, workers)
	for i := range members {
		members[i] = w.start("enrich", settings(i)...)
	}
	var mu sync.Mutex
	got, versions := workload.Reports{}, 0
	reading, stop := context.WithCancel(ctx)
	defer stop()
	var read sync.WaitGroup
	read.Go(func() {
		r, err := kgo.NewClient(kgo.SeedBrokers(c.Brokers()...), kgo.ConsumeTopics(prefix+"connections"), kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()),
			kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.UnknownTopicRetries(-1), kgo.MetadataMinAge(250*time.Millisecond))
		if err != nil {
			t.Error(err)
			return
		}
		defer r.Close()
		for reading.Err() == nil {
			f := r.PollFetches(reading)
			mu.Lock()
			f.EachRecord(func(r *kgo.Record) {
				var m flowpb.Connection
				if err := proto.Unmarshal(r.Value, &m); err != nil {
					t.Errorf("a record is not a connection: %v", err)
					return
				}
				got.Add(&m)
				versions = len(got)
			})
			mu.Unlock()
		}
	})
	adm := kadm.NewClient(cl)
	committed := func() (at [parts]int64) {
		try, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		offsets, err := adm.FetchOffsetsForTopics(try, "enrich", prefix+"flows")
		if err == nil {
			offsets.Each(func(o kadm.OffsetResponse) {
				if o.Err == nil && o.Topic == prefix+"flows" {
					at[o.Partition] = o.At
				}
			})
		}
		return at
	}
	sum := func(at [parts]int64) (n int64) {
		for _, v := range at {
			n += max(v, 0)
		}
		return n
	}

	began := time.Now()
	next <- struct{}{}
	flows := <-produced
	var restarts []time.Duration // from each kill until all partitions made progress
	for k := range kills {
		// The workers process this share while the next is produced, so that every partition has
		// further work.
		before := sum(committed())
		next <- struct{}{}
		kafkatest.Poll(ctx, t, "the share is worked on", func() bool { return sum(committed()) > before })
		members[k%workers].kill()
		if k == kills/2 {
			c.Kill(2)
		}
		killed, at := time.Now(), committed()
		members[k%workers] = w.start("enrich", settings(k%workers)...)
		moved := map[int]bool{}
		kafkatest.Poll(ctx, t, "all partitions move again", func() bool {
			now := committed()
			for p := range parts {
				if now[p] > at[p] {
					moved[p] = true
				}
			}
			return len(moved) == parts
		})
		took := time.Since(killed)
		flows = <-produced
		restarts = append(restarts, took)
		t.Logf("kill %d: all partitions made progress after %v", k+1, took.Round(100*time.Millisecond))
		if k == kills/2 {
			if err := c.StartNode(2); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, n := range scales {
		before := sum(committed())
		next <- struct{}{}
		kafkatest.Poll(ctx, t, "the share is worked on", func() bool { return sum(committed()) > before })
		members = w.scale(t, members, n, settings)
		flows = <-produced
	}
	// Seven processes share two cores with other load: only the median must hold the bound, and no
	// restart may wait for the timeout of a transaction.
	slices.Sort(restarts)
	median, slowest := restarts[len(restarts)/2], restarts[len(restarts)-1]
	if median > session+6*time.Second || slowest > 40*time.Second {
		t.Errorf("all partitions made progress after %v in the median, %v at most; want %v", median, slowest, session+6*time.Second)
	}
	kafkatest.Poll(ctx, t, "all flows are taken", func() bool { return sum(committed()) >= int64(flows) })
	want := undisturbed.Reports
	last, quiet := -1, time.Now()
	kafkatest.Poll(ctx, t, "all connections are read", func() bool {
		mu.Lock()
		defer mu.Unlock()
		if versions != last {
			last, quiet = versions, time.Now()
		}
		return versions >= len(want) && time.Since(quiet) > 2*time.Second || time.Since(quiet) > 20*time.Second
	})
	took := time.Since(began)
	stop()
	read.Wait()
	missing, duplicate, wrong := workload.Compare(want, got)
	if missing+duplicate+wrong > 0 || len(want) < connections || undisturbed.Versions[2] < connections/100 {
		t.Errorf("%d reports, want %d (%d second versions): %d missing, %d duplicate, %d wrong", len(got), len(want), undisturbed.Versions[2], missing, duplicate, wrong)
	}
	t.Logf("%d flows, %d reports of connections, %d of them second versions: missing %d, duplicate %d, wrong %d after %d kills of workers and one of a node, and scaling %v; all partitions moved again after %v in the median, %v at most; %v in all",
		flows, len(want), undisturbed.Versions[2], missing, duplicate, wrong, kills, scales, median.Round(100*time.Millisecond), slowest.Round(100*time.Millisecond), took.Round(time.Second))
	w.scale(t, members, 0, settings)
	w.scalesInSilence(ctx, t)
}

// scales lists the sizes of the group, in order.
var scales = []int{1, 3, 1, 4}

// scale starts or stops members until n run.
func (w *world) scale(t *testing.T, members []*process, n int, settings func(i int) []string) []*process {
	t.Helper()
	for len(members) > n {
		members[len(members)-1].terminate(t)
		members = members[:len(members)-1]
	}
	for len(members) < n {
		members = append(members, w.start("enrich", settings(len(members))...))
	}
	return members
}

// scalesInSilence changes the size of the group while no flow arrives and connections are open, so
// that partitions are reassigned without a transaction. Then stream time advances by silence alone,
// and each connection must be reported once.
func (w *world) scalesInSilence(ctx context.Context, t *testing.T) {
	const (
		prefix, group = "silence.", "silence"
		parts, each   = 8, 200
	)
	if err := kafka.Ensure(ctx, kafka.Config{Brokers: w.c.Brokers()}, config(prefix, parts), nil, kafka.Flows, kafka.Connections); err != nil {
		t.Fatal(err)
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(w.c.Brokers()...), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.UnknownTopicRetries(-1),
		kgo.ConsumeTopics(prefix+"connections"), kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	settings := func(i int) []string {
		return []string{
			"TOPIC_PREFIX=" + prefix, "GROUP=" + group, fmt.Sprintf("INSTANCE=s%d", i), fmt.Sprintf("TOPIC_PARTITIONS=%d", parts),
			"KAFKA_SESSION_TIMEOUT=6s", "DNS_ENABLED=false", "PAIR_IDLE=15s", "PAIR_ACTIVE_TIMEOUT=14s", "PAIR_INACTIVE_TIMEOUT=1s", "PAIR_LATE_GRACE=1s",
		}
	}
	began, want := time.Now(), 0
	members := w.scale(t, nil, 1, settings)
	for _, n := range scales[1:] {
		var records []*kgo.Record
		for i := range each { // UDP of one direction: only silence ends it
			at := time.Now()
			m := &flowpb.FlowMessage{
				Type: flowpb.FlowMessage_IPFIX, SrcAddr: binary.BigEndian.AppendUint32(nil, 10<<24|uint32(want)), DstAddr: []byte{192, 0, 2, 1},
				SrcPort: 40000, DstPort: 443, Proto: 17, Bytes: 900, Packets: 9, SamplingRate: 1, SamplerAddress: []byte{192, 0, 2, 1},
				DatagramHash: uint64(want) + 1, TimeResolutionUs: 1000, TimeReceivedNs: uint64(at.UnixNano()), TimeExportNs: uint64(at.UnixNano()),
				TimeFlowStartNs: uint64(at.Add(-2 * time.Second).UnixNano()), TimeFlowEndNs: uint64(at.Add(-time.Second).UnixNano()),
			}
			value, err := proto.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			records = append(records, &kgo.Record{Topic: prefix + "flows", Partition: int32(i % parts), Value: value, Timestamp: at})
			want++
		}
		if err := cl.ProduceSync(ctx, records...).FirstErr(); err != nil {
			t.Fatal(err)
		}
		kafkatest.Poll(ctx, t, "the flows are taken", func() bool {
			offsets, err := adm.FetchOffsetsForTopics(ctx, group, prefix+"flows")
			if err != nil {
				return false
			}
			taken := int64(0)
			offsets.Each(func(o kadm.OffsetResponse) { taken += max(o.At, 0) })
			return taken == int64(want)
		})
		for len(members) != n { // one member at a time, so that partitions are reassigned repeatedly
			now := len(members) + 1
			if n < now {
				now = len(members) - 1
			}
			members = w.scale(t, members, now, settings)
			kafkatest.Poll(ctx, t, fmt.Sprintf("the group has %d members that own all", now), func() bool {
				groups, err := adm.DescribeGroups(ctx, group)
				g := groups[group]
				return err == nil && g.State == "Stable" && len(g.Members) == now && len(g.AssignedPartitions()[prefix+"flows"]) == parts
			})
		}
	}
	times := map[string]int{} // by responder's peer
	quiet, total := time.Now(), 0
	for len(times) < want && ctx.Err() == nil || time.Since(quiet) < 8*time.Second {
		poll, cancel := context.WithTimeout(ctx, time.Second)
		f := cl.PollFetches(poll)
		cancel()
		f.EachRecord(func(r *kgo.Record) {
			var m flowpb.Connection
			if err := proto.Unmarshal(r.Value, &m); err != nil {
				t.Errorf("a record is not a connection: %v", err)
				return
			}
			if m.Version != 1 || !m.Final || m.EmitReason != flowpb.EmitReason_EMIT_REASON_IDLE || m.Forward.GetOctets() != 900 || m.Forward.GetPackets() != 9 {
				t.Errorf("wrong: %v", &m)
			}
			times[string(m.Initiator.GetAddress())]++
			quiet, total = time.Now(), total+1
		})
		if len(times) < want && time.Since(quiet) > 40*time.Second {
			break
		}
	}
	if len(times) != want || total != want {
		t.Errorf("scaling %v in silence: %d reports of %d connections, want each of %d once", scales, total, len(times), want)
	}
	t.Logf("scaling %v in silence: %d reports of %d connections, %d of them open; %v", scales, total, len(times), want, time.Since(began).Round(time.Second))
	w.scale(t, members, 0, settings)
}
