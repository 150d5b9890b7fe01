package decode

import (
	"weir/internal/ie"

	"weir/internal/ipfix"
)

// A slot holds a value that a rule over several elements reads. Values without a rule go straight
// to their field.
type slot uint8

// Counters, by precedence (see Plan.pick): octetDeltaCount and packetDeltaCount (IE 1, 2),
// octetTotalCount and packetTotalCount (85, 86), initiatorOctets to responderPackets (231, 232, 298,
// 299). ICMP: icmpTypeCodeIPv4 and IPv6 (32, 139), or type and code apart (176 to 179). Sampling:
// the number in the name is that of the element. Prefix lengths are IE 9, 13, 29 and 30.

// The slots. Those of times have the same order in both directions.
const (
	sOctets slot = iota
	sPackets
	sTotalOctets
	sTotalPackets
	sInitOctets
	sRespOctets
	sInitPackets
	sRespPackets
	sProto
	sSrcPort
	sDstPort
	sFlags
	sICMPv4 // type * 256 + code
	sICMPv6
	sTypeV4
	sCodeV4
	sTypeV6
	sCodeV6
	sIPVersion
	sEtherType
	sInterval      // 34
	sRandom        // 50
	sInterval305   // packets sampled in a row
	sSpace306      // packets skipped after them
	sSize309       // n of n-out-of-N
	sPopulation310 // N
	sProbability   // 311, float
	sSampler       // 48
	sSelector      // 302
	sInit          // 160
	sPostSrcPort
	sPostDstPort
	sSrcNet4
	sSrcNet6
	sDstNet4
	sDstNet6
	sTimes // the first of the forward times
)

// Times of one direction, to be added to sTimes or sReverseTimes.
//
//	S       flowStartSeconds, flowEndSeconds (IE 150, 151)
//	Ms      flowStartMilliseconds, flowEndMilliseconds (152, 153)
//	Us, Ns  NTP timestamps (154 to 157), see ntp
//	Delta   µs before the export time (158, 159)
//	Up      sysUptime, ms (22, 21)
//	Duration  of the flow, ms and µs (161, 162)
//	Observed  observationTime (322 to 325)
//
// Start must be directly before end: Plan.decide steps through pairs.
const (
	tStartS slot = iota
	tEndS
	tStartMs
	tEndMs
	tStartUs
	tEndUs
	tStartNs
	tEndNs
	tStartDelta
	tEndDelta
	tStartUp
	tEndUp
	tDurationMs
	tDurationUs
	tObservedS
	tObservedMs
	tObservedUs
	tObservedNs
	nTimes
)

const (
	sReverseTimes = sTimes + nTimes
	sRevOctets    = sReverseTimes + nTimes
	sRevPackets   = sRevOctets + 1
	sRevTotOctets = sRevOctets + 2
	sRevTotPkts   = sRevOctets + 3
)

// Slots of templates with two tuples, see tunnel.go: values of the outer tuple that are slots only
// there, and those of the inner tuple. Slots of other rules follow.
const (
	sToS = sRevTotPkts + 1 + iota
	sLabel
	sInnerProto
	sInnerSrcPort
	sInnerDstPort
	sInnerFlags
	sInnerToS
	sInnerLabel
	sInitialFlags // YAF: flags of the first packet
	sUnionFlags   // union of the flags of all other packets
	sRevInitialFlags
	sRevUnionFlags
	sDirection // of a wireless client's flow: see findStation
	nSlots
)

// An op is the operation of a step on the octets of its field.
type op uint8

const (
	opSkip      op = iota // nothing
	opUint                // an integer straight to a field
	opPlain               // opUint without further checks; in compiled steps only
	opSlot                // an integer to a slot
	opFloat               // a float to a slot, as IEEE 754 bits
	opAddr                // 4 or 16 octets to an address of the record
	opBytes               // 4 or 16 octets straight to a field
	opOctets              // any octets straight to a field
	opString              // UTF-8 text straight to a field
	opMPLS                // a label stack entry of 3 octets
	opElement             // raw, to elements
	opExtended            // to a field of the operator's, by type
	opDSCP                // a DSCP to a field that holds a type of service octet
	opSegment             // a segment identifier of an overlay network, the low 24 bits to a field
	opRD                  // a route distinguisher to a field, as text
	opInner               // an integer of an inner tuple to a slot
	opInnerAddr           // an address of an inner tuple
	opList                // a subTemplateMultiList: to elements, and some of its values to fields
)

