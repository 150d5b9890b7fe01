package decode

import (
	"bytes"
	"slices"
	"testing"

	"weir/internal/ipfix"
)

// A template may repeat an element with another length. Each element that has a meaning comes twice, with each pair of
// lengths, between addresses of a family, of clients and servers, or none: all paths must give the same message, which
// must be valid protobuf.
func TestElementsThatComeAgainWithAnotherLength(t *testing.T) {
	avc := func(id, n uint16) Field { return Field{PEN: 9, ID: id, Length: n} }
	around := map[string][]Field{
		"IPv4 addresses":    {{ID: 8, Length: 4}, {ID: 12, Length: 4}, {ID: 4, Length: 1}},
		"client and server": {avc(12236, 4), avc(12237, 4), {ID: 239, Length: 1}, {ID: 4, Length: 1}},
		"wireless client":   {{ID: 366, Length: 4}, {ID: 61, Length: 1}},
		"no addresses":      {{ID: 4, Length: 1}},
	}
	ids := []elementID{staAddress, staDirection}
	for id := range actions {
		ids = append(ids, id)
	}
	for id := range clientActions {
		ids = append(ids, id)
	}
	lengths := []uint16{0, 1, 3, 4, 8, 16, ipfix.VarLen}
	for name, fields := range around {
		t.Run(name, func(t *testing.T) {
			ds := newDecoders()
			for _, id := range ids {
				for _, first := range lengths {
					for _, second := range lengths {
						twice := []Field{{PEN: id.pen, ID: id.id, Length: first}, {PEN: id.pen, ID: id.id, Length: second}}
						layout := Template{ID: 256, Fields: slices.Concat(twice, fields)}
						same(t, ds, datagram(ipfix.VersionIPFIX, layout, recordOf(layout.Fields)))
						if t.Failed() {
							t.Fatalf("element %d/%d of %d and of %d octets", id.pen, id.id, first, second)
						}
					}
				}
			}
		})
	}
}

// recordOf returns a record of the fields with octets of 0x11 in the first field, 0x12 in the second. Fields of variable length have 3 octets.
func recordOf(fields []Field) (record []byte) {
	next := byte(0x11)
	for _, f := range fields {
		n := f.Length
		if n == ipfix.VarLen {
			n, record = 3, append(record, 3)
		}
		record = append(record, bytes.Repeat([]byte{next}, int(n))...)
		next++
	}
	return record
}
