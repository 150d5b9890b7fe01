package decode

import (
	"bytes"
	stdcmp "cmp"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"weir/internal/ie"
	"weir/internal/ipfix"
	"weir/internal/wire"
	"weir/pkg/flowpb"
)

var testMeta = Meta{Exporter: netip.MustParseAddr("192.0.2.7"), Port: 40001, Received: 1_760_000_001_000_000_000}

// decoders are those of the three paths and of Read, each with a state of its own: wire chooses its path, plain takes
// the appending path, oracle the readable path (readOracle).
type decoders struct{ wire, plain, oracle, read *Decoder }

func (ds decoders) all() []*Decoder { return []*Decoder{ds.wire, ds.plain, ds.oracle, ds.read} }

func newDecoders() decoders {
	fresh := func() *Decoder { return &Decoder{State: newMemory(), Replica: "r1"} }
	ds := decoders{fresh(), fresh(), fresh(), fresh()}
	ds.plain.path = (*Decoder).appendRecords
	edge := &Exporter{Name: "edge-1", Site: "lab", SamplingDefault: 500, Interfaces: map[uint32]string{0: "none", 1: "ge-0/0/1", 2: "ge-0/0/2", 70: "ae7"}}
	for _, d := range ds.all() {
		d.Exporter = func(netip.Addr) *Exporter { return edge }
	}
	return ds
}

// same holds that all paths give the same flows, errors and options, and that
// each message is small enough for what it was made of.
func same(t *testing.T, ds decoders, pkt []byte) (flows int) {
	t.Helper()
	var w, r, plain Result
	ds.wire.Wire(pkt, &testMeta, &w)
	ds.plain.Wire(pkt, &testMeta, &plain)
	// Fields may stand in another order on the appending path, keys may not differ.
	if len(w.Flows) != len(plain.Flows) {
		t.Fatalf("flows: %d, on the appending path %d", len(w.Flows), len(plain.Flows))
	}
	for i := range plain.Flows {
		a, b := w.Flows[i], plain.Flows[i]
		if got, want := w.Buf[a.ValueEnd:a.KeyEnd], plain.Buf[b.ValueEnd:b.KeyEnd]; !bytes.Equal(got, want) {
			t.Fatalf("key of flow %d: %x, on the appending path %x", i, got, want)
		}
		if len(w.Buf[a.Start:a.ValueEnd]) != len(plain.Buf[b.Start:b.ValueEnd]) {
			t.Fatalf("flow %d: %x\nappended: %x", i, w.Buf[a.Start:a.ValueEnd], plain.Buf[b.Start:b.ValueEnd])
		}
	}
	ds.oracle.readOracle(pkt, &testMeta, &r)
	if len(w.Flows) != len(r.Messages) {
		t.Fatalf("flows: wire path %d, readable path %d", len(w.Flows), len(r.Messages))
	}
	for i, s := range w.Flows {
		b := w.Buf[s.Start:s.ValueEnd]
		if len(b) == 0 || b[0] != 1<<3 {
			t.Fatalf("flow %d does not begin with its type: %x", i, b)
		}
		var m flowpb.FlowMessage
		if err := proto.Unmarshal(b, &m); err != nil {
			t.Fatalf("flow %d: %v", i, err)
		}
		if !proto.Equal(r.Messages[i], &m) {
			t.Fatalf("flow %d (-readable +wire):\n%s", i, cmp.Diff(r.Messages[i], &m, protocmp.Transform()))
		}
		if has := len(m.SrcAddr) > 0 && len(m.DstAddr) > 0; has != (s.KeyEnd > s.ValueEnd) {
			t.Fatalf("flow %d: address pair %v, key of %d octets", i, has, s.KeyEnd-s.ValueEnd)
		}
	}
	if d := cmp.Diff(r.Errors, w.Errors); d != "" {
		t.Fatalf("errors (-readable +wire):\n%s", d)
	}
	if w.OldUptimes != r.OldUptimes || w.OldUptimes != plain.OldUptimes {
		t.Fatalf("old uptimes: wire %d, appended %d, readable %d", w.OldUptimes, plain.OldUptimes, r.OldUptimes)
	}
	if w.Misencoded != r.Misencoded || w.BadRates != r.BadRates || w.Misencoded != plain.Misencoded || w.BadRates != plain.BadRates {
		t.Fatalf("misencoded times, bad rates: wire %d %d, appended %d %d, readable %d %d", w.Misencoded, w.BadRates, plain.Misencoded, plain.BadRates, r.Misencoded, r.BadRates)
	}
	if w.OptionsRecords != r.OptionsRecords || r.OptionsRecords != len(r.Options) || w.Exported != r.Exported ||
		len(w.Unknown) != len(r.Unknown) || len(w.Templates) != len(r.Templates) {
		t.Fatalf("options, unknown sets, templates: wire %d %d %d, readable %d %d %d",
			w.OptionsRecords, len(w.Unknown), len(w.Templates), len(r.Options), len(r.Unknown), len(r.Templates))
	}
	sameMessages(t, ds.read, pkt, &r)
	return len(w.Flows)
}

