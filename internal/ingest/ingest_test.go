package ingest

import (
	"context"
	"encoding/hex"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"weir/internal/decode"
	"weir/internal/kafka"
	"weir/internal/kafka/broker"
	"weir/internal/kafka/framing"
	"weir/internal/weirtest/locked"
	"weir/pkg/flowpb"
)

func config(addr, name string) Config {
	return Config{
		Elements: true, Replica: name, Undecoded: UndecodedConfig{Keep: 24 * time.Hour, Rate: 1 << 20, Burst: 64 << 20, Exporter: 16 << 20},
		Drain: 200 * time.Millisecond, Flush: 3 * time.Second, Linger: time.Millisecond, Receivers: 1, ParkFor: time.Second,
		Kafka:  kafka.Config{Brokers: []string{addr}, ClientID: "test", SessionTimeout: 10 * time.Second},
		Topics: kafka.TopicConfig{Prefix: "t.", Mode: "create", Partitions: 3, Replication: 1, FlowsRetention: time.Hour, ConnRetention: time.Hour},
	}
}

// start runs a replica until stop is called, which returns Run's error.
func start(t *testing.T, c Config, log *locked.Buffer) (r *Replica, stop func() error) {
	t.Helper()
	r, err := New(c, Deps{Log: slog.New(slog.NewTextHandler(log, nil)), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	stop = sync.OnceValue(func() error { cancel(); return <-ended })
	t.Cleanup(func() { _ = stop() }) // the test looks at the error where it matters
	return r, stop
}

// startTwo runs two replicas and returns them when they are ready. stop stops the second.
func startTwo(t *testing.T, addr string) (first, second *Replica, stop func() error) {
	t.Helper()
	var log locked.Buffer
	first, _ = start(t, config(addr, "first"), &log)
	second, stop = start(t, config(addr, "second"), &log)
	for _, r := range []*Replica{first, second} {
		eventually(t, "replicas are ready", func() bool { return r.Ready() == nil })
	}
	return first, second, stop
}

// eventually waits for a condition that another goroutine causes.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	end := time.After(20 * time.Second)
	for !is() {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

func packet(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "decode", "testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	p, err := hex.DecodeString(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func flows(t *testing.T, addr string, n int) (out []*flowpb.FlowMessage) {
	t.Helper()
	return readFlows(t, addr, n)
}

func committedFlows(t *testing.T, addr string, n int) (out []*flowpb.FlowMessage) {
	t.Helper()
	return readFlows(t, addr, n, kgo.FetchIsolationLevel(kgo.ReadCommitted()))
}

func readFlows(t *testing.T, addr string, n int, opts ...kgo.Opt) (out []*flowpb.FlowMessage) {
	t.Helper()
	cl, err := kgo.NewClient(append(opts, kgo.SeedBrokers(addr), kgo.ConsumeTopics("t.flows"), kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()))...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for len(out) < n && ctx.Err() == nil {
		cl.PollFetches(ctx).EachRecord(func(r *kgo.Record) {
			var m flowpb.FlowMessage
			if err := proto.Unmarshal(r.Value, &m); err != nil {
				t.Errorf("a record of the flows topic: %v", err)
			}
			if got := r.Timestamp.UnixNano(); got/1e6 != int64(m.TimeReceivedNs)/1e6 {
				t.Errorf("record timestamp: want the receive time %d, got %d", m.TimeReceivedNs, got)
			}
			out = append(out, &m)
		})
	}
	if len(out) != n {
		t.Fatalf("flows on the topic: want %d, got %d", n, len(out))
	}
	return out
}

// TestTheFormOfRecords: in each form the same flows come, in the same partitions.
func TestTheFormOfRecords(t *testing.T) {
	var want map[string]int32
	for _, form := range []struct {
		name, format, framing string
		pack                  int
		producer              string
	}{
		{"single", "protobuf", "single", 1, "kgo"}, {"delimited", "protobuf", "delimited", 1, "kgo"},
		{"packed", "protobuf", "delimited", 50, "kgo"}, {"JSON", "json", "single", 1, "kgo"},
		{"single in own batches", "protobuf", "single", 1, "batches"},
		{"delimited in own batches", "protobuf", "delimited", 1, "batches"}, {"JSON in own batches", "json", "single", 1, "batches"},
	} {
		t.Run(form.name, func(t *testing.T) {
			b := embedded(t)
			c := config(b.Addr(), "one")
			c.Form.Format, c.Form.Framing, c.Pack, c.Producer = form.format, form.framing, form.pack, form.producer
			r, stop := start(t, c, &locked.Buffer{})
			eventually(t, "the replica is ready", func() bool { return r.Ready() == nil })
			from := netip.MustParseAddrPort("192.0.2.1:5000")
			at := time.UnixMilli(1_790_000_000_000)
			for i := range 40 {
				r.Receive(packet(t, "v5_30.hex"), from, at)
				if i == 0 {
					eventually(t, "a flow is acknowledged", func() bool { n, _ := r.run.Load().producer.Buffered(); return n == 0 && r.Stats().Flows > 0 })
				}
			}
			for _, name := range []string{"v9_template.hex", "v9_data.hex", "ipfix_template.hex", "ipfix_data.hex"} {
				r.Receive(packet(t, name), from, at)
			}
			n := int(r.Stats().Flows)
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			if d := r.Stats().Dropped; d != 0 {
				t.Errorf("%d flows dropped", d)
			}
			got, records := map[string]int32{}, 0
			cl, err := kgo.NewClient(kgo.SeedBrokers(b.Addr()), kgo.ConsumeTopics("t.flows"), kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()))
			if err != nil {
				t.Fatal(err)
			}
			defer cl.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			for flows := 0; flows < n && ctx.Err() == nil; {
				cl.PollFetches(ctx).EachRecord(func(r *kgo.Record) {
					records++
					n, err := framing.Flows.Each(r.Value, func(message []byte) {
						var m flowpb.FlowMessage
						if err := proto.Unmarshal(message, &m); err != nil {
							t.Fatalf("record %x: %v", r.Value, err)
						}
						got[prototext.MarshalOptions{}.Format(&m)] = r.Partition
					})
					if err != nil {
						t.Fatalf("record %x: %v", r.Value, err)
					}
					flows += n
				})
			}
			if n < 41 || len(got) < 3 {
				t.Fatalf("%d flows, %d different ones prove nothing", n, len(got))
			}
			if form.pack > 1 && records > n/4 {
				t.Errorf("%d records of %d flows", records, n)
			}
			if want == nil {
				want = got
			}
			if d := cmp.Diff(normal(want), normal(got)); d != "" {
				t.Errorf("flows and their partitions (-single +this):\n%s", d)
			}
		})
	}
}

// normal takes out the space that prototext puts here or there.
func normal(of map[string]int32) map[string]int32 {
	out := map[string]int32{}
	for k, v := range of {
		out[strings.ReplaceAll(k, "  ", " ")] = v
	}
	return out
}

func embedded(t *testing.T) *broker.Broker {
	t.Helper()
	b, err := broker.Start("127.0.0.1:0", false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

var exporterAt = netip.MustParseAddrPort("192.0.2.9:50001")

func TestASecondReplicaDecodesDataWhoseTemplateOnlyTheFirstReceived(t *testing.T) {
	b := embedded(t)
	first, second, stop := startTwo(t, b.Addr())
	// The data comes first: it waits in memory until the template is shared.
	second.Receive(packet(t, "v9_data.hex"), exporterAt, time.Now())
	first.Receive(packet(t, "v9_template.hex"), exporterAt, time.Now())
	eventually(t, "the second replica decoded the data", func() bool { return second.Stats().Flows == 24 })
	if s := second.Stats(); s.TemplatesLearnt != 0 || s.TemplatesFromOthers != 1 || s.Buffered != 1 {
		t.Errorf("want no template of its own, 1 from others, 1 set buffered: %+v", s)
	}
	if err := stop(); err != nil {
		t.Errorf("shutdown: %v", err)
	}
	for _, m := range flows(t, b.Addr(), 24) {
		if m.Replica != "second" || m.DstPort != 443 && m.SrcPort != 443 || m.TcpFlags != 0x1b && m.TcpFlags == 0 {
			t.Fatalf("got %v", m)
		}
	}
}

func TestDatagramsComeOverSocketsOfBothFamilies(t *testing.T) {
	b := embedded(t)
	var log locked.Buffer
	c := config(b.Addr(), "r")
	c.Listen = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0"), netip.MustParseAddrPort("[::1]:0")}
	if l, err := net.ListenPacket("udp", "[::1]:0"); err != nil {
		t.Skipf("SKIPPED: no IPv6 here: %v", err)
	} else {
		l.Close()
	}
	r, stop := start(t, c, &log)
	eventually(t, "listening", func() bool { return len(r.listening()) == 2 && r.Ready() == nil })
	for _, to := range r.listening() {
		conn, err := net.Dial("udp", to)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write(packet(t, "v5_30.hex")); err != nil {
			t.Fatal(err)
		}
		conn.Close()
	}
	eventually(t, "both datagrams are decoded", func() bool { return r.Stats().Flows == 60 })
	if err := stop(); err != nil {
		t.Errorf("shutdown: %v", err)
	}
	families := map[int]int{}
	for _, m := range flows(t, b.Addr(), 60) {
		families[len(m.SamplerAddress)]++
	}
	if families[4] != 30 || families[16] != 30 {
		t.Errorf("want 30 flows of each family of exporter, got %v", families)
	}
	if n := strings.Count(log.String(), "first datagram of an exporter"); n != 2 {
		t.Errorf("want 2 lines for new exporters, got %d in\n%s", n, log.String())
	}
}

func TestKafkaAwayAtStartIsToldAndNothingIsLost(t *testing.T) {
	probe := embedded(t)
	addr := probe.Addr()
	probe.Close() // its port is free now, nobody answers
	var log locked.Buffer
	r, stop := start(t, config(addr, "r"), &log)
	r.Receive(packet(t, "v5_30.hex"), exporterAt, time.Now())
	eventually(t, "the wait is logged", func() bool { return strings.Contains(log.String(), "waiting for kafka") })
	if err := r.Ready(); err == nil || !strings.Contains(err.Error(), "kafka") {
		t.Errorf("ready: want a reason that names kafka, got %v", err)
	}
	b, err := broker.Start(addr, false)
	if err != nil {
		t.Skipf("SKIPPED: the port was taken meanwhile: %v", err)
	}
	t.Cleanup(b.Close)
	eventually(t, "ready once kafka is there", func() bool { return r.Ready() == nil })
	if err := stop(); err != nil {
		t.Errorf("shutdown: %v", err)
	}
	flows(t, addr, 30)
}

func TestATakenPortIsAClearError(t *testing.T) {
	taken, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	c := config("127.0.0.1:1", "r")
	c.Listen = []netip.AddrPort{taken.LocalAddr().(*net.UDPAddr).AddrPort()}
	r, err := New(c, Deps{Log: slog.New(slog.DiscardHandler), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "LISTEN_UDP "+c.Listen[0].String()) {
		t.Errorf("got %v", err)
	}
}

func TestParking(t *testing.T) {
	at := time.Unix(1_700_000_000, 0)
	one, two := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	set := func(from netip.Addr, id uint16, n int) *decode.Set {
		return &decode.Set{Meta: decode.Meta{Exporter: from}, ID: id, Data: make([]byte, n)}
	}
	ids := func(sets []decode.Set) (out []uint16) {
		for _, s := range sets {
			out = append(out, s.ID)
		}
		return out
	}
	want := func(what string, got []decode.Set, want ...uint16) {
		t.Helper()
		if !slices.Equal(ids(got), want) {
			t.Errorf("%s: want sets %v, got %v", what, want, ids(got))
		}
	}
	any := func(*decode.Set) bool { return true }
	p := setBuffer{max: 4 * (100 + overhead), wait: time.Second}
	for i, s := range []*decode.Set{set(one, 256, 100), set(two, 257, 100), set(one, 258, 100), set(two, 259, 100)} {
		if !p.put(s, at.Add(time.Duration(i)*time.Millisecond)) {
			t.Fatalf("set %d: want room for four sets of 100 octets", s.ID)
		}
	}
	if p.put(set(one, 260, 1), at) {
		t.Error("want no room for more")
	}
	want("before the barrier nothing is over", p.removeExpired(at.Add(time.Hour), time.Time{}))
	want("the time counts from the barrier", p.removeExpired(at.Add(1500*time.Millisecond), at.Add(time.Second)))
	want("of an exporter of whom nothing came", p.removeReady([][16]byte{{1}}, false, any))
	want("that is accepted", p.removeReady([][16]byte{decode.Map16(one)}, false, func(s *decode.Set) bool { return s.ID == 258 }), 258)
	want("over: in order, what was taken is not there", p.removeExpired(at.Add(time.Second+time.Millisecond), at), 256, 257)
	if sets, octets := p.held(); sets != 1 || octets != 100+overhead {
		t.Errorf("want one set held, got %d sets, %d octets", sets, octets)
	}
	want("of all", p.removeReady(nil, true, any), 259)
	want("over: nothing is left", p.removeExpired(at.Add(time.Hour), at))
	if sets, octets := p.held(); sets != 0 || octets != 0 || len(p.by) != 0 || p.all.first != nil || p.all.last != nil || p.scans != nil {
		t.Errorf("want nothing held, got %d sets, %d octets", sets, octets)
	}
}

func TestChangesAreTakenOnceAndBounded(t *testing.T) {
	c := newChanges()
	c.add([16]byte{1})
	c.add([16]byte{1})
	if got, all := c.takeAll(); len(got) != 1 || all {
		t.Errorf("want one exporter, got %d, all %v", len(got), all)
	}
	if got, all := c.takeAll(); len(got) != 0 || all {
		t.Errorf("taken already: want none, got %d, all %v", len(got), all)
	}
	for i := range maxChanges + 1 {
		c.add([16]byte{byte(i), byte(i >> 8)})
	}
	if got, all := c.takeAll(); len(got) != maxChanges || !all {
		t.Errorf("want %d and all, got %d, all %v", maxChanges, len(got), all)
	}
}

func TestLines(t *testing.T) {
	at := time.Unix(1_700_000_000, 0)
	var log locked.Buffer
	w := newWatch(slog.New(slog.NewTextHandler(&log, nil)), at, func() []string { return []string{"[::]:2055"} })
	count := func(s string) int { return strings.Count(log.String(), s) }

	w.tick(at.Add(59 * time.Second))
	if count("no datagram") != 0 {
		t.Error("silence reported before a minute")
	}
	w.tick(at.Add(60 * time.Second))
	w.tick(at.Add(61 * time.Second))
	if count("no datagram") != 1 || count("[::]:2055") != 1 || count("rp_filter") != 1 {
		t.Errorf("want one line of silence with the address and what to check, got\n%s", log.String())
	}

	s := &decode.Set{Meta: decode.Meta{Exporter: exporterAt.Addr()}, Header: decode.Header{Version: 9, Domain: 7}, ID: 300}
	for i := range 100 {
		w.waiting(s, at.Add(time.Duration(i)*100*time.Millisecond))
	}
	if count("unknown template") != 1 || count("template=300") != 1 || count("domain=7") != 1 || count("waiting_since=2023-11-14T22:13:20Z") != 1 {
		t.Errorf("want one line for the missing template, got\n%s", log.String())
	}
	w.dropped(s, lateExpired, at.Add(2*time.Minute))
	if count("unknown template") != 2 {
		t.Error("want it again after a minute")
	}

	x := &exporter{addr: exporterAt.Addr()}
	x.flows.Store(ownExportMin)
	x.own.Store(ownExportMin/2 - 1)
	w.ownExport(x)
	if count("own export traffic") != 0 {
		t.Error("less than half is not most")
	}
	x.own.Store(ownExportMin / 2)
	w.ownExport(x)
	w.ownExport(x)
	if count("own export traffic") != 1 {
		t.Errorf("want one line, got\n%s", log.String())
	}
}

func TestOwnExportTrafficIsKnownByItsKey(t *testing.T) {
	r := &Replica{ports: map[uint16]bool{2055: true}}
	ex := netip.MustParseAddr("10.0.0.1")
	for _, tt := range []struct {
		name string
		key  string // hex: proto | lo | hi | lo port | hi port
		want bool
	}{
		{"UDP from the exporter to the port", "110a0000010a000002c3500807", true},
		{"the exporter is the greater address", "11090000010a00000108079000", true},
		{"TCP", "060a0000010a000002c3500807", false},
		{"another port", "110a0000010a000002c3500808", false},
		{"another host", "110a0000030a000002c3500807", false},
		{"no key", "", false},
	} {
		key, err := hex.DecodeString(tt.key)
		if err != nil {
			t.Fatal(err)
		}
		if got := r.isOwnExport(key, ex.AsSlice()); got != tt.want {
			t.Errorf("%s: want %v, got %v", tt.name, tt.want, got)
		}
	}
}

func TestConfigReportsEveryMistake(t *testing.T) {
	a := netip.MustParseAddrPort("[::]:2055")
	err := Config{Listen: []netip.AddrPort{a, a}, Receivers: -1, Drain: time.Hour, Compression: "zip"}.Validate()
	for _, want := range []string{"LISTEN_UDP: [::]:2055 is listed twice", "RECEIVERS=-1", "DRAIN=1h0m0s", `PRODUCE_COMPRESSION="zip"`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q in %v", want, err)
		}
	}
}
