package decode

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	"weir/internal/ie"
	"weir/internal/ipfix"
	"weir/internal/wire"
)

// A fuzzed template has a field for five octets of spec: which enterprise, which
// element, which length.
func fuzzedTemplate(version uint8, spec []byte) Template {
	t := Template{ID: 256}
	for ; len(spec) >= 5 && len(t.Fields) < 64; spec = spec[5:] {
		f := Field{ID: binary.BigEndian.Uint16(spec[1:]) &^ ipfix.EnterpriseBit, Length: binary.BigEndian.Uint16(spec[3:])}
		if version == 10 {
			f.PEN = []uint32{0, 0, ie.Reverse, 9}[spec[0]%4]
		}
		t.Fields = append(t.Fields, f)
	}
	return t
}

// Any fields over any octets: all paths agree, each record begins where the one
// before it ended, and no octet is in two records.
func FuzzRecords(f *testing.F) {
	spec := func(fields ...uint16) (b []byte) {
		for i := 0; i < len(fields); i += 2 {
			b = binary.BigEndian.AppendUint16(append(b, 0), fields[i])
			b = binary.BigEndian.AppendUint16(b, fields[i+1])
		}
		return b
	}
	data := bytes.Repeat([]byte{0, 1, 2, 200, 255, 3}, 40)
	f.Add(uint8(10), spec(8, 4, 12, 4, 4, 1, 7, 2, 11, 2, 1, 8, 2, 8, 152, 8, 153, 8), data)
	f.Add(uint8(9), spec(27, 16, 28, 16, 4, 1, 139, 2, 1, 4, 2, 4, 22, 4, 21, 4, 10, 4, 14, 4), data)
	f.Add(uint8(10), spec(8, 4, 12, 4, 27, 16, 28, 16, 225, 4, 281, 16, 34, 4, 50, 4, 305, 4, 306, 4), data)
	f.Add(uint8(10), spec(82, ipfix.VarLen, 8, 4, 291, ipfix.VarLen, 12, 4, 96, ipfix.VarLen), data)
	f.Add(uint8(10), append(spec(8, 4, 12, 4, 231, 8, 232, 8, 22, 4, 160, 8), 2, 0, 1, 0, 8, 2, 0, 22, 0, 4), data)
	f.Fuzz(func(t *testing.T, version uint8, spec, data []byte) {
		version = 9 + version%2
		tmpl := fuzzedTemplate(version, spec)
		if tmpl.Check(version) != nil || len(data) > 4000 {
			return
		}
		ds := newDecoders()
		pkt := datagram(version, tmpl, data)
		same(t, ds, pkt)
		least, fixed := tmpl.MinLen()
		var r Result
		ds.wire.Wire(pkt, &testMeta, &r)
		if n := len(data) / least; len(r.Flows) > n || fixed && len(r.Flows)+r.TooSmall != n {
			t.Fatalf("%d records of at least %d octets in %d", len(r.Flows), least, len(data))
		}
		at := 0
		for i, s := range r.Flows {
			if s.Start != at || s.ValueEnd <= s.Start || s.KeyEnd < s.ValueEnd || s.KeyEnd > len(r.Buf) {
				t.Fatalf("flow %d at %v, the one before ended at %d", i, s, at)
			}
			at = s.KeyEnd
		}
		if at != len(r.Buf) {
			t.Fatalf("the flows end at %d of %d octets", at, len(r.Buf))
		}
		ds.oracle.readOracle(pkt, &testMeta, &r)
		next := len(pkt) - len(data)
		for i, m := range r.Messages {
			off := int(m.GetRecordOffset())
			if i == 0 && off != next || off < next || fixed && off != next {
				t.Fatalf("record %d at %d, the one before ended at %d", i, off, next)
			}
			next = off + least
		}
	})
}

