package decode

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	"weir/internal/flowkey"
	"weir/internal/ipfix"
	"weir/pkg/flowpb"
)

// A shape is a template as a kind of exporter sends it.
type shape struct {
	name   string
	fields []uint16 // element, octets
}

// The first shape is the plainest; the others have what firewalls and CGNATs add to it.
var shapes = []shape{
	{"plain", []uint16{8, 4, 12, 4, 4, 1, 7, 2, 11, 2, 1, 8, 2, 8, 10, 4, 14, 4, 6, 1, 152, 8, 153, 8}},
	{"EtherType", []uint16{8, 4, 12, 4, 4, 1, 7, 2, 11, 2, 1, 8, 2, 8, 10, 4, 14, 4, 6, 1, 152, 8, 153, 8, 256, 2}},
	{"families", []uint16{8, 4, 12, 4, 27, 16, 28, 16, 4, 1, 7, 2, 11, 2, 1, 8, 2, 8, 10, 4, 14, 4, 6, 1, 152, 8, 153, 8}},
	{"NAT", []uint16{8, 4, 12, 4, 4, 1, 7, 2, 11, 2, 1, 8, 2, 8, 10, 4, 14, 4, 6, 1, 152, 8, 153, 8,
		225, 4, 226, 4, 227, 2, 228, 2, 230, 1}},
	// Of NetFlow Security Event Logging of Cisco ASA, template of flow-create and flow-teardown events.
	{"ASA", []uint16{148, 4, 8, 4, 7, 2, 10, 2, 12, 4, 11, 2, 14, 2, 4, 1, 176, 1, 177, 1, 225, 4, 226, 4, 227, 2, 228, 2,
		233, 1, 323, 8, 152, 8, 231, 4, 232, 4}},
}

func (s *shape) template() Template {
	t := fixed(s.fields...)
	return t
}

// records returns n records of the template. Addresses of one family are zero in each, ICMP elements are zero but for
// ICMP, and each second pair after NAT is untranslated.
func (s *shape) records(rng *rand.Rand, n int) (b []byte) {
	for i := range n {
		v6 := s.name == "families" && i%2 == 1
		for k := 0; k < len(s.fields); k += 2 {
			id, octets := s.fields[k], int(s.fields[k+1])
			field := make([]byte, octets)
			value := func(v uint64) {
				var all [8]byte
				binary.BigEndian.PutUint64(all[:], v)
				copy(field, all[8-octets:])
			}
			switch id {
			case 8, 225:
				if copy(field, []byte{100, 64, byte(rng.IntN(256)), byte(rng.IntN(256))}); v6 {
					clear(field)
				}
				if id == 225 {
					copy(field, []byte{198, 51, 100, byte(i)})
				}
			case 12, 226:
				if copy(field, []byte{203, 0, 113, byte(i)}); v6 {
					clear(field)
				}
			case 27, 28:
				if v6 {
					copy(field, []byte{0x20, 1, 0xd, 0xb8, byte(id), 15: byte(rng.IntN(256))})
				}
			case 4:
				field[0] = []byte{6, 17}[rng.IntN(2)]
			case 176, 177, 178, 179:
			case 256:
				value([]uint64{0, 0x0800, 0x0806, 0x86dd}[rng.IntN(4)])
			case 152:
				value(1_760_000_000_000 + uint64(rng.IntN(100_000)))
			case 153, 323:
				value(1_760_000_100_000 + uint64(rng.IntN(100_000)))
			default:
				value(rng.Uint64() >> (64 - 8*octets + rng.IntN(8*octets)))
			}
			b = append(b, field...)
		}
	}
	return b
}

// The shapes take the fast path with every record: no allocation, and no message of the appending path.
func TestShapesOfFirewallsTakeTheFastPath(t *testing.T) {
	for _, s := range shapes {
		t.Run(s.name, func(t *testing.T) {
			layout := s.template()
			p, err := Compile(ipfix.VersionIPFIX, &layout)
			if err != nil {
				t.Fatal(err)
			}
			if p.fast == nil {
				t.Fatal("the template takes the appending path")
			}
			d := Decoder{State: newMemory()}
			d.begin(&testMeta, &Header{Version: ipfix.VersionIPFIX}, 1)
			d.rec.plan = p
			if _, ok := d.beginSets(p); !ok {
				t.Fatal("records do not fit the window of the message")
			}
			in, w := new(window), new(outWindow)
			for i, rest := 0, s.records(rand.New(rand.NewPCG(1, 2)), 40); len(rest) > 0; i, rest = i+1, rest[p.min:] {
				clear(in[:])
				copy(in[8:], rest[:p.min])
				if _, end := d.fastRecord(p, in, w, 0); end == 0 {
					t.Errorf("record %d takes the appending path", i)
				}
			}
			set := Set{Meta: testMeta, Header: Header{Version: ipfix.VersionIPFIX}, ID: layout.ID, Data: s.records(rand.New(rand.NewPCG(1, 2)), 20)}
			var r Result
			if n := testing.AllocsPerRun(100, func() { d.WireSet(&set, p, &r) }); n != 0 || len(r.Flows) != 20 {
				t.Errorf("%v allocations, %d flows", n, len(r.Flows))
			}
		})
	}
}

