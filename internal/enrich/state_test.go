package enrich

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/proto"

	"weir/pkg/flowpb"
)

// putMany produces a flow of each of n conversations, all received at the same instant, to a
// partition.
func putMany(t *testing.T, cl *kgo.Client, partition int32, at time.Time, n int) {
	t.Helper()
	rs := make([]*kgo.Record, n)
	for i := range rs {
		ns := uint64(at.UnixNano())
		b, err := proto.Marshal(&flowpb.FlowMessage{
			Type: flowpb.FlowMessage_IPFIX, SrcAddr: []byte{10, 1 + byte(partition), byte(i >> 8), byte(i)}, DstAddr: []byte{192, 0, 2, 80}, SrcPort: 40000, DstPort: 443, Proto: 17,
			SamplerAddress: []byte{192, 0, 2, 1}, Bytes: 900, Packets: 9, SamplingRate: 1, DatagramHash: uint64(i) + 1, TimeResolutionUs: 1000,
			TimeReceivedNs: ns, TimeExportNs: ns, TimeFlowStartNs: ns - 2e9, TimeFlowEndNs: ns - 1e9,
		})
		if err != nil {
			t.Fatal(err)
		}
		rs[i] = &kgo.Record{Topic: "t.flows", Partition: partition, Value: b, Timestamp: at}
	}
	if err := cl.ProduceSync(t.Context(), rs...).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

// batches keeps how many connections each transaction had.
type batches struct {
	mu    sync.Mutex
	sizes []int
}

func (b *batches) add(c []*flowpb.Connection) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sizes = append(b.sizes, len(c))
}

func (b *batches) all() []int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.sizes)
}

func startBatches(t *testing.T, c Config, now func() time.Time) (w *Worker, b *batches, stop func()) {
	t.Helper()
	b = &batches{}
	w, err := New(c, Deps{Log: slog.New(slog.DiscardHandler), Now: now, Committed: b.add})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	return w, b, func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("worker: %v", err)
		}
	}
}

// Connections that end at the same instant must be reported in successive transactions of at most COMMIT_RECORDS
// connections, each connection once, also if the member ends between two transactions.
func TestAMassExpiryIsCommittedInParts(t *testing.T) {
	const n, most = 2000, 100
	for _, tt := range []struct {
		name   string
		format int
		flow   bool // a flow ends them, else silence
		member bool // another member goes on in the middle
	}{
		{"by a flow", 2, true, false},
		{"by silence", 2, false, false},
		{"by a flow, two members one after the other", 3, true, true},
		{"by silence, two members one after the other", 2, false, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := cluster(t)
			cl := client(t, c)
			base := time.Now()
			at := base.Add(-20 * time.Minute)
			putMany(t, cl, 0, at, n)
			var clock atomic.Int64 // constant unless set: only the remaining connections can cause the next transaction
			clock.Store(base.UnixNano())
			now := func() time.Time { return time.Unix(0, clock.Load()) }
			conf := config(c, "a")
			conf.CommitRecords, conf.StateFormat = most, tt.format
			w, first, stop := startBatches(t, conf, now)
			eventually(t, "flows are taken", func() bool { return w.Stats().Flows == n })
			want := n
			if tt.flow {
				putUDP(t, cl, 0, at.Add(10*time.Minute), 50000)
				putUDP(t, cl, 0, at.Add(10*time.Minute+time.Second), 50000)
			} else {
				clock.Add(int64(10 * time.Minute))
			}
			sizes := first.all
			if tt.member {
				eventually(t, "a part is reported", func() bool { return len(first.all()) >= 3 })
				stop()
				conf.Instance = "b"
				var second *batches
				w, second, stop = startBatches(t, conf, now)
				if !tt.flow { // its clock counts silence from its start
					eventually(t, "state is restored", func() bool { return w.Stats().Restores > 0 })
					clock.Add(int64(10 * time.Minute))
				}
				sizes = func() []int { return append(first.all(), second.all()...) }
			}
			eventually(t, "all are reported", func() bool {
				sum := 0
				for _, n := range sizes() {
					sum += n
				}
				return sum >= want
			})
			stop()
			if got := slices.Max(sizes()); got > most {
				t.Errorf("a transaction of %d connections, at most %d", got, most)
			}
			if got := len(sizes()); got < n/most {
				t.Errorf("%d transactions of at most %d for %d connections", got, most, n)
			}
			out := published(t, c)
			if all := len(slices.Compact(out)); len(out) != want || all != want {
				t.Errorf("%d connections, %d of them different; want %d", len(out), all, want)
			}
			if tt.flow { // the flows that were left are taken in the end
				if p := committed(t, cl)[0]; p.Offset < n+2 {
					t.Errorf("committed up to %d, there are %d flows", p.Offset, n+2)
				}
			}
		})
	}
}

