//go:build integration

package integration

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"weir/internal/decode"
	"weir/internal/kafka"
	"weir/internal/kafka/framing"
	kafkatest "weir/internal/weirtest/kafka"
)

// outcomes is an Account that counts.
type outcomes struct{ acked, failed atomic.Int64 }

func (o *outcomes) Settled(n int, err error) {
	if err != nil {
		o.failed.Add(int64(n))
		return
	}
	o.acked.Add(int64(n))
}

// Each of three nodes is killed and comes back while the producer of own batches is in use, then the topic is
// deleted and recreated with another number of partitions. Each record is on the topic once, with its key, value,
// partition and time, and those of a key are in order.
func TestOwnBatchesOnRealKafka(t *testing.T) {
	const topic, parts, partsThen, keys = "own.flows", 6, 9, 101
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	c := kafkatest.Start(ctx, t)
	if !c.Own() {
		t.Skip("SKIPPED: kills the nodes, and those of KAFKA_BROKERS are not its own")
	}
	kc := kafka.Config{Brokers: c.Brokers(), ClientID: "own"}
	if err := kafka.Ensure(ctx, kc, config("own.", parts), nil, kafka.Flows); err != nil {
		t.Fatal(err)
	}
	p, err := kafka.NewProducer(kc, topic, kafka.ProducerConfig{Linger: 10 * time.Millisecond, Batches: &framing.Config{}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	of := &outcomes{}
	sent := 0
	received := time.Now().UnixMilli()
	at := func(i int) time.Time { return time.UnixMilli(received + int64(i)/30) }
	message := func(buf []byte, i int) ([]byte, decode.Span) {
		s := decode.Span{Start: len(buf)}
		buf = append(binary.BigEndian.AppendUint32(buf, uint32(i)), bytes.Repeat([]byte{byte(i)}, 80+i%50)...)
		s.ValueEnd = len(buf)
		buf = fmt.Appendf(buf, "key %d", i%keys)
		s.KeyEnd = len(buf)
		return buf, s
	}
	add := func(d time.Duration) { // 20 000 a second
		for began := time.Now(); time.Since(began) < d; time.Sleep(15 * time.Millisecond) {
			for range 10 {
				var buf []byte
				var spans []decode.Span
				for i := range 30 {
					var s decode.Span
					buf, s = message(buf, sent+i)
					spans = append(spans, s)
				}
				p.Batches().Add(buf, spans, at(sent), of)
				sent += 30
			}
		}
	}
	flush := func() {
		t.Helper()
		if err := p.Flush(ctx); err != nil {
			t.Fatal(err)
		}
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.Brokers()...))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	check := func(from, n int) {
		t.Helper()
		reader, err := kgo.NewClient(kgo.SeedBrokers(c.Brokers()...), kgo.ConsumeTopics(topic), kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()))
		if err != nil {
			t.Fatal(err)
		}
		defer reader.Close()
		left := 0
		ends, err := kadm.NewClient(reader).ListEndOffsets(ctx, topic)
		if err != nil {
			t.Fatal(err)
		}
		ends.Each(func(o kadm.ListedOffset) { left += int(o.Offset) })
		total := left
		client := kgo.StickyKeyPartitioner(nil).ForTopic(topic)
		seen, last := make([]int, sent), map[string]int{}
		wrong := 0
		for left > 0 {
			fs := reader.PollFetches(ctx)
			if err := fs.Err(); err != nil {
				t.Fatalf("%d of %d records are read: %v", total-left, total, err)
			}
			fs.EachRecord(func(r *kgo.Record) {
				left--
				i := int(binary.BigEndian.Uint32(r.Value))
				buf, s := message(nil, i)
				if !bytes.Equal(r.Value, buf[:s.ValueEnd]) || !bytes.Equal(r.Key, buf[s.ValueEnd:]) || !r.Timestamp.Equal(at(i/30*30)) ||
					int(r.Partition) != client.Partition(&kgo.Record{Key: r.Key}, n) || last[string(r.Key)] > i {
					wrong++
				}
				last[string(r.Key)] = i
				seen[i]++
			})
		}
		missing, twice := 0, 0
		for _, n := range seen[from:] {
			if n == 0 {
				missing++
			}
			if n > 1 {
				twice++
			}
		}
		t.Logf("%d sent, %d in all acknowledged, %d failed; on the topic %d: %d missing, %d twice, %d otherwise wrong",
			sent-from, of.acked.Load(), of.failed.Load(), total, missing, twice, wrong)
		if missing+twice+wrong > 0 || total != sent-from || of.failed.Load() > 0 || of.acked.Load() != int64(sent) {
			t.Errorf("want each of %d records once, and acknowledged", sent-from)
		}
	}
	add(2 * time.Second)
	for i := range kafkatest.Nodes {
		c.Kill(i)
		add(6 * time.Second)
		if err := c.StartNode(i); err != nil {
			t.Fatal(err)
		}
		add(2 * time.Second)
		c.WaitUp(ctx, t, kafkatest.Nodes)
		flush() // with two of three replicas at least; the next kill must leave two
		inSync(ctx, t, adm, topic)
	}
	check(0, parts)

	before := sent
	if _, err := adm.DeleteTopics(ctx, topic); err != nil {
		t.Fatal(err)
	}
	kafkatest.Poll(ctx, t, "the topic is gone", func() bool { // until then records may go to the old topic
		all, err := adm.ListTopics(ctx, topic)
		return err == nil && !all.Has(topic)
	})
	add(time.Second)
	if err := kafka.Ensure(ctx, kc, config("own.", partsThen), nil, kafka.Flows); err != nil {
		t.Fatal(err)
	}
	add(2 * time.Second)
	flush()
	check(before, partsThen)
}

// inSync waits until all replicas of a topic are in sync.
func inSync(ctx context.Context, t *testing.T, adm *kadm.Client, topic string) {
	t.Helper()
	kafkatest.Poll(ctx, t, "all replicas are in sync", func() bool {
		all, err := adm.ListTopics(ctx, topic)
		if err != nil {
			return false
		}
		is := true
		all.EachPartition(func(d kadm.PartitionDetail) { is = is && len(d.ISR) == len(d.Replicas) && d.Leader >= 0 })
		return is
	})
}
