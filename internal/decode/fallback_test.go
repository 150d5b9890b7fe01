package decode

import (
	"fmt"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"weir/internal/ie"
	"weir/internal/ipfix"
	"weir/pkg/flowpb"
)

// elementsOf returns raw elements of IANA, by id and octets in hex.
func elementsOf(t *testing.T, pairs ...string) (all []*flowpb.Element) {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		id, err := strconv.ParseUint(pairs[i], 10, 16)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, &flowpb.Element{Id: uint32(id), Value: fromHex(t, pairs[i+1])})
	}
	return all
}

// Values are those of the octets; the elements' meanings are IANA's registry and
// RFC 2474 section 3: the DSCP is the upper six bits of the octet.
func TestAnElementStandsInWhereTheBetterOneIsAbsent(t *testing.T) {
	for _, tt := range []struct {
		name   string
		fields []uint16
		record string
		want   *flowpb.FlowMessage
	}{
		{"physical interfaces alone", []uint16{252, 4, 253, 4}, "00000102" + "00000304", &flowpb.FlowMessage{InIf: 0x102, OutIf: 0x304}},
		{"physical interfaces beside logical ones", []uint16{252, 4, 10, 4, 14, 4, 253, 4}, "00000102" + "00000005" + "00000000" + "00000304",
			&flowpb.FlowMessage{InIf: 5, Elements: elementsOf(t, "252", "00000102", "253", "00000304")}},
		{"a physical interface beside a logical one of no usable length", []uint16{10, 9, 252, 4}, "000000000000000007" + "00000102",
			&flowpb.FlowMessage{InIf: 0x102, Elements: elementsOf(t, "10", "000000000000000007")}},
		{"postDot1qVlanId alone", []uint16{254, 2}, "0064", &flowpb.FlowMessage{DstVlan: 100}},
		{"postDot1qVlanId beside postVlanId", []uint16{254, 2, 59, 2}, "0064" + "00c8", &flowpb.FlowMessage{DstVlan: 200, Elements: elementsOf(t, "254", "0064")}},
		{"DSCP EF alone", []uint16{195, 1}, "2e", &flowpb.FlowMessage{IpTos: 0xb8}},
		{"DSCP beside type of service", []uint16{195, 1, 5, 1}, "2e" + "b9", &flowpb.FlowMessage{IpTos: 0xb9, Elements: elementsOf(t, "195", "2e")}},
		{"a DSCP of seven bits", []uint16{195, 1}, "40", &flowpb.FlowMessage{Elements: elementsOf(t, "195", "40")}},
		{"maximum TTL alone", []uint16{53, 1}, "40", &flowpb.FlowMessage{IpTtl: 64}},
		{"maximum TTL beside the minimum", []uint16{53, 1, 52, 1}, "40" + "3f", &flowpb.FlowMessage{IpTtl: 63, Elements: elementsOf(t, "53", "40")}},
		{"both beside the TTL", []uint16{53, 1, 52, 1, 192, 1}, "40" + "3f" + "3e", &flowpb.FlowMessage{IpTtl: 62, Elements: elementsOf(t, "53", "40", "52", "3f")}},
		{"postDestinationMacAddress alone", []uint16{57, 6}, "020000000001", &flowpb.FlowMessage{DstMac: 0x020000000001}},
		{"postDestinationMacAddress beside the destination's", []uint16{57, 6, 80, 6}, "020000000001" + "020000000002",
			&flowpb.FlowMessage{DstMac: 0x020000000002, Elements: elementsOf(t, "57", "020000000001")}},
		{"post counters alone", []uint16{23, 4, 24, 4}, "000005dc" + "00000003",
			&flowpb.FlowMessage{Bytes: 1500, Packets: 3, PostBytes: 1500, PostPackets: 3}},
		{"post counters twice: the first counts", []uint16{23, 4, 23, 4}, "000005dc" + "00000001",
			&flowpb.FlowMessage{Bytes: 1500, PostBytes: 1500, Elements: elementsOf(t, "23", "00000001")}},
		{"post counters beside deltas of zero", []uint16{23, 4, 24, 4, 1, 4, 2, 4}, "000005dc" + "00000003" + "00000000" + "00000000",
			&flowpb.FlowMessage{PostBytes: 1500, PostPackets: 3}},
		{"post counters beside totals", []uint16{23, 4, 24, 4, 85, 4, 86, 4}, "000005dc" + "00000003" + "00000064" + "00000001",
			&flowpb.FlowMessage{Bytes: 100, Packets: 1, TotalBytes: 100, TotalPackets: 1, PostBytes: 1500, PostPackets: 3}},
		{"octets after it, packets before it", []uint16{23, 4, 2, 4}, "000005dc" + "00000003",
			&flowpb.FlowMessage{Bytes: 1500, Packets: 3, PostBytes: 1500}},
	} {
		for _, version := range []uint8{9, 10} {
			t.Run(tt.name+" v"+strconv.Itoa(int(version)), func(t *testing.T) {
				tmpl := fixed(append([]uint16{8, 4, 12, 4, 4, 1}, tt.fields...)...)
				pkt := datagram(version, tmpl, fromHex(t, "0a0000010a00000211"+tt.record))
				same(t, newDecoders(), pkt)
				same(t, newDecoders(), datagram(version, fixed(append([]uint16{8, 4}, tt.fields...)...), fromHex(t, "0a000001"+tt.record)))
				got := wireFlows(t, &Decoder{State: newMemory()}, pkt)[0]
				want := proto.CloneOf(tt.want)
				only(got)
				if d := cmp.Diff(want, got, protocmp.Transform()); d != "" {
					t.Errorf("(-want +got):\n%s", d)
				}
			})
		}
	}
}