// pieceFormats returns the formats of the pieces that a restore of the committed
// positions reads.
func pieceFormats(t *testing.T, c *kfake.Cluster, cl *kgo.Client) (formats []byte) {
	t.Helper()
	for n, p := range committed(t, cl) {
		point, err := parsePoint(p.Metadata)
		if err != nil {
			t.Fatal(err)
		}
		if point.from > point.tip {
			continue
		}
		r, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{
			"t.pairing": {n: kgo.NewOffset().At(point.from)},
		}))
		if err != nil {
			t.Fatal(err)
		}
		for done := false; !done; {
			r.PollFetches(t.Context()).EachRecord(func(r *kgo.Record) {
				if r.Offset <= point.tip {
					formats = append(formats, r.Value[0])
				}
				done = done || r.Offset >= point.tip
			})
		}
		r.Close()
	}
	return formats
}

// Forward to format 3 and back to 2 while connections are open: each is reported once, and
// soon after the return a version that reads format 2 alone could restore everything.
func TestTheStateFormatGoesForwardAndBack(t *testing.T) {
	c := cluster(t)
	cl := client(t, c)
	at := time.Now().Add(-time.Minute)
	for n := range int32(partitions) {
		putMany(t, cl, n, at.Add(time.Duration(n)*time.Millisecond), 100)
	}
	var now clock
	w, stop := start(t, config(c, "as before"), now.now)
	eventually(t, "flows are taken in format 2", func() bool { return w.Stats().Flows == partitions*100 })
	stop()
	if f := pieceFormats(t, c, cl); len(f) == 0 || slices.Max(f) != 2 {
		t.Fatalf("pieces of formats %v: want 2 alone without STATE_FORMAT", f)
	}
	for n := range int32(partitions) {
		putUDP(t, cl, n, at.Add(time.Second), 50000)
	}
	conf := config(c, "three")
	conf.StateFormat = 3
	w, stop = start(t, conf, now.now)
	eventually(t, "flows are taken in format 3", func() bool { return w.Stats().Flows == partitions })
	stop()
	if f := pieceFormats(t, c, cl); !slices.Contains(f, 2) || !slices.Contains(f, 3) {
		t.Fatalf("pieces of formats %v: want both", f)
	}
	conf = config(c, "two")
	_, stop = start(t, conf, now.now) // no flow comes: quiet partitions are written again too
	eventually(t, "every partition is committed in format 2", func() bool {
		for _, p := range committed(t, cl) {
			if !strings.HasPrefix(p.Metadata, "weir/2 ") {
				return false
			}
		}
		return true
	})
	stop()
	if f := pieceFormats(t, c, cl); len(f) == 0 || slices.Max(f) != 2 {
		t.Fatalf("pieces of formats %v: want 2 alone", f)
	}
	w, stop = start(t, conf, now.now)
	eventually(t, "state is restored", func() bool { return w.Stats().Restores > 0 })
	now.ahead.Add(int64(10 * time.Minute))
	eventually(t, "all are reported", func() bool { return w.Stats().Connections >= partitions*101 })
	stop()
	if out := published(t, c); len(out) != partitions*101 || len(slices.Compact(out)) != partitions*101 {
		t.Errorf("%d connections, want %d", len(out), partitions*101)
	}
}

// A NetFlow v5 header can name 65 536 engines. Before the bound of observation points, 21 000 of them made a
// piece of state that Kafka refused for ever.
func TestForgedObservationPointsDoNotStopAPartition(t *testing.T) {
	const n = 25_000
	c := cluster(t)
	cl := client(t, c)
	at := uint64(time.Now().Add(-time.Minute).UnixNano())
	rs := make([]*kgo.Record, n)
	for i := range rs {
		b, err := proto.Marshal(&flowpb.FlowMessage{
			Type: flowpb.FlowMessage_NETFLOW_V5, SrcAddr: []byte{10, 0, 0, 5}, DstAddr: []byte{192, 0, 2, 80}, SrcPort: 40000, DstPort: 443, Proto: 17,
			SamplerAddress: []byte{192, 0, 2, 1}, ObservationDomainId: uint32(i), Bytes: 900, Packets: 9, SamplingRate: 1, DatagramHash: uint64(i) + 1,
			TimeResolutionUs: 1000, TimeReceivedNs: at + uint64(i), TimeExportNs: at, TimeFlowStartNs: at - 2e9, TimeFlowEndNs: at - 1e9,
		})
		if err != nil {
			t.Fatal(err)
		}
		rs[i] = &kgo.Record{Topic: "t.flows", Value: b}
	}
	if err := cl.ProduceSync(t.Context(), rs...).FirstErr(); err != nil {
		t.Fatal(err)
	}
	conf := config(c, "a")
	conf.CommitRecords = 2 * n // one transaction may hold them all
	conf.CommitEvery = time.Second
	w, reg := measured(t, conf, time.Now)
	eventually(t, "all flows are committed", func() bool { return w.Stats().Flows == n })
	if aborts := w.Stats().Aborts; aborts != 0 {
		t.Errorf("%d transactions were aborted", aborts)
	}
	if got := counted(t, reg, "weir_enrich_bounded_total", "vantages"); got != n-24 {
		t.Errorf("%v parts of records count as merged, want all but 24 of %d", got, n)
	}
}
