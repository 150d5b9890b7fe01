package decode

import (
	"google.golang.org/protobuf/encoding/protowire"

	"weir/internal/flowkey"
	"weir/internal/ipfix"
	"weir/pkg/flowpb"
)

// The fast path decodes records with a pair of addresses, and with the addresses and ports after NAT:
// what routers, firewalls and CGNATs send. Fields are grouped by width when the template is compiled, and a varint is
// written without a branch on its length: the lengths of real counters vary, so the processor would mispredict such
// branches. Rules over several elements run in the functions that the appending path uses. The appending path handles
// all other plans (tunnels, joined TCP flags, clients of AVC), and single records that the fast path rejects. Of
// records with variable-length fields the fixed-length fields are packed first (Decoder.pack), and offsets are those
// of the packed record.

const (
	// Classes of integers, by octets of the value and octets of the protobuf tag. Each class has a
	// loop of its own in putInts without branches on the value.
	oneOctet    = iota // tag of two octets
	twoOctets          // tag of two octets
	fourOctets         // up to four, tag of two octets
	shortTag           // up to four, tag of one octet
	eightOctets        // more than four
	nClasses
)

// A load locates an integer of a record: the low octets, selected by mask, of the 8 octets that end
// at end.
type load struct {
	mask uint64
	end  uint16 // offset in the record of the octet after it
	slot slot
}

// An intStep copies an integer to a varint field.
type intStep struct {
	mask uint64
	end  uint16
	tag  uint16
	n    uint8 // octets of the tag
}

// An addrStep copies an address of 4 or 16 octets to a bytes field.
type addrStep struct {
	head uint64 // tag and length
	n    uint8  // octets of head
	off  uint16
}

// A copyStep writes constant octets, then octets of the record.
type copyStep struct {
	head []byte // tag and lengths
	off  uint16
	len  uint16
}

// A restStep runs a step through record.step, as the appending path does.
type restStep struct {
	step *step
	off  uint16
	nth  int16 // index among the record's variable-length fields; -1: a fixed-length field
}

// A fastPlan is a plan arranged for the fast path. It is immutable and safe for concurrent use.
// Offsets are those of the packed record, see Decoder.pack.
type fastPlan struct {
	ints         [nClasses][]intStep
	addrs4       []addrStep // IPv4 addresses except source and destination
	addrs6       []addrStep // IPv6 addresses except source and destination
	elements     []copyStep // fields kept raw, in record order
	rest         []restStep
	tail         []restStep // steps from the first variable-length field on
	segments     []uint16   // octets of fixed-length fields before each variable-length field
	inOrder      bool       // a step of rest may append an element, so later raw fields must go through rest too
	loads        []load     // values for the rules of the appending path
	maxOut       int        // upper bound of the octets of a record's fields and its key
	v6           bool
	src, dst     uint16   // offsets of the addresses
	etherType    load     // mask 0: absent, and the family of the addresses decides for all records
	byTuple      bool     // with nat: IPv6 addresses, whose key keyOf computes
	nat          *natRule // nil: the template has no element of an address or port after NAT
	sport, dport load
	proto        uint16 // offset of the octet after the protocol
	protoMask    byte   // 0 = absent
	start, end   load
	mul          uint64      // linear times: ns per unit; 0: sysUptime relative to the header
	linear       bool        // start and end are multiples of mul
	observed     bool        // linear times: end is the time of an observation, which counts only after start
	exportTime   bool        // the template has no times: the export time applies
	icmp         [2]icmpRule // ICMP, ICMPv6
	stray        []load      // slots that apply to one protocol only
	names        []restStep  // values that may have names
	nameRoom     int         // upper bound of the octets of their names
	direction    int         // offset of IE 61, one octet; -1 = absent
}

// Limits of the fast path, octets. The largest indices are powers of two less one, so that a
// masked index needs no bounds check. Change them together with the drawing at window.
const (
	maxFastIn     = 511           // the largest index of a window that a mask lets through
	maxFastRecord = maxFastIn - 8 // a window begins 8 octets before its record
	maxFastOut    = 1023
)

