package batches

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/internal/decode"
	"weir/internal/kafka/framing"
)

const topicName = "t.flows"

// keys is the number of different keys.
const keys = 37

// numbered returns the messages from..from+n-1 as a decoder leaves them. Message i has the key of i modulo keys.
func numbered(from, n int) (buf []byte, spans []decode.Span) {
	for i := from; i < from+n; i++ {
		s := decode.Span{Start: len(buf)}
		buf = append(buf, 0x08, 0x04, 0x4a, 6, 0, 0)
		buf = binary.BigEndian.AppendUint32(buf, uint32(i))
		buf = append(buf, bytes.Repeat([]byte{byte(i)}, i%150)...)
		s.ValueEnd = len(buf)
		buf = fmt.Appendf(buf, "key %d", i%keys)
		s.KeyEnd = len(buf)
		spans = append(spans, s)
	}
	return buf, spans
}

func numberOf(value []byte) int { return int(binary.BigEndian.Uint32(value[6:])) }

// receivedAt returns the receive time of message i.
func receivedAt(i int) time.Time { return time.UnixMilli(1_790_000_000_000 + int64(i/100)) }

// outcomes is an Account that counts.
type outcomes struct {
	acked, full, closed, other atomic.Int64
}

func (o *outcomes) Settled(n int, err error) {
	switch {
	case err == nil:
		o.acked.Add(int64(n))
	case errors.Is(err, ErrBufferFull):
		o.full.Add(int64(n))
	case errors.Is(err, ErrClosed):
		o.closed.Add(int64(n))
	default:
		o.other.Add(int64(n))
	}
}

func (o *outcomes) String() string {
	return fmt.Sprintf("%d acknowledged, %d refused, %d closed, %d failed", o.acked.Load(), o.full.Load(), o.closed.Load(), o.other.Load())
}

// A stage is a cluster with a topic and a producer to it.
type stage struct {
	t       *testing.T
	ctx     context.Context
	c       *kfake.Cluster
	p       *Producer
	of      outcomes
	written atomic.Int64 // records that Config.Written was called for
	sent    int
}

// change modifies the settings of a test's producer.
type change func(*Config)

func newStage(t *testing.T, partitions int32, changes []change, opts ...kfake.Opt) *stage {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	s := &stage{t: t, ctx: ctx}
	var err error
	s.c, err = kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(3), kfake.SeedTopics(partitions, topicName)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.c.Close)
	s.produce(s.c.ListenAddrs(), changes...)
	return s
}

// produce makes the producer.
func (s *stage) produce(addrs []string, changes ...change) {
	s.t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(addrs...), kgo.MetadataMinAge(50*time.Millisecond),
		kgo.RetryBackoffFn(func(int) time.Duration { return 20 * time.Millisecond }))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(cl.Close)
	c := Config{
		Client: cl, Topic: topicName, Codec: kgo.SnappyCompression(), Linger: time.Millisecond, MaxRecords: 1 << 20, MaxOctets: 64 << 20,
		Backoff: func(int) time.Duration { return 10 * time.Millisecond },
		Written: func(_, _ int32, m kgo.ProduceBatchMetrics) { s.written.Add(int64(m.NumRecords)) },
	}
	for _, f := range changes {
		f(&c)
	}
	if s.p, err = New(c); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(s.p.Close)
}

// add adds n messages, ten at a time, and overwrites each buffer after its call.
func (s *stage) add(n int) {
	for end := s.sent + n; s.sent < end; {
		some := min(10, end-s.sent)
		buf, spans := numbered(s.sent, some)
		s.p.Add(buf, spans, receivedAt(s.sent), &s.of)
		clear(buf)
		s.sent += some
	}
}

func (s *stage) flush() {
	s.t.Helper()
	if err := s.p.Flush(s.ctx); err != nil {
		s.t.Fatalf("flush: %v; %v", err, &s.of)
	}
}

// addInSteps adds messages in several steps that are flushed, so that there are many batches.
func (s *stage) addInSteps(n, steps int) {
	s.t.Helper()
	for range steps {
		s.add(n / steps)
		s.flush()
	}
}