// Addresses of a record, as indices of record.addr. The IPv6 address follows the IPv4 address.
const (
	aSrc4 = iota
	aSrc6
	aDst4
	aDst6
	aPostSrc4 // this and the following: after NAT
	aPostSrc6
	aPostDst4
	aPostDst6
	nAddrs
)

// An action is the operation that the decoder applies to an element, with its target and width.
//
// Integers may have fewer octets than their type (reduced-size encoding, RFC 7011 section 6.2), and up
// to four octets where the type has fewer: 4 octets for a port are common. A field of any other
// length is kept raw, since its value cannot be that of the element.
type action struct {
	op    op
	to    uint16 // field number, slot or address
	width uint16 // greatest number of octets of an integer; exact number else
}

type elementID struct {
	pen uint32
	id  uint16
}

func u(field, width uint16) action    { return action{opUint, field, width} }
func s(to slot, width uint16) action  { return action{opSlot, uint16(to), width} }
func addr(to, width uint16) action    { return action{opAddr, to, width} }
func raw(field, width uint16) action  { return action{opBytes, field, width} }
func txt(field uint16) action         { return action{opString, field, 0} }
func fwd(t slot, width uint16) action { return s(sTimes+t, width) }
func float(to slot) action            { return action{opFloat, uint16(to), 8} }
func iana(id uint16) elementID        { return elementID{0, id} }
func reversed(id uint16) elementID    { return elementID{ie.Reverse, id} }

// actions are the elements with a typed field (flow.proto names the source of
// each field), beside those of fallbacks; all others are kept raw.
var actions = map[elementID]action{
	iana(1): s(sOctets, 8), iana(2): s(sPackets, 8), iana(85): s(sTotalOctets, 8), iana(86): s(sTotalPackets, 8),
	iana(231): s(sInitOctets, 8), iana(232): s(sRespOctets, 8),
	iana(298): s(sInitPackets, 8), iana(299): s(sRespPackets, 8),
	iana(23): u(222, 8), iana(24): u(223, 8),
	iana(4): s(sProto, 1), iana(7): s(sSrcPort, 2), iana(11): s(sDstPort, 2), iana(6): s(sFlags, 2),
	iana(32): s(sICMPv4, 2), iana(139): s(sICMPv6, 2),
	iana(176): s(sTypeV4, 1), iana(177): s(sCodeV4, 1), iana(178): s(sTypeV6, 1), iana(179): s(sCodeV6, 1),
	iana(60): s(sIPVersion, 1), iana(256): s(sEtherType, 2),
	iana(8): addr(aSrc4, 4), iana(27): addr(aSrc6, 16), iana(12): addr(aDst4, 4), iana(28): addr(aDst6, 16),
	iana(15): raw(12, 4), iana(62): raw(12, 16), iana(18): raw(100, 4), iana(63): raw(100, 16),
	iana(47): raw(82, 4), iana(140): raw(82, 16),
	iana(128): u(13, 4), iana(16): u(14, 4), iana(17): u(15, 4),
	iana(9): s(sSrcNet4, 1), iana(29): s(sSrcNet6, 1), iana(13): s(sDstNet4, 1), iana(30): s(sDstNet6, 1),
	iana(10): u(18, 4), iana(14): u(19, 4), iana(5): u(23, 1), iana(89): u(24, 4),
	iana(192): u(25, 1), iana(56): u(27, 6), iana(80): u(28, 6),
	iana(243): u(29, 2), iana(58): u(33, 2), iana(59): u(34, 2), iana(54): u(35, 4), iana(88): u(36, 2),
	iana(31): u(37, 4), iana(197): u(38, 1), iana(138): u(71, 4),
	iana(136): u(205, 1), iana(61): {opUint, fDirection, 1}, iana(239): u(207, 1),
	iana(70): {opMPLS, 81, 3}, iana(71): {opMPLS, 81, 3}, iana(72): {opMPLS, 81, 3},
	iana(73): {opMPLS, 81, 3}, iana(74): {opMPLS, 81, 3},
	iana(75): {opMPLS, 81, 3}, iana(76): {opMPLS, 81, 3}, iana(77): {opMPLS, 81, 3},
	iana(78): {opMPLS, 81, 3}, iana(79): {opMPLS, 81, 3},
	iana(225): addr(aPostSrc4, 4), iana(281): addr(aPostSrc6, 16),
	iana(226): addr(aPostDst4, 4), iana(282): addr(aPostDst6, 16),
	iana(227): s(sPostSrcPort, 2), iana(228): s(sPostDstPort, 2), iana(230): u(234, 1),
	iana(233): u(235, 1), iana(148): u(236, 8),
	iana(234): u(240, 4), iana(235): u(241, 4), iana(236): txt(242), iana(82): txt(243), iana(83): txt(244),
	iana(95): {opOctets, 245, 0}, iana(96): txt(246),
	iana(34): s(sInterval, 4), iana(50): s(sRandom, 4), iana(305): s(sInterval305, 4), iana(306): s(sSpace306, 4),
	iana(309): s(sSize309, 4), iana(310): s(sPopulation310, 4), iana(311): float(sProbability),
	iana(48): s(sSampler, 8), iana(302): s(sSelector, 8), iana(160): s(sInit, 8),
	iana(150): fwd(tStartS, 4), iana(151): fwd(tEndS, 4), iana(152): fwd(tStartMs, 8), iana(153): fwd(tEndMs, 8),
	iana(154): fwd(tStartUs, 8), iana(155): fwd(tEndUs, 8), iana(156): fwd(tStartNs, 8), iana(157): fwd(tEndNs, 8),
	iana(158): fwd(tStartDelta, 4), iana(159): fwd(tEndDelta, 4), iana(22): fwd(tStartUp, 4), iana(21): fwd(tEndUp, 4),
	iana(161): fwd(tDurationMs, 4), iana(162): fwd(tDurationUs, 4),
	iana(322): fwd(tObservedS, 4), iana(323): fwd(tObservedMs, 8),
	iana(324): fwd(tObservedUs, 8), iana(325): fwd(tObservedNs, 8),
	iana(210): {opSkip, 0, 0},

	reversed(1): s(sRevOctets, 8), reversed(2): s(sRevPackets, 8), reversed(85): s(sRevTotOctets, 8),
	reversed(86): s(sRevTotPkts, 8),
	reversed(6):  u(213, 2), reversed(136): u(216, 1), reversed(5): u(217, 1),
}

