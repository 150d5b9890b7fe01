package kafka

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/internal/decode"
	"weir/internal/kafka/framing"
	"weir/internal/kafka/recordbatch"
)

func TestTheSizeOfARecord(t *testing.T) {
	if n := unsafe.Sizeof(kgo.Record{}); n != recordOctets {
		t.Errorf("want recordOctets = %d, got %d", n, recordOctets)
	}
}

// numbered returns the messages from..from+n-1 as a decoder leaves them. Message i has the key of i modulo keys.
func numbered(from, n, keys int) (buf []byte, spans []decode.Span) {
	for i := from; i < from+n; i++ {
		s := decode.Span{Start: len(buf)}
		buf = append(buf, 0x08, 0x04, 0x4a, 6, 0, 0)
		buf = binary.BigEndian.AppendUint32(buf, uint32(i))
		buf = append(buf, bytes.Repeat([]byte{byte(i)}, i%150)...)
		s.ValueEnd = len(buf)
		if keys > 0 {
			buf = fmt.Appendf(buf, "key %d", i%keys)
		}
		s.KeyEnd = len(buf)
		spans = append(spans, s)
	}
	return buf, spans
}

func numberOf(value []byte) int { return int(binary.BigEndian.Uint32(value[6:])) }

// checkNumbered checks that records are the messages 0..all-1 of numbered, each once with its key, its octets and
// its time, in the partition of its key among n, and that those of a key are in order.
func checkNumbered(t *testing.T, records []*kgo.Record, all, keys, n int, at func(i int) time.Time) {
	t.Helper()
	client := kgo.StickyKeyPartitioner(nil).ForTopic("t")
	seen, last := map[int]int{}, map[string]int{}
	for _, r := range records {
		i := numberOf(r.Value)
		buf, spans := numbered(i, 1, keys)
		s := spans[0]
		if !bytes.Equal(r.Value, buf[:s.ValueEnd]) || !bytes.Equal(r.Key, buf[s.ValueEnd:s.KeyEnd]) {
			t.Fatalf("message %d has other octets: key %q, value %x", i, r.Key, r.Value)
		}
		if !r.Timestamp.Equal(at(i)) {
			t.Errorf("message %d: want %v, got %v", i, at(i), r.Timestamp)
		}
		if want := client.Partition(&kgo.Record{Key: r.Key}, n); keys > 0 && int(r.Partition) != want {
			t.Errorf("message %d: want partition %d, got %d", i, want, r.Partition)
		}
		if before, ok := last[string(r.Key)]; ok && before > i && seen[i] == 0 {
			t.Errorf("message %d comes after %d of the same key", i, before)
		}
		last[string(r.Key)] = i
		seen[i]++
	}
	for i := range all {
		if seen[i] != 1 {
			t.Errorf("message %d is there %d times", i, seen[i])
		}
	}
}

// receivedAt returns the receive time of message i: one millisecond for each hundred.
func receivedAt(i int) time.Time { return time.UnixMilli(1_790_000_000_000 + int64(i/100)) }

// addNumbered adds the messages from..to-1, ten at a time, and overwrites each buffer after its call.
func addNumbered(a interface {
	Add([]byte, []decode.Span, time.Time, Account)
}, from, to, keys int, of ...Account,
) {
	for i := from; i < to; i += 10 {
		buf, spans := numbered(i, min(10, to-i), keys)
		a.Add(buf, spans, receivedAt(i), of[i/10%len(of)])
		clear(buf)
	}
}

func settledOnce(ctx context.Context, t *testing.T, of settled, want int) {
	t.Helper()
	n, failed := messages(of.wait(ctx, t, "outcomes", settledAre(want)))
	if n != want || len(failed) > 0 {
		t.Errorf("%d settled, failures %v; want %d", n, failed, want)
	}
}