// check checks that the topic holds the messages from..sent-1, each once with its key, octets and time, in the
// partition of its key among n, in order, and that each was acknowledged once.
func (s *stage) check(from int, n int) {
	s.t.Helper()
	t := s.t
	if got := s.of.acked.Load(); got != int64(s.sent) || s.of.full.Load()+s.of.closed.Load()+s.of.other.Load() > 0 {
		t.Errorf("%v; want %d acknowledged", &s.of, s.sent)
	}
	if records, octets := s.p.Buffered(); records != 0 || octets != 0 {
		t.Errorf("buffered after a flush: %d records, %d octets", records, octets)
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(s.c.ListenAddrs()...), kgo.ConsumeTopics(topicName),
		kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(100*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ends, err := kadm.NewClient(cl).ListEndOffsets(s.ctx, topicName)
	if err != nil {
		t.Fatal(err)
	}
	left := int64(0)
	ends.Each(func(o kadm.ListedOffset) { left += o.Offset })
	if left != int64(s.sent-from) {
		t.Errorf("the topic has %d records; want %d", left, s.sent-from)
	}
	client := kgo.StickyKeyPartitioner(nil).ForTopic(topicName)
	seen, last := map[int]int{}, map[string]int{}
	for left > 0 {
		fs := cl.PollFetches(s.ctx)
		if err := fs.Err0(); err != nil {
			t.Fatal(err)
		}
		fs.EachRecord(func(r *kgo.Record) {
			left--
			i := numberOf(r.Value)
			buf, spans := numbered(i, 1)
			x := spans[0]
			if !bytes.Equal(r.Value, buf[:x.ValueEnd]) || !bytes.Equal(r.Key, buf[x.ValueEnd:]) || !r.Timestamp.Equal(receivedAt(i/10*10)) {
				t.Fatalf("message %d has key %q, time %v and value %x", i, r.Key, r.Timestamp, r.Value)
			}
			if want := client.Partition(&kgo.Record{Key: r.Key}, n); int(r.Partition) != want {
				t.Errorf("message %d: want partition %d, got %d", i, want, r.Partition)
			}
			if before, ok := last[string(r.Key)]; ok && before > i {
				t.Errorf("message %d comes after %d of the same key", i, before)
			}
			last[string(r.Key)] = i
			seen[i]++
		})
	}
	missing, twice := 0, 0
	for i := from; i < s.sent; i++ {
		switch seen[i] {
		case 0:
			missing++
		case 1:
		default:
			twice++
		}
	}
	if missing+twice > 0 || len(seen) != s.sent-from {
		t.Errorf("%d missing, %d twice, %d different of %d", missing, twice, len(seen), s.sent-from)
	}
}

func TestEachMessageArrivesOnceWithEachCodec(t *testing.T) {
	for name, codec := range map[string]kgo.CompressionCodec{
		"none": kgo.NoCompression(), "snappy": kgo.SnappyCompression(), "lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
	} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t, 3, []change{func(c *Config) { c.Codec = codec }})
			s.addInSteps(5000, 5)
			s.add(40_000) // more than a batch of a partition
			s.flush()
			s.check(0, 3)
			if n := s.written.Load(); n != int64(s.sent) {
				t.Errorf("Written has seen %d records of %d", n, s.sent)
			}
		})
	}
}

func TestABatchLeavesAfterTheLingerWithoutAFlush(t *testing.T) {
	s := newStage(t, 3, nil)
	s.add(10)
	for s.of.acked.Load() < 10 {
		if s.ctx.Err() != nil {
			t.Fatalf("%v; want 10 acknowledged", &s.of)
		}
		time.Sleep(time.Millisecond)
	}
}

// A fault that kfake answers instead of the append, or, for a time-out, after it.
func TestNoMessageIsLostOrDoubledAfterAnErrorOfTheBroker(t *testing.T) {
	for _, e := range []*kerr.Error{
		kerr.NotLeaderForPartition, kerr.FencedLeaderEpoch, kerr.LeaderNotAvailable, kerr.RequestTimedOut, kerr.NotEnoughReplicas,
		kerr.NotEnoughReplicasAfterAppend, kerr.KafkaStorageError, kerr.UnknownTopicOrPartition, kerr.UnknownTopicID,
		kerr.OutOfOrderSequenceNumber, kerr.UnknownProducerID, kerr.InvalidProducerEpoch, kerr.InvalidProducerIDMapping,
		kerr.MessageTooLarge, kerr.RecordListTooLarge, kerr.NetworkException, kerr.BrokerNotAvailable,
	} {
		t.Run(e.Message, func(t *testing.T) {
			s := newStage(t, 3, nil)
			s.addInSteps(200, 2)
			f := s.c.Fault(
				kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: topicName, Partitions: []int32{1}, Err: e, Count: 3, When: divisible},
				kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: topicName, Err: e, Count: 2, When: divisible},
			)
			s.addInSteps(2000, 10)
			if f.Hits() < 5 {
				t.Errorf("the faults happened %d times: the test proves nothing", f.Hits())
			}
			s.check(0, 3)
		})
	}
}

