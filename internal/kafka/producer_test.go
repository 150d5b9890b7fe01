package kafka

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/internal/decode"
	"weir/internal/kafka/framing"
)

func newProducer(t testing.TB, addr string, pc ProducerConfig) *Producer {
	t.Helper()
	p, err := NewProducer(config(addr), "t.flows", pc)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// consume reads n records from the start of the topic.
func consume(ctx context.Context, t *testing.T, addr string, n int) []*kgo.Record {
	t.Helper()
	c := config(addr)
	cl, err := kgo.NewClient(append(c.opts(), kgo.ConsumeTopics("t.flows"), kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()))...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	var out []*kgo.Record
	for len(out) < n {
		fs := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			t.Fatalf("read %d records of %d", len(out), n)
		}
		out = append(out, fs.Records()...)
	}
	return out
}

func flush(ctx context.Context, t *testing.T, p *Producer) {
	t.Helper()
	if err := p.Flush(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestARecordArrivesWithItsKeyItsReceiveTimeAndInItsKeysPartition(t *testing.T) {
	ctx := testContext(t)
	b := startBroker(t, "127.0.0.1:0")
	ensure(ctx, t, b.Addr(), Flows)
	p := newProducer(t, b.Addr(), ProducerConfig{Linger: time.Millisecond})
	at := time.UnixMilli(1_790_000_000_123)
	// Kafka's own murmur2 of these keys (UtilsTest): -790332482 and -985981536;
	// without the sign bit 1357151166 and 1161502112, modulo 3 partitions 0 and 2.
	want := map[string]int32{"foobar": 0, "a-little-bit-long-string": 2}
	done := newTally[error]()
	for k := range want {
		p.Produce([]byte(k), []byte("value of "+k), at, done.add)
	}
	flush(ctx, t, p)
	for _, err := range done.wait(ctx, t, "outcomes", atLeast[error](2)) {
		if err != nil {
			t.Error(err)
		}
	}
	got := map[string]int32{}
	for _, r := range consume(ctx, t, b.Addr(), 2) {
		got[string(r.Key)] = r.Partition
		if !r.Timestamp.Equal(at) || string(r.Value) != "value of "+string(r.Key) {
			t.Errorf("record %q: want its value at %v, got %q at %v", r.Key, at, r.Value, r.Timestamp)
		}
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("partitions (-want +got):\n%s", d)
	}
	if n, o := p.Buffered(); n != 0 || o != 0 {
		t.Errorf("buffered after a flush: want 0, 0, got %d, %d", n, o)
	}
}

func TestAtItsLimitAProducerRefusesAtOnceAndKeepsTheRest(t *testing.T) {
	ctx := testContext(t)
	for _, tt := range []struct {
		name string
		pc   ProducerConfig
		kept int
	}{
		{"records", ProducerConfig{MaxRecords: 10}, 10},
		{"octets", ProducerConfig{MaxOctets: 500}, 5}, // of 100 octets each
	} {
		t.Run(tt.name, func(t *testing.T) {
			addr := freeAddr(t)
			p := newProducer(t, addr, tt.pc)
			outcomes := newTally[error]()
			for i := range 50 {
				p.Produce(fmt.Appendf(nil, "%04d", i), make([]byte, 96), time.Now(), outcomes.add)
			}
			refused := outcomes.wait(ctx, t, "refusals", atLeast[error](50-tt.kept))
			if len(refused) != 50-tt.kept {
				t.Errorf("refused: want %d, got %d", 50-tt.kept, len(refused))
			}
			for _, err := range refused {
				if !errors.Is(err, ErrBufferFull) {
					t.Fatalf("want ErrBufferFull, got %v", err)
				}
			}
			if n, o := p.Buffered(); n != int64(tt.kept) || o != int64(tt.kept*100) {
				t.Errorf("buffered: want %d records of 100 octets, got %d, %d octets", tt.kept, n, o)
			}
			startBroker(t, addr)
			ensure(ctx, t, addr, Flows)
			flush(ctx, t, p)
			if got := len(consume(ctx, t, addr, tt.kept)); got != tt.kept {
				t.Errorf("on the topic: want %d, got %d", tt.kept, got)
			}
		})
	}
}

func TestAFlushThatEndsEarlySaysHowManyAreLeftAndCloseFailsThem(t *testing.T) {
	ctx := testContext(t)
	p := newProducer(t, freeAddr(t), ProducerConfig{})
	outcomes := newTally[error]()
	for range 7 {
		p.Produce(nil, []byte("x"), time.Now(), outcomes.add)
	}
	short, cancel := context.WithCancel(ctx)
	cancel()
	wantNamed(t, p.Flush(short), []string{"7 records", "t.flows"})
	p.Close()
	p.Produce(nil, []byte("late"), time.Now(), outcomes.add)
	got := outcomes.wait(ctx, t, "outcomes", atLeast[error](8))
	for _, err := range got {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("want ErrClosed, got %v", err)
		}
	}
	if len(got) != 8 {
		t.Errorf("outcomes: want 8, got %d", len(got))
	}
}

func TestNothingIsLostOrDoubledWhenBrokersFail(t *testing.T) {
	ctx := testContext(t)
	b, err := kfake.NewCluster(kfake.NumBrokers(3))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	addr := b.ListenAddrs()[0]
	ensure(ctx, t, addr, Flows)
	var faults []*kfake.FaultHandle
	for _, e := range []*kerr.Error{kerr.RequestTimedOut, kerr.NotEnoughReplicasAfterAppend, kerr.NotEnoughReplicas, kerr.NotLeaderForPartition} {
		faults = append(faults, b.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: "t.flows", Err: e, Count: 2}))
	}
	p := newProducer(t, addr, ProducerConfig{})
	var failed atomic.Int64
	const n = 500
	for i := range n {
		v := fmt.Appendf(nil, "%d", i)
		p.Produce(v, v, time.Now(), func(err error) {
			if err != nil {
				failed.Add(1)
			}
		})
	}
	flush(ctx, t, p)
	for i, f := range faults {
		if f.Hits() == 0 {
			t.Errorf("fault %d did not happen: the test proves nothing", i)
		}
	}
	seen := map[string]int{}
	for _, r := range consume(ctx, t, addr, n) {
		seen[string(r.Value)]++
	}
	for v, times := range seen {
		if times != 1 {
			t.Errorf("record %s is there %d times", v, times)
		}
	}
	if len(seen) != n || failed.Load() != 0 {
		t.Errorf("want %d records and no failure, got %d and %d", n, len(seen), failed.Load())
	}
}