// maskOf returns a mask of the low octets of an integer, 1 to 8.
func maskOf(octets uint16) uint64 { return ^uint64(0) >> (64 - 8*octets) }

// A natRule locates addresses and ports after NAT. Its addresses are of one family.
type natRule struct {
	src, dst     int    // offsets of the addresses; -1 = absent
	size         uint16 // octets of an address
	sport, dport load
}

// Pairs of addresses, as bits of Plan.addrs.
const (
	pair4     = 1<<aSrc4 | 1<<aDst4
	pair6     = 1<<aSrc6 | 1<<aDst6
	postPair4 = 1<<aPostSrc4 | 1<<aPostDst4
	postPair6 = 1<<aPostSrc6 | 1<<aPostDst6
)

// arrangements returns p arranged for the fast path. A template with addresses of both families has two arrangements,
// since each of its records uses one family (Plan.arrangementOf). Both are nil if p does not qualify: it has no pair of
// addresses, NAT addresses of both families, a tunnel, joined flags, the ends of a Cisco AVC client, ICMP elements
// without a protocol, or records longer than maxFastRecord.
func (p *Plan) arrangements() (fast, fast6 *fastPlan) {
	if p.min > maxFastRecord || p.tunnels() || p.joinsFlags() || p.client ||
		p.addrs&postPair4 != 0 && p.addrs&postPair6 != 0 || !p.has[sProto] && (p.icmp4() || p.icmp6()) {
		return nil, nil
	}
	switch p.addrs & (pair4 | pair6) {
	case pair4:
		return p.arrange(false), nil
	case pair6:
		return p.arrange(true), nil
	case pair4 | pair6:
		if fast, fast6 = p.arrange(false), p.arrange(true); fast != nil && fast6 != nil {
			return fast, fast6
		}
	}
	return nil, nil
}

// arrange returns p arranged for records whose addresses are of one family, or nil if a step of p has
// no place in the fast path.
func (p *Plan) arrange(v6 bool) *fastPlan {
	f := &fastPlan{v6: v6, direction: -1}
	if p.addrs&(postPair4|postPair6) != 0 || p.has[sPostSrcPort] || p.has[sPostDstPort] {
		f.nat = &natRule{src: -1, dst: -1, size: 4}
		if p.addrs&postPair6 != 0 {
			f.nat.size = 16
		}
		f.byTuple = f.v6 || f.nat.size != 4
	}
	f.maxOut = 2*18 + 8*11 + 64 // the pair of addresses, fields set by rules, Ethernet type and the key
	off, packed := uint16(0), uint16(0)
	for i := range p.steps {
		st := &p.steps[i]
		if st.length == ipfix.VarLen {
			switch st.op {
			case opSlot, opFloat, opAddr: // the rest of a record is written as octets of the message
				return nil
			}
			if st.op != opSkip {
				f.tail = append(f.tail, restStep{st, 0, int16(len(f.segments))})
			}
			f.segments = append(f.segments, off-packed)
			packed = off
			continue
		}
		if st.once == sameOctets {
			off -= st.length
		}
		if !f.add(p, st, off) {
			return nil
		}
		off += st.length
	}
	f.arrangeTimes(p)
	f.arrangeICMP(p)
	if f.maxOut > maxFastOut/2 { // the other half holds the head
		return nil
	}
	return f
}

