package decode

import (
	"encoding/binary"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"weir/internal/ipfix"
	"weir/pkg/flowpb"
)

// wireFlows decodes datagrams in order on the wire path and reads the messages.
func wireFlows(t *testing.T, d *Decoder, pkts ...[]byte) (flows []*flowpb.FlowMessage) {
	t.Helper()
	var r Result
	for _, p := range pkts {
		d.Wire(p, &testMeta, &r)
		for _, s := range r.Flows {
			m := &flowpb.FlowMessage{}
			if err := proto.Unmarshal(r.Buf[s.Start:s.ValueEnd], m); err != nil {
				t.Fatal(err)
			}
			flows = append(flows, m)
		}
	}
	return flows
}

// ipfixRecord is a datagram of a template of (element, octets) pairs and one record.
func ipfixRecord(t *testing.T, record string, pairs ...uint16) []byte {
	tmpl := fixed(pairs...)
	return datagram(10, tmpl, fromHex(t, record))
}

func v5With(t *testing.T, sampling string) []byte {
	const record = "0a0000010a00000200000000000100020000000100000040000000010000000200500051000006000000000000000000"
	return fromHex(t, "0005000100000001000000010000000100000001"+"0000"+sampling+record)
}

// The order is that of the declaration of SamplingSource in flow.proto.
func TestTheSamplingRateIsTheStrongestOneSaid(t *testing.T) {
	// Addresses, then samplingInterval 34.
	record := ipfixRecord(t, "0a0000010a00000200000064", 8, 4, 12, 4, 34, 4)
	zero := ipfixRecord(t, "0a0000010a00000200000000", 8, 4, 12, 4, 34, 4)
	plain := ipfixRecord(t, "0a0000010a000002", 8, 4, 12, 4)
	type want struct {
		rate   uint64
		source flowpb.SamplingSource
	}
	for _, tt := range []struct {
		name     string
		exporter *Exporter
		options  bool // options data has said 1 in 200
		pkt      []byte
		want     want
	}{
		{"nothing said", nil, false, plain, want{}},
		{"the operator's default", &Exporter{SamplingDefault: 10}, false, plain, want{10, flowpb.SamplingSource_SAMPLING_SOURCE_DEFAULT}},
		{"v5's header before the default", &Exporter{SamplingDefault: 10}, false, v5With(t, "4064"), want{100, flowpb.SamplingSource_SAMPLING_SOURCE_HEADER}},
		{"v5's mode is not part of it", nil, false, v5With(t, "c001"), want{1, flowpb.SamplingSource_SAMPLING_SOURCE_HEADER}},
		{"options data before the default", &Exporter{SamplingDefault: 10}, true, plain, want{200, flowpb.SamplingSource_SAMPLING_SOURCE_OPTIONS}},
		{"the record before options data", &Exporter{SamplingDefault: 10}, true, record, want{100, flowpb.SamplingSource_SAMPLING_SOURCE_RECORD}},
		{"a record's zero gives way", nil, true, zero, want{200, flowpb.SamplingSource_SAMPLING_SOURCE_OPTIONS}},
		{"the operator's override before all", &Exporter{SamplingDefault: 10, SamplingOverride: 7}, true, record, want{7, flowpb.SamplingSource_SAMPLING_SOURCE_OVERRIDE}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			state := newMemory()
			d := &Decoder{State: state, Exporter: func(netip.Addr) *Exporter { return tt.exporter }}
			if tt.options {
				k := TemplateKey{Exporter: Map16(testMeta.Exporter), Domain: 256, Version: 10}
				state.LearnFact(&k, &testMeta, &Header{}, OptionsFact{What: flowpb.Fact_WHAT_SAMPLER, Number: 200})
			}
			m := wireFlows(t, d, tt.pkt)[0]
			if got := (want{m.SamplingRate, m.SamplingSource}); got != tt.want {
				t.Errorf("want %v, got %v", tt.want, got)
			}
		})
	}
}