// divisible reports whether each batch of a produce request has several records: a batch with a single record that is
// too large cannot be split and fails.
func divisible(r kmsg.Request) bool {
	for _, topic := range r.(*kmsg.ProduceRequest).Topics {
		for _, partition := range topic.Partitions {
			var b kmsg.RecordBatch
			if err := b.ReadFrom(partition.Records); err != nil || b.NumRecords < 2 {
				return false
			}
		}
	}
	return true
}

// The first try is appended and its answer is lost; to the second the broker says that it has had these numbers.
func TestADuplicateSequenceNumberIsAnAcknowledgement(t *testing.T) {
	s := newStage(t, 1, nil)
	lost := s.c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: topicName, Err: kerr.RequestTimedOut})
	known := s.c.Fault(kfake.Fault{
		Keys: []kmsg.Key{kmsg.Produce}, Topic: topicName, Err: kerr.DuplicateSequenceNumber,
		When: func(kmsg.Request) bool { return lost.Hits() > 0 },
	})
	s.addInSteps(1000, 5)
	if known.Hits() != 1 {
		t.Errorf("the fault happened %d times: the test proves nothing", known.Hits())
	}
	s.check(0, 1)
}

// The numbers of a partition and the broker's do not agree: the broker itself refuses the next batch.
func TestAGapInTheSequenceEndsWithANewProducerID(t *testing.T) {
	s := newStage(t, 3, nil)
	s.addInSteps(300, 3)
	s.p.mu.Lock()
	before := s.p.parts[1].id.ProducerID
	s.p.parts[1].id.Sequence += 5
	s.p.mu.Unlock()
	s.addInSteps(1000, 5)
	s.check(0, 3)
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	if a, b := s.p.parts[0].id.ProducerID, s.p.parts[1].id.ProducerID; a != before || b == before {
		t.Errorf("want another producer id than %d for partition 1 alone, got %d, and %d for partition 0", before, b, a)
	}
}

func TestNoMessageIsLostOrDoubledWhenConnectionsBreak(t *testing.T) {
	s := newStage(t, 3, nil)
	s.addInSteps(100, 1)
	var broken atomic.Int64
	s.c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		s.c.KeepControl()
		if broken.Add(1)%3 != 0 {
			return nil, nil, false
		}
		return nil, errors.New("broken"), true // kfake closes the connection
	})
	s.addInSteps(2000, 20)
	if broken.Load() < 20 {
		t.Errorf("%d requests: the test proves nothing", broken.Load())
	}
	s.check(0, 3)
}

func TestBatchesFollowALeaderThatMoves(t *testing.T) {
	s := newStage(t, 3, nil)
	s.addInSteps(100, 1)
	for i := range 12 {
		if err := s.c.MoveTopicPartition(topicName, int32(i%3), int32(i/2%3)); err != nil {
			t.Fatal(err)
		}
		s.addInSteps(200, 2)
	}
	s.check(0, 3)
}

// kfake's answer names the new leader (KIP-951): no metadata are needed to find it.
func TestALeaderNamedInTheAnswerIsUsedAtOnce(t *testing.T) {
	s := newStage(t, 1, []change{func(c *Config) { c.Backoff = func(int) time.Duration { return time.Hour } }})
	s.addInSteps(100, 1)
	s.p.mu.Lock()
	leader := s.p.parts[0].leader
	s.p.mu.Unlock()
	blind := s.c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Metadata}, Topic: topicName, Err: kerr.UnknownTopicOrPartition, Count: -1})
	if err := s.c.MoveTopicPartition(topicName, 0, (leader+1)%3); err != nil {
		t.Fatal(err)
	}
	s.addInSteps(100, 1)
	blind.Remove()
	s.check(0, 1)
}