// add arranges a step whose octets begin at offset off of the record. It returns false if the
// fast path cannot run the step.
func (f *fastPlan) add(p *Plan, st *step, off uint16) bool {
	at := load{end: off + st.length, slot: slot(st.to)}
	if st.length > 0 && st.length <= 8 {
		at.mask = maskOf(st.length)
	}
	if st.name != noName {
		f.names = append(f.names, restStep{st, off, -1})
		f.nameRoom += nameRoom(st.name)
	}
	switch st.op {
	case opSkip:
	case opSlot:
		return f.addSlot(p, st, at)
	case opAddr:
		f.addPairAddr(st, off)
	case opElement:
		if f.inOrder || len(f.tail) > 0 {
			f.addRest(st, off)
			break
		}
		whole := appendElement(nil, st, make([]byte, st.length))
		f.elements = append(f.elements, copyStep{whole[:len(whole)-int(st.length)], off, st.length})
		f.maxOut += len(whole)
	case opBytes:
		if st.once == 0 {
			tag := protowire.AppendTag(nil, protowire.Number(st.to), protowire.BytesType)
			f.addAddr(protowire.AppendVarint(tag, uint64(st.length)), st, off)
			break
		}
		f.addRest(st, off)
	case opPlain, opUint:
		switch {
		case st.to == fDirection && st.once == 0 && st.length == 1 && f.direction < 0:
			f.direction = int(off)
			f.maxOut += 3
		case st.once != 0 || st.to == fDirection || st.to == fBiflowDirection:
			f.addRest(st, off)
		default:
			f.addInt(protowire.Number(st.to), at, st.length)
		}
	case opFloat:
		return false
	default:
		f.addRest(st, off)
	}
	return true
}

// addRest adds a step that record.step runs. Invalid UTF-8 can grow to three times its octets,
// since U+FFFD has three.
func (f *fastPlan) addRest(st *step, off uint16) {
	if len(f.tail) > 0 {
		f.tail = append(f.tail, restStep{st, off, -1})
		return
	}
	f.rest = append(f.rest, restStep{st, off, -1})
	f.inOrder = f.inOrder || st.once != 0 || st.op == opUint ||
		st.op == opExtended || st.op == opDSCP || st.op == opRD || st.op == opList
	f.maxOut += 16 + 3*int(st.length)
	if st.op == opList {
		f.maxOut += liftRoom
	}
}

// addPairAddr places an address of the pair or of the pair after NAT. An address of the family that f
// is not for has no place in the message: arrangementOf requires it to be zero.
func (f *fastPlan) addPairAddr(st *step, off uint16) {
	switch st.to {
	case aSrc4, aSrc6:
		if f.v6 == (st.to == aSrc6) {
			f.src = off
		}
	case aDst4, aDst6:
		if f.v6 == (st.to == aDst6) {
			f.dst = off
		}
	case aPostSrc4, aPostSrc6:
		f.nat.src = int(off)
		f.addAddr([]byte{fPostSrc<<3&0x7f | 0x80 | 2, fPostSrc >> 4, byte(st.length)}, st, off)
	case aPostDst4, aPostDst6:
		f.nat.dst = int(off)
		f.addAddr([]byte{fPostDst<<3&0x7f | 0x80 | 2, fPostDst >> 4, byte(st.length)}, st, off)
	}
}

// addAddr adds a copy of an address behind head, its tag and length.
func (f *fastPlan) addAddr(head []byte, st *step, off uint16) {
	f.maxOut += 8 + int(st.length)
	a := addrStep{n: uint8(len(head)), off: off}
	for i, b := range head {
		a.head |= uint64(b) << (8 * i)
	}
	if st.length == 4 {
		f.addrs4 = append(f.addrs4, a)
	} else {
		f.addrs6 = append(f.addrs6, a)
	}
}

// addSlot arranges a value of a rule. If the rule copies the value, it becomes an integer of the
// fast path; the remaining rules load it from f.loads.
func (f *fastPlan) addSlot(p *Plan, st *step, at load) bool {
	pick := &p.picks
	f.loads = append(f.loads, at)
	srcNet, dstNet := pick.src4Net, pick.dst4Net
	if f.v6 {
		srcNet, dstNet = pick.src6Net, pick.dst6Net
	}
	for _, t := range []struct {
		slot  slot
		field protowire.Number
	}{
		{pick.octets, fBytes}, {pick.packets, fPackets}, {pick.totalOctets, fTotalBytes}, {pick.totalPackets, fTotalPackets},
		{srcNet, fSrcNet}, {dstNet, fDstNet}, {sProto, fProto}, {pick.srcPort, fSrcPort}, {pick.dstPort, fDstPort},
		{pick.flags, fFlags}, {pick.sampler, fSamplerID},
		{pick.postSrcPort, fPostSrcPort}, {pick.postDstPort, fPostDstPort},
	} {
		if t.slot == at.slot {
			f.addInt(t.field, at, st.length)
		}
	}
	if p.biflow && at.slot == pick.revOctets {
		f.addInt(fRevBytes, at, st.length)
	}
	if p.biflow && at.slot == pick.revPackets {
		f.addInt(fRevPackets, at, st.length)
	}
	switch at.slot {
	case sProto:
		f.proto, f.protoMask = at.end, 0xff
		return st.length == 1
	case pick.srcPort:
		f.sport = load{mask: at.mask & 0xffff, end: at.end}
	case pick.dstPort:
		f.dport = load{mask: at.mask & 0xffff, end: at.end}
	case pick.postSrcPort:
		f.nat.sport = at
	case pick.postDstPort:
		f.nat.dport = at
	case sEtherType:
		f.etherType = at
	}
	return true
}