func TestRecordsSurviveThatTheirTopicIsDeletedAndRecreated(t *testing.T) {
	ctx := testContext(t)
	b := startBroker(t, "127.0.0.1:0")
	ensure(ctx, t, b.Addr(), Flows)
	p := newProducer(t, b.Addr(), ProducerConfig{})
	outcomes := newTally[error]()
	p.Produce([]byte("k"), []byte("before"), time.Now(), outcomes.add)
	flush(ctx, t, p)
	if _, err := admin(t, b.Addr()).DeleteTopics(ctx, "t.flows"); err != nil {
		t.Fatal(err)
	}
	ensure(ctx, t, b.Addr(), Flows)
	const n = 20
	for i := range n {
		p.Produce([]byte("k"), fmt.Appendf(nil, "%d", i), time.Now(), outcomes.add)
	}
	flush(ctx, t, p)
	for _, err := range outcomes.wait(ctx, t, "outcomes", atLeast[error](n+1)) {
		if err != nil {
			t.Error(err)
		}
	}
	got := map[string]int{}
	for _, r := range consume(ctx, t, b.Addr(), n) {
		got[string(r.Value)]++
	}
	if len(got) != n {
		t.Errorf("on the new topic: want %d different records, got %d", n, len(got))
	}
}

func TestAnUnknownCompressionIsAnError(t *testing.T) {
	_, err := NewProducer(config("127.0.0.1:1"), "t.flows", ProducerConfig{Compression: "brotli"})
	wantNamed(t, err, []string{`"brotli"`, "snappy"})
	for _, ok := range []string{"", "none", "snappy", "lz4", "zstd"} {
		newProducer(t, "127.0.0.1:1", ProducerConfig{Compression: ok})
	}
}

// The client itself allocates nothing per record; the remaining allocations are per batch.
func TestProducingMakesNoGarbagePerRecord(t *testing.T) {
	ctx := testContext(t)
	b, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.BlackholeProduce())
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	ensure(ctx, t, b.ListenAddrs()[0], Flows)
	p := newProducer(t, b.ListenAddrs()[0], ProducerConfig{Linger: 5 * time.Millisecond})
	key, value := []byte("seventeen octets."), make([]byte, 105)
	at := time.Now()
	var wg sync.WaitGroup
	done := func(error) { wg.Done() }
	const n = 20_000
	round := func() {
		wg.Add(n)
		for range n {
			p.Produce(key, value, at, done)
		}
		wg.Wait()
	}
	least := allocationsOf(round) / n
	t.Logf("%.2f allocations a record", least)
	if least > 0.5 {
		t.Errorf("allocations a record: want at most 0.5, got %.2f", least)
	}
}

// BenchmarkProduce produces flows of 105 octets as ingest does, 24 at a time. An iteration is a flow.
func BenchmarkProduce(b *testing.B) {
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.BlackholeProduce(), kfake.SeedTopics(12, "t.flows"))
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	p := newProducer(b, c.ListenAddrs()[0], ProducerConfig{Linger: 10 * time.Millisecond})
	const datagram = 24
	type flows struct {
		buf   []byte
		spans []decode.Span
	}
	var datagrams []flows
	for i := range 1024 / datagram * datagram {
		if i%datagram == 0 {
			datagrams = append(datagrams, flows{})
		}
		d := &datagrams[i/datagram]
		s := decode.Span{Start: len(d.buf), ValueEnd: len(d.buf) + 105}
		d.buf = fmt.Appendf(append(d.buf, make([]byte, 105)...), "key of %010d", i)
		s.KeyEnd = len(d.buf)
		d.spans = append(d.spans, s)
	}
	a, of, at := p.Arena(framing.Config{}), &waiting{}, time.Now()
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if i%datagram == 0 {
			d := &datagrams[i/datagram%len(datagrams)]
			of.Add(datagram)
			a.Add(d.buf, d.spans, at, of)
		}
		if i++; i%192_000 == 0 {
			of.Wait()
		}
	}
	of.Wait()
	if n := of.failed.Load(); n > 0 {
		b.Errorf("%d records failed", n)
	}
}