func TestAnArenaProducesEachMessageWithItsKeyInOrder(t *testing.T) {
	ctx := testContext(t)
	b := startBroker(t, "127.0.0.1:0")
	ensure(ctx, t, b.Addr(), Flows)
	p := newProducer(t, b.Addr(), ProducerConfig{Linger: time.Millisecond})
	of := [2]settled{newSettled(), newSettled()}
	const all = 5000
	addNumbered(p.Arena(framing.Config{}), 0, all, 37, of[0], of[1])
	flush(ctx, t, p)
	for _, x := range of {
		settledOnce(ctx, t, x, all/2)
	}
	checkNumbered(t, consume(ctx, t, b.Addr(), all), all, 37, 3, receivedAt)
}

func TestAnArenaFramesMessages(t *testing.T) {
	ctx := testContext(t)
	b := startBroker(t, "127.0.0.1:0")
	ensure(ctx, t, b.Addr(), Flows)
	p := newProducer(t, b.Addr(), ProducerConfig{Linger: time.Millisecond})
	buf, spans := numbered(0, 20, 3)
	want := append([]byte(nil), buf...)
	of := newSettled()
	p.Arena(framing.Config{Framing: "delimited"}).Add(buf, spans, receivedAt(0), of)
	flush(ctx, t, p)
	settledOnce(ctx, t, of, 20)
	for _, r := range consume(ctx, t, b.Addr(), 20) {
		n, err := framing.Flows.Each(r.Value, func(m []byte) {
			s := spans[numberOf(m)]
			if !bytes.Equal(m, want[s.Start:s.ValueEnd]) || !bytes.Equal(r.Key, want[s.ValueEnd:s.KeyEnd]) ||
				int(r.Value[0]) != len(m)%128 && len(m) < 128 {
				t.Errorf("message %d: %x", numberOf(m), r.Value)
			}
		})
		if n != 1 || err != nil {
			t.Errorf("%d messages in %x, %v", n, r.Value, err)
		}
	}
}

func TestMessagesWithoutKeySpreadOverThePartitions(t *testing.T) {
	ctx := testContext(t)
	b := startBroker(t, "127.0.0.1:0")
	ensure(ctx, t, b.Addr(), Flows)
	p := newProducer(t, b.Addr(), ProducerConfig{Linger: time.Millisecond})
	a, of := p.Arena(framing.Config{}), newSettled()
	const all = 6000
	addNumbered(a, 0, 10, 0, of) // the client learns the number of partitions
	flush(ctx, t, p)
	addNumbered(a, 10, all, 0, of)
	flush(ctx, t, p)
	settledOnce(ctx, t, of, all)
	got := map[int32]int{}
	for _, r := range consume(ctx, t, b.Addr(), all) {
		if r.Key != nil {
			t.Fatalf("want no key, got %q", r.Key)
		}
		got[r.Partition]++
	}
	for part := range int32(3) {
		if got[part] < all/3-2*maxSlab || got[part] > all/3+2*maxSlab {
			t.Errorf("partition %d has %d messages of %d", part, got[part], all)
		}
	}
}

func TestAnArenaHoldsMessagesUntilTheTopicIsKnown(t *testing.T) {
	ctx := testContext(t)
	addr := freeAddr(t)
	p := newProducer(t, addr, ProducerConfig{Linger: time.Millisecond})
	a, of := p.Arena(framing.Config{}), newSettled()
	const all = 3000
	addNumbered(a, 0, all/2, 37, of)
	startBroker(t, addr)
	ensure(ctx, t, addr, Flows)
	flush(ctx, t, p)
	addNumbered(a, all/2, all, 37, of)
	flush(ctx, t, p)
	settledOnce(ctx, t, of, all)
	checkNumbered(t, consume(ctx, t, addr, all), all, 37, 3, receivedAt)
	noSlabIsHeld(t, p, a)
}

