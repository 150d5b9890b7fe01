package decode

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"weir/internal/ipfix"
	"weir/pkg/flowpb"
)

// listTemplates are an IPFIX template set with YAF's templates for lists, as in a public
// capture: 49155 (tcpSequenceNumber, initialTCPFlags, unionTCPFlags), 49171 (the same with
// the reverse flags and sequence number), 49156 (both MAC addresses).
const listTemplates = "c003 0003 00b8 0004 800e 0001 00001ad7 800f 0001 00001ad7" +
	"c013 0006 00b8 0004 800e 0001 00001ad7 800f 0001 00001ad7 c00e 0001 00001ad7 c00f 0001 00001ad7 80b8 0004 00007279" +
	"c004 0002 0038 0006 0050 0006"

func TestFlagsAndAddressesInAListAreLifted(t *testing.T) {
	const flags, both = "c003 000a 38334ace 02 19", "c013 0010 89ad9a7d 02 19 12 1b 22e636aa"
	const macs = "c004 0010 000c298dafc3 000c29a86e2f"
	list := func(parts string) string { return "03" + parts }
	pair := []Field{{PEN: 0, ID: 8, Length: 4}, {PEN: 0, ID: 12, Length: 4}, {PEN: 0, ID: 4, Length: 1}}
	with := func(more ...Field) []Field { return append(pair[:3:3], more...) }
	multi, fixedMulti := Field{PEN: 0, ID: 293, Length: ipfix.VarLen}, Field{PEN: 0, ID: 293, Length: 27}
	reverse := Field{PEN: 29305, ID: 1, Length: 4}
	for _, tt := range []struct {
		name   string
		fields []Field
		before string // values of the fields before the list
		list   string
		want   *flowpb.FlowMessage
	}{
		{"flags", with(multi), "", list(flags), &flowpb.FlowMessage{TcpFlags: 0x1b}},
		{"flags and addresses", with(multi), "", list(flags + macs), &flowpb.FlowMessage{TcpFlags: 0x1b, SrcMac: 0x000c298dafc3, DstMac: 0x000c29a86e2f}},
		{"of both directions", with(reverse, multi), "000000c8", list(both),
			&flowpb.FlowMessage{Biflow: true, ReverseBytes: 200, TcpFlags: 0x1b, ReverseTcpFlags: 0x1b}},
		{"a list of fixed length", with(fixedMulti), "", list(flags + macs), &flowpb.FlowMessage{TcpFlags: 0x1b, SrcMac: 0x000c298dafc3, DstMac: 0x000c29a86e2f}},
		{"reverse flags of a record of one direction", with(multi), "", list(both), &flowpb.FlowMessage{TcpFlags: 0x1b}},
		{"flags of the record are better", with(Field{PEN: 0, ID: 6, Length: 1}, multi), "04", list(flags + macs),
			&flowpb.FlowMessage{TcpFlags: 4, SrcMac: 0x000c298dafc3, DstMac: 0x000c29a86e2f}},
		{"addresses of the record are better",
			with(Field{PEN: 0, ID: 56, Length: 6}, Field{PEN: 0, ID: 80, Length: 6}, multi), "0007cb000001" + "0007cb000002", list(flags + macs),
			&flowpb.FlowMessage{TcpFlags: 0x1b, SrcMac: 0x0007cb000001, DstMac: 0x0007cb000002}},
		{"a template that is not known", with(multi), "", list("c005 000a 38334ace 02 19" + flags), &flowpb.FlowMessage{TcpFlags: 0x1b}},
		{"two records of a template", with(multi), "", list("c003 0010 38334ace 02 19 38334acf 02 19"), &flowpb.FlowMessage{}},
		{"an empty part", with(multi), "", list("c003 0004" + flags), &flowpb.FlowMessage{TcpFlags: 0x1b}},
		{"a part that is cut", with(multi), "", list("c003 00ff 38334ace 02 19"), &flowpb.FlowMessage{}},
		{"a part of no length", with(multi), "", list("c003 0000" + flags), &flowpb.FlowMessage{}},
		{"an empty list", with(multi), "", "", &flowpb.FlowMessage{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			content := fromHex(t, tt.list)
			record := fromHex(t, "0a0000010a00000206"+tt.before)
			if tt.fields[len(tt.fields)-1].Length == ipfix.VarLen {
				record = append(record, byte(len(content)))
			}
			templates := ipfixOf(2, fromHex(t, listTemplates))
			pkt := datagram(10, Template{ID: 256, Fields: tt.fields}, append(record, content...))
			ds := newDecoders()
			same(t, ds, templates)
			same(t, ds, pkt)
			got := wireFlows(t, &Decoder{State: newMemory()}, templates, pkt)[0]
			only(got)
			if tt.want.Elements = []*flowpb.Element{{Id: 293, Value: content}}; len(content) == 0 {
				tt.want.Elements[0].Value = nil
			}
			if d := cmp.Diff(tt.want, got, protocmp.Transform()); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

// A list of many parts costs no more look-ups than maxLists.
func TestLookUpsOfAListAreBounded(t *testing.T) {
	templates := ipfixOf(2, fromHex(t, listTemplates))
	var list []byte
	list = append(list, 3)
	for range 1000 {
		list = append(list, fromHex(t, "c005 0005 00")...)
	}
	record := append(fromHex(t, "0a0000010a00000206"), 255, byte(len(list)>>8), byte(len(list)))
	pkt := datagram(10, Template{ID: 256, Fields: []Field{
		{PEN: 0, ID: 8, Length: 4}, {PEN: 0, ID: 12, Length: 4}, {PEN: 0, ID: 4, Length: 1}, {PEN: 0, ID: 293, Length: ipfix.VarLen},
	}}, append(record, list...))
	s := &counting{memory: newMemory()}
	d := &Decoder{State: s}
	wireFlows(t, d, templates)
	if got := wireFlows(t, d, pkt); len(got) != 1 || s.asked != maxLists+1 {
		t.Errorf("want 1 flow and %d look-ups, got %d and %d", maxLists+1, len(got), s.asked)
	}
}

type counting struct {
	*memory
	asked int
}

func (c *counting) Plan(k *TemplateKey, m *Meta, h *Header) *Plan {
	c.asked++
	return c.memory.Plan(k, m, h)
}

func TestListsAllocateNothing(t *testing.T) {
	d := &Decoder{State: newMemory()}
	var r Result
	d.Wire(ipfixOf(2, fromHex(t, listTemplates)), &testMeta, &r)
	content := fromHex(t, "03 c003 000a 38334ace 02 19 c004 0010 000c298dafc3 000c29a86e2f")
	record := append(fromHex(t, "0a0000010a00000206"), byte(len(content)))
	pkt := datagram(10, Template{ID: 256, Fields: []Field{
		{PEN: 0, ID: 8, Length: 4}, {PEN: 0, ID: 12, Length: 4}, {PEN: 0, ID: 4, Length: 1}, {PEN: 0, ID: 293, Length: ipfix.VarLen},
	}}, append(record, content...))
	d.Wire(pkt, &testMeta, &r)
	data := ipfixOf(256, append(record, content...))
	if n := testing.AllocsPerRun(100, func() { d.Wire(data, &testMeta, &r) }); n != 0 || len(r.Flows) != 1 {
		t.Errorf("want no allocations and 1 flow, got %v and %d", n, len(r.Flows))
	}
}