// The octets, messages and keys are written by hand. The cases cover addresses after NAT as sent, keys with the address
// of the private end (RFC 1918, RFC 6598), records with the addresses of both families of which one is zero, and an
// Ethernet type other than that of the family.
func TestRecordsOfFirewalls(t *testing.T) {
	a := netip.MustParseAddr
	for _, tt := range []struct {
		name     string
		fields   []uint16
		record   string
		src, dst string
		want     *flowpb.FlowMessage
		key      flowkey.Tuple
	}{
		{
			"source NAT", []uint16{8, 4, 12, 4, 4, 1, 7, 2, 11, 2, 225, 4, 226, 4, 227, 2, 228, 2},
			"0a000001" + "cb007101" + "06" + "c000" + "01bb" + "c6336401" + "cb007101" + "9c40" + "01bb", "10.0.0.1", "203.0.113.1",
			&flowpb.FlowMessage{Proto: 6, SrcPort: 0xc000, DstPort: 443, PostNatSrcAddr: []byte{198, 51, 100, 1},
				PostNatDstAddr: []byte{203, 0, 113, 1}, PostNatSrcPort: 40000, PostNatDstPort: 443},
			flowkey.Tuple{Src: a("10.0.0.1").As16(), Dst: a("203.0.113.1").As16(), Proto: 6, SrcPort: 0xc000, DstPort: 443},
		},
		{
			"the way back, reported outside", []uint16{8, 4, 12, 4, 4, 1, 7, 2, 11, 2, 226, 4, 228, 2},
			"cb007101" + "c6336401" + "06" + "01bb" + "9c40" + "0a000001" + "c000", "203.0.113.1", "198.51.100.1",
			&flowpb.FlowMessage{Proto: 6, SrcPort: 443, DstPort: 40000, PostNatDstAddr: []byte{10, 0, 0, 1}, PostNatDstPort: 0xc000},
			flowkey.Tuple{Src: a("203.0.113.1").As16(), Dst: a("10.0.0.1").As16(), Proto: 6, SrcPort: 443, DstPort: 0xc000},
		},
		{
			"no translation: zeros", []uint16{8, 4, 12, 4, 4, 1, 7, 2, 11, 2, 225, 4, 227, 2},
			"0a000001" + "cb007101" + "11" + "c000" + "0035" + "00000000" + "0000", "10.0.0.1", "203.0.113.1",
			&flowpb.FlowMessage{Proto: 17, SrcPort: 0xc000, DstPort: 53, PostNatSrcAddr: []byte{0, 0, 0, 0}},
			flowkey.Tuple{Src: a("10.0.0.1").As16(), Dst: a("203.0.113.1").As16(), Proto: 17, SrcPort: 0xc000, DstPort: 53},
		},
		{
			"IPv6 addresses beside zero IPv4 addresses", []uint16{8, 4, 12, 4, 27, 16, 28, 16, 4, 1},
			"0000000000000000" + "20010db8000000000000000000000001" + "20010db8000000000000000000000002" + "3a", "2001:db8::1", "2001:db8::2",
			&flowpb.FlowMessage{Proto: 58},
			flowkey.Tuple{Src: a("2001:db8::1").As16(), Dst: a("2001:db8::2").As16(), Proto: 58},
		},
		{
			"IPv4 addresses beside zero IPv6 addresses", []uint16{27, 16, 28, 16, 8, 4, 12, 4, 4, 1},
			"00000000000000000000000000000000" + "00000000000000000000000000000000" + "0a000001" + "0a000002" + "2f", "10.0.0.1", "10.0.0.2",
			&flowpb.FlowMessage{Proto: 47},
			flowkey.Tuple{Src: a("10.0.0.1").As16(), Dst: a("10.0.0.2").As16(), Proto: 47},
		},
		{
			"an Ethernet type", []uint16{8, 4, 12, 4, 4, 1, 256, 2}, "0a000001" + "0a000002" + "2f" + "8847", "10.0.0.1", "10.0.0.2",
			&flowpb.FlowMessage{Proto: 47, Etype: 0x8847},
			flowkey.Tuple{Src: a("10.0.0.1").As16(), Dst: a("10.0.0.2").As16(), Proto: 47},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			layout := fixed(tt.fields...)
			pkt := datagram(ipfix.VersionIPFIX, layout, fromHex(t, tt.record))
			same(t, newDecoders(), pkt)
			d := Decoder{State: newMemory()}
			var r Result
			d.Wire(pkt, &testMeta, &r)
			if len(r.Flows) != 1 {
				t.Fatalf("%d flows, %v", len(r.Flows), r.Errors)
			}
			var m flowpb.FlowMessage
			if err := proto.Unmarshal(r.Buf[:r.Flows[0].ValueEnd], &m); err != nil {
				t.Fatal(err)
			}
			src, dst := a(tt.src), a(tt.dst)
			if tt.want.SrcAddr, tt.want.DstAddr = src.AsSlice(), dst.AsSlice(); tt.want.Etype == 0 {
				tt.want.Etype = map[bool]uint32{false: 0x0800, true: 0x86dd}[src.Is6()]
			}
			got := &flowpb.FlowMessage{
				SrcAddr: m.SrcAddr, DstAddr: m.DstAddr, Etype: m.Etype, Proto: m.Proto, SrcPort: m.SrcPort, DstPort: m.DstPort,
				PostNatSrcAddr: m.PostNatSrcAddr, PostNatDstAddr: m.PostNatDstAddr, PostNatSrcPort: m.PostNatSrcPort,
				PostNatDstPort: m.PostNatDstPort, Elements: m.Elements,
			}
			if !proto.Equal(got, tt.want) {
				t.Errorf("want %v\ngot  %v", tt.want, got)
			}
			k, _ := tt.key.Canon()
			if want, key := k.Append(nil), r.Buf[r.Flows[0].ValueEnd:r.Flows[0].KeyEnd]; !slices.Equal(key, want) {
				t.Errorf("key: want %x, got %x", want, key)
			}
		})
	}
}