// Metadata say for a while that there is no leader.
func TestAPartitionWithoutLeaderWaitsForOne(t *testing.T) {
	s := newStage(t, 3, nil)
	s.addInSteps(100, 1)
	none := s.c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Metadata}, Topic: topicName, Err: kerr.LeaderNotAvailable, Count: 4})
	moved := s.c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: topicName, Err: kerr.NotLeaderForPartition, Count: 2})
	s.addInSteps(500, 5)
	if none.Hits() == 0 || moved.Hits() == 0 {
		t.Errorf("the faults happened %d and %d times: the test proves nothing", none.Hits(), moved.Hits())
	}
	s.check(0, 3)
	s.p.mu.Lock()
	for _, x := range s.p.parts { // as after metadata whose partitions have no leader
		x.leader = -1
	}
	s.p.mu.Unlock()
	s.addInSteps(500, 5)
	s.check(0, 3)
}

// The limit of the topic is below the length of a batch: batches are split until they fit, and a record that is
// too large alone fails.
func TestABatchThatIsTooLargeIsSplit(t *testing.T) {
	s := newStage(t, 3, []change{func(c *Config) { c.Codec, c.Linger = kgo.NoCompression(), time.Second }})
	limit := "40000"
	cl := s.p.c.Client
	if _, err := kadm.NewClient(cl).AlterTopicConfigs(s.ctx, []kadm.AlterConfig{{Name: "max.message.bytes", Value: &limit}}, topicName); err != nil {
		t.Fatal(err)
	}
	s.add(20_000) // two batches of a partition
	s.flush()
	s.check(0, 3)
	s.p.Add(append(make([]byte, 50_000), "key"...), []decode.Span{{Start: 0, ValueEnd: 50_000, KeyEnd: 50_003}}, receivedAt(0), &s.of)
	s.flush()
	if n := s.of.other.Load(); n != 1 {
		t.Errorf("%v; want 1 that failed", &s.of)
	}
	s.of.other.Store(0)
	s.addInSteps(100, 1)
	s.check(0, 3)
}

func TestAnErrorWithoutRemedyFailsItsBatchOnly(t *testing.T) {
	s := newStage(t, 1, nil)
	s.addInSteps(100, 1)
	s.c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: topicName, Err: kerr.TopicAuthorizationFailed})
	of := &outcomes{}
	buf, spans := numbered(0, 10)
	s.p.Add(buf, spans, receivedAt(0), of)
	s.flush()
	if of.other.Load() != 10 || of.acked.Load() != 0 {
		t.Errorf("%v; want 10 that failed", of)
	}
	s.addInSteps(100, 2)
	s.check(0, 1)
}

// The first try of a batch is appended and its answer is lost; the second is refused for good. The next batch has as
// many records: with the same numbers, the broker would acknowledge it as the batch that it has.
func TestABatchAfterAFailedBatchInDoubtIsAppended(t *testing.T) {
	for _, e := range []*kerr.Error{kerr.TopicAuthorizationFailed, kerr.InvalidRecord} {
		t.Run(e.Message, func(t *testing.T) {
			s := newStage(t, 1, nil)
			s.addInSteps(100, 1)
			lost := s.c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: topicName, Err: kerr.RequestTimedOut})
			refused := s.c.Fault(kfake.Fault{
				Keys: []kmsg.Key{kmsg.Produce}, Topic: topicName, Err: e,
				When: func(kmsg.Request) bool { return lost.Hits() > 0 },
			})
			s.add(10)
			s.flush()
			if refused.Hits() != 1 || s.of.other.Load() != 10 {
				t.Fatalf("%d refusals, %v: the test proves nothing", refused.Hits(), &s.of)
			}
			s.add(10)
			s.flush()
			ends, err := kadm.NewClient(s.p.c.Client).ListEndOffsets(s.ctx, topicName)
			if err != nil {
				t.Fatal(err)
			}
			o, _ := ends.Lookup(topicName, 0)
			if o.Offset != 120 || s.of.acked.Load() != 110 {
				t.Errorf("the partition has %d records, want 100, 10 in doubt and 10; %v", o.Offset, &s.of)
			}
		})
	}
}

// The former leader may have appended the batch before it answered with the new leader (KIP-951).
func TestABatchThatGoesToANewLeaderIsInDoubt(t *testing.T) {
	p := resting()
	if err := p.apply(metadataOf([16]byte{1}, 1, 1, 3)); err != nil {
		t.Fatal(err)
	}
	x := p.parts[0]
	x.inFlight, p.inFlight = true, 1
	answer := kmsg.NewProduceResponseTopicPartition()
	answer.CurrentLeader.LeaderID, answer.CurrentLeader.LeaderEpoch = 2, 4
	p.retry(x, kerr.NotLeaderForPartition, func() { t.Error("the change applies to answers without a leader") }, &answer)
	if x.leader != 2 || x.epoch != 4 || x.tries != 1 {
		t.Errorf("leader %d of epoch %d after %d tries; want leader 2 of epoch 4 and a try that counts", x.leader, x.epoch, x.tries)
	}
}