func TestWhatTheOperatorSaysIsInEveryFlow(t *testing.T) {
	d := &Decoder{State: newMemory(), Exporter: func(a netip.Addr) *Exporter {
		if a != testMeta.Exporter {
			t.Errorf("asked for %v", a)
		}
		return &Exporter{Name: "edge-1", Site: "fra", AddressPlan: "corp", Interfaces: map[uint32]string{1: "ge-0/0/1"}}
	}}
	m := wireFlows(t, d, v5With(t, "0000"))[0]
	if m.ExporterName != "edge-1" || m.Site != "fra" || m.AddressPlan != "corp" || m.InIfName != "ge-0/0/1" || m.OutIfName != "" {
		t.Errorf("want edge-1, fra, corp, ge-0/0/1 in, nothing out; got %q, %q, %q, %q, %q", m.ExporterName, m.Site, m.AddressPlan, m.InIfName, m.OutIfName)
	}
}

// An options template of interface (scope 10) and its name (82), data that names
// 5 and 6, then a flow from 5 to 6 with an application that has a name too.
func TestNamesOfOptionsDataAreInLaterFlows(t *testing.T) {
	d := &Decoder{State: newMemory()}
	header := func(octets string) []byte {
		n := len(octets)/2 + ipfix.HeaderIPFIX
		return append([]byte{0, 10, byte(n >> 8), byte(n), 0x68, 0xe7, 0x78, 0, 0, 0, 0, 1, 0, 0, 1, 0}, fromHex(t, octets)...)
	}
	m := wireFlows(t, d,
		header("00030012"+"0190"+"0002"+"0001"+"000a0004"+"00520004"),
		header("00030012"+"0191"+"0002"+"0001"+"005f0004"+"00600004"),
		header("01900014"+"0000000567653000"+"0000000667653100"), // "ge0", "ge1"
		header("0191000c"+"0d0000c868747470"),                    // 13:200 "http"
		ipfixRecord(t, "0a0000010a00000200000005000000060d0000c8", 8, 4, 12, 4, 10, 4, 14, 4, 95, 4),
	)[0]
	if m.InIfName != "ge0" || m.OutIfName != "ge1" || m.ApplicationName != "http" {
		t.Errorf("want ge0, ge1, http; got %q, %q, %q", m.InIfName, m.OutIfName, m.ApplicationName)
	}
}

// Each record holds an element that gives way to another one: it is kept raw.
func TestWhatGivesWayIsKeptRaw(t *testing.T) {
	pair := []uint16{8, 4, 12, 4}
	for _, tt := range []struct {
		name   string
		fields []uint16
		record string
		want   map[uint32]string // element → octets
	}{
		{"initiator's octets beside plain ones", []uint16{1, 4, 231, 4}, "0000000a0000000b", map[uint32]string{231: "0000000b"}},
		{"a sampler beside a selector", []uint16{302, 1, 48, 1}, "0102", map[uint32]string{48: "02"}},
		{"half of a rate", []uint16{305, 4}, "00000009", map[uint32]string{305: "00000009"}},
		{"a duration beside start and end", []uint16{152, 8, 153, 8, 161, 4}, "0000018bcfe56800" + "0000018bcfe56801" + "00000001", map[uint32]string{161: "00000001"}},
		{"seconds beside milliseconds", []uint16{150, 4, 152, 8}, "65531000" + "0000018bcfe56800", map[uint32]string{150: "65531000", 152: "0000018bcfe56800"}},
		{"an init time without uptimes", []uint16{160, 8}, "0000018bcfe56800", map[uint32]string{160: "0000018bcfe56800"}},
		{"IPv6 addresses beside IPv4 ones", []uint16{27, 16}, "20010db8000000000000000000000001", map[uint32]string{27: "20010db8000000000000000000000001"}},
		{"IPv6 addresses that are not set", []uint16{27, 16}, "00000000000000000000000000000000", nil},
		{"two ways to state a rate", []uint16{34, 1, 50, 1}, "0a0b", map[uint32]string{34: "0a", 50: "0b"}},
		{"ICMP in one beside type and code", []uint16{4, 1, 32, 2, 176, 1, 177, 1}, "01" + "0800" + "0800", map[uint32]string{32: "0800"}},
		{"ICMP type and code of a TCP record", []uint16{4, 1, 32, 2}, "06" + "0800", map[uint32]string{32: "0800"}},
		{"the same in an element each", []uint16{4, 1, 176, 1, 177, 1}, "06" + "08" + "00", map[uint32]string{176: "08"}},
		{"ICMPv6's of an ICMP record", []uint16{4, 1, 32, 2, 139, 2}, "01" + "0800" + "8000", map[uint32]string{139: "8000"}},
		{"ICMP's in four octets", []uint16{4, 1, 32, 4}, "11" + "00010203", map[uint32]string{32: "0000000000010203"}},
		{"an IPv6 prefix length of an IPv4 flow", []uint16{27, 16, 9, 1, 29, 1}, "00000000000000000000000000000000" + "18" + "40", map[uint32]string{29: "40"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			pkt := ipfixRecord(t, "0a0000010a000002"+tt.record, append(pair[:4:4], tt.fields...)...)
			same(t, newDecoders(), pkt)
			m := wireFlows(t, &Decoder{State: newMemory()}, pkt)[0]
			var want []*flowpb.Element
			for i := 0; i < len(tt.fields); i += 2 {
				if v, ok := tt.want[uint32(tt.fields[i])]; ok {
					want = append(want, &flowpb.Element{Id: uint32(tt.fields[i]), Value: fromHex(t, v)})
				}
			}
			if d := cmp.Diff(want, m.Elements, protocmp.Transform()); d != "" {
				t.Errorf("elements (-want +got):\n%s", d)
			}
		})
	}
}

