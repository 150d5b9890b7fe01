package decode

import (
	"encoding/hex"
	"fmt"
	"testing"

	"weir/internal/ipfix"
	"weir/pkg/flowpb"
)

// endsOf returns the parts of a flow that findEnds and findTenant decide, and the key's
// octets.
func endsOf(t *testing.T, pkt []byte) string {
	t.Helper()
	same(t, newDecoders(), pkt)
	var r Result
	d := &Decoder{State: newMemory()}
	d.Wire(pkt, &testMeta, &r)
	if len(r.Flows) != 1 {
		t.Fatalf("want 1 flow, got %d", len(r.Flows))
	}
	s := r.Flows[0]
	key := hex.EncodeToString(r.Buf[s.ValueEnd:s.KeyEnd])
	m := wireFlows(t, &Decoder{State: newMemory()}, pkt)[0]
	out := fmt.Sprintf("%s:%d > %s:%d proto %d", addrOf(m.SrcAddr), m.SrcPort, addrOf(m.DstAddr), m.DstPort, m.Proto)
	if m.BiflowDirection != flowpb.BiflowDirection_BIFLOW_DIRECTION_UNSPECIFIED {
		out += " " + m.BiflowDirection.String()
	}
	if m.TunnelProto != 0 {
		out += fmt.Sprintf(" in %s > %s proto %d", addrOf(m.TunnelSrcAddr), addrOf(m.TunnelDstAddr), m.TunnelProto)
	}
	for _, e := range m.Elements {
		out += fmt.Sprintf(" raw %d/%d=%x", e.Pen, e.Id, e.Value)
	}
	return out + " key " + key
}