// only clears what is the same in all records of these tests.
func only(m *flowpb.FlowMessage) {
	m.Type, m.SequenceNum, m.SamplerAddress, m.SrcAddr, m.DstAddr, m.Proto, m.Etype = 0, 0, nil, nil, nil, 0, 0
	m.ObservationDomainId, m.TimeReceivedNs, m.TimeFlowStartNs, m.TimeFlowEndNs, m.TimeExportNs = 0, 0, 0, 0, 0
	m.TimeSource, m.TimeResolutionUs, m.DatagramHash, m.RecordOffset, m.ExporterPort = 0, 0, 0, 0, 0
}

// Of the reverse direction: RFC 5103 section 6.1.
func TestAnElementStandsInOfTheReverseDirection(t *testing.T) {
	tmpl := fixed(8, 4, 12, 4, 1, 4, 23, 4, 24, 4, 195, 1)
	for i := 3; i < 6; i++ {
		tmpl.Fields[i].PEN = 29305
	}
	pkt := datagram(10, tmpl, fromHex(t, "0a0000010a000002"+"00000064"+"000005dc"+"00000003"+"0a"))
	same(t, newDecoders(), pkt)
	m := wireFlows(t, &Decoder{State: newMemory()}, pkt)[0]
	if m.Bytes != 100 || m.ReverseBytes != 1500 || m.ReversePackets != 3 || m.ReverseIpTos != 40 || len(m.Elements) != 0 {
		t.Errorf("want 100 octets, 1500 in 3 packets with 40 back; got %v", m)
	}
}

// RFC 4364 section 4.2 has the three types; the last capture's is Huawei's, read
// by hand: 0xfbf00036 is 4226809910.
func TestRouteDistinguishersAreText(t *testing.T) {
	for _, tt := range []struct{ name, rd, want string }{
		{"type 0: AS number of 2 octets", "0000fde8000f4240", "65000:1000000"},
		{"type 1: IPv4 address", "0001c00002010064", "192.0.2.1:100"},
		{"type 2: AS number of 4 octets", "0002fbf00036000e", "4226809910:14"},
		{"the greatest of type 0", "0000ffffffffffff", "65535:4294967295"},
		{"the longest text", "0001ffffffffffff", "255.255.255.255:65535"},
		{"none", "0000000000000000", ""},
		{"type 3", "0003000100020003", "raw"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			pkt := ipfixRecord(t, "0a0000010a000002"+tt.rd, 8, 4, 12, 4, 90, 8)
			same(t, newDecoders(), pkt)
			m := wireFlows(t, &Decoder{State: newMemory()}, pkt)[0]
			want := tt.want
			if want == "raw" {
				want = ""
				if d := cmp.Diff(elementsOf(t, "90", tt.rd), m.Elements, protocmp.Transform()); d != "" {
					t.Errorf("elements (-want +got):\n%s", d)
				}
			} else if len(m.Elements) != 0 {
				t.Errorf("want no elements, got %v", m.Elements)
			}
			if m.RouteDistinguisher != want {
				t.Errorf("want %q, got %q", want, m.RouteDistinguisher)
			}
		})
	}
	same(t, newDecoders(), ipfixRecord(t, "0a0000010a000002"+"fbf00036", 8, 4, 12, 4, 90, 4))
}