// The µs of 154 are Unix' instead of NTP's; 309/310 is 5 out of 0.
func TestWhatIsMisencodedOrAbsurdIsCounted(t *testing.T) {
	d := &Decoder{State: newMemory()}
	var r Result
	pkt := ipfixRecord(t, "0a0000010a000002"+"000640b5eece0000"+"00000005"+"00000000", 8, 4, 12, 4, 154, 8, 309, 4, 310, 4)
	d.Wire(pkt, &testMeta, &r) // export time 0x68e77800 = 1760000000 s; the value 1760000000 s in µs
	if r.Misencoded != 1 || r.BadRates != 1 || len(r.Flows) != 1 {
		t.Errorf("want 1 misencoded time and 1 bad rate of 1 flow, got %d, %d of %d", r.Misencoded, r.BadRates, len(r.Flows))
	}
}

// 2^43 ms is before the end of the range of ns, 2^44 and what a 64 bit number
// can hold are after it (found by FuzzRecords: the fast shape wrapped around).
func TestMillisecondsBeyondTheRangeAreItsEnd(t *testing.T) {
	for _, tt := range []struct {
		name, times string
		start, end  uint64
	}{
		{"the last that fits, and one more", "000008637bd05af6" + "000008637bd05af7", 9_223_372_036_854_000_000, math.MaxInt64},
		{"2^43", "0000080000000000" + "0000080000000000", 8_796_093_022_208_000_000, 8_796_093_022_208_000_000},
		{"2^44", "0000100000000000" + "0000100000000000", math.MaxInt64, math.MaxInt64},
		{"all bits", "ffffffffffffffff" + "ffffffffffffffff", math.MaxInt64, math.MaxInt64},
	} {
		t.Run(tt.name, func(t *testing.T) {
			pkt := ipfixRecord(t, "0a0000010a000002"+"06"+tt.times, 8, 4, 12, 4, 4, 1, 152, 8, 153, 8)
			same(t, newDecoders(), pkt)
			m := wireFlows(t, &Decoder{State: newMemory()}, pkt)[0]
			if m.TimeFlowStartNs != tt.start || m.TimeFlowEndNs != tt.end {
				t.Errorf("want %d to %d, got %d to %d", tt.start, tt.end, m.TimeFlowStartNs, m.TimeFlowEndNs)
			}
		})
	}
}

// An element without a field, one that gives way, a direction that cannot be.
func TestElementsCanBeLeftOut(t *testing.T) {
	pkt := ipfixRecord(t, "0a0000010a000002"+"07"+"00000001"+"09", 8, 4, 12, 4, 500, 1, 231, 4, 61, 1)
	ds := newDecoders()
	for _, d := range ds.all() {
		d.DropElements = true
	}
	same(t, ds, pkt)
	if m := wireFlows(t, &Decoder{State: newMemory(), DropElements: true}, pkt)[0]; len(m.Elements) != 0 {
		t.Errorf("want no elements, got %v", m.Elements)
	}
	if m := wireFlows(t, &Decoder{State: newMemory()}, pkt)[0]; len(m.Elements) != 2 {
		t.Errorf("want elements 500 and 61, got %v", m.Elements)
	}
}

