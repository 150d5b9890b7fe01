package decode

import (
	"bytes"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"weir/internal/ie"
	"weir/internal/ipfix"
)

// Values by hand, of all types that a field can have.
func TestTheOperatorsElementsBecomeTypedFields(t *testing.T) {
	const pen = 55555
	element := func(id uint16, typ ie.Type, field int32) ie.Extension {
		return ie.Extension{Element: ie.Element{PEN: pen, ID: id, Type: typ, Name: "x"}, Field: field}
	}
	ie.Extend([]ie.Extension{
		element(1, ie.Unsigned, 1000), element(2, ie.Signed, 2048), element(3, ie.Float, 1002), element(4, ie.Boolean, 1003), element(5, ie.String, 1004),
		element(6, ie.IPv4, 1005), element(7, ie.Milliseconds, 1006), element(8, ie.MacAddress, 1007), element(9, ie.OctetArray, 1008), element(10, ie.Unsigned, 0),
	})
	t.Cleanup(func() { ie.Extend(nil) })
	number := func(n protowire.Number, v uint64) []byte {
		return protowire.AppendVarint(protowire.AppendTag(nil, n, protowire.VarintType), v)
	}
	octets := func(n protowire.Number, v string) []byte {
		return protowire.AppendString(protowire.AppendTag(nil, n, protowire.BytesType), v)
	}
	for _, tt := range []struct {
		name    string
		id, len uint16
		in      string
		want    []byte
		raw     int // elements
	}{
		{"unsigned of reduced size", 1, 2, "0102", number(1000, 258), 0},
		{"unsigned 0 is written", 1, 1, "00", number(1000, 0), 0},
		{"signed", 2, 1, "ff", number(2048, 1<<64-1), 0},
		{"float32", 3, 4, "3fc00000", protowire.AppendFixed64(protowire.AppendTag(nil, 1002, protowire.Fixed64Type), 0x3ff8000000000000), 0},
		{"true", 4, 1, "01", number(1003, 1), 0},
		{"false", 4, 1, "02", number(1003, 0), 0},
		{"neither true nor false", 4, 1, "00", nil, 1},
		{"string with zeros behind", 5, 4, "61620000", octets(1004, "ab"), 0},
		{"string that is no UTF-8", 5, 2, "61ff", octets(1004, "a\uFFFD"), 0},
		{"address", 6, 4, "0a000001", octets(1005, "\x0a\x00\x00\x01"), 0},
		{"address of a wrong length", 6, 3, "0a0000", nil, 1},
		{"time", 7, 8, "0000018bcfe56800", number(1006, 1_700_000_000_000_000_000), 0},
		{"MAC", 8, 6, "001122334455", number(1007, 0x1122334455), 0},
		{"octets of variable length", 9, ipfix.VarLen, "02beef", octets(1008, "\xbe\xef"), 0},
		{"without a field it stays raw", 10, 1, "07", nil, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tmpl := fixed(8, 4, 12, 4)
			tmpl.Fields = append(tmpl.Fields, Field{PEN: pen, ID: tt.id, Length: tt.len})
			pkt := datagram(10, tmpl, fromHex(t, "0a0000010a000002"+tt.in))
			same(t, newDecoders(), pkt)
			m := wireFlows(t, &Decoder{State: newMemory()}, pkt)[0]
			if got := m.ProtoReflect().GetUnknown(); !bytes.Equal(got, tt.want) || len(m.Elements) != tt.raw {
				t.Errorf("want %x and %d elements, got %x and %v", tt.want, tt.raw, got, m.Elements)
			}
		})
	}
}