// An options template of ingressVRFID (scope 234), VRFname (236) and
// mplsVpnRouteDistinguisher (90), two records, then a flow from VRF 1 to VRF 2.
// The first VRF has no route distinguisher when it is said again.
func TestRouteDistinguishersOfOptionsDataAreInLaterFlows(t *testing.T) {
	header := func(octets string) []byte {
		n := len(octets)/2 + ipfix.HeaderIPFIX
		return append([]byte{0, 10, byte(n >> 8), byte(n), 0x68, 0xe7, 0x78, 0, 0, 0, 0, 1, 0, 0, 1, 0}, fromHex(t, octets)...)
	}
	options := header("00030016" + "0190" + "0003" + "0001" + "00ea0004" + "00ec0002" + "005a0008")
	records := header("01900020" + "00000001" + "4131" + "0000fde800000064" + "00000002" + "4132" + "0001c00002010007")
	flow := ipfixRecord(t, "0a0000010a000002"+"00000001"+"00000002", 8, 4, 12, 4, 234, 4, 235, 4)
	ds := newDecoders()
	for _, pkt := range [][]byte{options, records, flow} {
		same(t, ds, pkt)
	}
	m := wireFlows(t, &Decoder{State: newMemory()}, options, records, flow)[0]
	if m.IngressVrfRd != "65000:100" || m.EgressVrfRd != "192.0.2.1:7" || m.IngressVrfName != "A1" || m.EgressVrfName != "A2" {
		t.Errorf("want 65000:100 (A1), 192.0.2.1:7 (A2); got %s (%s), %s (%s)", m.IngressVrfRd, m.IngressVrfName, m.EgressVrfRd, m.EgressVrfName)
	}
}

// Interface names that options data gives by physical interface (scope 252) are
// found for flows that name no other.
func TestPhysicalInterfacesHaveNames(t *testing.T) {
	header := func(octets string) []byte {
		n := len(octets)/2 + ipfix.HeaderIPFIX
		return append([]byte{0, 10, byte(n >> 8), byte(n), 0x68, 0xe7, 0x78, 0, 0, 0, 0, 1, 0, 0, 1, 0}, fromHex(t, octets)...)
	}
	options := header("00030012" + "0190" + "0002" + "0001" + "00fc0004" + "00520004")
	records := header("01900014" + "00000005" + "67653000" + "00000006" + "67653100")
	flow := ipfixRecord(t, "0a0000010a000002"+"00000005"+"00000006", 8, 4, 12, 4, 252, 4, 253, 4)
	m := wireFlows(t, &Decoder{State: newMemory()}, options, records, flow)[0]
	if m.InIf != 5 || m.InIfName != "ge0" || m.OutIf != 6 || m.OutIfName != "ge1" {
		t.Errorf("want 5 (ge0), 6 (ge1); got %d (%s), %d (%s)", m.InIf, m.InIfName, m.OutIf, m.OutIfName)
	}
}