// A mediator relays records of 198.51.100.7, of 2001:db8::7, of nobody it knows.
func TestARecordMayNameItsExporter(t *testing.T) {
	file := func(a netip.Addr) *Exporter {
		switch a.String() {
		case "192.0.2.7":
			return &Exporter{Name: "mediator", Site: "here", AddressPlan: "plan-here"}
		case "198.51.100.7":
			return &Exporter{Name: "edge", AddressPlan: "corp"}
		}
		return nil
	}
	for _, tt := range []struct {
		name, octets, exporter, called, site, plan string
		fields                                     []uint16
	}{
		{"IPv4", "c6336407", "198.51.100.7", "edge", "", "corp", []uint16{130, 4}},
		{"IPv6, which the file does not know", "20010db8000000000000000000000007", "2001:db8::7", "", "", "", []uint16{131, 16}},
		{"not set", "00000000", "192.0.2.7", "mediator", "here", "plan-here", []uint16{130, 4}},
		{"both, one of them set", "00000000" + "20010db8000000000000000000000007", "2001:db8::7", "", "", "", []uint16{130, 4, 131, 16}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			pkt := ipfixRecord(t, "0a0000010a000002"+tt.octets, append([]uint16{8, 4, 12, 4}, tt.fields...)...)
			ds := newDecoders()
			for _, d := range ds.all() {
				d.ExporterOfRecord, d.Exporter = true, file
			}
			same(t, ds, pkt)
			m := wireFlows(t, ds.wire, pkt)[0]
			if got := addrOf(m.SamplerAddress); got != tt.exporter || m.ExporterName != tt.called || m.Site != tt.site || m.AddressPlan != tt.plan {
				t.Errorf("want %s %q %q %q, got %s %q %q %q", tt.exporter, tt.called, tt.site, tt.plan, got, m.ExporterName, m.Site, m.AddressPlan)
			}
			off := wireFlows(t, &Decoder{State: newMemory(), Exporter: file}, pkt)[0]
			if got := addrOf(off.SamplerAddress); got != "192.0.2.7" || off.ExporterName != "mediator" {
				t.Errorf("without the option: want the sender, got %s %q", got, off.ExporterName)
			}
		})
	}
}

func addrOf(b []byte) string {
	a, _ := netip.AddrFromSlice(b)
	return a.String()
}

// An options template of an exporting process (scope 144) with its octets (40),
// messages (41) and flow records (42).
func TestTotalsOfAnExportingProcessAreRead(t *testing.T) {
	d := &Decoder{State: newMemory()}
	var r Result
	d.Wire(ipfixOf(3, fromHex(t, "0190"+"0004"+"0001"+"00900004"+"00280008"+"00290002"+"002a0004")), &testMeta, &r)
	d.Wire(ipfixOf(400, fromHex(t, "00000001"+"0000000000010000"+"0102"+"00000203")), &testMeta, &r)
	if want := (Exported{true, 65536, 258, 515}); r.OptionsRecords != 1 || r.Exported != want {
		t.Errorf("want 1 record and %+v, got %d and %+v", want, r.OptionsRecords, r.Exported)
	}
}

// One exporter, two domains, one template id: protocol 6 in domain 256, octets
// 6 in domain 257.
func TestATemplateIDMeansAnotherThingInEachDomain(t *testing.T) {
	ofDomain := func(pkt []byte, domain byte) []byte { pkt[15] = domain; return pkt }
	d := &Decoder{State: newMemory()}
	for _, p := range [][]byte{
		ofDomain(ipfixOf(2, fromHex(t, "0100"+"0001"+"00040001")), 0),
		ofDomain(ipfixOf(2, fromHex(t, "0100"+"0001"+"00010001")), 1),
	} {
		if got := wireFlows(t, d, p); len(got) != 0 {
			t.Fatalf("flows of templates: %v", got)
		}
	}
	a := wireFlows(t, d, ofDomain(ipfixOf(256, []byte{6}), 0))[0]
	b := wireFlows(t, d, ofDomain(ipfixOf(256, []byte{6}), 1))[0]
	if a.Proto != 6 || a.Bytes != 0 || b.Proto != 0 || b.Bytes != 6 {
		t.Errorf("want protocol 6, then 6 octets; got %d and %d, then %d and %d", a.Proto, a.Bytes, b.Proto, b.Bytes)
	}
}

