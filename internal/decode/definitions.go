package decode

import (
	"bytes"
	"math"

	"google.golang.org/protobuf/encoding/protowire"

	"weir/internal/ie"
	"weir/internal/ipfix"
	"weir/pkg/flowpb"
)

// An ElementDefinition is an exporter's own description of an Information Element, RFC 5610.
type ElementDefinition struct {
	Name string // UTF-8, at most MaxName octets
	Type uint8  // IANA's registry of informationElementDataType (IE 339)
}

// MaxDefined is the maximum number of elements of a template that get the name from an exporter's
// definition. Names are repeated in every record, so this bounds the octets of a flow.
const MaxDefined = 128

// definitionID returns the id of the fact that defines an element.
func definitionID(pen uint32, id uint16) uint64 { return uint64(pen)<<16 | uint64(id) }

// findDefinition lists the definition of an element, RFC 5610 section 3: informationElementName
// (341) with privateEnterpriseNumber (346) and informationElementId (303). NetFlow v9 has no
// enterprise numbers.
//
// Example of a record, scopes first (RFC 5610, Information Element Type Options Template):
//
//	346 privateEnterpriseNumber  303 informationElementId  339 data type  341 name
//	00 00 1a dc                  03 70                     01             tenantProtocol
//
// A definition names an element; it never changes the field that the element is decoded to.
func (v *optionValues) findDefinition() {
	if v.version != ipfix.VersionIPFIX || v.has>>oElementName341&1 == 0 {
		return
	}
	id, ok := v.number(oElementID303)
	if !ok || id > math.MaxUint16 {
		return
	}
	pen, ok := v.number(oEnterprise346)
	if !ok || pen > math.MaxUint32 {
		return
	}
	id &^= ipfix.EnterpriseBit // some exporters set it, as in templates
	typ, _ := v.number(oDataType339)
	if typ > math.MaxUint8 {
		typ = 0
	}
	b, _ := v.find(oElementName341)
	if name := cutName(string(bytes.TrimRight(b, "\x00"))); name != "" {
		v.facts = append(v.facts, OptionsFact{
			What: flowpb.Fact_WHAT_ELEMENT_DEFINITION, ID: definitionID(uint32(pen), uint16(id)), Number: typ, Text: name,
		})
	}
}

// setDefinition stores the definition of an element; an empty name removes it.
func (f *Facts) setDefinition(id uint64, d ElementDefinition) {
	if d.Name == "" {
		f.definitions.Delete(id)
	} else {
		f.definitions.Store(id, d)
	}
	f.nDefinitions.Store(int64(f.definitions.Len()))
}

// Definition returns the exporter's definition of an element for a port. The name is empty if there
// is none.
func (f *Facts) Definition(port uint16, pen uint32, id uint16) ElementDefinition {
	k := definitionID(pen, id)
	if v, ok := f.ownValue(port, flowpb.Fact_WHAT_ELEMENT_DEFINITION, k); ok {
		return ElementDefinition{v.text, uint8(v.number & 0xff)}
	}
	d, _ := f.definitions.Load(k)
	return d
}

// findUndefined numbers the steps of elements that have no name in the registry, up to MaxDefined:
// an exporter may define these.
func (p *Plan) findUndefined() {
	if p.version != ipfix.VersionIPFIX {
		return
	}
	for i := range p.steps {
		st := &p.steps[i]
		if st.op != opElement {
			continue
		}
		if _, known := ie.Lookup(st.pen, st.id); known || len(p.undefined) == MaxDefined {
			continue
		}
		p.undefined = append(p.undefined, Field{PEN: st.pen, ID: st.id})
		st.undefined = uint8(len(p.undefined))
	}
}

// define looks up the definitions for the records of a set. It leaves r.defined nil if the exporter
// defined none of the plan's elements.
func (r *record) define(p *Plan, c *context) {
	r.defined = nil
	if len(p.undefined) == 0 || r.drop || c.facts.nDefinitions.Load() == 0 {
		return
	}
	if r.definitions == nil {
		r.definitions = new([MaxDefined + 1]ElementDefinition)
	}
	for i, f := range p.undefined {
		d := c.facts.Definition(c.meta.Port, f.PEN, f.ID)
		if r.definitions[i+1] = d; d.Name != "" {
			r.defined = r.definitions
		}
	}
}

// definition returns the exporter's definition of a step's element.
func (r *record) definition(st *step) ElementDefinition {
	if r.defined == nil {
		return ElementDefinition{}
	}
	return r.defined[st.undefined]
}

// appendDefined is appendElement for an element that the exporter defined: it adds name and type.
func appendDefined(dst []byte, st *step, field []byte, d ElementDefinition) []byte {
	n := elementSize(st, field) + 1 + protowire.SizeBytes(len(d.Name))
	if d.Type != 0 {
		n += 1 + protowire.SizeVarint(uint64(d.Type))
	}
	dst = appendElementOf(dst, st, field, n)
	dst = text(dst, 4, d.Name)
	return number(dst, 5, uint64(d.Type))
}
