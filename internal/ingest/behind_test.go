package ingest

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"time"

	"weir/internal/decode"
	"weir/internal/weirtest/locked"
	"weir/pkg/flowpb"
)

// A v9 set, and a datagram of sets (RFC 3954 section 5).
func v9Set(id uint16, content ...uint16) []byte {
	b := binary.BigEndian.AppendUint16(nil, id)
	b = binary.BigEndian.AppendUint16(b, uint16(4+2*len(content)))
	for _, c := range content {
		b = binary.BigEndian.AppendUint16(b, c)
	}
	return b
}

func v9(uptime, sequence uint32, sets ...[]byte) []byte {
	b := []byte{0, 9, 0, 1}
	b = binary.BigEndian.AppendUint32(b, uptime)
	b = binary.BigEndian.AppendUint32(b, 1_760_000_000)
	b = binary.BigEndian.AppendUint32(b, sequence)
	b = binary.BigEndian.AppendUint32(b, 7)
	return slices.Concat(append([][]byte{b}, sets...)...)
}

var (
	// Two layouts of template 256: source, destination, octets; destination,
	// source, octets.
	layoutA = v9Set(0, 256, 3, 8, 4, 12, 4, 1, 4)
	layoutB = v9Set(0, 256, 3, 12, 4, 8, 4, 1, 4)
	// 10.0.0.1 to 10.0.0.2, 100 octets, in each.
	dataA = v9Set(256, 0x0a00, 1, 0x0a00, 2, 0, 100)
	dataB = v9Set(256, 0x0a00, 2, 0x0a00, 1, 0, 100)
)

func allRight(t *testing.T, all []*flowpb.FlowMessage) {
	t.Helper()
	for _, m := range all {
		src, _ := netip.AddrFromSlice(m.SrcAddr)
		dst, _ := netip.AddrFromSlice(m.DstAddr)
		if src.String() != "10.0.0.1" || dst.String() != "10.0.0.2" || m.Bytes != 100 {
			t.Errorf("want 10.0.0.1 to 10.0.0.2, 100 octets; got %v to %v, %d", src, dst, m.Bytes)
		}
	}
}

// Two exporters share an address: same domain and template id, different layouts and
// ports. A replica receives the templates, the other the data.
func TestTwoExportersBehindOneAddressAreToldApartByTheirPorts(t *testing.T) {
	b := embedded(t)
	first, second, stop := startTwo(t, b.Addr())
	one, two := exporterAt, netip.AddrPortFrom(exporterAt.Addr(), 50002)
	first.Receive(v9(100_000, 1, layoutA), one, time.Now())
	first.Receive(v9(900_000, 1, layoutB), two, time.Now())
	eventually(t, "the second replica has both", func() bool { return second.store.Stats().Definitions == 2 })
	for i := range uint32(10) {
		second.Receive(v9(100_000+i, 2+i, dataA), one, time.Now())
		second.Receive(v9(900_000+i, 2+i, dataB), two, time.Now())
	}
	eventually(t, "all is decoded", func() bool { return second.Stats().Flows == 20 })
	if err := stop(); err != nil {
		t.Errorf("shutdown: %v", err)
	}
	allRight(t, flows(t, b.Addr(), 20))
}

// A → B → A within a minute, each sent to a single replica: all replicas end with A.
func TestALayoutThatComesBackIsInForceEverywhere(t *testing.T) {
	b := embedded(t)
	first, second, stop := startTwo(t, b.Addr())
	n := uint64(0)
	for i, step := range []struct {
		at             *Replica
		template, data []byte
	}{{first, layoutA, dataA}, {second, layoutB, dataB}, {first, layoutA, dataA}} {
		at := time.Now()
		step.at.Receive(v9(100_000+uint32(i)*1000, uint32(10*i), step.template), exporterAt, at)
		for _, r := range []*Replica{first, second} {
			want := slices.Equal(step.template, layoutA)
			eventually(t, "the layout is in force", func() bool {
				k := decode.TemplateKey{Exporter: decode.Map16(exporterAt.Addr()), Domain: 7, ID: 256, Version: 9}
				p := r.store.Known(&k, exporterAt.Port())
				return p != nil && (p.Template().Fields[0].ID == 8) == want
			})
			r.Receive(v9(100_500+uint32(i)*1000, uint32(10*i+1), step.data), exporterAt, time.Now())
			n++
		}
	}
	eventually(t, "all is decoded", func() bool { return first.Stats().Flows+second.Stats().Flows == n })
	if err := stop(); err != nil {
		t.Errorf("shutdown: %v", err)
	}
	eventually(t, "the first one's are written", func() bool { r, _ := first.run.Load().producer.Buffered(); return r == 0 })
	allRight(t, flows(t, b.Addr(), int(n)))
}