// A v9 exporter that is up for 10 000 s at 1 700 000 000 s sends a flow from 10 s
// to 5 s before. Its init time is 1 699 990 000 000 ms by the header, to a second.
func TestAV9InitTimeCountsWhereItAgreesWithTheHeader(t *testing.T) {
	const export, header = 1_700_000_000, uint64(1_699_990_000_000) // s, ms
	u4 := func(b []byte, vs ...uint32) []byte {
		for _, v := range vs {
			b = binary.BigEndian.AppendUint32(b, v)
		}
		return b
	}
	datagram := func(set uint16, content []byte) []byte {
		b := u4([]byte{0, 9, 0, 1}, 10_000_000, export, 1, 256)
		b = binary.BigEndian.AppendUint16(b, set)
		b = binary.BigEndian.AppendUint16(b, uint16(4+len(content)))
		return append(b, content...)
	}
	// Addresses (8, 12), start (22) and end (21) as uptimes; 401 with the init time (160), too.
	templates := datagram(0, fromHex(t, "01900004"+"00080004"+"000c0004"+"00160004"+"00150004"+
		"01910005"+"00080004"+"000c0004"+"00160004"+"00150004"+"00a00008"))
	flow := u4(nil, 0x0a000001, 0x0a000002, 9_990_000, 9_995_000)
	const ms = uint64(1_000_000)
	for _, tt := range []struct {
		name   string
		initMs uint64
		start  uint64 // ms since the epoch
		source flowpb.TimeSource
	}{
		{"none", 0, header + 9_990_000, flowpb.TimeSource_TIME_SOURCE_UPTIME},
		{"to the millisecond", header + 123, header + 9_990_123, flowpb.TimeSource_TIME_SOURCE_INIT_UPTIME},
		{"one wrap of the uptime earlier", header + 123 - 1<<32, header + 9_990_123, flowpb.TimeSource_TIME_SOURCE_INIT_UPTIME},
		{"2 s later", header + 2000, header + 9_992_000, flowpb.TimeSource_TIME_SOURCE_INIT_UPTIME},
		{"more than 2 s later", header + 2001, header + 9_990_000, flowpb.TimeSource_TIME_SOURCE_UPTIME},
		{"2 s earlier", header - 2000, header + 9_988_000, flowpb.TimeSource_TIME_SOURCE_INIT_UPTIME},
		{"more than 2 s earlier", header - 2001, header + 9_990_000, flowpb.TimeSource_TIME_SOURCE_UPTIME},
		{"of before a restart 30 days ago", header - 30*86_400_000, header + 9_990_000, flowpb.TimeSource_TIME_SOURCE_UPTIME},
		{"forged", 1, header + 9_990_000, flowpb.TimeSource_TIME_SOURCE_UPTIME},
		{"the greatest number", math.MaxUint64, header + 9_990_000, flowpb.TimeSource_TIME_SOURCE_UPTIME},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ds := newDecoders()
			for _, d := range ds.all() {
				k := TemplateKey{Exporter: Map16(testMeta.Exporter), Domain: 256, Version: 9}
				d.State.LearnFact(&k, &testMeta, &Header{}, OptionsFact{What: flowpb.Fact_WHAT_INIT_TIME, Number: tt.initMs})
			}
			same(t, ds, templates)
			own := binary.BigEndian.AppendUint64(slices.Clone(flow), tt.initMs)
			for _, pkt := range [][]byte{datagram(400, flow), datagram(401, own)} { // of options data; of the record
				if n := same(t, ds, pkt); n != 1 {
					t.Fatalf("flows: want 1, got %d", n)
				}
				m := wireFlows(t, ds.wire, pkt)[0]
				if m.TimeFlowStartNs != tt.start*ms || m.TimeFlowEndNs != (tt.start+5000)*ms || m.TimeSource != tt.source {
					t.Errorf("want a start at %d ms, 5 s, %v; got %d, %d ns, %v", tt.start, tt.source,
						m.TimeFlowStartNs/ms, m.TimeFlowEndNs-m.TimeFlowStartNs, m.TimeSource)
				}
			}
		})
	}
}

