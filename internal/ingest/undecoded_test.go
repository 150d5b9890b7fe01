package ingest

import (
	"bytes"
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/proto"

	"weir/internal/decode"
	"weir/internal/kafka"
	"weir/internal/transport"
	"weir/internal/weirtest/locked"
)

func counted(c prometheus.Counter) float64 {
	var m dto.Metric
	_ = c.Write(&m) // of a counter of our own
	return m.GetCounter().GetValue()
}

func (r *Replica) lateSets(what string) float64 {
	return counted(r.metrics.late.WithLabelValues(what))
}

// The data arrives at one replica, and no replica knows its template when its time in memory ends.
// All replicas are restarted before another replica receives the template.
func TestDataWhoseTemplateComesAfterARestartIsDecodedOnce(t *testing.T) {
	b := embedded(t)
	var log locked.Buffer
	impatient := func(name string) Config {
		c := config(b.Addr(), name)
		c.ParkFor = 20 * time.Millisecond
		return c
	}
	first, stop := start(t, impatient("first"), &log)
	eventually(t, "ready", func() bool { return first.Ready() == nil })
	at := time.Now().Add(-time.Minute)
	first.Receive(packet(t, "v9_data.hex"), exporterAt, at)
	eventually(t, "the set is passed over", func() bool {
		first.run.Load().undecoded.session.Pass(0)
		first.run.Load().undecoded.session.Pass(1)
		first.run.Load().undecoded.session.Pass(2)
		return first.lateSets(lateAppended) == 1 && first.lateSets(lateAgain) >= 1
	})
	// Sets in memory at the shutdown are appended to the topic too.
	first.buffer.wait = time.Hour
	first.Receive(packet(t, "v9_data.hex"), netip.MustParseAddrPort("192.0.2.10:50001"), at)
	eventually(t, "the second set is in memory", func() bool { n, _ := first.buffer.held(); return n == 1 })
	if err := stop(); err != nil {
		t.Errorf("shutdown: %v", err)
	}

	second, _ := start(t, impatient("second"), &log)
	third, stop := start(t, impatient("third"), &log)
	for _, r := range []*Replica{second, third} {
		eventually(t, "ready", func() bool { return r.Ready() == nil })
	}
	second.Receive(packet(t, "v9_template.hex"), exporterAt, time.Now())
	second.Receive(packet(t, "v9_template.hex"), netip.MustParseAddrPort("192.0.2.10:50001"), time.Now())
	eventually(t, "whoever owns the sets decoded them", func() bool { return second.lateSets(lateDecoded)+third.lateSets(lateDecoded) == 2 })
	if err := stop(); err != nil {
		t.Errorf("shutdown: %v", err)
	}
	// read_committed, and no more than these come.
	var records []string
	for _, m := range committedFlows(t, b.Addr(), 48) {
		if int64(m.TimeReceivedNs) != at.UnixNano() {
			t.Errorf("receive time: want %d, got %d", at.UnixNano(), m.TimeReceivedNs)
		}
		a, _ := netip.AddrFromSlice(m.SamplerAddress)
		records = append(records, a.String()+" "+string(rune(m.RecordOffset)))
	}
	slices.Sort(records)
	if n := len(slices.Compact(records)); n != 48 {
		t.Errorf("want 48 records, each once, got %d different ones", n)
	}
	if !strings.Contains(log.String(), "waits on the undecoded topic") || !strings.Contains(log.String(), "whose template came late") {
		t.Errorf("want lines for what waits and for what was decoded, got\n%s", log.String())
	}
}

