package decode

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"weir/pkg/flowpb"
)

// Elements are those of the vendors' tables, see internal/ie/tables; octets of the
// values are by hand. Each record begins with 10.0.0.1 and 10.0.0.2.
func TestVendorsElementsHaveTypedFields(t *testing.T) {
	rev := func(id uint16, n uint16) Field { return Field{PEN: 29305, ID: id, Length: n} }
	yaf := func(id uint16) Field { return Field{PEN: 6871, ID: id, Length: 1} }
	for _, tt := range []struct {
		name   string
		v      uint8
		fields []Field
		record string
		want   *flowpb.FlowMessage
	}{
		{"nProbe's protocol name", 10, []Field{{35632, 118, 2}, {35632, 119, 8}}, "0005" + "444e530000000000",
			&flowpb.FlowMessage{ApplicationName: "DNS", Elements: []*flowpb.Element{{Pen: 35632, Id: 118, Value: []byte{0, 5}}}}},
		{"nProbe's protocol name, v9: 57472 and the id", 9, []Field{{0, 57591, 8}}, "444e530000000000", &flowpb.FlowMessage{ApplicationName: "DNS"}},
		{"the same number in IPFIX is another element", 10, []Field{{1, 24823, 3}}, "444e53",
			&flowpb.FlowMessage{Elements: []*flowpb.Element{{Pen: 1, Id: 24823, Value: []byte("DNS")}}}},
		{"a protocol name beside applicationName", 10, []Field{{35632, 119, VarLen}, {0, 96, 4}}, "03444e53" + "68747470",
			&flowpb.FlowMessage{ApplicationName: "http", Elements: []*flowpb.Element{{Pen: 35632, Id: 119, Value: []byte("DNS")}}}},
		{"Procera's service", 10, []Field{{15397, 1, VarLen}}, "05424750" + "2d34", &flowpb.FlowMessage{ApplicationName: "BGP-4"}},
		{"Ixia's application and reverse counters", 10, []Field{{0, 1, 4}, {3054, 111, VarLen}, {3054, 176, 8}, {3054, 177, 8}},
			"00000064" + "03646e73" + "00000000000000c8" + "0000000000000002",
			&flowpb.FlowMessage{Bytes: 100, ApplicationName: "dns", Biflow: true, ReverseBytes: 200, ReversePackets: 2}},
		{"Barracuda's rule, service and bind address", 10, []Field{{10704, 4, VarLen}, {10704, 5, VarLen}, {10704, 8, 4}, {10704, 9, 2}},
			"034c414e" + "0448545450" + "c6336401" + "3039",
			&flowpb.FlowMessage{FirewallRule: "LAN", ApplicationName: "HTTP", PostNatSrcAddr: []byte{198, 51, 100, 1}, PostNatSrcPort: 12345}},
		{"the same of enterprise 12326", 10, []Field{{12326, 4, VarLen}, {12326, 8, 4}}, "034c414e" + "c6336401",
			&flowpb.FlowMessage{FirewallRule: "LAN", PostNatSrcAddr: []byte{198, 51, 100, 1}}},
		{"a bind address beside IANA's", 10, []Field{{0, 225, 4}, {10704, 8, 4}}, "c6336402" + "c6336401",
			&flowpb.FlowMessage{PostNatSrcAddr: []byte{198, 51, 100, 2}, Elements: []*flowpb.Element{{Pen: 10704, Id: 8, Value: []byte{198, 51, 100, 1}}}}},
		{"Viptela's VPN", 10, []Field{{41916, 4321, 8}}, "0000000000000064", &flowpb.FlowMessage{IngressVrfId: 100}},
		{"Huawei's VPN", 10, []Field{{2011, 232, 2}}, "0007", &flowpb.FlowMessage{IngressVrfId: 7}},
		{"Huawei's VPN beside ingressVRFID", 10, []Field{{2011, 232, 2}, {0, 234, 4}}, "0007" + "00000001",
			&flowpb.FlowMessage{IngressVrfId: 1, Elements: []*flowpb.Element{{Pen: 2011, Id: 232, Value: []byte{0, 7}}}}},
		{"NetScaler's user", 10, []Field{{5951, 205, VarLen}}, "03616e6e", &flowpb.FlowMessage{UserName: "ann"}},
		{"NetScaler's two users", 10, []Field{{5951, 250, VarLen}, {5951, 205, VarLen}}, "03626f62" + "03616e6e",
			&flowpb.FlowMessage{UserName: "ann", Elements: []*flowpb.Element{{Pen: 5951, Id: 250, Value: []byte("bob")}}}},
		{"nProbe's user, v9: 57472 and the id", 9, []Field{{0, 57900, 4}}, "616e6e00", &flowpb.FlowMessage{UserName: "ann"}},
		{"Ixia's RADIUS user beside userName", 10, []Field{{3054, 212, 3}, {0, 371, 3}}, "626f62" + "616e6e",
			&flowpb.FlowMessage{UserName: "ann", Elements: []*flowpb.Element{{Pen: 3054, Id: 212, Value: []byte("bob")}}}},
		// SYN, ECE and CWR, then ACK and FIN; SYN and ACK, then ACK and FIN: a record of
		// a public YAF capture.
		{"YAF's flags of both directions", 10, []Field{yaf(14), yaf(15), yaf(16398), yaf(16399)}, "c2" + "11" + "12" + "11",
			&flowpb.FlowMessage{TcpFlags: 0xd3, Biflow: true, ReverseTcpFlags: 0x13}},
		{"YAF's flags of one direction", 10, []Field{yaf(14), yaf(15)}, "02" + "18", &flowpb.FlowMessage{TcpFlags: 0x1a}},
		{"YAF's flags beside IANA's", 10, []Field{{0, 6, 1}, yaf(14), rev(6, 1), yaf(16398)}, "1b" + "02" + "1a" + "12",
			&flowpb.FlowMessage{TcpFlags: 0x1b, Biflow: true, ReverseTcpFlags: 0x1a, Elements: []*flowpb.Element{
				{Pen: 6871, Id: 14, Value: []byte{2}}, {Pen: 6871, Id: 16398, Value: []byte{0x12}}}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tmpl := fixed(8, 4, 12, 4, 4, 1)
			tmpl.Fields = append(tmpl.Fields, tt.fields...)
			pkt := datagram(tt.v, tmpl, fromHex(t, "0a0000010a00000211"+tt.record))
			same(t, newDecoders(), pkt)
			got := wireFlows(t, &Decoder{State: newMemory()}, pkt)[0]
			only(got)
			if d := cmp.Diff(tt.want, got, protocmp.Transform()); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}
