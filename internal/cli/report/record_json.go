package report

import (
	"cmp"
	"io"
	"slices"

	"weir/internal/decode"
	"weir/pkg/flowpb"
)

// A part is a record of a datagram that is printed as a line: its kind, its index and its place in the datagram.
type part struct {
	off   int // octets
	kind  partKind
	index int // in the slice of that kind in the Result
}

type partKind uint8

const (
	aTemplate partKind = iota
	anOptionsRecord
	aFlow
	anError
)

// parts appends the records of r to p, in order of their offset in the datagram.
func parts(p []part, r *decode.Result) []part {
	for i := range r.Templates {
		p = append(p, part{r.Templates[i].Off, aTemplate, i})
	}
	for i := range r.Options {
		p = append(p, part{r.Options[i].Off, anOptionsRecord, i})
	}
	for i, m := range r.Messages {
		p = append(p, part{int(m.GetRecordOffset()), aFlow, i})
	}
	for i := range r.Errors {
		p = append(p, part{r.Errors[i].Off, anError, i})
	}
	slices.SortStableFunc(p, func(a, b part) int { return cmp.Compare(a.off, b.off) })
	return p
}

// A RecordJSON prints flows, options records, templates and errors of datagrams as JSON Lines.
type RecordJSON struct {
	lines
	parts []part
	line  jsonLine
	of    Templates
}

// NewRecordJSON returns a printer to w. of resolves the templates of lists (RFC 6313); it may be nil.
func NewRecordJSON(w io.Writer, of Templates) *RecordJSON {
	return &RecordJSON{lines: newLines(w), of: of}
}

// Consume prints the records of r in the order of the datagram. It implements offline.Output.
func (d *RecordJSON) Consume(from Origin, r *decode.Result) error {
	d.parts = parts(d.parts[:0], r)
	for _, p := range d.parts {
		d.line = d.line[:0]
		d.line.open('{')
		d.line.key("record")
		switch p.kind {
		case aTemplate:
			d.template(from, &r.Templates[p.index].Template)
		case anOptionsRecord:
			d.options(from, &r.Options[p.index])
		case aFlow:
			d.line.text("flow")
			d.line.fields(r.Messages[p.index].ProtoReflect(), d.of)
		case anError:
			e := r.Errors[p.index]
			d.line.text("error")
			d.line.key("offset")
			d.line.int(int64(e.Off))
			d.line.key("cause")
			d.line.text(string(e.Cause))
			d.line.key("what")
			d.line.text(e.What)
			d.exporter(from)
			d.line.key("datagram")
			d.line.int(int64(from.Datagram))
		}
		d.line.close('}')
		d.line = append(d.line, '\n')
		if _, err := d.w.Write(d.line); err != nil {
			return err
		}
	}
	return nil
}

func (d *RecordJSON) exporter(from Origin) {
	if s := exporterText(from.Meta.Exporter); s != "" {
		d.line.key("exporter")
		d.line.text(s)
	}
}

// head writes the members that identify a template: exporter, observation domain, version and template id.
func (d *RecordJSON) head(record string, from Origin, id uint16) {
	d.line.text(record)
	d.exporter(from)
	d.line.key("domain")
	d.line.uint(uint64(from.Header.Domain))
	d.line.key("version")
	d.line.uint(uint64(from.Header.Version))
	d.line.key("template_id")
	d.line.uint(uint64(id))
}

func (d *RecordJSON) template(from Origin, t *decode.Template) {
	v9 := from.Header.Version == 9
	d.head("template", from, t.ID)
	d.line.key("options")
	d.line.bool(t.Options)
	d.line.key("scopes")
	d.line.int(int64(t.Scopes))
	d.line.key("fields")
	d.line.open('[')
	for i, f := range t.Fields {
		d.line.open('{')
		d.line.key("pen")
		d.line.uint(uint64(f.PEN))
		d.line.key("id")
		d.line.uint(uint64(f.ID))
		if x := fieldName(v9, t, i); x.known {
			d.line.key("name")
			d.line.text(x.name)
		}
		d.line.key("length")
		d.line.uint(uint64(f.Length))
		d.line.close('}')
	}
	d.line.close(']')
}

// options writes the values by element name, scope fields apart from the others. An element that occurs more than
// once in the record is written as a list.
func (d *RecordJSON) options(from Origin, rec *decode.OptionsRecord) {
	v9 := from.Header.Version == 9
	d.head("options", from, rec.TemplateID)
	for _, scope := range []bool{true, false} {
		d.line.key(map[bool]string{true: "scope", false: "values"}[scope])
		d.line.open('{')
		for _, group := range groups(rec, v9, scope) {
			d.line.key(group[0].name)
			if len(group) > 1 {
				d.line.open('[')
			}
			for _, v := range group {
				readValue(v.typ, v.octets).json(&d.line)
			}
			if len(group) > 1 {
				d.line.close(']')
			}
		}
		d.line.close('}')
	}
	d.line.key("facts")
	d.line.open('[')
	for _, f := range rec.Facts {
		d.line.open('{')
		d.line.key("what")
		d.line.text(f.What.String())
		d.line.key("id")
		d.line.uint(f.ID)
		if f.Number != 0 {
			d.line.key("number")
			d.line.uint(f.Number)
		}
		if f.Text != "" {
			d.line.key("text")
			d.line.text(f.Text)
		}
		d.line.close('}')
	}
	d.line.close(']')
}

// A namedValue is a field of an options record.
type namedValue struct {
	named
	octets []byte
}

// groups returns the scope fields of rec, or its other fields, grouped by name. The groups are in record order of
// their first fields.
func groups(rec *decode.OptionsRecord, v9, scope bool) [][]namedValue {
	var out [][]namedValue
	place := map[string]int{} // index in out, by name
	for _, v := range rec.Values {
		if v.Scope != scope {
			continue
		}
		x := lookup(v9, v.PEN, v.ID)
		if scope {
			x = lookupScope(v9, v.PEN, v.ID)
		}
		n := namedValue{x, v.Octets}
		if i, again := place[x.name]; again {
			out[i] = append(out[i], n)
		} else {
			place[x.name] = len(out)
			out = append(out, []namedValue{n})
		}
	}
	return out
}

// flowTypes are the names of the export protocols.
var flowTypes = map[flowpb.FlowMessage_FlowType]string{
	flowpb.FlowMessage_NETFLOW_V1: "v1",
	flowpb.FlowMessage_NETFLOW_V5: "v5",
	flowpb.FlowMessage_NETFLOW_V7: "v7",
	flowpb.FlowMessage_NETFLOW_V9: "v9",
	flowpb.FlowMessage_IPFIX:      "ipfix",
}