func TestSetsThatNobodyCanDecodeExpireAndPoisonIsSkipped(t *testing.T) {
	b := embedded(t)
	var log locked.Buffer
	c := config(b.Addr(), "r")
	c.ParkFor = 20 * time.Millisecond
	r, _ := start(t, c, &log)
	eventually(t, "ready", func() bool { return r.Ready() == nil })
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.Addr()), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: "t.undecoded", Value: []byte("poison")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	putSet(t, cl, 1, 24*time.Hour-time.Minute, time.Now().Add(-2*time.Minute), time.Now().Add(-24*time.Hour))
	eventually(t, "the old set is over", func() bool {
		for p := range int32(3) {
			r.run.Load().undecoded.session.Pass(p)
		}
		return r.lateSets(lateExpired) == 1 && counted(r.metrics.poison) == 1
	})
	eventually(t, "nothing is waited for", func() bool { return r.run.Load().undecoded.templates() == 0 })
	if !strings.Contains(log.String(), "is dropped") || !strings.Contains(log.String(), "reason=expired") {
		t.Errorf("want a line for the set that is over, got\n%s", log.String())
	}
}

// putSet appends a set of template 256 to partition 0 that has waited for the given time and was
// received and appended at the given instants. Its only flow has the number n.
func putSet(t *testing.T, cl *kgo.Client, n uint32, waited time.Duration, appended, received time.Time) {
	t.Helper()
	s := &decode.Set{
		Meta:   decode.Meta{Exporter: exporterAt.Addr(), Port: exporterAt.Port(), Received: received.UnixNano()},
		Header: decode.Header{Version: 9, Domain: 7, Export: time.Now().UnixNano(), Sequence: n}, ID: 256, Off: 24, Data: dataA[4:],
	}
	m := rawSet(s)
	m.WaitedNs = int64(waited)
	value, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	k := s.Key()
	r := &kgo.Record{Topic: "t.undecoded", Key: undecodedKey(&k), Value: value, Timestamp: appended}
	if err := cl.ProduceSync(t.Context(), r).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

// setWriter returns a client that writes to partition 0.
func setWriter(t *testing.T, addr string) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

// A replica with a wrong clock received sets in the future, or in 1970. Kafka would refuse their
// flows, or delete them at once. The flows must get the time at which the sets were appended to the
// topic, by the clock of the replica that decodes them.
func TestSetsReceivedUnderAWrongClockAreDecodedWithTheTimeAtWhichTheyCame(t *testing.T) {
	b := embedded(t)
	var log locked.Buffer
	c := config(b.Addr(), "r")
	c.Topics.Partitions = 1
	r, stop := start(t, c, &log)
	eventually(t, "ready", func() bool { return r.Ready() == nil })
	cl := setWriter(t, b.Addr())
	now := time.Now()
	const wait = 10 * time.Minute
	at := now.Add
	putSet(t, cl, 1, wait, now, at(2*time.Hour))
	putSet(t, cl, 2, wait, now, at(200*365*24*time.Hour))
	putSet(t, cl, 3, wait, now, time.Unix(0, 0))
	putSet(t, cl, 4, wait, time.Unix(0, 0), time.Unix(0, 0)) // appended by that replica too: it is looked at twice
	putSet(t, cl, 5, wait, now, at(30*time.Second))          // clocks differ a little
	putSet(t, cl, 6, wait, now, at(-30*time.Minute))
	r.Receive(v9(100_000, 1, layoutA), exporterAt, now)
	eventually(t, "all are decoded", func() bool {
		r.run.Load().undecoded.session.Pass(0)
		return r.lateSets(lateDecoded) == 6
	})
	if got := r.lateSets(lateRefused) + r.lateSets(lateExpired); got != 0 {
		t.Errorf("%v sets are dropped, want none", got)
	}
	if err := stop(); err != nil {
		t.Errorf("shutdown: %v", err)
	}
	want := map[uint32]time.Time{1: at(-wait), 2: at(-wait), 3: at(-wait), 4: at(-wait - maxWait), 5: at(30 * time.Second), 6: at(-30 * time.Minute)}
	for _, m := range committedFlows(t, b.Addr(), 6) {
		got := time.Unix(0, int64(m.TimeReceivedNs))
		if d := got.Sub(want[m.SequenceNum]).Abs(); d > time.Minute {
			t.Errorf("set %d: want flows received about %v, got %v", m.SequenceNum, want[m.SequenceNum], got)
		}
	}
	if strings.Contains(log.String(), "aborted") {
		t.Errorf("want no transaction aborted, got\n%s", log.String())
	}
}

// The clock of the replica that passes over the topic is three days ahead. The sets that
// others put there are neither over nor dropped: the next owner decodes them, and their
// flows have the time at which they were received.
func TestAReplicaWhoseClockIsWrongDropsNoSetsOfOthers(t *testing.T) {
	for _, ahead := range []time.Duration{72 * time.Hour, -72 * time.Hour} {
		b := embedded(t)
		var log locked.Buffer
		c := config(b.Addr(), "wrong")
		c.Topics.Partitions = 1
		wrong, err := New(c, Deps{Log: slog.New(slog.NewTextHandler(&log, nil)), Now: func() time.Time { return time.Now().Add(ahead) }})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- wrong.Run(ctx) }()
		eventually(t, "the wrong one is ready", func() bool { return wrong.Ready() == nil })
		received := time.Now().Add(-time.Minute)
		putSet(t, setWriter(t, b.Addr()), 1, 0, received, received)
		eventually(t, "it passes over the set", func() bool {
			wrong.run.Load().undecoded.session.Pass(0)
			return wrong.lateSets(lateAgain) >= 1
		})
		cancel()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		if got := wrong.lateSets(lateRefused) + wrong.lateSets(lateExpired); got != 0 {
			t.Errorf("%v sets are dropped, want none", got)
		}
		c.Replica = "right"
		right, stop := start(t, c, &log)
		eventually(t, "the right one is ready", func() bool { return right.Ready() == nil })
		right.Receive(v9(100_000, 1, layoutA), exporterAt, time.Now())
		eventually(t, "the set is decoded", func() bool {
			right.run.Load().undecoded.session.Pass(0)
			return right.lateSets(lateDecoded) == 1
		})
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		m := committedFlows(t, b.Addr(), 1)[0]
		if got := int64(m.TimeReceivedNs); got != received.UnixNano() {
			t.Errorf("clock %v ahead: want the flow received at %v, got %v", ahead, received, time.Unix(0, got))
		}
	}
}

