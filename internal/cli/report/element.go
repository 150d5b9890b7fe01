package report

import (
	"fmt"

	"weir/internal/decode"
	"weir/internal/ie"
	"weir/internal/templates/text"
	"weir/pkg/flowpb"
)

// A named element is how a field is called and read.
type named struct {
	name  string
	typ   ie.Type
	known bool // the registry has it, or the exporter defined it
}

// lookup finds an element by private enterprise number and id; v9 says whether
// the id is a NetFlow v9 field type. An unknown one goes by "pen/id".
func lookup(v9 bool, pen uint32, id uint16) named {
	var e ie.Element
	var ok bool
	if v9 {
		e, ok = ie.LookupV9(id)
	} else {
		e, ok = ie.Lookup(pen, id)
	}
	if !ok {
		return named{name: fmt.Sprintf("%d/%d", pen, id)}
	}
	return named{e.Name, e.Type, true}
}

// lookupDefined is lookup for an element of a flow, which has the name that the
// exporter gave it where the registry has none.
func lookupDefined(v9 bool, e *flowpb.Element) named {
	x := lookup(v9, e.GetPen(), uint16(e.GetId()))
	if !x.known && e.GetName() != "" {
		return named{e.GetName(), ie.DataType(e.GetType()), true}
	}
	return x
}

// lookupScope is lookup for a scope field: NetFlow v9 has scope types of its
// own, IPFIX takes any element.
func lookupScope(v9 bool, pen uint32, id uint16) named {
	if !v9 {
		return lookup(v9, pen, id)
	}
	name, ok := text.V9Scope(id)
	if !ok {
		name = fmt.Sprintf("scope/%d", id)
	}
	return named{name, ie.Unsigned, ok}
}

// fieldName is lookup for the i-th field of a template.
func fieldName(v9 bool, t *decode.Template, i int) named {
	f := t.Fields[i]
	if i < t.Scopes {
		return lookupScope(v9, f.PEN, f.ID)
	}
	return lookup(v9, f.PEN, f.ID)
}
