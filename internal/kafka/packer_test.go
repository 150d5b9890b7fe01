package kafka

import (
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"weir/internal/decode"
	"weir/internal/kafka/framing"
)

// An outcome is a call of Account.Settled.
type outcome struct {
	n   int
	err error
}

// settled is an Account that collects its outcomes.
type settled struct{ *tally[outcome] }

func newSettled() settled { return settled{newTally[outcome]()} }

func (s settled) Settled(n int, err error) { s.add(outcome{n, err}) }

// messages returns the number of settled messages, and those that failed by error.
func messages(got []outcome) (n int, failed map[error]int) {
	failed = map[error]int{}
	for _, o := range got {
		if n += o.n; o.err != nil {
			failed[o.err] += o.n
		}
	}
	return n, failed
}

func settledAre(n int) func([]outcome) bool {
	return func(got []outcome) bool { is, _ := messages(got); return is >= n }
}

// packed makes the octets of a message as a decoder leaves them: a message that
// begins as flows do, then its key.
func packed(buf []byte, n int) ([]byte, decode.Span) {
	s := decode.Span{Start: len(buf)}
	buf = append(buf, 0x08, 0x04, 0x4a, 6, 0, 0) // type, as flows begin, and octets; not 8 in all: a length of 8 looks like a type
	buf = binary.BigEndian.AppendUint32(buf, uint32(n))
	s.ValueEnd = len(buf)
	buf = fmt.Appendf(buf, "key %d", n%37)
	s.KeyEnd = len(buf)
	return buf, s
}

func TestAPackerPutsEachMessageInItsKeysPartition(t *testing.T) {
	ctx := testContext(t)
	b := startBroker(t, "127.0.0.1:0")
	ensure(ctx, t, b.Addr(), Flows)
	p := newProducer(t, b.Addr(), ProducerConfig{Linger: 10 * time.Second}) // only full records leave before a flush
	alone := newTally[error]()
	want := map[string]int32{}
	for n := range 37 { // selects the partition of messages without key
		p.Produce(fmt.Appendf(nil, "key %d", n), []byte{0x08, 0x04, 0x10, byte(n)}, time.Now(), alone.add)
	}
	flush(ctx, t, p)
	for _, r := range consume(ctx, t, b.Addr(), 37) {
		want[string(r.Key)] = r.Partition
	}
	k := p.Packer(10)
	of := [2]settled{newSettled(), newSettled()}
	const all = 1000
	for n := 0; n < all; n += 5 {
		var buf []byte
		var spans []decode.Span
		for i := range 5 {
			var s decode.Span
			buf, s = packed(buf, n+i)
			spans = append(spans, s)
		}
		k.Add(buf, spans, time.UnixMilli(1_790_000_000_000+int64(n)), of[n/5%2])
		clear(buf) // it belongs to the caller again
	}
	flush(ctx, t, p)
	for i := range of {
		if n, failed := messages(of[i].wait(ctx, t, "outcomes", settledAre(all/2))); n != all/2 || len(failed) > 0 {
			t.Errorf("account %d: %d settled, failures %v; want %d", i, n, failed, all/2)
		}
	}
	got, most, records := map[uint32]bool{}, 0, 0
	for len(got) < all {
		read := consume(ctx, t, b.Addr(), 37+all/10)
		records = 0
		for _, r := range read[min(37, len(read)):] {
			if len(r.Key) > 0 {
				continue
			}
			records++
			in, err := framing.Flows.Each(r.Value, func(m []byte) {
				n := binary.BigEndian.Uint32(m[6:])
				if key := fmt.Sprintf("key %d", n%37); want[key] != r.Partition {
					t.Fatalf("message %d: partition %d, its key's is %d", n, r.Partition, want[key])
				}
				got[n] = true
			})
			if err != nil {
				t.Fatal(err)
			}
			most = max(most, in)
		}
	}
	if most != 10 || records > all/10+3 {
		t.Errorf("%d records, %d messages at most in one; want 10, and hardly any record that is not full", records, most)
	}
}

func TestAPackThatDoesNotFillLeavesAfterTheLinger(t *testing.T) {
	ctx := testContext(t)
	b := startBroker(t, "127.0.0.1:0")
	ensure(ctx, t, b.Addr(), Flows)
	p := newProducer(t, b.Addr(), ProducerConfig{Linger: time.Millisecond})
	k := p.Packer(1000)
	of := newSettled()
	for n := range 3 { // the first record tells the Packer the number of partitions
		buf, s := packed(nil, n)
		k.Add(buf, []decode.Span{s}, time.Now(), of)
		consume(ctx, t, b.Addr(), n+1) // without a flush
	}
}

func TestWhatAPackerHoldsWithoutKafkaIsSettled(t *testing.T) {
	b := startBroker(t, "127.0.0.1:0")
	ctx := testContext(t)
	ensure(ctx, t, b.Addr(), Flows)
	p := newProducer(t, b.Addr(), ProducerConfig{Linger: time.Millisecond, MaxRecords: 2})
	k := p.Packer(10)
	of := newSettled()
	buf, s := packed(nil, 0)
	k.Add(buf, []decode.Span{s}, time.Now(), of)
	flush(ctx, t, p)
	b.Close()
	for n := range 400 {
		buf, s := packed(nil, n)
		k.Add(buf, []decode.Span{s}, time.Now(), of)
	}
	p.Close()
	n, failed := messages(of.wait(ctx, t, "outcomes", settledAre(401)))
	full, closed := failed[ErrBufferFull], failed[ErrClosed]
	if n != 401 || full == 0 || closed == 0 || full+closed != 400 {
		t.Errorf("%d settled: %v; want 401, of which 400 failed, at the limit or at the end", n, failed)
	}
}
