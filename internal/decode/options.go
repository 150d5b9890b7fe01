package decode

import (
	"bytes"
	"strings"
	"unicode/utf8"

	"weir/internal/ipfix"
	"weir/pkg/flowpb"
)

// scopeInterface is the scope field type Interface of NetFlow v9, RFC 3954 section 6.1.
const scopeInterface = 2

// An optionKey identifies an element of options records that describes the exporter.
type optionKey uint8

const (
	noOption optionKey = iota
	oInterval34
	oRandom50
	oInterval305
	oSpace306
	oAlgorithm304
	oSize309
	oPopulation310
	oProbability311
	oSelector302
	oSampler48
	oInit160
	oOctets40
	oMessages41
	oRecords42
	oIngress10
	oEgress14
	oIngressPhysical252
	oEgressPhysical253
	oScopeInterface // v9 scope 2
	oInterfaceName82
	oInterfaceDescription83
	oIngressVRF234
	oEgressVRF235
	oVRFName236
	oRouteDistinguisher90
	oApplicationID95
	oApplicationName96
	oElementID303
	oEnterprise346
	oDataType339
	oElementName341
	nOptions
)

// optionKeys maps elements of IANA to keys.
var optionKeys = map[uint16]optionKey{
	34: oInterval34, 50: oRandom50, 305: oInterval305, 306: oSpace306, 304: oAlgorithm304,
	309: oSize309, 310: oPopulation310, 311: oProbability311,
	302: oSelector302, 48: oSampler48, 160: oInit160, 40: oOctets40, 41: oMessages41, 42: oRecords42,
	10: oIngress10, 14: oEgress14, 252: oIngressPhysical252, 253: oEgressPhysical253,
	82: oInterfaceName82, 83: oInterfaceDescription83, 234: oIngressVRF234, 235: oEgressVRF235, 236: oVRFName236,
	90: oRouteDistinguisher90,
	95: oApplicationID95, 96: oApplicationName96,
	303: oElementID303, 346: oEnterprise346, 339: oDataType339, 341: oElementName341,
}

// An optionStep is a field of an options record, or several neighbouring fields without a key.
type optionStep struct {
	length int // octets; ipfix.VarLen: variable
	key    optionKey
}

// optionSteps compiles the fields of an options template. Fields without octets are left out, so a
// record never takes more steps than it has octets.
func (p *Plan) optionSteps() (steps []optionStep) {
	for i, f := range p.template.Fields {
		st := optionStep{length: int(f.Length)}
		scope := i < p.template.Scopes && p.version == ipfix.VersionNetFlow9
		switch {
		case f.Length == 0:
			continue
		case scope && f.ID == scopeInterface:
			st.key = oScopeInterface
		case !scope && f.PEN == 0:
			st.key = optionKeys[f.ID]
		}
		if n := len(steps); n > 0 && st.key == noOption && steps[n-1].key == noOption &&
			st.length != ipfix.VarLen && steps[n-1].length != ipfix.VarLen && steps[n-1].length+st.length < ipfix.VarLen {
			steps[n-1].length += st.length
			continue
		}
		steps = append(steps, st)
	}
	return steps
}

// optionValues holds the values of the current options record that describe the exporter. octets
// aliases the datagram: the holder must clear it before the datagram is reused.
type optionValues struct {
	version uint8
	has     uint64 // a bit per optionKey
	octets  [nOptions][]byte
	facts   []OptionsFact
	total   Exported
	badRate bool // the record has an impossible sampling rate
}

// readOptions reads the options record at the beginning of b into v, and finds its facts. ok is
// false if b ends before the record.
func (p *Plan) readOptions(b []byte, v *optionValues) (rest []byte, ok bool) {
	v.version, v.has = p.version, 0
	for i := range p.options {
		st := &p.options[i]
		var octets []byte
		if octets, b, ok = ipfix.NextField(b, uint16(st.length)); !ok { // at most ipfix.VarLen
			return nil, false
		}
		if st.key == noOption || len(octets) == 0 {
			continue
		}
		// The first field of an element counts; of the scopes of v9 the last.
		if v.has>>st.key&1 == 0 || st.key == oScopeInterface && len(octets) <= 8 {
			v.has |= 1 << st.key
			v.octets[st.key] = octets
		}
	}
	v.findFacts()
	return b, true
}

// values returns the fields of the options record at the beginning of b, which must be whole. They
// alias b.
func (p *Plan) values(b []byte) (all []Value) {
	all = make([]Value, 0, len(p.template.Fields))
	for i, f := range p.template.Fields {
		field, rest, _ := ipfix.NextField(b, f.Length) // the record is whole
		b = rest
		all = append(all, Value{PEN: f.PEN, ID: f.ID, Scope: i < p.template.Scopes, Octets: field})
	}
	return all
}

// find returns the octets of the first of keys that the record has.
func (v *optionValues) find(keys ...optionKey) (b []byte, ok bool) {
	for _, k := range keys {
		if v.has>>k&1 == 1 {
			return v.octets[k], true
		}
	}
	return nil, false
}

// number returns the first of keys that the record has, as an integer. ok is false for more than 8
// octets.
func (v *optionValues) number(keys ...optionKey) (n uint64, ok bool) {
	b, ok := v.find(keys...)
	if !ok || len(b) > 8 {
		return 0, false
	}
	return uintOf(b), true
}

