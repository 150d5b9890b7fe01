package decode

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"weir/internal/ipfix"
)

// ipfixOf is an IPFIX datagram of sets: pairs of set id and content.
func ipfixOf(sets ...any) []byte {
	var body []byte
	for i := 0; i < len(sets); i += 2 {
		id, content := sets[i].(int), sets[i+1].([]byte)
		body = append(body, byte(id>>8), byte(id), byte((len(content)+4)>>8), byte(len(content)+4))
		body = append(body, content...)
	}
	n := len(body) + ipfix.HeaderIPFIX
	return append([]byte{0, 10, byte(n >> 8), byte(n), 0x68, 0xe7, 0x78, 0, 0, 0, 0, 1, 0, 0, 1, 0}, body...)
}

// The dearest datagrams that can be made: what one octet of input may cost at
// most is stated here.
func TestWorkIsBoundedByTheOctetsOfADatagram(t *testing.T) {
	const (
		outPerOctet = 16 // octets of messages and keys, by octets of the datagram
		warmAllocs  = 0
	)
	oneOctet := fromHex(t, "0100"+"0001"+"01f40001") // element 500, 1 octet
	varOctet := fromHex(t, "0100"+"0001"+"01f4ffff") // of variable length
	scopes := fromHex(t, "0101"+"000a"+"0009"+strings.Repeat("01f40000", 8)+"01f40001"+"01f50001")
	var many []byte // templates of a field, each with another id
	for id := 256; len(many) < 60_000; id++ {
		many = append(many, byte(id>>8), byte(id), 0, 1, 1, 0xf4, 0, 1)
	}
	empty := make([]any, 0, 30_000)
	for len(empty) < 30_000 {
		empty = append(empty, 300, []byte{})
	}
	for _, tt := range []struct {
		name     string
		template []byte
		pkt      []byte
		records  int
	}{
		{"records of one octet", ipfixOf(2, oneOctet), ipfixOf(256, bytes.Repeat([]byte{1}, 60_000)), (60_004 + 64) / 8},
		{"records of a variable-length field without octets", ipfixOf(2, varOctet), ipfixOf(256, make([]byte, 60_000)), (60_004 + 64) / 8},
		{"records whose length lies beyond the set", ipfixOf(2, varOctet), ipfixOf(256, bytes.Repeat([]byte{0xfe}, 60_000)), 60_000 / 255},
		{"options records with scopes of no octets", ipfixOf(3, scopes), ipfixOf(257, make([]byte, 60_000)), 30_000},
		{"sets without octets", nil, ipfixOf(empty...), 0},
		{"templates of one field, none sent again", nil, ipfixOf(2, many), 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := &Decoder{State: newMemory()}
			var r Result
			if tt.template != nil {
				d.Wire(tt.template, &testMeta, &r)
			}
			d.Wire(tt.pkt, &testMeta, &r)
			if got := len(r.Flows) + r.OptionsRecords; got != tt.records || got > len(tt.pkt) {
				t.Errorf("records: want %d, got %d of %d octets", tt.records, got, len(tt.pkt))
			}
			if got := len(r.Buf); got > outPerOctet*len(tt.pkt) {
				t.Errorf("%d octets of output for %d of input: want at most %d times", got, len(tt.pkt), outPerOctet)
			}
			if got := len(r.Errors) + len(r.Unknown) + len(r.Templates); got > len(tt.pkt)/4 {
				t.Errorf("%d errors, unknown sets and templates of %d octets: want at most one in 4", got, len(tt.pkt))
			}
			if strings.HasPrefix(tt.name, "templates") {
				return // each is compiled and kept
			}
			if n := testing.AllocsPerRun(3, func() { d.Wire(tt.pkt, &testMeta, &r) }); n > warmAllocs {
				t.Errorf("want %d allocations once warm, got %v", warmAllocs, n)
			}
		})
	}
}

// FuzzHeader: any octets give a header or one error, and both paths agree on it.
func FuzzHeader(f *testing.F) {
	for _, s := range []string{"0001", "00050001000000010000000100000001000000010000" + "4064", "0009000100000001000000010000000100000001", "000a0010000000010000000100000001", "ffff"} {
		f.Add(fromHex(f, s))
	}
	f.Fuzz(func(t *testing.T, pkt []byte) {
		var r Result
		(&Decoder{State: newMemory()}).Wire(pkt, &testMeta, &r)
		if known := slices.Contains([]uint16{1, 5, 7, 9, 10}, r.Header.Version); !known && len(r.Errors) != 1 {
			t.Errorf("version %d: want one error, got %v", r.Header.Version, r.Errors)
		}
		for _, e := range r.Errors {
			if e.Off < 0 || e.Off > len(pkt) {
				t.Errorf("error outside of %d octets: %v", len(pkt), &e)
			}
		}
	})
}

// FuzzTemplateSet: what a template set teaches is what check allows, and its
// definition survives being written and read again.
func FuzzTemplateSet(f *testing.F) {
	f.Add(false, fromHex(f, "0100000200080004000c0004"))
	f.Add(true, fromHex(f, "01000003000100950004002a0008800100040000000900"))
	f.Add(false, fromHex(f, "01000001ffffffff00007279"))
	f.Fuzz(func(t *testing.T, options bool, set []byte) {
		if len(set) > 60_000 {
			return
		}
		id := ipfix.IPFIXTemplates
		if options {
			id = ipfix.IPFIXOptions
		}
		var r Result
		(&Decoder{State: newMemory()}).Wire(ipfixOf(id, set), &testMeta, &r)
		for i := range r.Templates {
			l := &r.Templates[i]
			if e := l.Template.Check(10); e != nil {
				t.Fatalf("learnt in spite of %v", e)
			}
			if l.Template.Options {
				continue
			}
			var again Result
			(&Decoder{State: newMemory()}).Wire(datagram(10, l.Template, nil), &testMeta, &again)
			if len(again.Templates) != 1 || !again.Templates[0].Template.SameLayout(&l.Template) {
				t.Fatalf("%v, written and read again: %v", l.Template, again.Templates)
			}
		}
	})
}