// noSlabIsHeld checks that no slab that takes no more records is kept, and that those being filled hold no record
// that waits.
func noSlabIsHeld(t *testing.T, p *Producer, a *Arena) {
	t.Helper()
	if n := p.slabOctets.Load(); n != 0 {
		t.Errorf("full slabs take %d octets; every record is settled", n)
	}
	for _, s := range append(a.filling, a.start) {
		if s != nil && int(s.left.Load()) != len(s.records)-s.n {
			t.Errorf("partition %d: %d of %d records are left, %d are in use", s.partition, s.left.Load(), len(s.records), s.n)
		}
	}
}

func TestAPartitionThatIsAwayHoldsItsOwnSlabsOnly(t *testing.T) {
	ctx := testContext(t)
	b, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	addr := b.ListenAddrs()[0]
	ensure(ctx, t, addr, Flows)
	away := b.Fault(kfake.Fault{
		Keys: []kmsg.Key{kmsg.Produce}, Topic: "t.flows", Partitions: []int32{1}, Err: kerr.NotLeaderForPartition, Count: -1,
	})
	p := newProducer(t, addr, ProducerConfig{Linger: time.Millisecond})
	a, of := p.Arena(framing.Config{}), newSettled()
	const all, keys = 30_000, 37
	inAway, octetsAway := 0, 0
	for i := 0; i < all; i += 10 {
		buf, spans := numbered(i, 10, keys)
		for _, s := range spans {
			if recordbatch.Partition(buf[s.ValueEnd:s.KeyEnd], 3) == 1 {
				inAway, octetsAway = inAway+1, octetsAway+s.KeyEnd-s.Start
			}
		}
		a.Add(buf, spans, receivedAt(i), of)
		if i%5000 == 0 { // the others are acknowledged
			of.wait(ctx, t, "outcomes of the other partitions", settledAre(i+10-inAway))
		}
	}
	of.wait(ctx, t, "outcomes of the other partitions", settledAre(all-inAway))
	// The slabs of the partition: its records and one more slab; of the others, one each that is partly acknowledged.
	slab := int64(maxSlab * (recordOctets + messageOctets))
	most := (int64(inAway)/maxSlab+1)*slab + 2*slab
	if n := p.slabOctets.Load(); n > most || n < int64(octetsAway) {
		t.Errorf("full slabs take %d octets; want %d to %d for %d records of %d octets", n, octetsAway, most, inAway, octetsAway)
	}
	away.Remove()
	flush(ctx, t, p)
	settledOnce(ctx, t, of, all)
	checkNumbered(t, consume(ctx, t, addr, all), all, keys, 3, receivedAt)
	noSlabIsHeld(t, p, a)
}

func TestAFullBufferRefusesMessagesAndKeepsTheirMemoryBounded(t *testing.T) {
	ctx := testContext(t)
	addr := freeAddr(t)
	p := newProducer(t, addr, ProducerConfig{MaxOctets: 200_000, Linger: time.Millisecond})
	a, of := p.Arena(framing.Config{}), newSettled()
	const all = 40_000
	addNumbered(a, 0, all, 37, of)
	refused, failed := messages(of.wait(ctx, t, "refusals", settledAre(all*9/10)))
	if failed[ErrBufferFull] != refused {
		t.Errorf("want ErrBufferFull only, got %v", failed)
	}
	if _, octets := p.Buffered(); octets > 200_000 || octets < 199_000 {
		t.Errorf("buffered: want nearly 200000 octets, got %d", octets)
	}
	if n := p.slabOctets.Load(); n > 4*200_000 {
		t.Errorf("full slabs take %d octets for 200000 octets of records", n)
	}
	startBroker(t, addr)
	ensure(ctx, t, addr, Flows)
	flush(ctx, t, p)
	got, failed := messages(of.wait(ctx, t, "outcomes", settledAre(all)))
	if got != all || failed[ErrBufferFull] != refused || len(failed) != 1 {
		t.Errorf("%d settled, failures %v; want %d and %d", got, failed, all, refused)
	}
	seen := map[int]bool{}
	for _, r := range consume(ctx, t, addr, all-refused) {
		seen[numberOf(r.Value)] = true
	}
	if len(seen) != all-refused {
		t.Errorf("want %d different messages, got %d", all-refused, len(seen))
	}
	noSlabIsHeld(t, p, a)
}

