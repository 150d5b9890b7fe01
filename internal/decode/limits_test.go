package decode

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"
	"unicode/utf8"

	"weir/internal/ipfix"
	"weir/internal/wire"
)

// RFC 7011 section 3.3.1: padding follows the records of a set and is shorter
// than a record. A set that holds less than one record has lost its flows.
func TestASetShorterThanOneRecordIsAnError(t *testing.T) {
	tmpl := ipfixOf(2, fromHex(t, "0100"+"0003"+"00080004"+"000c0004"+"00d200c8")) // 208 octets a record
	opts := ipfixOf(3, fromHex(t, "0101"+"0002"+"0001"+"000a0004"+"00520010"))     // 20 octets a record
	for _, tt := range []struct {
		name   string
		set    []byte
		id     int
		errors int
	}{
		{"shorter than a record", make([]byte, 12), 256, 1},
		{"one octet", make([]byte, 1), 256, 1},
		{"nothing", nil, 256, 0},
		{"a record and padding", make([]byte, 208+3), 256, 0},
		{"options data shorter than a record", make([]byte, 19), 257, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, late := range []bool{false, true} {
				d := &Decoder{State: newMemory()}
				var r Result
				if late { // the set waits for its template
					d.Wire(ipfixOf(tt.id, tt.set), &testMeta, &r)
					s := r.Unknown[0]
					d.Wire(tmpl, &testMeta, &r)
					d.Wire(opts, &testMeta, &r)
					k := s.Key()
					d.WireSet(&s, d.State.Plan(&k, &s.Meta, &s.Header), &r)
				} else {
					d.Wire(tmpl, &testMeta, &r)
					d.Wire(opts, &testMeta, &r)
					d.Wire(ipfixOf(tt.id, tt.set), &testMeta, &r)
				}
				if len(r.Errors) != tt.errors {
					t.Fatalf("late %v: want %d errors, got %v", late, tt.errors, r.Errors)
				}
				if tt.errors > 0 && (r.Errors[0].Cause != wire.NoRecord || r.Errors[0].Off != ipfix.HeaderIPFIX+4) {
					t.Errorf("late %v: want no_record at octet %d, got %v", late, ipfix.HeaderIPFIX+4, &r.Errors[0])
				}
			}
		})
	}
}

// Octets of data sets make at most one flow per eight, over all sets of a datagram,
// and eight more.
func TestSmallRecordsMakeOneFlowPerEightOctets(t *testing.T) {
	tmpl := ipfixOf(2, fromHex(t, "0100"+"0001"+"00040001"+"0101"+"0001"+"0052ffff"+"0102"+"0002"+"00080004"+"000c0004"))
	sets := func(n, id int, content []byte) []byte {
		var all []any
		for range n {
			all = append(all, id, content)
		}
		return ipfixOf(all...)
	}
	for _, tt := range []struct {
		name            string
		pkt             []byte
		flows, tooSmall int
		errors          int
	}{
		{"eight records of one octet", sets(1, 256, make([]byte, 8)), 8, 0, 0},
		{"65 000 of one octet", sets(1, 256, make([]byte, 65_000)), (65_004 + 64) / 8, 65_000 - (65_004+64)/8, 1},
		{"sets of one octet", sets(1000, 256, []byte{6}), (1000*5 + 64) / 8, 1000 - (1000*5+64)/8, 1000 - (1000*5+64)/8},
		{"text of no octets", sets(1, 257, make([]byte, 800)), (804 + 64) / 8, 800 - (804+64)/8, 1},
		{"text of nine octets", sets(1, 257, bytes.Repeat([]byte("\x09abcdefghi"), 100)), 100, 0, 0},
		{"records of eight octets", sets(1, 258, make([]byte, 800)), 100, 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ds := newDecoders()
			same(t, ds, tmpl)
			same(t, ds, tt.pkt)
			var w, r Result
			ds.wire.Wire(tt.pkt, &testMeta, &w)
			ds.oracle.readOracle(tt.pkt, &testMeta, &r)
			if len(w.Flows) != tt.flows || w.TooSmall != tt.tooSmall || len(w.Errors) != tt.errors {
				t.Errorf("want %d flows, %d too small, %d errors; got %d, %d, %d", tt.flows, tt.tooSmall, tt.errors, len(w.Flows), w.TooSmall, len(w.Errors))
			}
			if r.TooSmall != w.TooSmall {
				t.Errorf("readable path: want %d too small, got %d", w.TooSmall, r.TooSmall)
			}
			for i := range w.Errors {
				if w.Errors[i].Cause != wire.RecordTooSmall {
					t.Errorf("want record_too_small, got %v", &w.Errors[i])
				}
			}
		})
	}
}

