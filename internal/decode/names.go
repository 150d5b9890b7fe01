package decode

import (
	"maps"
	"sync/atomic"

	"google.golang.org/protobuf/encoding/protowire"

	"weir/pkg/flowpb"
)

// A nameKind is a value of a record that may have a name, known from options
// data or from the operator.
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

// Names are what options data calls interfaces, VRFs and applications of an
// exporter and domain. Get may be called at any time; Set by one goroutine at a
// time. A Set costs a copy of a part of the names, 1 of 64, so that a table of
// thousands comes in cheaply.
type Names struct {
	parts [64]atomic.Pointer[map[nameID]string]
}

type nameID struct {
	what flowpb.Fact_What
	id   uint64
}

func (n *Names) part(k nameID) *atomic.Pointer[map[nameID]string] {
	return &n.parts[(k.id+uint64(k.what))*0x9e3779b97f4a7c15>>58]
}

// Get returns a name, "" when there is none; n may be nil.
func (n *Names) Get(what flowpb.Fact_What, id uint64) string {
	if n == nil {
		return ""
	}
	k := nameID{what, id}
	if m := n.part(k).Load(); m != nil {
		return (*m)[k]
	}
	return ""
}

// Set sets a name; "" takes it away.
func (n *Names) Set(what flowpb.Fact_What, id uint64, name string) {
	k := nameID{what, id}
	part := n.part(k)
	next := map[nameID]string{}
	if m := part.Load(); m != nil {
		maps.Copy(next, *m)
	}
	if name == "" {
		delete(next, k)
	} else {
		next[k] = name
	}
	part.Store(&next)
}

// nameFields are the fields of the names.
var nameFields = [nNames]protowire.Number{inIfName: 247, outIfName: 248, inVRFName: 249, outVRFName: 252, applicationName: fApplicationName}

const fApplicationID, fApplicationName = 245, 246

// nameOf returns what name the value of st may have.
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

// nameKinds tells whether any value may have a name. A record's own application
// name comes first.
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

// named tells whether anything has a name.
func (c *context) named() bool { return c.facts.Names != nil || len(c.exporter.Interfaces) > 0 }

// name returns the name of a value, "" when there is none.
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
	return c.facts.Names.Get(what, v)
}

// appendNames appends the names of a record's values.
func (r *record) appendNames(b []byte, c *context) []byte {
	for k := inIfName; k < nNames; k++ {
		if r.nameable>>k&1 == 1 {
			b = text(b, nameFields[k], c.name(k, r.named[k]))
		}
	}
	return b
}

// setNames sets the names of a record's values.
func (r *record) setNames(m *flowpb.FlowMessage, c *context) {
	for k, to := range map[nameKind]*string{
		inIfName: &m.InIfName, outIfName: &m.OutIfName, inVRFName: &m.IngressVrfName, outVRFName: &m.EgressVrfName, applicationName: &m.ApplicationName,
	} {
		if r.nameable>>k&1 == 1 {
			if s := c.name(k, r.named[k]); s != "" {
				*to = s
			}
		}
	}
}

// note keeps a value that may have a name.
func (r *record) note(k nameKind, field []byte) {
	r.named[k] = uintOf(field)
	r.nameable |= 1 << k
}
