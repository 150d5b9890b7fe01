package decode

import (
	"google.golang.org/protobuf/encoding/protowire"

	"weir/pkg/flowpb"
)

// A nameKind is a kind of value that can have a name, from options data or from the operator's
// configuration.
type nameKind uint8

const (
	noName nameKind = iota
	inIfName
	outIfName
	inVRFName
	outVRFName
	applicationName
	nNames
)

// nameFields are the message fields of the names.
var nameFields = [nNames]protowire.Number{
	inIfName: 247, outIfName: 248, inVRFName: 249, outVRFName: 252, applicationName: fApplicationName,
}

// rdFields are the message fields of the route distinguishers of VRFs.
var rdFields = [nNames]protowire.Number{inVRFName: fInVRFRD, outVRFName: fOutVRFRD}

// nameRoom returns the maximum number of octets that the names of a value take, tags and lengths
// included.
func nameRoom(k nameKind) int {
	if rdFields[k] != 0 {
		return 2 * (MaxName + 8)
	}
	return MaxName + 8
}

const fApplicationID, fApplicationName = 245, 246

// nameOf returns the kind of name that the value of st can have.
func nameOf(st *step) nameKind {
	if st.length == 0 || st.length > 8 || st.once != 0 {
		return noName
	}
	switch {
	case st.op == opUint && st.to == 18:
		return inIfName
	case st.op == opUint && st.to == 19:
		return outIfName
	case st.op == opUint && st.to == 240:
		return inVRFName
	case st.op == opUint && st.to == 241:
		return outVRFName
	case st.op == opOctets && st.to == fApplicationID:
		return applicationName
	}
	return noName
}

// nameKinds reports whether any value of the plan can have a name. An application name in the
// record itself takes precedence over options data.
func (p *Plan) nameKinds() (any bool) {
	own := false
	for i := range p.steps {
		own = own || p.steps[i].op == opString && p.steps[i].to == fApplicationName
	}
	for i := range p.steps {
		st := &p.steps[i]
		if own && st.name == applicationName {
			st.name = noName
		}
		any = any || st.name != noName
	}
	return any
}

// named reports whether the exporter has any names.
func (c *context) named() bool { return c.facts.nNames.Load() > 0 || len(c.exporter.Interfaces) > 0 }

// name returns the name of a value, or "".
func (c *context) name(k nameKind, v uint64) string {
	what := flowpb.Fact_WHAT_INTERFACE_NAME
	switch k {
	case inIfName, outIfName:
		if v <= 0xffffffff {
			if s := c.exporter.Interfaces[uint32(v)]; s != "" {
				return s
			}
		}
	case inVRFName, outVRFName:
		what = flowpb.Fact_WHAT_VRF_NAME
	default:
		what = flowpb.Fact_WHAT_APPLICATION_NAME
	}
	return c.facts.Name(c.meta.Port, what, v)
}

// vrfRD returns the route distinguisher of a VRF as text, or "".
func (c *context) vrfRD(id uint64) string {
	return c.facts.Name(c.meta.Port, flowpb.Fact_WHAT_VRF_RD, id)
}

// appendNames appends the names of a record's values.
func (r *record) appendNames(b []byte, c *context) []byte {
	for k := inIfName; k < nNames; k++ {
		if r.nameable>>k&1 == 1 {
			b = text(b, nameFields[k], c.name(k, r.named[k]))
			if f := rdFields[k]; f != 0 {
				b = text(b, f, c.vrfRD(r.named[k]))
			}
		}
	}
	return b
}

// note stores a value that can have a name, for appendNames.
func (r *record) note(k nameKind, field []byte) {
	r.named[k] = uintOf(field)
	r.nameable |= 1 << k
}
