package report

import (
	"net/netip"
	"strconv"

	"google.golang.org/protobuf/reflect/protoreflect"

	"weir/internal/cli/console"
	"weir/internal/decode"
	"weir/internal/ie"
	"weir/internal/ipfix"
	"weir/pkg/flowpb"
)

// Templates returns the template of a key for data from a source port, or nil when there is none. A nil Templates
// has no templates.
type Templates func(k *decode.TemplateKey, port uint16) *decode.Template

// A listReader reads structured data (RFC 6313) of an exporter and domain.
type listReader struct {
	v9    bool
	depth int // number of enclosing lists
	of    func(id uint16) *decode.Template
}

// flow returns the list reader for the elements of a flow. For other messages the reader has no templates.
func (t Templates) flow(m protoreflect.Message) listReader {
	r := listReader{v9: isV9(m), of: func(uint16) *decode.Template { return nil }}
	f, ok := m.Interface().(*flowpb.FlowMessage)
	if t == nil || !ok {
		return r
	}
	k := decode.TemplateKey{Domain: f.GetObservationDomainId(), Version: 10}
	if a, ok := netip.AddrFromSlice(f.GetSamplerAddress()); ok {
		k.Exporter = decode.Map16(a)
	}
	port := uint16(f.GetExporterPort())
	r.of = func(id uint16) *decode.Template {
		k.ID = id
		return t(&k, port)
	}
	return r
}

// deeper returns the reader for lists nested in the current list.
func (r listReader) deeper() listReader {
	r.depth++
	return r
}

// read decodes an element that is a list. It returns nil for other elements, for lists that are nested too deep,
// and for malformed lists.
func (r listReader) read(x named, id uint16, octets []byte) *ipfix.List {
	if x.typ != ie.List || r.v9 || r.depth >= ipfix.MaxListDepth {
		return nil
	}
	l, err := ipfix.ReadList(id, octets, r.of)
	if err != nil {
		return nil
	}
	return l
}

// semantics maps the semantics of structured data to their names, RFC 6313 section 4.4.
var semantics = map[uint8]string{
	0: "noneOf", 1: "exactlyOneOf", 2: "oneOrMoreOf", 3: "allOf", 4: "ordered", 255: "undefined",
}

func semantic(n uint8) string {
	if s, ok := semantics[n]; ok {
		return s
	}
	return strconv.Itoa(int(n))
}

// list writes a list: its semantic, and either its values or its records.
func (j *jsonLine) list(l *ipfix.List, r listReader) {
	j.open('{')
	j.key("semantic")
	j.text(semantic(l.Semantic))
	if l.Element != (decode.Field{}) {
		j.key("values")
		j.open('[')
		for _, v := range l.Values {
			j.open('{')
			j.element(l.Element.PEN, l.Element.ID, lookup(r.v9, l.Element.PEN, l.Element.ID), v, r)
			j.close('}')
		}
		j.close(']')
	} else {
		j.key("records")
		j.open('[')
		for i := range l.Records {
			j.listRecord(&l.Records[i], r)
		}
		j.close(']')
	}
	j.close('}')
}

func (j *jsonLine) listRecord(rec *ipfix.ListRecord, r listReader) {
	j.open('{')
	j.key("template_id")
	j.uint(uint64(rec.TemplateID))
	if rec.Values == nil {
		j.key("value")
		j.text(hexText(rec.Octets))
	} else {
		j.key("fields")
		j.open('[')
		for _, v := range rec.Values {
			j.open('{')
			j.element(v.PEN, v.ID, lookup(r.v9, v.PEN, v.ID), v.Octets, r)
			j.close('}')
		}
		j.close(']')
	}
	j.close('}')
}

// appendPair appends an element as name=value for people. A list is written as semantic[…], with each record in
// braces.
func (r listReader) appendPair(b []byte, x named, id uint16, octets []byte) []byte {
	b = append(append(b, console.Quote(x.name)...), '=')
	l := r.read(x, id, octets)
	if l == nil {
		return append(b, readValue(x.typ, octets).String()...)
	}
	in := r.deeper()
	b = append(append(b, semantic(l.Semantic)...), '[')
	for i, v := range l.Values {
		if i > 0 {
			b = append(b, ' ')
		}
		b = in.appendPair(b, lookup(r.v9, l.Element.PEN, l.Element.ID), l.Element.ID, v)
	}
	for i := range l.Records {
		rec := &l.Records[i]
		b = append(b, '{')
		if rec.Values == nil {
			b = strconv.AppendUint(append(b, "template "...), uint64(rec.TemplateID), 10)
			b = append(append(b, ' '), hexText(rec.Octets)...)
		}
		for k, v := range rec.Values {
			if k > 0 {
				b = append(b, ' ')
			}
			b = in.appendPair(b, lookup(r.v9, v.PEN, v.ID), v.ID, v.Octets)
		}
		b = append(b, '}')
	}
	return append(b, ']')
}