// A batch that Kafka always calls corrupt fails after some tries; one that arrives at last does not.
func TestACorruptBatchDoesNotBlockItsPartition(t *testing.T) {
	s := newStage(t, 1, nil)
	s.addInSteps(100, 1)
	s.c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: topicName, Err: kerr.CorruptMessage, Count: 2})
	s.addInSteps(100, 1)
	s.check(0, 1)
	bad := s.c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: topicName, Err: kerr.CorruptMessage, Count: 2 * corruptTries})
	of := &outcomes{}
	buf, spans := numbered(0, 10)
	s.p.Add(buf, spans, receivedAt(0), of)
	s.flush()
	if of.other.Load() != 10 {
		t.Errorf("%v after %d tries; want 10 that failed", of, bad.Hits())
	}
}

// metadataOf returns metadata of the topic with n partitions, whose leaders have an epoch.
func metadataOf(id [16]byte, n int, leader, epoch int32) *kmsg.MetadataResponseTopic {
	t := kmsg.NewMetadataResponseTopic()
	t.Topic, t.TopicID = new(topicName), id
	for i := range n {
		p := kmsg.NewMetadataResponseTopicPartition()
		p.Partition, p.Leader, p.LeaderEpoch = int32(i), leader, epoch
		t.Partitions = append(t.Partitions, p)
	}
	return &t
}

// resting returns a Producer without goroutines.
func resting() *Producer {
	p := &Producer{most: maxBatch, parts: []*part{newPart(0)}, wake: make(chan struct{}, 1), look: make(chan struct{}, 1)}
	p.pool.New = func() any { return &batch{} }
	return p
}

// A broker that lags describes the topic as it was before it grew: the partitions, and the producer ids with which
// batches in doubt are sent again, remain.
func TestMetadataFromBeforeTheTopicGrewAreIgnored(t *testing.T) {
	id := [16]byte{1}
	p := resting()
	apply := func(m *kmsg.MetadataResponseTopic) {
		t.Helper()
		if err := p.apply(m); err != nil {
			t.Fatal(err)
		}
	}
	apply(metadataOf(id, 8, 1, 3))
	for i, x := range p.parts {
		x.id.ProducerID = int64(i)
	}
	want := p.parts[2]
	apply(metadataOf(id, 3, 2, 4))
	if len(p.parts) != 8 || p.parts[2] != want || want.id.ProducerID != 2 || want.leader != 2 || p.parts[7].leader != 1 {
		t.Errorf("%d partitions, partition 2 is %+v; want 8, with leader 2 and its producer id", len(p.parts), want)
	}
	apply(metadataOf([16]byte{}, 8, 2, 4)) // of a broker without topic ids
	if p.topic.id != id || want.anew {
		t.Errorf("topic %x, recreated: %t; metadata without an id say nothing of it", p.topic.id, want.anew)
	}
	apply(metadataOf([16]byte{2}, 3, 2, 0)) // recreated
	if len(p.parts) != 3 || p.parts[2] == want {
		t.Errorf("%d partitions after the topic was recreated, want 3", len(p.parts))
	}
	want = p.parts[2]
	want.anew = false
	if err := p.apply(metadataOf(id, 8, 1, 5)); err == nil { // of a broker that does not know of the deletion
		t.Error("the id of a deleted topic is accepted")
	}
	if len(p.parts) != 3 || p.parts[2] != want || want.anew || p.topic.id != [16]byte{2} {
		t.Errorf("%d partitions of topic %x, recreated: %t; want the 3 of the new topic, unchanged", len(p.parts), p.topic.id, want.anew)
	}
}

// Without topic ids, a topic that was recreated differs by the epochs of its leaders, which begin at 0.
func TestALeaderWithAnOlderEpochCountsAtLast(t *testing.T) {
	p := resting()
	for _, epoch := range []int32{7, 6, 0} {
		if err := p.apply(metadataOf([16]byte{}, 1, epoch, epoch)); err != nil {
			t.Fatal(err)
		}
		if x := p.parts[0]; x.leader != 7 || x.epoch != 7 {
			t.Errorf("after epoch %d: leader %d of epoch %d, want 7", epoch, x.leader, x.epoch)
		}
	}
	for range maxOlder {
		if err := p.apply(metadataOf([16]byte{}, 1, 0, 0)); err != nil {
			t.Fatal(err)
		}
	}
	if x := p.parts[0]; x.leader != 0 || x.epoch != 0 {
		t.Errorf("leader %d of epoch %d, want leader 0 of epoch 0", x.leader, x.epoch)
	}
}