// sameMessages holds that Read gives the messages, options records and errors of the oracle.
func sameMessages(t *testing.T, d *Decoder, pkt []byte, oracle *Result) {
	t.Helper()
	var r Result
	d.Read(pkt, &testMeta, &r)
	if len(r.Messages) != len(oracle.Messages) {
		t.Fatalf("messages: oracle %d, Read %d", len(oracle.Messages), len(r.Messages))
	}
	for i, m := range r.Messages {
		if !proto.Equal(oracle.Messages[i], m) {
			t.Fatalf("message %d (-oracle +Read):\n%s", i, cmp.Diff(oracle.Messages[i], m, protocmp.Transform()))
		}
	}
	if d := cmp.Diff(oracle.Options, r.Options); d != "" {
		t.Fatalf("options records (-oracle +Read):\n%s", d)
	}
	if d := cmp.Diff(oracle.Errors, r.Errors); d != "" {
		t.Fatalf("errors (-oracle +Read):\n%s", d)
	}
}

func TestBothPathsGiveTheSameFlowsOfCaptures(t *testing.T) {
	for _, dir := range []string{"../../testdata/captures", "../../../shared/captures", "../../../shared/corpus/pcap"} {
		t.Run(dir, func(t *testing.T) {
			n := 0
			for _, path := range captures(t, dir) {
				t.Run(filepath.Base(path), func(t *testing.T) {
					ds := newDecoders()
					for _, pkt := range captured(t, path) {
						n += same(t, ds, pkt)
					}
				})
			}
			if n == 0 {
				t.Error("no flows in all captures: nothing was compared")
			}
		})
	}
}

// datagram builds an IPFIX or v9 datagram of a template set and a data set.
func datagram(version uint8, tmpl Template, data []byte) []byte {
	var sets []byte
	put16 := func(b []byte, v int) []byte { return append(b, byte(v>>8), byte(v)) }
	body := put16(put16(nil, int(tmpl.ID)), len(tmpl.Fields))
	for _, f := range tmpl.Fields {
		id := int(f.ID)
		if f.PEN != 0 && version == 10 {
			id |= ipfix.EnterpriseBit
		}
		body = put16(put16(body, id), int(f.Length))
		if f.PEN != 0 && version == 10 {
			body = append(body, byte(f.PEN>>24), byte(f.PEN>>16), byte(f.PEN>>8), byte(f.PEN))
		}
	}
	id := ipfix.NetFlow9Templates
	if version == 10 {
		id = ipfix.IPFIXTemplates
	}
	sets = append(put16(put16(sets, id), len(body)+4), body...)
	sets = append(put16(put16(sets, int(tmpl.ID)), len(data)+4), data...)
	if version == 9 {
		return append([]byte{0, 9, 0, 2, 0, 0x36, 0xee, 0x80, 0x68, 0xe7, 0x78, 0, 0, 0, 0, 1, 0, 0, 1, 0}, sets...)
	}
	return append(append(put16([]byte{0, 10}, len(sets)+ipfix.HeaderIPFIX), 0x68, 0xe7, 0x78, 0, 0, 0, 0, 1, 0, 0, 1, 0), sets...)
}

// randomTemplate makes a template of elements that have a meaning here and some
// that do not, of usual and unusual lengths, some of them repeated.
func randomTemplate(rng *rand.Rand, version uint8) Template {
	t := Template{ID: uint16(256 + rng.IntN(1000))}
	known := make([]elementID, 0, len(actions))
	for id := range actions {
		known = append(known, id)
	}
	for id := range fallbacks {
		known = append(known, id)
	}
	slices.SortFunc(known, func(a, b elementID) int {
		return stdcmp.Or(int(a.pen)-int(b.pen), int(a.id)-int(b.id))
	})
	if rng.IntN(2) == 0 { // as real ones: a pair of addresses, protocol, ports
		src, dst, n := uint16(8), uint16(12), uint16(4)
		if rng.IntN(2) == 0 {
			src, dst, n = 27, 28, 16
		}
		t.Fields = append(t.Fields, Field{ID: dst, Length: n}, Field{ID: 4, Length: 1}, Field{ID: 7, Length: 2}, Field{ID: src, Length: n}, Field{ID: 11, Length: 2})
		for i := range known {
			if slices.Contains([]uint16{8, 12, 27, 28, 225, 226, 281, 282}, known[i].id) {
				known[i] = elementID{0, 10}
			}
		}
	}
	for range 1 + rng.IntN(24) {
		id := known[rng.IntN(len(known))]
		f := Field{PEN: id.pen, ID: id.id, Length: max(1, actions[id].width, fallbacks[id].action.width)}
		switch rng.IntN(8) {
		case 0:
			f = Field{PEN: []uint32{0, 9, ie.Reverse}[rng.IntN(3)], ID: uint16(1 + rng.IntN(600)), Length: uint16(rng.IntN(12))}
		case 1:
			f.Length = uint16(rng.IntN(20))
		case 2:
			if version == 10 {
				f.Length = ipfix.VarLen
			}
		}
		if version == 9 {
			f.PEN = 0
		}
		t.Fields = append(t.Fields, f)
	}
	return t
}