// A v9 exporter restarts with another layout. Its template follows its first data
// within PARK_FOR: all flows are right. Later than that: the sets in between are
// decoded with the old layout, and counted.
func TestARestartedExportersDataWaitsForItsNewLayout(t *testing.T) {
	b := embedded(t)
	var log locked.Buffer
	r, stop := start(t, config(b.Addr(), "r"), &log)
	eventually(t, "ready", func() bool { return r.Ready() == nil })
	r.Receive(v9(500_000, 100, layoutA), exporterAt, time.Now())
	r.Receive(v9(501_000, 101, dataA), exporterAt, time.Now())
	r.Receive(v9(1_000, 0, dataB), exporterAt, time.Now())
	if s := r.Stats(); s.Flows != 1 || s.Buffered != 1 {
		t.Errorf("after the restart: want the set buffered, got %+v", s)
	}
	r.Receive(v9(1_100, 1, layoutB), exporterAt, time.Now())
	eventually(t, "it is decoded", func() bool { return r.Stats().Flows == 2 })
	if n := r.store.Stats().Stale; n != 0 {
		t.Errorf("stale sets: want none, got %d", n)
	}

	r.buffer.wait = 10 * time.Millisecond
	other := netip.AddrPortFrom(netip.MustParseAddr("192.0.2.10"), 1)
	r.Receive(v9(500_000, 100, layoutA), other, time.Now())
	r.Receive(v9(1_000, 0, dataB), other, time.Now())
	eventually(t, "its time is over", func() bool { return r.Stats().Flows == 3 })
	r.Receive(v9(1_100, 1, dataB), other, time.Now()) // no further wait
	if s := r.store.Stats(); s.Stale != 2 || r.Stats().Flows != 4 {
		t.Errorf("want 2 stale sets and 4 flows, got %d and %d", s.Stale, r.Stats().Flows)
	}
	r.Receive(v9(1_200, 2, layoutB), other, time.Now())
	r.Receive(v9(1_300, 3, dataB), other, time.Now())
	if err := stop(); err != nil {
		t.Errorf("shutdown: %v", err)
	}
	wrong := 0
	for _, m := range flows(t, b.Addr(), 5) {
		if src, _ := netip.AddrFromSlice(m.SrcAddr); src.String() != "10.0.0.1" {
			wrong++
		}
	}
	if wrong != 2 {
		t.Errorf("flows of the wrong layout: want the 2 that were counted, got %d", wrong)
	}
}

// A set that waits, and for which the old layout is settled meanwhile, counts once
// however often it is asked whether it is ready.
func TestAStaleSetCountsOnce(t *testing.T) {
	b := embedded(t)
	var log locked.Buffer
	r, _ := start(t, config(b.Addr(), "r"), &log)
	eventually(t, "ready", func() bool { return r.Ready() == nil })
	r.buffer.wait = time.Hour
	r.Receive(v9(500_000, 100, layoutA), exporterAt, time.Now())
	r.Receive(v9(1_000, 0, dataA), exporterAt, time.Now())
	k := decode.TemplateKey{Exporter: decode.Map16(exporterAt.Addr()), Domain: 7, ID: 256, Version: 9}
	m, h := &decode.Meta{Exporter: exporterAt.Addr(), Port: exporterAt.Port(), Received: time.Now().UnixNano()}, &decode.Header{Version: 9, Uptime: 900, Domain: 7}
	if r.store.Settle(&k, m, h) == nil || r.store.Stats().Stale != 1 {
		t.Fatal("want the old layout settled for another set")
	}
	r.Receive(v9(1_100, 1, v9Set(0, 300, 1, 8, 4)), exporterAt, time.Now()) // something came of the exporter
	eventually(t, "the set is decoded", func() bool { return r.Stats().Flows == 1 })
	if n := r.store.Stats().Stale; n != 2 {
		t.Errorf("stale sets: want 2, got %d", n)
	}
}