// firewallDatagram returns a datagram of a random template of what firewalls send: a pair of each family or of both,
// addresses and ports after NAT, Ethernet type, ICMP and other elements, some of them twice. In its records most
// addresses, ports and ICMP elements are zero or of a few values, so that all cases of the rules occur.
func firewallDatagram(rng *rand.Rand, version uint8) []byte {
	var fields []uint16
	pick := func(of ...[]uint16) { fields = append(fields, of[rng.IntN(len(of))]...) }
	none := []uint16{}
	pick([]uint16{8, 4, 12, 4}, []uint16{27, 16, 28, 16}, []uint16{8, 4, 12, 4, 27, 16, 28, 16}, []uint16{28, 16, 12, 4, 27, 16, 8, 4})
	pick(none, []uint16{4, 1}, []uint16{4, 1})
	pick(none, []uint16{7, 2, 11, 2}, []uint16{7, 2, 11, 4})
	pick(none, []uint16{225, 4}, []uint16{225, 4, 226, 4}, []uint16{281, 16, 282, 16}, []uint16{225, 4, 281, 16}, []uint16{226, 4, 225, 3})
	pick(none, []uint16{227, 2}, []uint16{227, 2, 228, 2}, []uint16{228, 4})
	pick(none, []uint16{256, 2}, []uint16{256, 4}, []uint16{60, 1})
	pick(none, none, []uint16{32, 2}, []uint16{176, 1, 177, 1}, []uint16{139, 2}, []uint16{176, 1, 177, 1, 178, 1, 179, 1})
	pick(none, []uint16{9, 1, 13, 1}, []uint16{29, 1, 30, 1}, []uint16{9, 1, 13, 1, 29, 1, 30, 1})
	pick(none, []uint16{1, 8, 2, 8}, []uint16{231, 8, 232, 8}, []uint16{1, 4})
	pick(none, []uint16{152, 8, 153, 8}, []uint16{22, 4, 21, 4}, []uint16{22, 4}, []uint16{323, 8}, []uint16{152, 8}, []uint16{153, 8},
		[]uint16{152, 8, 323, 8}, []uint16{152, 8, 322, 4}, []uint16{150, 4, 322, 4}, []uint16{152, 8, 323, 8, 161, 4})
	pick(none, []uint16{371, 5}, []uint16{233, 1, 230, 1}, []uint16{61, 1}, []uint16{8, 4}, []uint16{96, ipfix.VarLen})
	layout := fixed(fields...)
	rng.Shuffle(len(layout.Fields), func(i, j int) {
		layout.Fields[i], layout.Fields[j] = layout.Fields[j], layout.Fields[i]
	})
	var data []byte
	for range 1 + rng.IntN(6) {
		zero4, zero6 := rng.IntN(2) == 0, rng.IntN(2) == 0
		for _, f := range layout.Fields {
			if f.Length == ipfix.VarLen {
				data = append(data, 2, 'o', 'k')
				continue
			}
			field := make([]byte, f.Length)
			if rng.IntN(3) > 0 {
				field[len(field)-1] = []byte{0, 1, 2, 8, 128, 135}[rng.IntN(6)]
			}
			switch f.ID {
			case 8, 12, 225, 226:
				copy(field, [][]byte{{10, 0, 0}, {100, 64, 0}, {198, 51, 100}, {0, 0, 0}}[rng.IntN(4)])
				if zero4 && f.ID < 225 {
					clear(field)
				}
			case 27, 28, 281, 282:
				copy(field, [][]byte{{0xfd}, {0x20, 1}, {10: 0xff, 11: 0xff}, {0}}[rng.IntN(4)])
				if zero6 && f.ID < 281 {
					clear(field)
				}
			case 4:
				field[0] = []byte{1, 6, 17, 47, 58}[rng.IntN(5)]
			}
			data = append(data, field...)
		}
	}
	return datagram(version, layout, data)
}

