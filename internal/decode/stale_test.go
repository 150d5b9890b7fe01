package decode

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"

	"weir/pkg/flowpb"
)

// tunnelTemplate makes a template of elements that tuples of tunnels repeat, in any order
// and number, among others.
func tunnelTemplate(rng *rand.Rand, version uint8) Template {
	t := randomTemplate(rng, version)
	ids := []Field{{ID: 4, Length: 1}, {ID: 5, Length: 1}, {ID: 31, Length: 4}, {ID: 7, Length: 2}, {ID: 11, Length: 2}, {ID: 6, Length: 1}}
	pairs := []Field{{ID: 8, Length: 4}, {ID: 12, Length: 4}, {ID: 27, Length: 16}, {ID: 28, Length: 16}}
	t.Fields = t.Fields[:min(len(t.Fields), rng.IntN(6))]
	for range rng.IntN(3) {
		k := 2 * rng.IntN(2)
		t.Fields = append(t.Fields, pairs[k:k+2]...)
		for range rng.IntN(6) {
			t.Fields = append(t.Fields, ids[rng.IntN(len(ids))])
		}
		t.Fields = append(t.Fields, ids[0])
		if rng.IntN(4) == 0 {
			t.Fields = append(t.Fields, pairs[rng.IntN(len(pairs))])
		}
	}
	if len(t.Fields) == 0 {
		t.Fields = ids
	}
	return t
}

// randomRecords returns octets as records of small and large values.
func randomRecords(rng *rand.Rand) []byte {
	data := make([]byte, rng.IntN(400))
	for i := range data {
		data[i] = byte(rng.IntN(256)) >> rng.IntN(8)
		if rng.IntN(4) == 0 {
			data[i] = []byte{0, 4, 41, 58, 1}[rng.IntN(5)]
		}
	}
	return data
}

// A decoder reads records of one template after those of another: its scratch values must not
// show in them.
func FuzzRecordsSayNothingOfEarlierOnes(f *testing.F) {
	for i := range uint64(300) {
		f.Add(i)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		rng := rand.New(rand.NewPCG(seed, 11))
		version := []uint8{9, 10}[rng.IntN(2)]
		var pkts [3][]byte
		for i := range pkts {
			tmpl := tunnelTemplate(rng, version)
			if rng.IntN(3) == 0 {
				tmpl = randomTemplate(rng, version)
			}
			tmpl.ID = uint16(256 + i)
			pkts[i] = datagram(version, tmpl, randomRecords(rng))
		}
		used := newDecoders()
		for _, pkt := range pkts {
			same(t, used, pkt)
			fresh := newDecoders()
			fresh.wire.State, fresh.plain.State, fresh.oracle.State = used.wire.State, used.plain.State, used.oracle.State
			for i, ds := range [...][2]*Decoder{{used.wire, fresh.wire}, {used.plain, fresh.plain}} {
				var a, b Result
				ds[0].Wire(pkt, &testMeta, &a)
				ds[1].Wire(pkt, &testMeta, &b)
				if !bytes.Equal(a.Buf, b.Buf) {
					t.Fatalf("wire path %d: other octets after records of other templates\n%x\n%x", i, a.Buf, b.Buf)
				}
			}
			var a, b Result
			used.oracle.readOracle(pkt, &testMeta, &a)
			fresh.oracle.readOracle(pkt, &testMeta, &b)
			for i := range a.Messages {
				if x, y := protojson.Format(a.Messages[i]), protojson.Format(b.Messages[i]); x != y {
					t.Fatalf("readable path: record %d after those of other templates\n%s\nalone\n%s", i, x, y)
				}
			}
		}
	})
}

// Octets and expected values are by hand. What a record's template has no element for must not
// be that of the record before, whose template has it.
func TestValuesOfOtherTemplatesAreNotARecords(t *testing.T) {
	const pair6 = "20010db8000000000000000000000001" + "20010db8000000000000000000000002"
	tunnel := []uint16{27, 16, 28, 16, 4, 1, 8, 4, 12, 4, 4, 1} // IPv4 in IPv6
	record := pair6 + "04" + "0a000001" + "0a000002" + "11"
	for _, tt := range []struct {
		name   string
		before []uint16
		values string
		fields []uint16
		record string
		got    func(m *flowpb.FlowMessage) []uint64
		want   []uint64
	}{
		{
			"ToS and flow label", append(slices.Clone(tunnel), 5, 1, 5, 1, 31, 4, 31, 4), record + "b8" + "b8" + "00012345" + "00012345", tunnel, record,
			func(m *flowpb.FlowMessage) []uint64 { return []uint64{uint64(m.IpTos), uint64(m.Ipv6FlowLabel)} }, []uint64{0, 0},
		},
		{
			"prefix lengths", []uint16{8, 4, 12, 4, 9, 1, 13, 1}, "0a000001" + "0a000002" + "18" + "1c", tunnel, record,
			func(m *flowpb.FlowMessage) []uint64 { return []uint64{uint64(m.SrcNet), uint64(m.DstNet)} }, []uint64{0, 0},
		},
		{
			"octets, of which there are none beside packets after a middlebox twice", []uint16{8, 4, 12, 4, 1, 4, 9, 1, 13, 1, 60, 1},
			"0a000001" + "0a000002" + "00001000" + "18" + "18" + "04", []uint16{8, 4, 12, 4, 82, 4, 24, 4, 24, 4, 27, 16, 28, 16},
			"0a000001" + "0a000002" + "65746830" + "00000003" + "00000007" + pair6,
			func(m *flowpb.FlowMessage) []uint64 { return []uint64{m.Bytes, m.Packets} }, []uint64{0, 3},
		},
		{
			"ToS and flow label three times: the first two count", []uint16{8, 4, 12, 4}, "0a000001" + "0a000002",
			append(slices.Clone(tunnel), 5, 1, 5, 1, 5, 1, 31, 4, 31, 4, 31, 4),
			record + "20" + "40" + "b8" + "00000001" + "00000002" + "00012345",
			func(m *flowpb.FlowMessage) []uint64 { return []uint64{uint64(m.IpTos), uint64(m.Ipv6FlowLabel)} }, []uint64{0x40, 2},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before, pkt := ipfixRecord(t, tt.values, tt.before...), ipfixRecord(t, tt.record, tt.fields...)
			ds := newDecoders()
			same(t, ds, before)
			same(t, ds, pkt)
			flows := wireFlows(t, &Decoder{State: newMemory()}, before, pkt)
			if got := tt.got(flows[len(flows)-1]); !slices.Equal(got, tt.want) {
				t.Errorf("want %d, got %d", tt.want, got)
			}
		})
	}
}