// Any octets as options data: the values of a record are its octets in order,
// all of them, and its facts are bounded.
func FuzzOptionsRecords(f *testing.F) {
	f.Add(uint8(9), uint8(1), fromHex(f, "0000010004"+"0000220004"+"0000230001"), fromHex(f, "000000010000006401"))
	f.Add(uint8(10), uint8(1), fromHex(f, "00000a0004"+"000052ffff"), fromHex(f, "000000070465746830"))
	f.Add(uint8(11), uint8(1), fromHex(f, "0000300001"), bytes.Repeat([]byte{1}, 11))
	f.Add(uint8(10), uint8(2), fromHex(f, "0000950004"+"00012e0008"+"0001310004"+"0001320004"+"0000a00008"), bytes.Repeat([]byte{1}, 40))
	f.Fuzz(func(t *testing.T, version, scopes uint8, spec, data []byte) {
		version = 9 + version%2
		tmpl := fuzzedTemplate(version, spec)
		tmpl.Options, tmpl.Scopes = true, int(scopes)
		p, err := Compile(version, &tmpl)
		if err != nil || len(data) > 4000 {
			return
		}
		s := Set{Meta: testMeta, Header: Header{Version: uint16(version)}, ID: tmpl.ID, Off: 20, Data: data}
		var r, w Result
		(&Decoder{State: newMemory()}).WireSet(&s, p, &w)
		(&Decoder{State: newMemory()}).ReadSet(&s, p, &r)
		if len(w.Flows) != 0 || w.OptionsRecords > len(data) {
			t.Fatalf("%d flows, %d options records of %d octets", len(w.Flows), w.OptionsRecords, len(data))
		}
		listed := w.OptionsRecords
		if slices.ContainsFunc(w.Errors, func(e wire.Error) bool { return e.Cause == wire.RecordTooSmall }) {
			listed = min(listed, len(r.Options)) // records beyond MinFact are counted only
		}
		if len(w.Options) != 0 || len(r.Options) != listed || r.Exported != w.Exported || r.BadRates != w.BadRates {
			t.Fatalf("readable: %d records, %+v, %d bad rates; wire: %d (%d kept), %+v, %d bad rates",
				len(r.Options), r.Exported, r.BadRates, w.OptionsRecords, len(w.Options), w.Exported, w.BadRates)
		}
		for i := range r.Options {
			o := &r.Options[i]
			at := o.Off - s.Off
			if len(o.Values) != len(tmpl.Fields) || len(o.Facts) > 7 {
				t.Fatalf("record %d: %d values of %d fields, %d facts", i, len(o.Values), len(tmpl.Fields), len(o.Facts))
			}
			for k, v := range o.Values {
				switch n := tmpl.Fields[k].Length; {
				case n == ipfix.VarLen && len(v.Octets) < 255 && int(data[at]) == len(v.Octets):
					at++
				case n == ipfix.VarLen: // the long form, RFC 7011 section 7
					if data[at] != 255 || int(binary.BigEndian.Uint16(data[at+1:])) != len(v.Octets) {
						t.Fatalf("record %d, field %d: %d octets behind %x", i, k, len(v.Octets), data[at:at+3])
					}
					at += 3
				case int(n) != len(v.Octets):
					t.Fatalf("record %d, field %d: %d octets, want %d", i, k, len(v.Octets), n)
				}
				if !bytes.Equal(v.Octets, data[at:at+len(v.Octets)]) || v.Scope != (k < tmpl.Scopes) {
					t.Fatalf("record %d, field %d: %x, scope %v", i, k, v.Octets, v.Scope)
				}
				at += len(v.Octets)
			}
		}
	})
}

// walk counts, in the plainest way, the records of sets whose templates are
// known, the data sets of other templates, and whether a set brings templates.
func walk(version uint8, b []byte, lengths map[uint16]int) (records, unknown int, teaches bool) {
	for len(b) >= 4 {
		id, n := binary.BigEndian.Uint16(b), int(binary.BigEndian.Uint16(b[2:]))
		if n < 4 {
			break
		}
		n = min(n, len(b))
		switch {
		case id >= 256 && lengths[id] > 0:
			records += (n - 4) / lengths[id]
		case id >= 256:
			unknown++
		case version == 9 && id < 2, version == 10 && (id == 2 || id == 3):
			teaches = true
		}
		b = b[n:]
	}
	return records, unknown, teaches
}

// Any octets as sets behind a header: what is sound is decoded whatever stands
// around it, and every data set is decoded or given back.
func FuzzSets(f *testing.F) {
	for _, s := range []string{
		"0100000c0a0000010a000002" + "0101000600ff" + "01020005ff",
		"0100000c0a0000010a000002" + "00040004" + "0100000d0a0000010a00000200" + "0100ffff0a0000010a000002",
		"01000003" + "0100000c0a0000010a000002",
		"00020010" + "01030002" + "00080004000c0004" + "0103000c0a0000010a000002",
		"0103000c0a0000010a000002" + "00000010" + "01030002" + "00080004000c0004",
	} {
		f.Add(uint8(9), fromHex(f, s))
		f.Add(uint8(10), fromHex(f, s))
	}
	f.Fuzz(func(t *testing.T, version uint8, sets []byte) {
		version = 9 + version%2
		if len(sets) > 4000 {
			return
		}
		ds := newDecoders()
		lengths := map[uint16]int{256: 8, 257: 1}
		for _, tmpl := range []Template{
			{ID: 256, Fields: []Field{{ID: 8, Length: 4}, {ID: 12, Length: 4}}},
			{ID: 257, Fields: []Field{{ID: 500, Length: 1}}},
		} {
			same(t, ds, datagram(version, tmpl, nil))
		}
		pkt := ipfixOf()
		if version == 9 {
			pkt = datagram(9, Template{}, nil)[:ipfix.HeaderNetFlow9]
		} else {
			binary.BigEndian.PutUint16(pkt[2:], uint16(ipfix.HeaderIPFIX+len(sets)))
		}
		pkt = append(pkt, sets...)
		same(t, ds, pkt)
		records, unknown, teaches := walk(version, sets, lengths)
		if teaches {
			return
		}
		var r Result
		ds.wire.Wire(pkt, &testMeta, &r)
		if len(r.Flows)+r.TooSmall != records || len(r.Flows) > (len(sets)+64)/8 || len(r.Unknown) != unknown {
			t.Fatalf("want %d flows and %d unknown sets, got %d (%d too small) and %d", records, unknown, len(r.Flows), r.TooSmall, len(r.Unknown))
		}
	})
}