// Rates of 2^32 and more, each stated in another way: of a record, then of options
// data. The flow's rate is unknown, and counted as bad; a field of a record that is
// longer than its element is no rate, but kept as it is.
func TestSamplingRatesBeyondTheGreatestAreUnknown(t *testing.T) {
	const big = "0000000100000000"
	for _, tt := range []struct {
		name   string
		octets string
		fields []uint16
		bad    int // of the record
	}{
		{"34", big, []uint16{34, 8}, 0},
		{"50", big, []uint16{50, 8}, 0},
		{"305 and 306", "00000001" + "ffffffff", []uint16{305, 4, 306, 4}, 1},
		{"305 and a long 306", "00000001" + big, []uint16{305, 4, 306, 8}, 0},
		{"309 and 310", "00000001" + big, []uint16{309, 4, 310, 8}, 0},
		{"311", "3da5fd7fe1796495", []uint16{311, 8}, 1}, // 1e-11
	} {
		t.Run(tt.name, func(t *testing.T) {
			check := func(m *flowpb.FlowMessage) {
				t.Helper()
				if m.SamplingRate != 0 || m.SamplingSource != 0 {
					t.Errorf("want no rate, got 1 in %d by %v", m.SamplingRate, m.SamplingSource)
				}
			}
			record := ipfixRecord(t, "0a0000010a000002"+tt.octets, append([]uint16{8, 4, 12, 4}, tt.fields...)...)
			same(t, newDecoders(), record)
			d := &Decoder{State: newMemory()}
			check(wireFlows(t, d, record)[0])
			var r Result
			if d.Wire(record, &testMeta, &r); r.BadRates != tt.bad {
				t.Errorf("bad rates of a record: want %d, got %d", tt.bad, r.BadRates)
			}

			options := fromHex(t, "0190")
			options = binary.BigEndian.AppendUint16(options, uint16(1+len(tt.fields)/2))
			options = append(options, 0, 1, 0, 149, 0, 4) // the scope: observationDomainId
			for _, v := range tt.fields {
				options = binary.BigEndian.AppendUint16(options, v)
			}
			d = &Decoder{State: newMemory()}
			d.Wire(ipfixOf(3, options, 400, fromHex(t, "00000007"+tt.octets)), &testMeta, &r)
			if r.OptionsRecords != 1 || r.BadRates != 1 {
				t.Errorf("want 1 options record and 1 bad rate, got %d and %d", r.OptionsRecords, r.BadRates)
			}
			check(wireFlows(t, d, ipfixRecord(t, "0a0000010a000002", 8, 4, 12, 4))[0])
		})
	}
}