func FuzzBothPathsGiveTheSameFlowsOfRandomTemplates(f *testing.F) {
	for i := range uint64(40) {
		f.Add(i, []byte("seed"))
	}
	f.Fuzz(func(t *testing.T, seed uint64, tail []byte) {
		rng := rand.New(rand.NewPCG(seed, 7))
		version := []uint8{9, 10}[rng.IntN(2)]
		tmpl := randomTemplate(rng, version)
		data := make([]byte, rng.IntN(400))
		for i := range data {
			data[i] = byte(rng.IntN(256)) >> rng.IntN(8)
		}
		data = append(data, tail...)
		if len(data) > 60000 {
			return
		}
		ds := newDecoders()
		if seed%2 == 0 {
			ds.defineSome(&tmpl, seed)
		}
		pkt := datagram(version, tmpl, data)
		n := same(t, ds, pkt)
		if n > len(data) {
			t.Fatalf("%d flows of %d octets", n, len(data))
		}
	})
}

func FuzzAnyDatagramIsDecodedTheSameByBothPathsAndEnds(f *testing.F) {
	for _, name := range []string{"v5_30.hex", "v9_template.hex", "v9_data.hex", "ipfix_template.hex", "ipfix_data.hex"} {
		f.Add(hexFile(f, name))
	}
	f.Add(fromHex(f, "00090001000003e86553f1000000000100000000000000080100000001"))
	f.Fuzz(func(t *testing.T, pkt []byte) {
		ds := newDecoders()
		if n := same(t, ds, pkt); n > len(pkt) {
			t.Fatalf("%d flows of %d octets", n, len(pkt))
		}
		same(t, ds, pkt) // once more, with its templates known
	})
}

func TestADecoderKeepsNothingBetweenDatagrams(t *testing.T) {
	state := newMemory()
	d := &Decoder{State: state}
	var r Result
	d.Wire(hexFile(t, "v9_template.hex"), &testMeta, &r)
	d.Wire(hexFile(t, "v9_data.hex"), &testMeta, &r)
	first := bytes.Clone(r.Buf)
	d.Wire(hexFile(t, "v5_30.hex"), &testMeta, &r)
	d.Wire([]byte{0, 9, 1}, &testMeta, &r)
	if len(r.Flows) != 0 || len(r.Errors) != 1 || r.Errors[0].Cause != wire.Short {
		t.Fatalf("a short datagram: %d flows, errors %v", len(r.Flows), r.Errors)
	}
	d.Wire(hexFile(t, "v9_data.hex"), &testMeta, &r)
	if !bytes.Equal(first, r.Buf) {
		t.Error("the same datagram gave other octets the second time")
	}
}

func TestTheWirePathAllocatesNothing(t *testing.T) {
	for _, c := range benchmarks {
		t.Run(c.name, func(t *testing.T) {
			d, pkt := c.ready(t)
			var r Result
			d.Wire(pkt, &testMeta, &r)
			if len(r.Flows) != c.flows {
				t.Fatalf("flows: want %d, got %d", c.flows, len(r.Flows))
			}
			if n := testing.AllocsPerRun(200, func() { d.Wire(pkt, &testMeta, &r) }); n != 0 {
				t.Errorf("want 0 allocations, got %v", n)
			}
		})
	}
}

var benchmarks = []benchmark{
	{"v5", "", "v5_30.hex", 30},
	{"v9", "v9_template.hex", "v9_data.hex", 24},
	{"ipfix", "ipfix_template.hex", "ipfix_data.hex", 20},
}

type benchmark struct {
	name, template, data string
	flows                int
}

func (c *benchmark) ready(t testing.TB) (*Decoder, []byte) {
	d := &Decoder{State: newMemory()}
	var r Result
	if c.template != "" {
		d.Wire(hexFile(t, c.template), &testMeta, &r)
	}
	return d, hexFile(t, c.data)
}

// BenchmarkWire is the wire path: a datagram to protobuf octets and keys.
func BenchmarkWire(b *testing.B) {
	for _, c := range benchmarks {
		b.Run(c.name, func(b *testing.B) {
			d, pkt := c.ready(b)
			var r Result
			b.ReportAllocs()
			b.SetBytes(int64(len(pkt)))
			n := 0
			for b.Loop() {
				d.Wire(pkt, &testMeta, &r)
				n += len(r.Flows)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/flow")
		})
	}
}

// BenchmarkRead is Decoder.Read: a datagram to messages that the caller owns.
func BenchmarkRead(b *testing.B) {
	for _, c := range benchmarks {
		b.Run(c.name, func(b *testing.B) {
			d, pkt := c.ready(b)
			var r Result
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				d.Read(pkt, &testMeta, &r)
				n += len(r.Messages)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/flow")
		})
	}
}