// The elements are those of the table "New FNF Exported Fields" of Cisco's AVC guide
// (12236 to 12241: addresses and ports of client and server); octets by hand. Two
// captures of the same elements are in test/conformance, with tshark's reading.
func TestClientAndServerOfAVCAreSourceAndDestination(t *testing.T) {
	avc := func(id, n uint16) Field { return Field{PEN: 9, ID: id, Length: n} }
	std := func(id, n uint16) Field { return Field{ID: id, Length: n} }
	const client, server, ports = "0ad16542", "0a0000f1", "c0e0" + "0050"
	const key = "06" + "0a0000f1" + "0ad16542" + "0050" + "c0e0"
	all := []Field{avc(12236, 4), avc(12237, 4), avc(12240, 2), avc(12241, 2), std(4, 1)}
	for _, tt := range []struct {
		name   string
		fields []Field
		record string
		want   string
	}{
		{"who opened is the client", all, client + server + ports + "06",
			"10.209.101.66:49376 > 10.0.0.241:80 proto 6 BIFLOW_DIRECTION_INITIATOR key " + key},
		{"biflowDirection of the record stays", append([]Field{std(239, 1)}, all...), "02" + client + server + ports + "06",
			"10.209.101.66:49376 > 10.0.0.241:80 proto 6 BIFLOW_DIRECTION_REVERSE_INITIATOR key " + key},
		{"initiator's and responder's counters", append([]Field{std(231, 4), std(232, 4)}, all...), "00000064" + "000000c8" + client + server + ports + "06",
			"10.209.101.66:49376 > 10.0.0.241:80 proto 6 BIFLOW_DIRECTION_INITIATOR key " + key},
		{"IPv6", []Field{avc(12238, 16), avc(12239, 16), avc(12241, 2), std(4, 1)},
			"20010db8000000000000000000000001" + "20010db8000000000000000000000002" + "0050" + "06",
			"2001:db8::1:0 > 2001:db8::2:80 proto 6 BIFLOW_DIRECTION_INITIATOR key 06" + "20010db8000000000000000000000001" + "20010db8000000000000000000000002" + "0000" + "0050"},
		{"source and destination are better", append([]Field{std(8, 4), std(12, 4)}, all...), "c0000201c0000202" + client + server + ports + "06",
			"192.0.2.1:0 > 192.0.2.2:0 proto 6 raw 9/12236=" + client + " raw 9/12237=" + server + " raw 9/12240=c0e0 raw 9/12241=0050 key 06c0000201c000020200000000"},
		{"counters of an end that is not known", append([]Field{std(1, 4)}, all...), "00000064" + client + server + ports + "06",
			"invalid IP:0 > invalid IP:0 proto 6 raw 9/12236=" + client + " raw 9/12237=" + server + " raw 9/12240=c0e0 raw 9/12241=0050 key "},
		// An element that comes again with another length must be kept raw: anybody can forge a template.
		{"a client of variable length first", append([]Field{avc(12236, ipfix.VarLen), std(239, 1)}, all...), "03aabbcc" + "01" + client + server + ports + "06",
			"10.209.101.66:49376 > 10.0.0.241:80 proto 6 BIFLOW_DIRECTION_INITIATOR raw 9/12236=aabbcc key " + key},
		{"a port of variable length first", append([]Field{avc(12240, ipfix.VarLen), std(239, 1)}, all...), "03aabbcc" + "01" + client + server + ports + "06",
			"10.209.101.66:49376 > 10.0.0.241:80 proto 6 BIFLOW_DIRECTION_INITIATOR raw 9/12240=aabbcc key " + key},
		{"a client of three octets first", append([]Field{avc(12236, 3), std(239, 1)}, all...), "aabbcc" + "01" + client + server + ports + "06",
			"10.209.101.66:49376 > 10.0.0.241:80 proto 6 BIFLOW_DIRECTION_INITIATOR raw 9/12236=aabbcc key " + key},
		{"a client of 0 octets first", append([]Field{avc(12236, 0)}, all...), client + server + ports + "06",
			"10.209.101.66:49376 > 10.0.0.241:80 proto 6 BIFLOW_DIRECTION_INITIATOR raw 9/12236= key " + key},
		{"one end only", []Field{avc(12236, 4), std(4, 1)}, client + "06", "invalid IP:0 > invalid IP:0 proto 6 raw 9/12236=" + client + " key "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := endsOf(t, datagram(10, Template{ID: 256, Fields: tt.fields}, fromHex(t, tt.record)))
			if got != tt.want {
				t.Errorf("\nwant %s\n got %s", tt.want, got)
			}
		})
	}
}

// Cisco's wireless controllers export per client and application: 366 the client's
// address, 61 the direction, no other address. Both directions have one key.
func TestFlowsOfAWirelessClientHaveItAsAnEnd(t *testing.T) {
	const key = "00" + "00000000" + "c0000207" + "00000000"
	for _, tt := range []struct {
		name   string
		pairs  []uint16
		record string
		want   string
	}{
		{"from the client", []uint16{365, 6, 366, 4, 61, 1, 1, 4}, "0007cb000001" + "c0000207" + "00" + "00000064", "192.0.2.7:0 > 0.0.0.0:0 proto 0 key " + key},
		{"to the client", []uint16{365, 6, 366, 4, 61, 1, 1, 4}, "0007cb000001" + "c0000207" + "01" + "00000064", "0.0.0.0:0 > 192.0.2.7:0 proto 0 key " + key},
		{"without a direction", []uint16{366, 4, 1, 4}, "c0000207" + "00000064", "192.0.2.7:0 > 0.0.0.0:0 proto 0 key " + key},
		{"no address yet", []uint16{366, 4, 61, 1, 1, 4}, "00000000" + "01" + "00000064", "invalid IP:0 > invalid IP:0 proto 0 key "},
		{"source and destination are better", []uint16{8, 4, 12, 4, 366, 4, 61, 1}, "c0000207c0000208" + "c0000207" + "01", "192.0.2.7:0 > 192.0.2.8:0 proto 0 key 00c0000207c000020800000000"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			pkt := datagram(9, fixed(tt.pairs...), fromHex(t, tt.record))
			if got := endsOf(t, pkt); got != tt.want {
				t.Errorf("\nwant %s\n got %s", tt.want, got)
			}
			if m := wireFlows(t, &Decoder{State: newMemory()}, pkt)[0]; len(m.StationAddr) != 4 {
				t.Errorf("station_addr: want 4 octets, got %x", m.StationAddr)
			}
		})
	}
}