// openUndecoded returns the undecoded of a Replica that does not run.
func openUndecoded(t *testing.T, r *Replica) *undecoded {
	t.Helper()
	run, err := r.open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, p := range []*kafka.Producer{run.producer, run.reports, run.undecoded.producer} {
			p.Close()
		}
	})
	return run.undecoded
}

// Ten thousand sets were passed over: the partition is left alone for 10 s, and a
// pass that is asked for meanwhile comes after that.
func TestAPartitionRestsFromAPassThatAppendedMuchAgain(t *testing.T) {
	b := embedded(t)
	r, err := New(config(b.Addr(), "r"), Deps{Log: slog.New(slog.DiscardHandler), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	at := time.Unix(1_700_000_000, 0)
	r.deps.Now = func() time.Time { return at }
	u := openUndecoded(t, r)
	w := &waitingFor{templates: map[[16]byte]map[decode.TemplateKey]int64{}}
	u.owned[0] = w
	for i := range 10_001 {
		u.count(0, int64(i), lateAgain)
	}
	u.Committed([]int32{0})
	u.requestPasses(func(*waitingFor) bool { return true })
	if !w.wanted || w.notBefore != at.Add(10*time.Second) {
		t.Errorf("want a pass wanted at %v, got %v, %v", at.Add(10*time.Second), w.wanted, w.notBefore)
	}
	at = at.Add(10 * time.Second)
	u.requestPasses(func(w *waitingFor) bool { return w.wanted })
	if w.wanted {
		t.Error("rested: want the pass asked for")
	}
	u.count(0, 20_000, lateDecoded)
	u.Committed([]int32{0})
	if w.notBefore.After(at) {
		t.Errorf("nothing was appended again: want no rest, got %v", w.notBefore.Sub(at))
	}
}

// A set whose transaction is aborted is decoded again: its errors and options data must count once,
// like its flows.
func TestErrorsOfALateSetCountWhenItsTransactionCommits(t *testing.T) {
	r, err := New(config(embedded(t).Addr(), "r"), Deps{Log: slog.New(slog.DiscardHandler), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	u := openUndecoded(t, r)
	now := time.Now()
	u.worker.message(v9(100_000, 1, layoutA), exporterAt, now)
	s := &decode.Set{
		Meta:   decode.Meta{Exporter: exporterAt.Addr(), Port: exporterAt.Port(), Received: now.UnixNano()},
		Header: decode.Header{Version: 9, Domain: 7, Export: now.UnixNano()}, ID: 256, Off: 24, Data: dataA[4:7], // less than a record
	}
	k := s.Key()
	p := r.store.Settle(&k, &s.Meta, &s.Header)
	if p == nil {
		t.Fatal("the template is not known")
	}
	for try := range 3 {
		if err := u.Assigned(t.Context(), 1, nil); err != nil { // as after an aborted transaction
			t.Fatal(err)
		}
		u.decode(nil, s, p)
		if n := r.Stats().Errors; n != 0 {
			t.Fatalf("try %d, not committed: want no error counted, got %d", try, n)
		}
	}
	u.Committed(nil)
	if n, c := r.Stats().Errors, counted(r.metrics.errors.WithLabelValues(otherLabel, "no_record")); n != 1 || c != 1 {
		t.Errorf("committed: want 1 error, got %d, %v of its cause", n, c)
	}
}

func someSet() *decode.Set {
	return &decode.Set{
		Meta:   decode.Meta{Exporter: netip.MustParseAddr("2001:db8::1"), Port: 50001, Received: 1_700_000_000_000_000_001},
		Header: decode.Header{Version: 9, Uptime: 7, Export: 1_700_000_000_000_000_000, Sequence: 8, Domain: 1 << 31},
		Hash:   1 << 63, ID: 256, Off: 24, Data: []byte{1, 2, 3, 4},
	}
}

func TestASetComesBackFromTheTopicAsItWas(t *testing.T) {
	s := someSet()
	got := backAgain(t, s)
	if d := cmp.Diff(s, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	k := s.Key()
	if back, err := parseUndecodedKey(undecodedKey(&k)); err != nil || back != k {
		t.Errorf("key: want %v, got %v, %v", k, back, err)
	}
	if _, err := parseUndecodedKey([]byte("x")); err == nil {
		t.Error("a key of one octet: want an error")
	}
}

func backAgain(t testing.TB, s *decode.Set) *decode.Set {
	t.Helper()
	b, err := proto.Marshal(rawSet(s))
	if err != nil {
		t.Fatal(err)
	}
	got, _, err := parseRawSet(b)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// Any octets: an error, or a set that is within a datagram and survives being
// written again.
func FuzzParseRawSet(f *testing.F) {
	b, err := proto.Marshal(rawSet(someSet()))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte{})
	f.Add([]byte{8, 1, 18, 4, 1, 2, 3, 4})
	f.Fuzz(func(t *testing.T, b []byte) {
		s, _, err := parseRawSet(b)
		if err != nil {
			return
		}
		if s.ID < 256 || s.Header.Version != 9 && s.Header.Version != 10 || !s.Meta.Exporter.IsValid() || s.Off < 0 || s.Off+len(s.Data) > 2*transport.MaxDatagram {
			t.Errorf("accepted: %+v", s)
		}
		if again := backAgain(t, s); !bytes.Equal(again.Data, s.Data) || again.Key() != s.Key() || again.Meta != s.Meta {
			t.Errorf("want %+v again, got %+v", s, again)
		}
	})
}

// An exporter whose sets are all decoded late is active: it must get a label, and must
// not lose it.
func TestFlowsOfLateSetsAreActivity(t *testing.T) {
	r, err := New(config(embedded(t).Addr(), "r"), Deps{Log: slog.New(slog.DiscardHandler), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	u := openUndecoded(t, r)
	x, _ := r.exporters.get(exporterAt.Addr())
	for range freshIdle + provenRanks {
		u.made = append(u.made, lateSet{of: x, flows: 3})
		u.Committed(nil)
		r.exporters.rank()
	}
	if name := r.exporters.name(x); name != exporterAt.Addr().String() {
		t.Errorf("active for an hour: want its label, got %q", name)
	}
}