// A start without an end or a duration ends when the record was observed. Cisco's
// guide to NSEL: NF_F_EVENT_TIME_MSEC (323) is the time of the event, and with the time
// of the flow's creation (152) gives its duration.
func TestAStartWithoutAnEndEndsWhenItWasObserved(t *testing.T) {
	const start, ms = uint64(1_700_000_000_000), uint64(1_000_000)
	at := fmt.Sprintf("%016x", start)
	for _, tt := range []struct {
		name   string
		fields []uint16
		octets string
		lasted uint64 // ms
		source flowpb.TimeSource
	}{
		{"milliseconds", []uint16{323, 8, 152, 8}, fmt.Sprintf("%016x", start+61_250) + at, 61_250, flowpb.TimeSource_TIME_SOURCE_MILLISECONDS},
		{"observed in seconds", []uint16{152, 8, 322, 4}, at + fmt.Sprintf("%08x", start/1000+9), 9_000, flowpb.TimeSource_TIME_SOURCE_MILLISECONDS},
		{"observed in NTP's µs", []uint16{152, 8, 324, 8}, at + "e8fe6f82" + "80000000", 2_500, flowpb.TimeSource_TIME_SOURCE_MILLISECONDS},
		{"observed in NTP's ns", []uint16{152, 8, 325, 8}, at + "e8fe6f82" + "40000000", 2_250, flowpb.TimeSource_TIME_SOURCE_MILLISECONDS},
		{"a start in seconds", []uint16{150, 4, 323, 8}, "6553f100" + fmt.Sprintf("%016x", start+1_500), 1_500, flowpb.TimeSource_TIME_SOURCE_SECONDS},
		{"observed before the start", []uint16{152, 8, 323, 8}, at + fmt.Sprintf("%016x", start-10), 0, flowpb.TimeSource_TIME_SOURCE_MILLISECONDS},
		{"an end counts more", []uint16{152, 8, 153, 8, 323, 8}, at + fmt.Sprintf("%016x%016x", start+7, start+61_250), 7, flowpb.TimeSource_TIME_SOURCE_MILLISECONDS},
		{"a duration counts more", []uint16{152, 8, 161, 4, 323, 8}, at + "00000008" + fmt.Sprintf("%016x", start+61_250), 8, flowpb.TimeSource_TIME_SOURCE_MILLISECONDS},
	} {
		t.Run(tt.name, func(t *testing.T) {
			pkt := ipfixRecord(t, "0a0000010a000002"+tt.octets, append([]uint16{8, 4, 12, 4}, tt.fields...)...)
			same(t, newDecoders(), pkt)
			m := wireFlows(t, &Decoder{State: newMemory()}, pkt)[0]
			if m.TimeFlowStartNs != start*ms || m.TimeFlowEndNs != (start+tt.lasted)*ms || m.TimeSource != tt.source {
				t.Errorf("want %d ms from %d ms on, %v; got %d to %d ns, %v", tt.lasted, start, tt.source, m.TimeFlowStartNs, m.TimeFlowEndNs, m.TimeSource)
			}
		})
	}
}

// An uptime after the header's is of before the clock wrapped at 2^32 ms, or wrong: it
// is believed up to MaxUptimeAge. Ages by hand: header's uptime plus 2^32 less the time.
func TestUptimesOfBeforeAWrapAreBelievedForADay(t *testing.T) {
	const wrap, day, export = int64(1) << 32, int64(86_400_000), int64(1_700_000_000)
	u4 := func(b []byte, vs ...int64) []byte {
		for _, v := range vs {
			b = binary.BigEndian.AppendUint32(b, uint32(v))
		}
		return b
	}
	v5 := func(uptime, first, last int64) []byte {
		b := u4([]byte{0, 5, 0, 1}, uptime, export, 0, 1, 0)
		b = u4(b, 0x0a000001, 0x0a000002, 0, 0, 1, 100, first, last)
		return append(b, make([]byte, 16)...)
	}
	v9 := func(uptime, first, last int64) []byte {
		template := fromHex(t, "0000"+"0018"+"0100"+"0004"+"00080004"+"000c0004"+"00160004"+"00150004")
		b := append(u4([]byte{0, 9, 0, 2}, uptime, export, 1, 256), template...)
		return u4(append(b, 1, 0, 0, 20), 0x0a000001, 0x0a000002, first, last)
	}
	for _, tt := range []struct {
		name                string
		uptime, first, last int64 // ms
		most                time.Duration
		start, end          int64 // ms before the export; both 0 and old: its time
		old                 int
	}{
		{"a minute before the wrap", 60_000, wrap - 30_000, wrap - 10_000, 0, 90_000, 70_000, 0},
		{"a flow over the wrap", 60_000, wrap - 30_000, 10_000, 0, 90_000, 50_000, 0},
		{"a day old to the millisecond", 60_000, wrap + 60_000 - day, 10_000, 0, day, 50_000, 0},
		{"a millisecond older", 60_000, wrap + 60_000 - day - 1, 10_000, 0, 0, 0, 1},
		{"far beyond the header's uptime", 0, 613_775_597, 614_043_964, 0, 0, 0, 1},
		{"a start beyond it and an end", 599_564_152, 4_216_411_584, 599_559_872, 0, 0, 0, 1},
		{"the same when 20 days are believed", 599_564_152, 4_216_411_584, 599_559_872, 480 * time.Hour, wrap + 599_564_152 - 4_216_411_584, 4_280, 0},
		{"two days ago without a wrap", 3 * day, day, day + 1000, 0, 2 * day, 2*day - 1000, 0},
		{"a little after the header", 60_000, 159_998, 159_998, 0, -99_998, -99_998, 0},
	} {
		for version, pkt := range map[int][]byte{5: v5(tt.uptime, tt.first, tt.last), 9: v9(tt.uptime, tt.first, tt.last)} {
			t.Run(fmt.Sprintf("%s, v%d", tt.name, version), func(t *testing.T) {
				ds := newDecoders()
				most := max(tt.most, 24*time.Hour)
				for _, d := range ds.all() {
					d.MaxUptimeAge = most
				}
				if n := same(t, ds, pkt); n != 1 {
					t.Fatalf("flows: want 1, got %d", n)
				}
				var r Result
				d := &Decoder{State: newMemory(), MaxUptimeAge: most}
				d.Wire(pkt, &testMeta, &r)
				m := wireFlows(t, d, pkt)[0]
				source := map[int]flowpb.TimeSource{5: flowpb.TimeSource_TIME_SOURCE_HEADER_UPTIME, 9: flowpb.TimeSource_TIME_SOURCE_UPTIME}[version]
				if tt.old > 0 {
					source = flowpb.TimeSource_TIME_SOURCE_EXPORT_TIME
				}
				start, end := export*1000-int64(m.TimeFlowStartNs/1e6), export*1000-int64(m.TimeFlowEndNs/1e6)
				if start != tt.start || end != tt.end || m.TimeSource != source || r.OldUptimes != tt.old {
					t.Errorf("want %d and %d ms before the export, %v, %d old; got %d and %d, %v, %d", tt.start, tt.end, source, tt.old, start, end, m.TimeSource, r.OldUptimes)
				}
			})
		}
	}
}