// A flood of forged templates and of data of unknown templates, from many
// addresses: memory is bounded, and all flows of an honest exporter are decoded.
func TestAFloodLeavesHonestExportersAlone(t *testing.T) {
	b := embedded(t)
	var log locked.Buffer
	c := config(b.Addr(), "r")
	c.Templates.Unconfirmed, c.ParkMax, c.Undecoded.Rate, c.Undecoded.Burst = 1000, 1<<20, 1000, 100_000
	r, stop := start(t, c, &log)
	eventually(t, "ready", func() bool { return r.Ready() == nil })
	r.Receive(v9(100_000, 1, layoutA), exporterAt, time.Now())
	r.Receive(v9(100_001, 2, dataA), exporterAt, time.Now())
	const forged = 50_000
	began := time.Now()
	for i := range uint32(forged) {
		from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), uint16(i))
		if i%2 == 0 {
			r.Receive(v9(1, 1, v9Set(0, uint16(256+i%1000), 1, 8, 4)), from, time.Now())
		} else {
			r.Receive(v9(1, 1, v9Set(uint16(256+i%1000), 1, 2, 3, 4)), from, time.Now())
		}
		if i%1000 == 0 {
			r.Receive(v9(100_002+i, 3+i, dataA), exporterAt, time.Now())
		}
	}
	s := r.store.Stats()
	if r.Stats().Flows != 1+forged/1000 || s.Definitions > 1001 || s.Unconfirmed > 1000 {
		t.Errorf("want %d flows and at most 1000 forged definitions; got %d flows, %+v", 1+forged/1000, r.Stats().Flows, s)
	}
	if sets, octets := r.buffer.held(); octets > 1<<20 {
		t.Errorf("buffered: want at most 1 MiB, got %d sets of %d octets", sets, octets)
	}
	if n := r.exporters.labels; n != 1 {
		t.Errorf("labels of exporters: want the honest one's, got %d", n)
	}
	if err := stop(); err != nil {
		t.Errorf("shutdown: %v", err)
	}
	// 500 new exporters at once, then 50 a second, and the honest exporter. Each definition has two
	// records.
	if n, most := r.stats.published.Load(), uint64(2*(500+50*(time.Since(began).Seconds()+1)+10)); n > most {
		t.Errorf("writes to the templates topic: want at most %d of %d forged templates, got %d", most, forged/2, n)
	}
	allRight(t, flows(t, b.Addr(), 1+forged/1000))
}

// Forged addresses do not keep an honest exporter from being named.
func TestAnExporterIsNamedThoughManyAddressesWereSeen(t *testing.T) {
	e := seen{all: newSeen()}
	for i := range uint32(maxSeen) {
		e.get(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}))
	}
	honest := netip.MustParseAddr("192.0.2.1")
	x, first := e.get(honest)
	if !first || e.name(x) != honest.String() || e.all.Len() != maxSeen {
		t.Errorf("want a label of its own, and no more addresses than %d; got %q, %d", maxSeen, e.name(x), e.all.Len())
	}
	if again, first := e.get(honest); again != x || first {
		t.Error("seen again: want the same exporter")
	}
}

// Two exporters share an address: options data of the first must not set the sampling
// rate of the other's flows.
func TestExportersBehindOneAddressHaveTheirOwnSamplingRates(t *testing.T) {
	b := embedded(t)
	var log locked.Buffer
	r, stop := start(t, config(b.Addr(), "r"), &log)
	eventually(t, "ready", func() bool { return r.Ready() == nil })
	// Options template 300: scope system, sampling interval (34).
	options := v9Set(1, 300, 4, 4, 1, 4, 34, 4, 0)
	rate := func(n uint16) []byte { return v9Set(300, 0, 0, 0, n) }
	one, two := exporterAt, netip.AddrPortFrom(exporterAt.Addr(), exporterAt.Port()+1)
	r.Receive(v9(100_000, 1, layoutA, options, rate(10)), one, time.Now())
	r.Receive(v9(900_000, 1, options, rate(60_000)), two, time.Now())
	r.Receive(v9(100_001, 2, dataA), one, time.Now())
	r.Receive(v9(900_001, 2, dataA), two, time.Now())
	eventually(t, "both are decoded", func() bool { return r.Stats().Flows == 2 })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	want := map[uint32]uint64{uint32(one.Port()): 10, uint32(two.Port()): 60_000}
	for _, m := range flows(t, b.Addr(), 2) {
		if m.SamplingRate != want[m.ExporterPort] {
			t.Errorf("flow of port %d: want a sampling rate of %d, got %d", m.ExporterPort, want[m.ExporterPort], m.SamplingRate)
		}
	}
}