// What the operator says of an element comes before what it stands in for.
func TestTheOperatorsElementComesBeforeAFallback(t *testing.T) {
	ie.Extend([]ie.Extension{{Element: ie.Element{ID: 195, Type: ie.Unsigned, Name: "dscp"}, Field: 1001}})
	t.Cleanup(func() { ie.Extend(nil) })
	pkt := ipfixRecord(t, "0a0000010a000002"+"2e", 8, 4, 12, 4, 195, 1)
	same(t, newDecoders(), pkt)
	m := wireFlows(t, &Decoder{State: newMemory()}, pkt)[0]
	want := protowire.AppendVarint(protowire.AppendTag(nil, 1001, protowire.VarintType), 0x2e)
	if m.IpTos != 0 || string(m.ProtoReflect().GetUnknown()) != string(want) {
		t.Errorf("want field 1001 = 46 and no type of service; got %v", m)
	}
}

// An element that became a typed field after people could give it one of their own: their
// ELEMENTS_FILE is still good, and their consumers still find its values there.
func TestTheOperatorsElementComesBeforeALaterField(t *testing.T) {
	for _, tt := range []struct {
		version uint8
		field   Field
		typ     ie.Type
		octets  string
		want    []byte // without the tag
	}{
		{10, Field{ID: 351, Length: 8}, ie.Unsigned, "0100000000000005", protowire.AppendVarint(nil, 1<<56|5)},
		{10, Field{ID: 365, Length: 6}, ie.MacAddress, "000000000102", protowire.AppendVarint(nil, 0x102)},
		{10, Field{ID: 366, Length: 4}, ie.IPv4, "0a000001", []byte("\x04\x0a\x00\x00\x01")},
		{10, Field{ID: 371, Length: 4}, ie.String, "616c6900", []byte("\x03ali")},
		{9, Field{ID: 40000, Length: 4}, ie.String, "616c6900", []byte("\x03ali")},
		{9, Field{ID: 56702, Length: 4}, ie.String, "616c6900", []byte("\x03ali")},
	} {
		t.Run(fmt.Sprintf("version %d, element %d", tt.version, tt.field.ID), func(t *testing.T) {
			list := []ie.Extension{{Element: ie.Element{ID: tt.field.ID, Type: tt.typ, Name: "own"}, Field: 1001}}
			if err := CheckExtensions(list); err != nil {
				t.Fatalf("the file is refused: %v", err)
			}
			ie.Extend(list)
			t.Cleanup(func() { ie.Extend(nil) })
			tmpl := Template{ID: 256, Fields: []Field{{ID: 8, Length: 4}, {ID: 12, Length: 4}, tt.field}}
			pkt := datagram(tt.version, tmpl, fromHex(t, "0a0000010a000002"+tt.octets))
			same(t, newDecoders(), pkt)
			m := wireFlows(t, &Decoder{State: newMemory()}, pkt)[0]
			kind := protowire.VarintType
			if tt.typ == ie.IPv4 || tt.typ == ie.String {
				kind = protowire.BytesType
			}
			want := append(protowire.AppendTag(nil, 1001, kind), tt.want...)
			if string(m.ProtoReflect().GetUnknown()) != string(want) || len(m.Elements) != 0 ||
				m.UserName != "" || m.TunnelId|m.StationMac != 0 || m.StationAddr != nil {
				t.Errorf("want field 1001 alone, %x; got %v", want, m)
			}
		})
	}
}

func TestFallbacksDoNotAllocate(t *testing.T) {
	d := &Decoder{State: newMemory()}
	var r Result
	pkt := ipfixRecord(t, "0a0000010a000002"+"06"+"2e"+"0001c00002010064"+"000005dc", 8, 4, 12, 4, 4, 1, 195, 1, 90, 8, 23, 4)
	plain := &Decoder{State: newMemory(), path: (*Decoder).appendRecords}
	for _, d := range []*Decoder{d, plain} {
		data := pkt[ipfix.HeaderIPFIX+4+4+6*4:]
		data = append(append([]byte{}, pkt[:ipfix.HeaderIPFIX]...), data...)
		data[2], data[3] = byte(len(data)>>8), byte(len(data))
		d.Wire(pkt, &testMeta, &r)
		if n := testing.AllocsPerRun(100, func() { d.Wire(data, &testMeta, &r) }); n != 0 || len(r.Flows) != 1 {
			t.Errorf("%v allocations of %d flows", n, len(r.Flows))
		}
	}
}