// After a peak on one partition, its batches must not serve, with their memory, partitions of few records.
func TestThePoolKeepsNoMemoryThatIsNotUsed(t *testing.T) {
	p := resting()
	for _, c := range []struct {
		records, octets int
		packed          int
		kept            bool
	}{{900, 1000, 0, true}, {10, 100, 0, true}, {10, 100, 1 << 20, false}} {
		b := &batch{packed: make([]byte, 0, c.packed)}
		of := &outcomes{}
		for range c.records {
			b.add(nil, make([]byte, c.octets), 0, of)
		}
		p.recycle(b)
		if kept := b.Records() == 0; kept != c.kept {
			t.Errorf("%+v: kept is %t", c, kept)
		}
	}
	b := &batch{}
	for range 900 {
		b.add(nil, make([]byte, 1000), 0, &outcomes{})
	}
	p.recycle(b)
	b.add(nil, []byte("small"), 0, &outcomes{})
	if p.recycle(b); b.Records() == 0 {
		t.Errorf("a batch of %d octets with one small record was kept", b.Cap())
	}
}

func TestMessagesGoToATopicThatIsRecreated(t *testing.T) {
	for _, partitions := range []int32{3, 7, 2} {
		t.Run(strconv.Itoa(int(partitions)), func(t *testing.T) {
			var log bytes.Buffer
			s := newStage(t, 3, []change{func(c *Config) {
				c.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelError}))
			}})
			s.addInSteps(500, 5)
			adm := kadm.NewClient(s.p.c.Client)
			if _, err := adm.DeleteTopics(s.ctx, topicName); err != nil {
				t.Fatal(err)
			}
			s.add(300) // while there is none
			time.Sleep(30 * time.Millisecond)
			if _, err := adm.CreateTopic(s.ctx, partitions, 1, nil, topicName); err != nil {
				t.Fatal(err)
			}
			s.add(700)
			s.flush()
			s.addInSteps(1000, 5)
			s.check(500, int(partitions))
			s.p.Close()
			if text := log.String(); text != "" { // the new topic has not lost anything
				t.Error(text)
			}
		})
	}
}

func TestMessagesWaitUntilTheTopicIsThere(t *testing.T) {
	s := newStage(t, 3, nil)
	other := "u.flows"
	s.p.Close()
	s.produce(s.c.ListenAddrs(), func(c *Config) { c.Topic = other })
	s.add(5000)
	if records, _ := s.p.Buffered(); records != 5000 {
		t.Errorf("buffered: want 5000, got %d", records)
	}
	if _, err := kadm.NewClient(s.p.c.Client).CreateTopic(s.ctx, 5, 1, nil, other); err != nil {
		t.Fatal(err)
	}
	s.flush()
	if n := s.of.acked.Load(); n != 5000 {
		t.Errorf("%v; want 5000 acknowledged", &s.of)
	}
}

func TestPartitionsThatAreAddedAreUsed(t *testing.T) {
	s := newStage(t, 3, nil)
	s.addInSteps(500, 5)
	if _, err := kadm.NewClient(s.p.c.Client).UpdatePartitions(s.ctx, 8, topicName); err != nil {
		t.Fatal(err)
	}
	for {
		signal(s.p.look) // as after metadataMaxAge
		s.p.mu.Lock()
		n := len(s.p.parts)
		s.p.mu.Unlock()
		if n == 8 {
			break
		}
		if s.ctx.Err() != nil {
			t.Fatalf("%d partitions", n)
		}
		time.Sleep(5 * time.Millisecond)
	}
	before := s.sent
	s.addInSteps(1000, 5)
	ends, err := kadm.NewClient(s.p.c.Client).ListEndOffsets(s.ctx, topicName)
	if err != nil {
		t.Fatal(err)
	}
	fresh := int64(0)
	ends.Each(func(o kadm.ListedOffset) {
		if o.Partition >= 3 {
			fresh += o.Offset
		}
	})
	client, want := kgo.StickyKeyPartitioner(nil).ForTopic(topicName), int64(0)
	for i := before; i < s.sent; i++ {
		if client.Partition(&kgo.Record{Key: fmt.Appendf(nil, "key %d", i%keys)}, 8) >= 3 {
			want++
		}
	}
	if fresh != want || s.of.acked.Load() != int64(s.sent) {
		t.Errorf("the new partitions have %d records of %d; %v", fresh, want, &s.of)
	}
}

