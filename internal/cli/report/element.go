package report

import (
	"fmt"

	"weir/internal/decode"
	"weir/internal/ie"
	"weir/pkg/flowpb"
)

// A named element is an Information Element as a field of a record: its name and its data type.
type named struct {
	name  string
	typ   ie.Type
	known bool // in the IANA registry, or defined by the exporter (RFC 5610)
}

// lookup finds an element by private enterprise number and id. With v9 the id is a NetFlow v9 field type. The name
// of an unknown element is "pen/id".
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

// lookupDefined is lookup for an element of a flow. If the registry has no such element, it takes the name and
// type that the exporter defined (RFC 5610).
func lookupDefined(v9 bool, e *flowpb.Element) named {
	x := lookup(v9, e.GetPen(), uint16(e.GetId()))
	if !x.known && e.GetName() != "" {
		return named{e.GetName(), ie.DataType(e.GetType()), true}
	}
	return x
}

// lookupScope is lookup for a scope field. NetFlow v9 has its own scope types (RFC 3954 section 6.1); in IPFIX any
// element can be a scope (RFC 7011 section 3.4.2.1).
func lookupScope(v9 bool, pen uint32, id uint16) named {
	if !v9 {
		return lookup(v9, pen, id)
	}
	name, ok := ie.ScopeName(id)
	if !ok {
		name = fmt.Sprintf("scope/%d", id)
	}
	return named{name, ie.Unsigned, ok}
}

// fieldName is lookup for field i of a template.
func fieldName(v9 bool, t *decode.Template, i int) named {
	f := t.Fields[i]
	if i < t.Scopes {
		return lookupScope(v9, f.PEN, f.ID)
	}
	return lookup(v9, f.PEN, f.ID)
}