func FuzzRecordsOfFirewalls(f *testing.F) {
	for seed := range uint64(500) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		rng := rand.New(rand.NewPCG(seed, 13))
		pkt := firewallDatagram(rng, []uint8{ipfix.VersionNetFlow9, ipfix.VersionIPFIX}[rng.IntN(2)])
		ds := newDecoders()
		if same(t, ds, pkt) == 0 {
			t.Fatal("no flows: nothing was compared")
		}
	})
}

// BenchmarkShapes compares the cost of templates within one run: "decode" is Wire, "appending" is Wire on the
// appending path, "fields" reads every field of the same records and adds them up.
func BenchmarkShapes(b *testing.B) {
	for _, s := range shapes {
		layout := s.template()
		p, err := Compile(ipfix.VersionIPFIX, &layout)
		if err != nil {
			b.Fatal(err)
		}
		sets, octets := make([]Set, 256), make([][]byte, 256) // octets: with the margins of windows
		for i := range sets {
			data := s.records(rand.New(rand.NewPCG(uint64(i), 2)), 20)
			octets[i] = slices.Concat(make([]byte, 8), data, make([]byte, len(window{})))
			sets[i] = Set{
				Meta: testMeta, Header: Header{Version: ipfix.VersionIPFIX, Domain: 1, Sequence: 1}, Hash: 1, ID: layout.ID,
				Off: 20, Data: data,
			}
		}
		d := Decoder{State: newMemory()}
		var r Result
		report := func(b *testing.B, n int) {
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/flow")
		}
		for _, plain := range []bool{false, true} {
			b.Run(s.name+map[bool]string{false: "/decode", true: "/appending"}[plain], func(b *testing.B) {
				if d.path = nil; plain {
					d.path = (*Decoder).appendRecords
				}
				b.ReportAllocs()
				n := 0
				for i := 0; b.Loop(); i++ {
					d.WireSet(&sets[i%len(sets)], p, &r)
					n += len(r.Flows)
				}
				report(b, n)
			})
		}
		b.Run(s.name+"/fields", func(b *testing.B) {
			loads := fieldLoads(&layout)
			n, sum := 0, uint64(0)
			for i := 0; b.Loop(); i++ {
				b := octets[i%len(octets)]
				for at := range 20 {
					in := (*window)(b[at*p.min:])
					for j := range loads {
						sum += in.integer(loads[j].end) & loads[j].mask
					}
				}
				n += 20
			}
			report(b, n)
			loaded = sum
		})
	}
}

// loaded keeps the compiler from leaving out the loads of BenchmarkShapes.
var loaded uint64

// fieldLoads returns loads of all fields of a template, two for an IPv6 address.
func fieldLoads(t *Template) (all []load) {
	end := uint16(0)
	for _, f := range t.Fields {
		end += f.Length
		if f.Length == 16 {
			all = append(all, load{mask: maskOf(8), end: end - 8})
		}
		all = append(all, load{mask: maskOf(min(8, f.Length)), end: end})
	}
	return all
}