// The template is that of a vSphere distributed switch's VXLAN flows in a public capture,
// without the counters; ids and lengths are those of VMware's table of elements in
// logical switch IPFIX packets. Octets of the record by hand.
func TestTheTenantsTupleIsTheFlow(t *testing.T) {
	tenant := func(id, n uint16) Field { return Field{PEN: 6876, ID: id, Length: n} }
	outer := []Field{{PEN: 0, ID: 8, Length: 4}, {PEN: 0, ID: 12, Length: 4}, {PEN: 0, ID: 7, Length: 2}, {PEN: 0, ID: 11, Length: 2}, {PEN: 0, ID: 4, Length: 1}}
	inner4 := []Field{tenant(881, 4), tenant(882, 4), tenant(886, 2), tenant(887, 2), tenant(880, 1)}
	inner6 := []Field{tenant(883, 16), tenant(884, 16), tenant(886, 2), tenant(887, 2), tenant(880, 1)}
	const vxlan = "c0000201" + "c0000202" + "d903" + "12b5" + "11"
	for _, tt := range []struct {
		name   string
		fields []Field
		record string
		want   string
	}{
		{"IPv4", append(outer[:5:5], inner4...), vxlan + "0a000001" + "0a000002" + "c001" + "01bb" + "06",
			"10.0.0.1:49153 > 10.0.0.2:443 proto 6 in 192.0.2.1 > 192.0.2.2 proto 17 raw 0/7=d903 raw 0/11=12b5 key 06" + "0a000001" + "0a000002" + "c001" + "01bb"},
		{"ICMP", append(outer[:5:5], inner4...), vxlan + "0a000001" + "0a000002" + "0000" + "0800" + "01",
			"10.0.0.1:0 > 10.0.0.2:2048 proto 1 in 192.0.2.1 > 192.0.2.2 proto 17 raw 0/7=d903 raw 0/11=12b5 key 01" + "0a000001" + "0a000002" + "0008" + "0000"},
		{"IPv6 inside", append(outer[:5:5], inner6...), vxlan + "20010db8000000000000000000000001" + "20010db8000000000000000000000002" + "c001" + "01bb" + "06",
			"2001:db8::1:49153 > 2001:db8::2:443 proto 6 in 192.0.2.1 > 192.0.2.2 proto 17 raw 0/7=d903 raw 0/11=12b5 key 06" +
				"20010db8000000000000000000000001" + "20010db8000000000000000000000002" + "c001" + "01bb"},
		{"not a tunnel", append(outer[:5:5], inner4...), "c0000201" + "c0000202" + "d903" + "0050" + "06" + "00000000" + "00000000" + "0000" + "0000" + "00",
			"192.0.2.1:55555 > 192.0.2.2:80 proto 6 key 06" + "c0000201" + "c0000202" + "d903" + "0050"},
		{"without the ports", append(outer[:5:5], inner4[0], inner4[1], inner4[4]), vxlan + "0a000001" + "0a000002" + "06",
			"192.0.2.1:55555 > 192.0.2.2:4789 proto 17 raw 6876/881=0a000001 raw 6876/882=0a000002 raw 6876/880=06 key 11" + "c0000201" + "c0000202" + "d903" + "12b5"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := endsOf(t, datagram(10, Template{ID: 256, Fields: tt.fields}, fromHex(t, tt.record)))
			if got != tt.want {
				t.Errorf("\nwant %s\n got %s", tt.want, got)
			}
		})
	}
}
