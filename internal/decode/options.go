package decode

import (
	"bytes"
	"strings"

	"weir/pkg/flowpb"
)

// v9 scope types, RFC 3954 section 6.1.
const scopeInterface = 2

// readOptions reads the options record that b begins with. ok is false when b
// ends before the record.
func (p *Plan) readOptions(b []byte, off int, rec *OptionsRecord) (rest []byte, ok bool) {
	*rec = OptionsRecord{TemplateID: p.template.ID, Off: off, Values: rec.Values[:0], Facts: rec.Facts[:0]}
	for i, f := range p.template.Fields {
		st := step{length: f.Length}
		var field []byte
		if field, b, ok = st.next(b); !ok {
			return nil, false
		}
		rec.Values = append(rec.Values, Value{PEN: f.PEN, ID: f.ID, Scope: i < p.template.Scopes, Octets: field})
	}
	rec.findFacts(p.version)
	return b, true
}

// find returns the octets of an element that is not a v9 scope, at most 8.
func (rec *OptionsRecord) find(version uint8, ids ...uint16) (b []byte, ok bool) {
	for _, id := range ids {
		for i := range rec.Values {
			if v := &rec.Values[i]; v.PEN == 0 && v.ID == id && (!v.Scope || version != 9) && len(v.Octets) > 0 {
				return v.Octets, true
			}
		}
	}
	return nil, false
}

// number returns the first of the elements as an integer.
func (rec *OptionsRecord) number(version uint8, ids ...uint16) (n uint64, ok bool) {
	b, ok := rec.find(version, ids...)
	if !ok || len(b) > 8 {
		return 0, false
	}
	return uintOf(b), true
}

// findFacts lists what the record says about the exporter: sampling rates
// (elements 34; 50 with 48 or 49; 305/306; 309/310; 311), interface, VRF and
// application names (82, 83, 236, 96), the system init time (160).
func (rec *OptionsRecord) findFacts(version uint8) {
	add := func(what flowpb.Fact_What, id, number uint64, text string) {
		rec.Facts = append(rec.Facts, Fact{What: what, ID: id, Number: number, Text: text})
	}
	n, states := rec.rate(version)
	rec.badRate = states && n == 0
	if n != 0 {
		id, _ := rec.number(version, 302, 48)
		add(flowpb.Fact_WHAT_SAMPLER, id, n, "")
	}
	if ms, ok := rec.number(version, 160); ok && ms != 0 {
		add(flowpb.Fact_WHAT_INIT_TIME, 0, ms, "")
	}
	for id, to := range map[uint16]*uint64{40: &rec.Exported.Octets, 41: &rec.Exported.Messages, 42: &rec.Exported.Records} {
		if n, ok := rec.number(version, id); ok {
			*to, rec.Exported.Has = n, true
		}
	}
	index, hasIndex := rec.number(version, 10, 14, 252, 253)
	for i := range rec.Values {
		if v := &rec.Values[i]; version == 9 && v.Scope && v.ID == scopeInterface && len(v.Octets) > 0 && len(v.Octets) <= 8 {
			index, hasIndex = uintOf(v.Octets), true
		}
	}
	if hasIndex {
		rec.name(version, 82, flowpb.Fact_WHAT_INTERFACE_NAME, index)
		rec.name(version, 83, flowpb.Fact_WHAT_INTERFACE_DESCRIPTION, index)
	}
	if id, ok := rec.number(version, 234, 235); ok {
		rec.name(version, 236, flowpb.Fact_WHAT_VRF_NAME, id)
	}
	if id, ok := rec.number(version, 95); ok {
		rec.name(version, 96, flowpb.Fact_WHAT_APPLICATION_NAME, id)
	}
}

func (rec *OptionsRecord) name(version uint8, element uint16, what flowpb.Fact_What, id uint64) {
	if b, ok := rec.find(version, element); ok {
		if s := string(bytes.TrimRight(b, "\x00")); s != "" {
			rec.Facts = append(rec.Facts, Fact{What: what, ID: id, Text: strings.ToValidUTF8(s, "\uFFFD")})
		}
	}
}

// rate is the sampling rate that the record states, 1 in N; states is false when
// it says nothing of sampling, n is 0 when what it says cannot be.
func (rec *OptionsRecord) rate(version uint8) (n uint64, states bool) {
	for _, id := range []uint16{34, 50} {
		if v, ok := rec.number(version, id); ok {
			if states = true; v != 0 {
				return v, true
			}
		}
	}
	if in, ok := rec.number(version, 305); ok {
		if out, ok := rec.number(version, 306); ok {
			return ratio(sum(in, out), in), true
		}
	}
	if size, ok := rec.number(version, 309); ok {
		if of, ok := rec.number(version, 310); ok {
			return ratio(of, size), true
		}
	}
	if b, ok := rec.find(version, 311); ok && (len(b) == 4 || len(b) == 8) {
		return inverse(float64From(b)), true
	}
	return 0, states
}