// Refused records hold a slab as long as one of its records waits: the slabs are bounded, not only the records.
func TestSlabsBeyondTheirBoundRefuseRecords(t *testing.T) {
	ctx := testContext(t)
	p := newProducer(t, freeAddr(t), ProducerConfig{MaxOctets: 1 << 20})
	a, of := p.Arena(framing.Config{}), newSettled()
	p.slabOctets.Store(p.slabBound() + 1)
	addNumbered(a, 0, 10, 37, of)
	if n, failed := messages(of.wait(ctx, t, "refusals", settledAre(10))); n != 10 || failed[ErrBufferFull] != 10 {
		t.Errorf("%d settled, failures %v; want 10 refused", n, failed)
	}
	p.slabOctets.Store(0)
	addNumbered(a, 0, 10, 37, of)
	if n, _ := p.Buffered(); n != 10 {
		t.Errorf("buffered: want 10, got %d", n)
	}
}

func TestCloseSettlesTheRecordsOfAnArena(t *testing.T) {
	ctx := testContext(t)
	p := newProducer(t, freeAddr(t), ProducerConfig{})
	a, of := p.Arena(framing.Config{}), newSettled()
	addNumbered(a, 0, 1000, 37, of)
	p.Close()
	addNumbered(a, 1000, 1010, 37, of)
	n, failed := messages(of.wait(ctx, t, "outcomes", settledAre(1010)))
	if n != 1010 || failed[ErrClosed] != 1010 {
		t.Errorf("%d settled, failures %v; want 1010 with ErrClosed", n, failed)
	}
	noSlabIsHeld(t, p, a)
}

// The new topic has another number of partitions: each key has to move to its partition among them.
func TestAnArenasRecordsSurviveThatTheirTopicIsRecreated(t *testing.T) {
	ctx := testContext(t)
	b := startBroker(t, "127.0.0.1:0")
	ensure(ctx, t, b.Addr(), Flows)
	p := newProducer(t, b.Addr(), ProducerConfig{Linger: time.Millisecond})
	a, of := p.Arena(framing.Config{}), newSettled()
	addNumbered(a, 0, 100, 37, of)
	flush(ctx, t, p)
	adm := admin(t, b.Addr())
	if _, err := adm.DeleteTopics(ctx, "t.flows"); err != nil {
		t.Fatal(err)
	}
	if _, err := adm.CreateTopic(ctx, 7, 1, nil, "t.flows"); err != nil {
		t.Fatal(err)
	}
	const all = 3000
	addNumbered(a, 0, all/2, 37, of)
	flush(ctx, t, p)
	addNumbered(a, all/2, all, 37, of)
	flush(ctx, t, p)
	settledOnce(ctx, t, of, all+100)
	got := consume(ctx, t, b.Addr(), all)
	// Records that are held while the client forgets the topic may come after later ones.
	slices.SortStableFunc(got, func(a, b *kgo.Record) int { return numberOf(a.Value) - numberOf(b.Value) })
	checkNumbered(t, got, all, 37, 7, receivedAt)
	noSlabIsHeld(t, p, a)
}

