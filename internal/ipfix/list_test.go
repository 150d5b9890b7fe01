package ipfix

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"weir/internal/wire"
)

// Octets are laid out by hand after RFC 6313 section 4.5.
func TestListsAreReadAsRFC6313LaysThemOut(t *testing.T) {
	templates := map[uint16]*Template{
		256: {ID: 256, Fields: []Field{{ID: 4, Length: 1}, {ID: 7, Length: 2}}},
		257: {ID: 257, Fields: []Field{{ID: 96, Length: VarLen}}},
		258: {ID: 258, Fields: []Field{{ID: 96, Length: 0}}},
	}
	of := func(id uint16) *Template { return templates[id] }
	v := func(id uint16, octets string) Value { return Value{ID: id, Octets: fromHex(t, octets)} }
	for _, tt := range []struct {
		name string
		id   uint16
		in   string
		want *List
		err  wire.Error
	}{
		{"basicList of 2-octet ports, allOf", BasicList, "03" + "0007" + "0002" + "01bb" + "0050",
			&List{Semantic: 3, Element: Field{ID: 7, Length: 2}, Values: [][]byte{{1, 0xbb}, {0, 0x50}}}, wire.Error{}},
		{"basicList of an enterprise's element of variable length", BasicList, "ff" + "8001" + "ffff" + "00001ad7" + "0161" + "ff00026262",
			&List{Semantic: 255, Element: Field{PEN: 6871, ID: 1, Length: VarLen}, Values: [][]byte{{'a'}, {'b', 'b'}}}, wire.Error{}},
		{"basicList without values", BasicList, "03" + "0007" + "0002", &List{Semantic: 3, Element: Field{ID: 7, Length: 2}}, wire.Error{}},
		{"basicList with half a value", BasicList, "03" + "0007" + "0002" + "01", nil, wire.Error{Off: 5, What: "value of a list", Cause: wire.Truncated}},
		{"basicList of values without octets", BasicList, "03" + "0007" + "0000" + "01", nil, wire.Error{Off: 5, What: "element length", Cause: wire.BadLength}},
		{"basicList cut in its head", BasicList, "0300", nil, wire.Error{Off: 1, What: "element id", Cause: wire.Short}},
		{"subTemplateList of two records, ordered", SubTemplateList, "04" + "0100" + "0601bb" + "110035",
			&List{Semantic: 4, Records: []ListRecord{
				{256, []Value{v(4, "06"), v(7, "01bb")}, fromHex(t, "0601bb")},
				{256, []Value{v(4, "11"), v(7, "0035")}, fromHex(t, "110035")},
			}}, wire.Error{}},
		{"subTemplateList whose template is not known stays octets", SubTemplateList, "04" + "0200" + "0601bb",
			&List{Semantic: 4, Records: []ListRecord{{TemplateID: 512, Octets: fromHex(t, "0601bb")}}}, wire.Error{}},
		{"subTemplateList of records without octets", SubTemplateList, "04" + "0102" + "00", nil,
			wire.Error{Off: 3, What: "record of a list without octets", Cause: wire.BadTemplate}},
		{"subTemplateMultiList of two templates", SubTemplateMultiList, "00" + "0100" + "0007" + "0601bb" + "0101" + "0006" + "0178",
			&List{Records: []ListRecord{
				{256, []Value{v(4, "06"), v(7, "01bb")}, fromHex(t, "0601bb")},
				{257, []Value{v(96, "78")}, fromHex(t, "0178")},
			}}, wire.Error{}},
		{"subTemplateMultiList with a length below its own head", SubTemplateMultiList, "00" + "0100" + "0003" + "06", nil,
			wire.Error{Off: 3, What: "length of the data records", Cause: wire.BadLength}},
		{"subTemplateMultiList beyond its end", SubTemplateMultiList, "00" + "0100" + "0009" + "06", nil,
			wire.Error{Off: 5, What: "data records", Cause: wire.Short}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ReadList(tt.id, fromHex(t, tt.in), of)
			if tt.want == nil {
				if e, ok := err.(*wire.Error); !ok || *e != tt.err { //nolint:errorlint // what it returns is the error itself
					t.Errorf("want %v, got %v", &tt.err, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

func FuzzReadList(f *testing.F) {
	f.Add(uint16(BasicList), fromHex(f, "03000700020100"))
	f.Add(uint16(SubTemplateList), fromHex(f, "0401000601bb"))
	f.Add(uint16(SubTemplateMultiList), fromHex(f, "0001000007060100010100060178"))
	t := &Template{ID: 256, Fields: []Field{{ID: 4, Length: 1}, {ID: 96, Length: VarLen}}}
	f.Fuzz(func(tt *testing.T, id uint16, b []byte) {
		l, err := ReadList(id, b, func(id uint16) *Template {
			if id == 256 {
				return t
			}
			return nil
		})
		if n := len(l.Values) + len(l.Records); n > len(b) {
			tt.Errorf("%d values of %d octets (%v)", n, len(b), err)
		}
	})
}
