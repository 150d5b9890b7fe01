package decode

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"weir/internal/ipfix"
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
		{"nProbe's protocol name", 10, []Field{{PEN: 35632, ID: 118, Length: 2}, {PEN: 35632, ID: 119, Length: 8}}, "0005" + "444e530000000000",
			&flowpb.FlowMessage{ApplicationName: "DNS", Elements: []*flowpb.Element{{Pen: 35632, Id: 118, Value: []byte{0, 5}}}}},
		{"nProbe's protocol name, v9: 57472 and the id", 9, []Field{{PEN: 0, ID: 57591, Length: 8}}, "444e530000000000", &flowpb.FlowMessage{ApplicationName: "DNS"}},
		{"the same number in IPFIX is another element", 10, []Field{{PEN: 1, ID: 24823, Length: 3}}, "444e53",
			&flowpb.FlowMessage{Elements: []*flowpb.Element{{Pen: 1, Id: 24823, Value: []byte("DNS")}}}},
		{"a protocol name beside applicationName", 10, []Field{{PEN: 35632, ID: 119, Length: ipfix.VarLen}, {PEN: 0, ID: 96, Length: 4}}, "03444e53" + "68747470",
			&flowpb.FlowMessage{ApplicationName: "http", Elements: []*flowpb.Element{{Pen: 35632, Id: 119, Value: []byte("DNS")}}}},
		{"Procera's service", 10, []Field{{PEN: 15397, ID: 1, Length: ipfix.VarLen}}, "05424750" + "2d34", &flowpb.FlowMessage{ApplicationName: "BGP-4"}},
		{"Ixia's application and reverse counters", 10, []Field{
			{PEN: 0, ID: 1, Length: 4}, {PEN: 3054, ID: 111, Length: ipfix.VarLen}, {PEN: 3054, ID: 176, Length: 8}, {PEN: 3054, ID: 177, Length: 8}},
			"00000064" + "03646e73" + "00000000000000c8" + "0000000000000002",
			&flowpb.FlowMessage{Bytes: 100, ApplicationName: "dns", Biflow: true, ReverseBytes: 200, ReversePackets: 2}},
		{"Barracuda's rule, service and bind address", 10, []Field{
			{PEN: 10704, ID: 4, Length: ipfix.VarLen}, {PEN: 10704, ID: 5, Length: ipfix.VarLen}, {PEN: 10704, ID: 8, Length: 4}, {PEN: 10704, ID: 9, Length: 2}},
			"034c414e" + "0448545450" + "c6336401" + "3039",
			&flowpb.FlowMessage{FirewallRule: "LAN", ApplicationName: "HTTP", PostNatSrcAddr: []byte{198, 51, 100, 1}, PostNatSrcPort: 12345}},
		{"the same of enterprise 12326", 10, []Field{{PEN: 12326, ID: 4, Length: ipfix.VarLen}, {PEN: 12326, ID: 8, Length: 4}}, "034c414e" + "c6336401",
			&flowpb.FlowMessage{FirewallRule: "LAN", PostNatSrcAddr: []byte{198, 51, 100, 1}}},
		{"a bind address beside IANA's", 10, []Field{{PEN: 0, ID: 225, Length: 4}, {PEN: 10704, ID: 8, Length: 4}}, "c6336402" + "c6336401",
			&flowpb.FlowMessage{PostNatSrcAddr: []byte{198, 51, 100, 2}, Elements: []*flowpb.Element{{Pen: 10704, Id: 8, Value: []byte{198, 51, 100, 1}}}}},
		{"Viptela's VPN", 10, []Field{{PEN: 41916, ID: 4321, Length: 8}}, "0000000000000064", &flowpb.FlowMessage{IngressVrfId: 100}},
		{"Huawei's VPN", 10, []Field{{PEN: 2011, ID: 232, Length: 2}}, "0007", &flowpb.FlowMessage{IngressVrfId: 7}},
		{"Huawei's VPN beside ingressVRFID", 10, []Field{{PEN: 2011, ID: 232, Length: 2}, {PEN: 0, ID: 234, Length: 4}}, "0007" + "00000001",
			&flowpb.FlowMessage{IngressVrfId: 1, Elements: []*flowpb.Element{{Pen: 2011, Id: 232, Value: []byte{0, 7}}}}},
		{"NetScaler's user", 10, []Field{{PEN: 5951, ID: 205, Length: ipfix.VarLen}}, "03616e6e", &flowpb.FlowMessage{UserName: "ann"}},
		{"NetScaler's two users", 10, []Field{{PEN: 5951, ID: 250, Length: ipfix.VarLen}, {PEN: 5951, ID: 205, Length: ipfix.VarLen}}, "03626f62" + "03616e6e",
			&flowpb.FlowMessage{UserName: "ann", Elements: []*flowpb.Element{{Pen: 5951, Id: 250, Value: []byte("bob")}}}},
		{"nProbe's user, v9: 57472 and the id", 9, []Field{{PEN: 0, ID: 57900, Length: 4}}, "616e6e00", &flowpb.FlowMessage{UserName: "ann"}},
		{"Ixia's RADIUS user beside userName", 10, []Field{{PEN: 3054, ID: 212, Length: 3}, {PEN: 0, ID: 371, Length: 3}}, "626f62" + "616e6e",
			&flowpb.FlowMessage{UserName: "ann", Elements: []*flowpb.Element{{Pen: 3054, Id: 212, Value: []byte("bob")}}}},
		// SYN, ECE and CWR, then ACK and FIN; SYN and ACK, then ACK and FIN: a record of
		// a public YAF capture.
		{"YAF's flags of both directions", 10, []Field{yaf(14), yaf(15), yaf(16398), yaf(16399)}, "c2" + "11" + "12" + "11",
			&flowpb.FlowMessage{TcpFlags: 0xd3, Biflow: true, ReverseTcpFlags: 0x13}},
		{"YAF's flags of one direction", 10, []Field{yaf(14), yaf(15)}, "02" + "18", &flowpb.FlowMessage{TcpFlags: 0x1a}},
		{"YAF's flags beside IANA's", 10, []Field{{PEN: 0, ID: 6, Length: 1}, yaf(14), rev(6, 1), yaf(16398)}, "1b" + "02" + "1a" + "12",
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