func TestAnArenaFollowsANumberOfPartitionsThatGrows(t *testing.T) {
	ctx := testContext(t)
	b := startBroker(t, "127.0.0.1:0")
	ensure(ctx, t, b.Addr(), Flows)
	p := newProducer(t, b.Addr(), ProducerConfig{Linger: time.Millisecond})
	a, of := p.Arena(framing.Config{}), newSettled()
	addNumbered(a, 0, 1000, 37, of)
	flush(ctx, t, p)
	if _, err := admin(t, b.Addr()).UpdatePartitions(ctx, 8, "t.flows"); err != nil {
		t.Fatal(err)
	}
	const tries = 1000
	more := 1000
	for range tries { // until the client's metadata say so
		p.cl.ForceMetadataRefresh()
		addNumbered(a, more, more+10, 37, of)
		more += 10
		flush(ctx, t, p)
		if p.partitions.Load() == 8 {
			break
		}
	}
	addNumbered(a, more, more+1000, 37, of)
	flush(ctx, t, p)
	settledOnce(ctx, t, of, more+1000)
	var after []*kgo.Record
	client := kgo.StickyKeyPartitioner(nil).ForTopic("t")
	for _, r := range consume(ctx, t, b.Addr(), more+1000) {
		if numberOf(r.Value) < more {
			continue
		}
		after = append(after, r)
		if want := client.Partition(&kgo.Record{Key: r.Key}, 8); int(r.Partition) != want {
			t.Errorf("message %d: want partition %d of 8, got %d", numberOf(r.Value), want, r.Partition)
		}
	}
	if len(after) != 1000 {
		t.Errorf("want 1000 messages after the growth, got %d", len(after))
	}
	noSlabIsHeld(t, p, a)
}

func TestArenasOfSeveralGoroutinesProduceAtOnce(t *testing.T) {
	ctx := testContext(t)
	b := startBroker(t, "127.0.0.1:0")
	ensure(ctx, t, b.Addr(), Flows)
	p := newProducer(t, b.Addr(), ProducerConfig{Linger: time.Millisecond})
	const all, goroutines = 8000, 4
	of := newSettled()
	var wg sync.WaitGroup
	for g := range goroutines {
		wg.Go(func() {
			a := p.Arena(framing.Config{})
			addNumbered(a, g*all/goroutines, (g+1)*all/goroutines, 37, of)
		})
	}
	wg.Wait()
	flush(ctx, t, p)
	settledOnce(ctx, t, of, all)
	seen := map[int]int{}
	last := map[[2]int]int{}
	for _, r := range consume(ctx, t, b.Addr(), all) {
		i := numberOf(r.Value)
		seen[i]++
		from := [2]int{i / (all / goroutines), int(r.Partition)}
		if last[from] > i {
			t.Errorf("message %d comes after %d of the same arena and partition", i, last[from])
		}
		last[from] = i
	}
	if len(seen) != all {
		t.Errorf("want %d different messages, got %d", all, len(seen))
	}
	if n := p.slabOctets.Load(); n != 0 {
		t.Errorf("full slabs take %d octets; every record is settled", n)
	}
}

// The remaining allocations are those of the client per batch.
func TestAnArenaMakesNoGarbagePerRecord(t *testing.T) {
	ctx := testContext(t)
	b, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.BlackholeProduce())
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	ensure(ctx, t, b.ListenAddrs()[0], Flows)
	p := newProducer(t, b.ListenAddrs()[0], ProducerConfig{Linger: 5 * time.Millisecond})
	a := p.Arena(framing.Config{})
	buf, spans := numbered(100, 20, 37)
	at := time.Now()
	const n = 20_000
	round := func() {
		of := &waiting{}
		of.Add(n)
		for range n / len(spans) {
			a.Add(buf, spans, at, of)
		}
		of.Wait()
	}
	least := allocationsOf(round) / n
	t.Logf("%.3f allocations a record", least)
	if least > 0.3 { // the race detector empties pools at random
		t.Errorf("allocations a record: want at most 0.3, got %.3f", least)
	}
}

// waiting is an Account of a known number of messages that must be acknowledged.
type waiting struct {
	sync.WaitGroup
	failed atomic.Int64
}

func (w *waiting) Settled(n int, err error) {
	if err != nil {
		w.failed.Add(int64(n))
	}
	w.Add(-n)
}
