package ipfix

import (
	"weir/internal/wire"
)

// Information Elements of structured data, RFC 6313 section 4.1.
const (
	BasicList            = 291
	SubTemplateList      = 292
	SubTemplateMultiList = 293
)

// MaxListDepth is the maximum nesting of lists that readers of ReadList must follow; deeper lists
// stay octets. ReadList itself reads a single level.
const MaxListDepth = 4

// A List is structured data: a basicList has Element and Values, the others have Records. Octets
// alias the input of ReadList.
type List struct {
	Semantic uint8 // RFC 6313 section 4.4: 0 noneOf, 1 exactlyOneOf, 2 oneOrMoreOf, 3 allOf, 4 ordered, 255 undefined
	Element  Field
	Values   [][]byte
	Records  []ListRecord
}

// A ListRecord is a record of a subTemplateList or subTemplateMultiList. If the template is
// unknown, Values is nil and Octets holds all records of the template.
type ListRecord struct {
	TemplateID uint16
	Values     []Value // in record order
	Octets     []byte
}

// ReadList reads the content of element id, which must be BasicList, SubTemplateList or SubTemplateMultiList. The
// layouts are those of RFC 6313 sections 4.5.1 to 4.5.3. In a basicList, an enterprise number follows the length if the
// enterprise bit of the element id is set:
//
//	basicList             | semantic 1 | element id 2 | length 2 | values …
//	subTemplateList       | semantic 1 | template id 2 | records …
//	subTemplateMultiList  | semantic 1 | { template id 2 | length 2 | records … } …
//
// A length of a subTemplateMultiList includes itself and its template id. template returns a template of the exporter
// and domain, or nil if it is unknown. The result has at most as many values and records as b has octets. On error it
// is a *wire.Error with an offset in b, and the List holds the part before it.
func ReadList(id uint16, b []byte, template func(id uint16) *Template) (*List, error) {
	r := wire.NewReader(b)
	l := &List{Semantic: r.Uint8("semantic")}
	switch id {
	case BasicList:
		return l, l.basic(&r)
	case SubTemplateList:
		tid := r.Uint16("template id")
		if e, bad := r.Failure(); bad {
			return l, &e
		}
		return l, l.records(tid, &r, template(tid))
	case SubTemplateMultiList:
		for r.Len() > 0 {
			tid, n := r.Uint16("template id"), int(r.Uint16("length of the data records"))
			if e, bad := r.Failure(); bad {
				return l, &e
			}
			if n < 4 { // it includes itself and the template id: RFC 6313 section 4.5.3
				return l, &wire.Error{Off: r.Off() - 2, What: "length of the data records", Cause: wire.BadLength}
			}
			part := r.Sub(n-4, "data records")
			if e, bad := r.Failure(); bad {
				return l, &e
			}
			if err := l.records(tid, &part, template(tid)); err != nil {
				return l, err
			}
		}
	}
	if e, bad := r.Failure(); bad {
		return l, &e
	}
	return l, nil
}

// basic reads the content of a basicList, RFC 6313 section 4.5.1.
func (l *List) basic(r *wire.Reader) error {
	l.Element = Field{ID: r.Uint16("element id"), Length: r.Uint16("element length")}
	if l.Element.ID&EnterpriseBit != 0 {
		l.Element.ID &^= EnterpriseBit
		l.Element.PEN = r.Uint32("enterprise number")
	}
	if e, bad := r.Failure(); bad {
		return &e
	}
	if l.Element.Length == 0 && r.Len() > 0 {
		return &wire.Error{Off: r.Off(), What: "element length", Cause: wire.BadLength}
	}
	for off, b := r.Off(), r.Rest(); len(b) > 0; {
		value, rest, ok := NextField(b, l.Element.Length)
		if !ok {
			return &wire.Error{Off: off, What: "value of a list", Cause: wire.Truncated}
		}
		l.Values = append(l.Values, value)
		off, b = off+len(b)-len(rest), rest
	}
	return nil
}

// records reads the remainder of r as records of template t.
func (l *List) records(id uint16, r *wire.Reader, t *Template) error {
	off, b := r.Off(), r.Rest()
	if t == nil {
		if len(b) > 0 {
			l.Records = append(l.Records, ListRecord{TemplateID: id, Octets: b})
		}
		return nil
	}
	for len(b) > 0 {
		rec := ListRecord{TemplateID: id, Octets: b}
		rest := b
		for _, f := range t.Fields {
			var field []byte
			var ok bool
			if field, rest, ok = NextField(rest, f.Length); !ok {
				return &wire.Error{Off: off, What: "record of a list", Cause: wire.Truncated}
			}
			rec.Values = append(rec.Values, Value{PEN: f.PEN, ID: f.ID, Octets: field})
		}
		if len(rest) == len(b) {
			return &wire.Error{Off: off, What: "record of a list without octets", Cause: wire.BadTemplate}
		}
		rec.Octets = b[:len(b)-len(rest)]
		l.Records = append(l.Records, rec)
		off, b = off+len(b)-len(rest), rest
	}
	return nil
}