// addInt adds an integer that becomes field n.
func (f *fastPlan) addInt(n protowire.Number, at load, length uint16) {
	s := intStep{mask: at.mask, end: at.end, tag: uint16(n << 3), n: 1}
	class := shortTag
	if n > 15 {
		s.tag, s.n = tagOf(n), 2
		class = map[uint16]int{1: oneOctet, 2: twoOctets, 3: fourOctets, 4: fourOctets}[length]
	}
	if length > 4 {
		class = eightOctets
	}
	f.ints[class] = append(f.ints[class], s)
	f.maxOut += 12
}

// An icmpRule locates ICMP type and code: in an element each, or both in one element.
type icmpRule struct {
	both, typ, code load
	src             load // source port in versions before NetFlow v9, otherwise unset
	apart           bool
	port            bool // both is the destination port
}

// loadOf returns the load of a slot, or a load of 0 if the template does not have the slot.
func (f *fastPlan) loadOf(s slot) load {
	for _, l := range f.loads {
		if l.slot == s {
			return l
		}
	}
	return load{}
}

// arrangeICMP locates ICMP type and code and the strays of p. It must run after all slots are
// added.
func (f *fastPlan) arrangeICMP(p *Plan) {
	at := f.loadOf
	for _, s := range p.stray {
		f.stray = append(f.stray, at(s.slot))
	}
	src := load{}
	if p.version < ipfix.VersionNetFlow9 {
		src = at(p.picks.srcPort)
	}
	f.icmp[0] = icmpRule{
		both: at(p.picks.icmp4), typ: at(sTypeV4), code: at(sCodeV4), src: src,
		apart: p.has[sTypeV4] || p.has[sCodeV4], port: p.picks.icmp4 == sDstPort,
	}
	f.icmp[1] = icmpRule{
		both: at(p.picks.icmp6), typ: at(sTypeV6), code: at(sCodeV6), src: src,
		apart: p.has[sTypeV6] || p.has[sCodeV6], port: p.picks.icmp6 == sDstPort,
	}
}

// arrangeTimes decides whether start and end are linear: plain multiples of a unit. It must run
// after all slots are added.
func (f *fastPlan) arrangeTimes(p *Plan) {
	r := &p.times
	if r.source == flowpb.TimeSource_TIME_SOURCE_UNSPECIFIED {
		f.exportTime = r.duration == noSlot
		return
	}
	start, end := r.start, r.end
	f.linear = start != noSlot && end != noSlot || r.duration == noSlot
	switch {
	case start == noSlot:
		start = end
	case end == noSlot && r.observed != noSlot:
		end, f.observed = r.observed, true
		f.linear = f.linear && r.observedUnit == r.unit
	case end == noSlot:
		end = start
	}
	f.start, f.end = f.loadOf(start), f.loadOf(end)
	switch r.unit {
	case tStartMs:
		f.mul = 1e6
	case tStartS:
		f.mul = 1e9
	case tStartUp:
		f.linear = f.linear && p.version != ipfix.VersionIPFIX && !p.has[sInit]
	default:
		f.linear = false
	}
}

// portMask has, by protocol, the mask of a port: 0xffff for protocols with ports, otherwise 0.
var portMask = func() (t [256]uint64) {
	for i := range t {
		if flowkey.HasPorts(uint8(i)) {
			t[i] = 0xffff
		}
	}
	return t
}()
