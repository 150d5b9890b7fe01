package decode

import "weir/internal/ie"

// Private enterprise numbers of vendors whose elements have a typed field.
const (
	huawei     = 2011
	ixia       = 3054
	netscaler  = 5951
	barracuda  = 10704
	barracuda2 = 12326 // has the elements of barracuda
	procera    = 15397
	viptela    = 41916
)

// A fallback is an element that substitutes for better elements. It has its meaning only in
// templates that have none of these with a usable length; otherwise it is kept raw.
type fallback struct {
	action action
	better []elementID
}

// fallbacks lists the substitutes by element. The operator's ELEMENTS_FILE takes precedence.
var fallbacks = map[elementID]fallback{
	iana(90):  {action{opRD, fRD, 8}, nil},
	iana(252): {u(fInIf, 4), []elementID{iana(10)}}, // physical interface
	iana(253): {u(fOutIf, 4), []elementID{iana(14)}},
	iana(254): {u(fDstVLAN, 2), []elementID{iana(59)}},         // postDot1qVlanId
	iana(195): {action{opDSCP, fToS, 1}, []elementID{iana(5)}}, // without the two bits of ECN
	iana(52):  {u(fTTL, 1), []elementID{iana(192)}},            // minimum
	iana(53):  {u(fTTL, 1), []elementID{iana(192), iana(52)}},  // maximum
	iana(57):  {u(fDstMAC, mac), []elementID{iana(80)}},        // after a middlebox function

	// FlowMessage got fields for these elements when an ELEMENTS_FILE could already name them. They must stay out of
	// actions: CheckExtensions would refuse such a file.
	iana(351): {action{opSegment, fTunnelID, 8}, nil},
	iana(365): {u(fStationMAC, mac), nil},
	iana(366): {raw(fStationAddr, 4), nil},
	iana(371): {txt(fUserName), nil},

	// Vendors' elements.
	{ie.NTop, 119}:                 {txt(fApplicationName), []elementID{iana(96)}}, // L7_PROTO_NAME
	{procera, 1}:                   {txt(fApplicationName), []elementID{iana(96)}}, // service
	{ixia, 111}:                    {txt(fApplicationName), []elementID{iana(96)}}, // l7ApplicationName
	{ixia, 176}:                    {s(sRevOctets, 8), []elementID{reversed(1), reversed(85), iana(232)}},
	{ixia, 177}:                    {s(sRevPackets, 8), []elementID{reversed(2), reversed(86), iana(299)}},
	{netscaler, 205}:               {txt(fUserName), []elementID{iana(371)}},                   // aaaUsername
	{netscaler, 250}:               {txt(fUserName), []elementID{iana(371), {netscaler, 205}}}, // icaUsername
	{ie.NTop, 428}:                 {txt(fUserName), []elementID{iana(371)}},                   // USER_NAME
	{ixia, 212}:                    {txt(fUserName), []elementID{iana(371)}},                   // ixiaRadiusUsername
	{viptela, 4321}:                {u(fInVRF, 8), []elementID{iana(234)}},                     // VPN
	{huawei, 232}:                  {u(fInVRF, 4), []elementID{iana(234)}},                     // VPN
	{ie.CERT, 14}:                  {s(sInitialFlags, 2), []elementID{iana(6)}},
	{ie.CERT, 15}:                  {s(sUnionFlags, 2), []elementID{iana(6)}},
	{ie.CERT, 14 | ie.CERTReverse}: {s(sRevInitialFlags, 2), []elementID{reversed(6)}},
	{ie.CERT, 15 | ie.CERTReverse}: {s(sRevUnionFlags, 2), []elementID{reversed(6)}},

	reversed(23):  {s(sRevOctets, 8), []elementID{reversed(1), reversed(85), iana(232)}},
	reversed(24):  {s(sRevPackets, 8), []elementID{reversed(2), reversed(86), iana(299)}},
	reversed(195): {action{opDSCP, fRevToS, 1}, []elementID{reversed(5)}},
}

func init() {
	for _, pen := range []uint32{barracuda, barracuda2} {
		fallbacks[elementID{pen, 4}] = fallback{txt(fFirewallRule), nil}
		fallbacks[elementID{pen, 5}] = fallback{txt(fApplicationName), []elementID{iana(96)}} // service
		fallbacks[elementID{pen, 8}] = fallback{addr(aPostSrc4, 4), []elementID{iana(225)}}   // bind address: source NAT
		fallbacks[elementID{pen, 9}] = fallback{s(sPostSrcPort, 2), []elementID{iana(227)}}
	}
}

// seconds are elements that have a field of their own and also substitute for better elements.
var seconds = map[elementID]fallback{
	iana(23): {s(sOctets, 8), []elementID{iana(1), iana(85), iana(231)}}, // after a middlebox function
	iana(24): {s(sPackets, 8), []elementID{iana(2), iana(86), iana(298)}},
}

// fieldMeanings returns the action of each field, considering the other fields of the template.
// second holds a further action of a field, or opSkip.
//
// It runs in two passes, because a substitute depends on the whole template: the first finds which
// elements have a usable length, the second withdraws the substitutes of those. An element of the
// wrong length is not usable, so it does not suppress its substitute.
func (p *Plan) fieldMeanings() (acts, second []action) {
	fields := p.template.Fields
	acts, second = make([]action, len(fields)), make([]action, len(fields))
	usable := make(map[elementID]bool, len(fields))
	for i, f := range fields {
		acts[i] = meaningOf(p.version, f)
		if acts[i].op != opElement {
			usable[idOf(p.version, f)] = true
		}
	}
	for i, f := range fields {
		if acts[i].op == opElement || acts[i].op == opExtended {
			continue
		}
		id := idOf(p.version, f)
		if fb, ok := fallbacks[id]; ok && fb.hasBetter(usable) {
			acts[i] = action{op: opElement}
		}
		if s, ok := seconds[id]; ok && !s.hasBetter(usable) {
			second[i] = s.action
		}
	}
	p.findEnds(usable, acts, second)
	return acts, second
}

// joinsFlags reports whether TCP flags are the union of two elements.
func (p *Plan) joinsFlags() bool {
	return p.has[sInitialFlags] || p.has[sUnionFlags] || p.has[sRevInitialFlags] || p.has[sRevUnionFlags]
}

// hasBetter reports whether the template has a better element.
func (f *fallback) hasBetter(usable map[elementID]bool) bool {
	for _, id := range f.better {
		if usable[id] {
			return true
		}
	}
	return false
}