// Names of 255 octets in every flow of a small record: decoding ends at MaxOctets,
// with every record either a flow or counted.
func TestDecodingEndsAtMaxOctets(t *testing.T) {
	state := newMemory()
	var named []byte
	for id := range byte(4) {
		named = append(append(named, id), strings.Repeat("n", MaxName)...)
	}
	options := ipfixOf(3, fromHex(t, "0102"+"0002"+"0001"+"000a0001"+"005200ff"), 258, named)
	const limit = 50_000
	const fixedLen, variableLen = 4 + 4 + 1 + 1, 4 + 4 + 1 + 1 + 2
	tmpl := ipfixOf(2, fromHex(t, "0100"+"0004"+"00080004"+"000c0004"+"000a0001"+"000e0001"+"0101"+"0005"+"00080004"+"000c0004"+"000a0001"+"000e0001"+"0060ffff"))
	fixedSet := bytes.Repeat([]byte{10, 0, 0, 1, 10, 0, 0, 2, 1, 2}, 3000)
	variableSet := bytes.Repeat([]byte{10, 0, 0, 1, 10, 0, 0, 2, 1, 2, 1, 'x'}, 2000)
	for _, plain := range []bool{false, true} {
		d := &Decoder{State: state, MaxOctets: limit}
		if plain {
			d.path = (*Decoder).appendRecords
		}
		var r Result
		d.Wire(options, &testMeta, &r)
		d.Wire(tmpl, &testMeta, &r)
		for _, tt := range []struct {
			name    string
			pkt     []byte
			records int
		}{
			{"fixed", ipfixOf(256, fixedSet), len(fixedSet) / fixedLen},
			{"variable", ipfixOf(257, variableSet), len(variableSet) / variableLen},
			{"several sets", ipfixOf(257, variableSet, 256, fixedSet[:30_000]), len(variableSet)/variableLen + 3000},
		} {
			d.Wire(tt.pkt, &testMeta, &r)
			if len(r.Flows)+r.Beyond != tt.records || r.Beyond == 0 {
				t.Errorf("%s, plain %v: want %d records, got %d flows and %d beyond", tt.name, plain, tt.records, len(r.Flows), r.Beyond)
			}
			if len(r.Buf) < limit || len(r.Buf) > limit+1024 {
				t.Errorf("%s, plain %v: want %d octets and at most one flow more, got %d", tt.name, plain, limit, len(r.Buf))
			}
		}
	}
}

// A fixed set that is stopped early reserves room for what it may decode alone.
func TestMaxOctetsBoundsTheBuffer(t *testing.T) {
	d := &Decoder{State: newMemory(), MaxOctets: 10_000}
	var r Result
	d.Wire(ipfixOf(2, fromHex(t, "0100"+"0003"+"00080004"+"000c0004"+"00040001")), &testMeta, &r)
	d.Wire(ipfixOf(256, make([]byte, 63_000)), &testMeta, &r)
	if c := cap(r.Buf); c > 20*10_000 {
		t.Errorf("want room for what MaxOctets allows, got %d octets", c)
	}
	if len(r.Flows)+r.Beyond != 7000 {
		t.Errorf("want 7000 records, got %d flows and %d beyond", len(r.Flows), r.Beyond)
	}
}

func TestNamesOfOptionsDataAreCut(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"eth0", "eth0"},
		{strings.Repeat("a", 255), strings.Repeat("a", 255)},
		{strings.Repeat("a", 65_000), strings.Repeat("a", 255)},
		{strings.Repeat("a", 254) + "é", strings.Repeat("a", 254)},
		{strings.Repeat("a", 253) + "é", strings.Repeat("a", 253) + "é"},
		{strings.Repeat("\xff", 100), strings.Repeat("\uFFFD", 1)}, // a run of invalid octets is one U+FFFD
	} {
		if got := cutName(tt.in); got != tt.want {
			t.Errorf("%.20q… of %d octets: want %d octets, got %d: %.20q", tt.in, len(tt.in), len(tt.want), len(got), got)
		}
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for range 1000 {
		b := make([]byte, rng.IntN(600))
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		if got := cutName(string(b)); len(got) > MaxName || !utf8.ValidString(got) {
			t.Fatalf("%x: got %d octets, valid %v", b, len(got), utf8.ValidString(got))
		}
	}
}

// A rate in one octet would change its exporter's state per octet.
func TestOptionsDataMakesOneFactInEightOctets(t *testing.T) {
	tmpl := ipfixOf(3, fromHex(t, "0100"+"0002"+"0001"+"008f0000"+"00220001")) // a sampling interval of one octet
	rates := bytes.Repeat([]byte{7, 9, 11}, 400)
	state := &factCounter{State: newMemory()}
	d := &Decoder{State: state}
	var r Result
	for _, read := range []func([]byte, *Meta, *Result){d.Wire, d.Read} {
		state.n = 0
		d.Wire(tmpl, &testMeta, &r)
		read(ipfixOf(256, rates), &testMeta, &r)
		if want := (1200+64)/8 + 1; state.n != want { // 64 octets are every datagram's
			t.Errorf("facts of 1 200 octets: want %d, got %d", want, state.n)
		}
		if r.OptionsRecords != 1200 {
			t.Errorf("records: want all 1 200 counted, got %d", r.OptionsRecords)
		}
		if len(r.Errors) != 1 || r.Errors[0].Cause != wire.RecordTooSmall {
			t.Errorf("want one error, %s, got %v", wire.RecordTooSmall, r.Errors)
		}
	}
}

// A factCounter counts the facts that a State is taught.
type factCounter struct {
	State
	n int
}

func (c *factCounter) LearnFact(k *TemplateKey, m *Meta, h *Header, f OptionsFact) {
	c.n++
	c.State.LearnFact(k, m, h, f)
}