// v9Own are NetFlow v9 types of 32768 and above that mean what an IANA element
// does (Cisco ASA, PAN-OS).
var v9Own = map[uint16]uint16{
	40001: 225, 40002: 226, 40003: 227, 40004: 228, 40005: 233, 56701: 96, 40000: 371, 56702: 371,
}

func init() {
	for id := uint16(150); id <= 162; id++ {
		if a, ok := actions[iana(id)]; ok && id != 160 {
			actions[reversed(id)] = s(slot(a.to)+nTimes, a.width)
		}
	}
	for _, id := range []uint16{21, 22} {
		a := actions[iana(id)]
		actions[reversed(id)] = s(slot(a.to)+nTimes, a.width)
	}
}

// mac is the octets of a MAC address, which has no reduced size.
const mac = 6

// idOf returns the element of a field: of a NetFlow v9 type, the element that means
// the same.
func idOf(version uint8, f Field) elementID {
	id := elementID{f.PEN, f.ID}
	if version != ipfix.VersionNetFlow9 {
		return id
	}
	if own, ok := v9Own[f.ID]; ok {
		id.id = own
	} else if f.ID >= ie.V9NTop {
		id = elementID{ie.NTop, f.ID - ie.V9NTop}
	}
	return id
}

// meaningOf returns what field f of a template means where nothing better is
// beside it.
func meaningOf(version uint8, f Field) action {
	id := idOf(version, f)
	a, ok := actions[id]
	if !ok {
		if x, ok := ie.Extended(f.PEN, f.ID); ok && x.Field != 0 && extends(&x, f.Length) {
			return action{op: opExtended}
		}
		fb, ok := fallbacks[id]
		if !ok {
			return action{op: opElement}
		}
		a = fb.action
	}
	n := f.Length
	switch a.op {
	case opUint, opSlot, opDSCP, opSegment:
		// Reduced-size encoding, RFC 7011 section 6.2; wider or of variable
		// length: not the registered type, kept raw. Four octets for narrower
		// ones are common.
		if w := max(a.width, 4); n == 0 || n > w || n == ipfix.VarLen || w == mac && n != mac {
			a = action{op: opElement}
		}
	case opFloat:
		if n != 4 && n != 8 {
			a = action{op: opElement}
		}
	case opAddr, opBytes, opMPLS, opRD:
		if n != a.width {
			a = action{op: opElement}
		}
	}
	return a
}