// With an init time too: IPFIX has no uptime in its header.
func TestUptimesWithAnInitTimeAreBelievedForADay(t *testing.T) {
	const export, wrap, day = int64(0x68e77800), int64(1) << 32, int64(86_400_000)
	for _, tt := range []struct {
		name                string
		initMs, first, last int64
		start, end          int64 // ms before the export
		old                 bool
	}{
		{"started 60 days ago, a minute ago", export*1000 - 60*day, 60*day - wrap - 60_000, 60*day - wrap - 50_000, 60_000, 50_000, false},
		{"started 60 days ago, never", export*1000 - 60*day, 0, 0, 0, 0, true},
		{"started two days ago, then", export*1000 - 2*day, 0, 1000, 2 * day, 2*day - 1000, false},
		{"a start after the end", export*1000 - 2*day, 3 * day, 2*day - 1000, 0, 0, true},
		{"no init time, a start after the end", 0, 3 * day, 2 * day, 0, 0, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			fields := []uint16{8, 4, 12, 4, 22, 4, 21, 4}
			octets := fmt.Sprintf("0a0000010a000002%08x%08x", tt.first, tt.last)
			if tt.initMs != 0 {
				fields, octets = append(fields, 160, 8), octets+fmt.Sprintf("%016x", tt.initMs)
			}
			pkt := ipfixRecord(t, octets, fields...)
			ds := newDecoders()
			for _, d := range ds.all() {
				d.MaxUptimeAge = 24 * time.Hour
			}
			same(t, ds, pkt)
			var r Result
			d := &Decoder{State: newMemory(), MaxUptimeAge: 24 * time.Hour}
			d.Wire(pkt, &testMeta, &r)
			m := wireFlows(t, d, pkt)[0]
			at := int64(m.TimeExportNs / 1e6)
			if start, end := at-int64(m.TimeFlowStartNs/1e6), at-int64(m.TimeFlowEndNs/1e6); start != tt.start || end != tt.end || r.OldUptimes > 0 != tt.old ||
				tt.old != (m.TimeSource == flowpb.TimeSource_TIME_SOURCE_EXPORT_TIME) {
				t.Errorf("want %d and %d ms before the export, old %v; got %d and %d, %v, %d old", tt.start, tt.end, tt.old, start, end, m.TimeSource, r.OldUptimes)
			}
		})
	}
}