// findFacts lists the facts of the record: sampling rates (elements 34; 50 with 48 or 49; 305/306;
// 309/310; 311; 304 with 305), interface, VRF and application names (82, 83, 236, 96), route
// distinguishers of VRFs (90), the system init time (160), definitions of elements (341).
//
// The values of RFC 3954 (NetFlow v9), RFC 5477 and RFC 7270 (IPFIX) and of vendors:
//
//	34 samplingInterval                          N
//	50 samplerRandomInterval                     N
//	305 samplingPacketInterval, 306 ...Space     N = (305 + 306) / 305
//	309 samplingSize, 310 samplingPopulation     N = 310 / 309
//	311 samplingProbability                      N = 1 / p
//	304 selectorAlgorithm = 3, 305               N = 305, older IOS XR
//
// Division rounds to the nearest integer, and a rate is at least 1. A record with impossible values
// (zero, overflow, above MaxSamplingRate) sets badRate and adds no sampling rate: the rate that was in
// force remains.
func (v *optionValues) findFacts() {
	v.facts, v.total, v.badRate = v.facts[:0], Exported{}, false
	if v.has == 0 {
		return
	}
	n, states := v.rate()
	v.badRate = states && n == 0
	if n != 0 {
		id, _ := v.number(oSelector302, oSampler48)
		v.facts = append(v.facts, OptionsFact{What: flowpb.Fact_WHAT_SAMPLER, ID: id, Number: n})
	}
	if ms, ok := v.number(oInit160); ok && ms != 0 {
		v.facts = append(v.facts, OptionsFact{What: flowpb.Fact_WHAT_INIT_TIME, Number: ms})
	}
	v.findTotals()
	v.findNames()
	v.findDefinition()
}

// findTotals reads the totals of the exporting process.
func (v *optionValues) findTotals() {
	const totals = 1<<oOctets40 | 1<<oMessages41 | 1<<oRecords42
	if v.has&totals == 0 {
		return
	}
	var a, b, c bool
	v.total.Octets, a = v.number(oOctets40)
	v.total.Messages, b = v.number(oMessages41)
	v.total.Records, c = v.number(oRecords42)
	v.total.Has = a || b || c
}

// findNames lists the names of interfaces, VRFs and applications. The record's scope or index
// elements identify the named object.
func (v *optionValues) findNames() {
	const names = 1<<oInterfaceName82 | 1<<oInterfaceDescription83 | 1<<oVRFName236 |
		1<<oRouteDistinguisher90 | 1<<oApplicationName96
	if v.has&names == 0 {
		return
	}
	index, ok := v.number(oScopeInterface)
	if !ok {
		index, ok = v.number(oIngress10, oEgress14, oIngressPhysical252, oEgressPhysical253)
	}
	if ok {
		v.name(oInterfaceName82, flowpb.Fact_WHAT_INTERFACE_NAME, index)
		v.name(oInterfaceDescription83, flowpb.Fact_WHAT_INTERFACE_DESCRIPTION, index)
	}
	if id, ok := v.number(oIngressVRF234, oEgressVRF235); ok {
		v.name(oVRFName236, flowpb.Fact_WHAT_VRF_NAME, id)
		v.routeDistinguisher(id)
	}
	if id, ok := v.number(oApplicationID95); ok {
		v.name(oApplicationName96, flowpb.Fact_WHAT_APPLICATION_NAME, id)
	}
}

// name lists the name that element k holds, without padding.
func (v *optionValues) name(k optionKey, what flowpb.Fact_What, id uint64) {
	if b, ok := v.find(k); ok {
		if s := string(bytes.TrimRight(b, "\x00")); s != "" {
			v.facts = append(v.facts, OptionsFact{What: what, ID: id, Text: cutName(s)})
		}
	}
}

// routeDistinguisher lists the route distinguisher of a VRF.
func (v *optionValues) routeDistinguisher(vrf uint64) {
	if b, ok := v.find(oRouteDistinguisher90); ok {
		if rd, ok := appendRD(nil, b); ok && len(rd) > 0 {
			v.facts = append(v.facts, OptionsFact{What: flowpb.Fact_WHAT_VRF_RD, ID: vrf, Text: string(rd)})
		}
	}
}

// cutName returns s as valid UTF-8, cut to at most MaxName octets at the boundary of a character.
func cutName(s string) string {
	s = strings.ToValidUTF8(s[:min(len(s), MaxName+utf8.UTFMax)], "\uFFFD")
	if len(s) <= MaxName {
		return s
	}
	n := MaxName
	for !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// randomNOfN is the value of selectorAlgorithm (IE 304) for random n-out-of-N sampling, IANA's
// registry.
const randomNOfN = 3

// rate returns the sampling rate of the record, 1 in N. states is false if the record has no
// element of a rate; n is 0 if its values are impossible.
func (v *optionValues) rate() (n uint64, states bool) {
	const rates = 1<<oInterval34 | 1<<oRandom50 | 1<<oInterval305 | 1<<oSize309 | 1<<oProbability311
	if v.has&rates == 0 {
		return 0, false
	}
	for _, k := range [...]optionKey{oInterval34, oRandom50} {
		if n, ok := v.number(k); ok {
			if states = true; n != 0 {
				return possible(n), true
			}
		}
	}
	if in, ok := v.number(oInterval305); ok {
		if out, ok := v.number(oSpace306); ok {
			return ratio(sum(in, out), in), true
		}
	}
	if size, ok := v.number(oSize309); ok {
		if of, ok := v.number(oPopulation310); ok {
			return ratio(of, size), true
		}
	}
	if b, ok := v.find(oProbability311); ok && (len(b) == 4 || len(b) == 8) {
		return inverse(float64From(b)), true
	}
	// Older IOS XR: random sampling with N in 305 and no other element of a rate.
	if algorithm, ok := v.number(oAlgorithm304); ok && algorithm == randomNOfN {
		if n, ok := v.number(oInterval305); ok {
			return possible(n), true
		}
	}
	return 0, states
}