func TestAFullBufferRefusesMessages(t *testing.T) {
	for name, limit := range map[string]change{
		"records": func(c *Config) { c.MaxRecords = 100 }, "octets": func(c *Config) { c.MaxOctets = 10_000 },
	} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t, 3, []change{limit})
			away := s.c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: topicName, Err: kerr.NotEnoughReplicas, Count: -1})
			s.add(1000)
			records, octets := s.p.Buffered()
			if name == "records" && records != 100 || name == "octets" && (octets > 10_000 || octets < 9800) {
				t.Errorf("buffered: %d records, %d octets", records, octets)
			}
			if n := s.of.full.Load(); n != 1000-records {
				t.Errorf("%v; want %d refused", &s.of, 1000-records)
			}
			away.Remove()
			s.flush()
			if n := s.of.acked.Load(); n != records {
				t.Errorf("%v; want %d acknowledged", &s.of, records)
			}
		})
	}
}

func TestCloseSettlesWhatIsHeldOnce(t *testing.T) {
	s := newStage(t, 3, nil)
	s.addInSteps(100, 1)
	s.c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: topicName, Err: kerr.NotEnoughReplicas, Count: -1})
	s.add(1000)
	short, cancel := context.WithCancel(s.ctx)
	cancel()
	if err := s.p.Flush(short); err == nil {
		t.Error("a flush that ends early is no error")
	}
	s.p.Close()
	s.p.Close()
	s.add(10)
	if s.of.acked.Load() != 100 || s.of.closed.Load() != 1010 {
		t.Errorf("%v; want 100 acknowledged and 1010 closed", &s.of)
	}
	if records, octets := s.p.Buffered(); records != 0 || octets != 0 {
		t.Errorf("buffered after Close: %d records, %d octets", records, octets)
	}
}

func TestSeveralGoroutinesAddAtOnce(t *testing.T) {
	s := newStage(t, 3, nil)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := g * 2000; i < (g+1)*2000; i += 10 {
				buf, spans := numbered(i, 10)
				s.p.Add(buf, spans, receivedAt(i), &s.of)
			}
		})
	}
	wg.Wait()
	s.flush()
	if n := s.of.acked.Load(); n != 8000 {
		t.Errorf("%v; want 8000 acknowledged", &s.of)
	}
}

func TestMessagesAreFramed(t *testing.T) {
	s := newStage(t, 1, []change{func(c *Config) { c.Form = framing.Config{Framing: "delimited"} }})
	s.addInSteps(100, 1)
	cl, err := kgo.NewClient(kgo.SeedBrokers(s.c.ListenAddrs()...), kgo.ConsumeTopics(topicName), kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	for n := 0; n < 100; {
		fs := cl.PollFetches(s.ctx)
		if err := fs.Err0(); err != nil {
			t.Fatal(err)
		}
		fs.EachRecord(func(r *kgo.Record) {
			m := r.Value[1+len(r.Value)/130:] // a length above 127 takes two octets
			if buf, _ := numbered(n, 1); !bytes.Equal(m, buf[:len(m)]) {
				t.Errorf("record %d: %x", n, r.Value)
			}
			n++
		})
	}
}

func TestAddMakesNoGarbagePerRecord(t *testing.T) {
	s := newStage(t, 3, nil, kfake.BlackholeProduce())
	buf, spans := numbered(100, 20)
	const n = 20_000
	round := func() {
		for range n / len(spans) {
			s.p.Add(buf, spans, receivedAt(0), &s.of)
		}
		s.flush()
	}
	round()
	least := math.Inf(1)
	for range 3 { // a garbage collection empties the pools: take the best of three
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		round()
		runtime.ReadMemStats(&after)
		least = min(least, float64(after.Mallocs-before.Mallocs)/n)
	}
	t.Logf("%.3f allocations a record", least)
	if least > 0.3 { // the race detector empties pools at random
		t.Errorf("allocations a record: want at most 0.3, got %.3f", least)
	}
}
