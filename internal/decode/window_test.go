package decode

import (
	"bytes"
	"testing"

	"google.golang.org/protobuf/proto"

	"weir/internal/ipfix"
	"weir/pkg/flowpb"
)

// Addresses and protocol are the last fields of the record, at each place around the largest record of
// the fast path. Expected values are the octets of the record.
func TestFieldsAtTheEndOfALongRecord(t *testing.T) {
	for pad := uint16(470); pad <= 530; pad++ {
		layout := Template{ID: 256, Fields: []Field{{ID: 210, Length: pad}, {ID: 8, Length: 4}, {ID: 12, Length: 4}, {ID: 4, Length: 1}}}
		p, err := Compile(ipfix.VersionIPFIX, &layout)
		if err != nil {
			t.Fatal(err)
		}
		record := append(bytes.Repeat([]byte{0xee}, int(pad)), 192, 0, 2, 1, 192, 0, 2, 2, 17)
		d := Decoder{State: newMemory()}
		s := Set{Meta: testMeta, Header: Header{Version: ipfix.VersionIPFIX}, ID: 256, Data: record}
		var r Result
		d.WireSet(&s, p, &r)
		if len(r.Flows) != 1 {
			t.Fatalf("%d octets: %d flows, want 1", len(record), len(r.Flows))
		}
		var m flowpb.FlowMessage
		if err := proto.Unmarshal(r.Buf[r.Flows[0].Start:r.Flows[0].ValueEnd], &m); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(m.SrcAddr, record[pad:pad+4]) || !bytes.Equal(m.DstAddr, record[pad+4:pad+8]) || m.Proto != 17 {
			t.Errorf("%d octets, fast path %v: %v to %v, protocol %d: want %v to %v, protocol 17",
				len(record), p.fast != nil, m.SrcAddr, m.DstAddr, m.Proto, record[pad:pad+4], record[pad+4:pad+8])
		}
	}
}
