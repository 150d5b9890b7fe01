package ipfix

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"slices"
	"testing"

	"weir/internal/wire"
)

func fromHex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// templateOctets is t as its record on the wire: RFC 3954 sections 5.2 and 6.1,
// RFC 7011 section 3.4.
func templateOctets(version uint8, t *Template) []byte {
	put := binary.BigEndian.AppendUint16
	b := put(nil, t.ID)
	switch {
	case t.Options && version == 9:
		b = put(put(b, uint16(4*t.Scopes)), uint16(4*(len(t.Fields)-t.Scopes)))
	case t.Options:
		b = put(put(b, uint16(len(t.Fields))), uint16(t.Scopes))
	default:
		b = put(b, uint16(len(t.Fields)))
	}
	for _, f := range t.Fields {
		if f.ID >= EnterpriseBit && version == 10 || f.PEN != 0 {
			b = put(put(b, f.ID|EnterpriseBit), f.Length)
			b = binary.BigEndian.AppendUint32(b, f.PEN)
			continue
		}
		b = put(put(b, f.ID), f.Length)
	}
	return b
}

// Template records are read in turn: each takes octets, and a record that is
// accepted is, written again, the octets that were read.
func FuzzTemplateRecords(f *testing.F) {
	f.Add(uint8(10), false, fromHex(f, "0100000200080004000c0004"+"0101000180010004000000090000"))
	f.Add(uint8(10), true, fromHex(f, "01000003000100950004002a0008800100040000000900"))
	f.Add(uint8(10), true, fromHex(f, "010000000000"))
	f.Add(uint8(9), false, fromHex(f, "0100000180ea0004"+"0000000000000000"))
	f.Add(uint8(9), true, fromHex(f, "01000004000800010000002300010022000400"))
	f.Add(uint8(9), true, fromHex(f, "010000050007000100000022"))
	f.Fuzz(func(t *testing.T, version uint8, options bool, set []byte) {
		version = 9 + version%2
		var tmpl Template
		for r := wire.NewReader(set); r.Len() > 0; {
			from := r.Off()
			done, withdrawn, e := ReadTemplate(&r, version, options, &tmpl)
			read := set[from:r.Off()]
			switch {
			case e != nil:
				if e.Off != from || e.Cause != wire.BadTemplate {
					t.Fatalf("of the record at %d: %v", from, e)
				}
			case done:
				if r.Len() > 0 && len(read) >= 4 {
					t.Fatalf("padding ends at %d of %d", r.Off(), len(set))
				}
				return
			case withdrawn:
				if binary.BigEndian.Uint16(read[2:]) != 0 {
					t.Fatalf("a withdrawal with fields: %x", read)
				}
			default:
				// The enterprise bit with enterprise number 0 is IANA's element written longer.
				zero := slices.ContainsFunc(tmpl.Fields, func(f Field) bool { return f.PEN == 0 }) && version == 10
				if again := templateOctets(version, &tmpl); !bytes.Equal(again, read) && (!zero || len(again) >= len(read)) {
					t.Fatalf("read %x\nwritten again %x", read, again)
				}
				if e := tmpl.Check(version); e != nil {
					t.Fatalf("accepted in spite of %v", e)
				}
			}
			if len(read) == 0 {
				t.Fatalf("nothing was read at %d", from)
			}
			if bad, short := r.Failure(); short {
				if bad.Off < from || bad.Off > len(set) {
					t.Fatalf("failure outside: %v", &bad)
				}
				return
			}
		}
	})
}
