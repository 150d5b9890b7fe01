package decode

import (
	"encoding/binary"
	"runtime"
	"testing"

	"weir/internal/ipfix"
)

// templatesOf is an IPFIX message of one template set: templates of fields fields
// each, with ids from first on.
func templatesOf(first int, fields ...int) []byte {
	var set []byte
	for i, n := range fields {
		set = binary.BigEndian.AppendUint16(set, uint16(first+i))
		set = binary.BigEndian.AppendUint16(set, uint16(n))
		for f := range n {
			set = binary.BigEndian.AppendUint16(set, uint16(500+f))
			set = binary.BigEndian.AppendUint16(set, 1)
		}
	}
	return ipfixOf(2, set)
}

// refusing is a State that learns nothing, so that only a Result grows.
type refusing struct{ State }

func (refusing) Learn(*TemplateKey, *Meta, *Header, *Template) (*Plan, error) { return nil, nil }

// kept is the space in d and r, octets.
func kept(d *Decoder, r *Result) int {
	n := sliceOctets(d.tmpl.Fields) + sliceOctets(d.pending) + sliceOctets(d.head) + sliceOctets(d.variable) + sliceOctets(d.slack)
	n += sliceOctets(r.Flows) + sliceOctets(r.Templates) + sliceOctets(r.Options) + sliceOctets(r.Unknown) + sliceOctets(r.Errors) + sliceOctets(r.fields)
	for _, l := range r.Templates[:cap(r.Templates)] {
		n += sliceOctets(l.Template.Fields)
	}
	for _, o := range r.Options[:cap(r.Options)] {
		n += sliceOctets(o.Values) + sliceOctets(o.Facts)
	}
	return n
}

// TestWhatADatagramLeavesIsBounded: whatever comes, a Decoder and its Result keep
// less than 1 MiB once they are trimmed.
func TestWhatADatagramLeavesIsBounded(t *testing.T) {
	d := &Decoder{State: newMemory()}
	var r Result
	var sets, reserved []any
	for range 16_000 {
		sets, reserved = append(sets, 300, []byte{}), append(reserved, 5, []byte{})
	}
	d.Wire(templatesOf(256, 1), &testMeta, &r)
	d.Wire(ipfixOf(3, fromHex(t, "0101"+"0009"+"0001"+"00950001"+"00d20000"+"00d20000"+"00d20000"+"00d20000"+"00d20000"+"00d20000"+"00d20000"+"00d20000")), &testMeta, &r)
	for _, pkt := range [][]byte{
		ipfixOf(sets...), ipfixOf(reserved...), ipfixOf(256, make([]byte, 65_000)), ipfixOf(257, make([]byte, 65_000)),
	} {
		d.Wire(pkt, &testMeta, &r)
		d.Trim(&r)
	}
	// A wide template behind ever more narrow ones, in message after message.
	d.State = refusing{newMemory()}
	for narrow := range 50 {
		widths := make([]int, 100*narrow, 100*narrow+1)
		for i := range widths {
			widths[i] = 1
		}
		d.Wire(templatesOf(256, append(widths, 4000)...), &testMeta, &r)
		d.Trim(&r)
	}
	if got := kept(d, &r); got > 1<<20 {
		t.Errorf("%d octets are kept between datagrams: want at most 1 MiB", got)
	}
}

func TestTemplatesOfADatagramTakeTheSpaceOfTheirFields(t *testing.T) {
	d := &Decoder{State: refusing{newMemory()}}
	var r Result
	for narrow := range 100 { // 4 000 fields at another place each time
		widths := make([]int, narrow, narrow+1)
		for i := range widths {
			widths[i] = 1
		}
		d.Wire(templatesOf(256, append(widths, 4000)...), &testMeta, &r)
	}
	if len(r.Templates) != 100 || len(r.Templates[99].Template.Fields) != 4000 || r.Templates[98].Template.Fields[0] != (Field{ID: 500, Length: 1}) {
		t.Fatalf("%d templates", len(r.Templates))
	}
	total := 0
	for _, l := range r.Templates {
		total += sliceOctets(l.Template.Fields)
	}
	if total += sliceOctets(r.fields); total > 4*8*4100 { // with what growing left
		t.Errorf("%d octets for 4 099 fields of 8", total)
	}
}

// TestOctetsOfAPlan: what a plan says that it takes is what the heap grows by.
func TestOctetsOfAPlan(t *testing.T) {
	for _, tt := range []struct {
		name     string
		template Template
		plans    int
	}{
		{"ordinary", fixed(8, 4, 12, 4, 7, 2, 11, 2, 4, 1, 1, 4, 2, 4, 10, 4, 14, 4, 6, 1, 152, 8, 153, 8), 2000},
		{"variable length", fixed(8, 4, 12, 4, 96, ipfix.VarLen, 1, 4, 2, 4, 460, ipfix.VarLen), 2000},
		{"of one field", fixed(8, 4), 4000},
		{"wide, unknown elements", wide(4000, 20_000), 50},
		{"wide, known elements", wide(400, 1), 200},
	} {
		t.Run(tt.name, func(t *testing.T) {
			plans := make([]*Plan, tt.plans)
			before := heap()
			total := 0
			for i := range plans {
				p, err := Compile(10, &tt.template)
				if err != nil {
					t.Fatal(err)
				}
				plans[i] = p
				total += p.HeapOctets()
			}
			grown := int(heap() - before)
			if total < grown/2 || total > 2*grown {
				t.Errorf("%d plans say %d octets, the heap grew by %d", tt.plans, total, grown)
			}
			runtime.KeepAlive(plans)
			t.Logf("%d octets a plan, %d fields", total/tt.plans, len(tt.template.Fields))
		})
	}
}

func wide(fields, first int) Template {
	t := Template{ID: 256}
	for i := range fields {
		t.Fields = append(t.Fields, Field{ID: uint16(first + i), Length: 1})
	}
	return t
}

// heap is the size of the live heap, octets.
func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
