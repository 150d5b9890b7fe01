package decode

import (
	"google.golang.org/protobuf/encoding/protowire"

	"weir/internal/flowkey"
	"weir/pkg/flowpb"
)

// The fast shape: records with one pair of addresses, which is nearly all
// traffic. Where fields are of variable length the fixed ones are packed, and
// offsets are those in the packed record. The fields are grouped by width when the template is
// compiled, and values are written without a branch on how long their varint
// is: real counters vary, and every such branch is mispredicted. What needs a
// rule beyond that goes through the same functions as on the appending path,
// which takes all other plans, and single records that are out of the ordinary.

// Classes of integers: by width and by octets of the tag.
const (
	oneOctet    = iota // tag of two octets
	twoOctets          // tag of two octets
	fourOctets         // up to four, tag of two octets
	shortTag           // up to four, tag of one octet
	eightOctets        // more than four
	nClasses
)

// A load is where an integer of a record lies: the octets of mask before end.
type load struct {
	mask uint64
	end  uint16 // offset in the record of what follows it
	slot slot
}

// An intStep is an integer that becomes a varint field.
type intStep struct {
	mask uint64
	end  uint16
	tag  uint16
	n    uint8 // octets of the tag
}

// An addrStep is an address of 4 or 16 octets that becomes a field.
type addrStep struct {
	head uint64 // tag and length
	n    uint8  // octets of head
	off  uint16
}

// A copyStep is octets that are copied behind a constant.
type copyStep struct {
	head []byte // tag and lengths
	off  uint16
	len  uint16
}

// A restStep is a step that the appending path's functions run.
type restStep struct {
	step *step
	off  uint16
	nth  int16 // of the record's fields of variable length; -1: of fixed length
}

// A fastPlan is a plan arranged for the fast shape. It is immutable.
type fastPlan struct {
	ints         [nClasses][]intStep
	addrs4       []addrStep // IPv4 addresses but the pair
	addrs6       []addrStep // IPv6 ones
	elements     []copyStep // raw ones, in record order
	rest         []restStep
	tail         []restStep // from the first field of variable length on
	segments     []uint16   // octets of fixed length before each field of variable length
	inOrder      bool       // a step of rest may make an element: later ones go there too
	loads        []load     // what the rules beyond this shape look at
	maxOut       int        // octets of the fields of a record and its key, at most
	v6           bool
	src, dst     uint16 // offsets of the addresses
	sport, dport load
	proto        uint16 // offset of what follows it
	protoMask    byte   // 0 = absent
	start, end   load
	mul          uint64      // linear times: ns a unit; 0: sysUptime against the header
	linear       bool        // times are those of start and end, by mul
	exportTime   bool        // no times: that of export
	icmp         [2]icmpRule // ICMP, ICMPv6
	stray        []load      // what only records of a protocol have a use for
	names        []restStep  // values that may have names
	nameRoom     int         // octets of their names, at most
	direction    int         // offset of IE 61, one octet; -1 = absent
}

// Limits of the fast shape, octets. The windows are powers of two, so that a
// masked index needs no further check.
const (
	maxFastRecord = 511
	maxFastOut    = 1023
)

func maskOf(octets uint16) uint64 { return ^uint64(0) >> (64 - 8*octets) }

// arrange returns p for the fast shape, nil when it does not fit.
func (p *Plan) arrange() *fastPlan {
	const v4Pair, v6Pair = 1<<aSrc4 | 1<<aDst4, 1<<aSrc6 | 1<<aDst6
	if p.min > maxFastRecord || p.addrs != v4Pair && p.addrs != v6Pair ||
		p.tunnels() || p.joinsFlags() || p.client || p.has[sEtherType] || p.has[sPostSrcPort] || p.has[sPostDstPort] || !p.has[sProto] && (p.icmp4() || p.icmp6()) {
		return nil
	}
	f := &fastPlan{v6: p.addrs == v6Pair, direction: -1}
	f.maxOut = 2*18 + 8*11 + 64 // the pair of addresses, fields of rules, the key
	off, packed := uint16(0), uint16(0)
	for i := range p.steps {
		st := &p.steps[i]
		if st.length == VarLen {
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
	if f.maxOut > maxFastOut/2 { // the other half is for the head
		return nil
	}
	return f
}

// add arranges one step whose octets begin at off of the record.
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
		if st.to == aSrc4 || st.to == aSrc6 {
			f.src = off
		} else {
			f.dst = off
		}
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
			f.addAddr(protowire.AppendVarint(protowire.AppendTag(nil, protowire.Number(st.to), protowire.BytesType), uint64(st.length)), st, off)
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

// addRest keeps a step for the appending path's functions. Text may grow to
// three times its octets where it is no UTF-8.
func (f *fastPlan) addRest(st *step, off uint16) {
	if len(f.tail) > 0 {
		f.tail = append(f.tail, restStep{st, off, -1})
		return
	}
	f.rest = append(f.rest, restStep{st, off, -1})
	f.inOrder = f.inOrder || st.once != 0 || st.op == opUint || st.op == opExtended || st.op == opDSCP || st.op == opRD || st.op == opList
	f.maxOut += 16 + 3*int(st.length)
	if st.op == opList {
		f.maxOut += liftRoom
	}
}

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

// addSlot arranges a value of a rule: where the rule is to copy it, as an
// integer; the rules beyond load it.
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
	}
	return true
}

// addInt arranges an integer that becomes field n.
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

// An icmpRule is where type and code lie: in an element each, else both in one.
type icmpRule struct {
	both, typ, code load
	src             load // source port before NetFlow v9, else nothing
	apart           bool
	port            bool // both is the destination port
}

func (f *fastPlan) arrangeICMP(p *Plan) {
	at := func(s slot) (l load) {
		for _, l := range f.loads {
			if l.slot == s {
				return l
			}
		}
		return l
	}
	for _, s := range p.stray {
		f.stray = append(f.stray, at(s.slot))
	}
	src := load{}
	if p.version < VersionNetFlow9 {
		src = at(p.picks.srcPort)
	}
	f.icmp[0] = icmpRule{at(p.picks.icmp4), at(sTypeV4), at(sCodeV4), src, p.has[sTypeV4] || p.has[sCodeV4], p.picks.icmp4 == sDstPort}
	f.icmp[1] = icmpRule{at(p.picks.icmp6), at(sTypeV6), at(sCodeV6), src, p.has[sTypeV6] || p.has[sCodeV6], p.picks.icmp6 == sDstPort}
}

// arrangeTimes tells whether the times are plain multiples of start and end.
func (f *fastPlan) arrangeTimes(p *Plan) {
	r := &p.times
	if r.source == flowpb.TimeSource_TIME_SOURCE_UNSPECIFIED {
		f.exportTime = r.duration == noSlot
		return
	}
	for _, l := range f.loads {
		switch l.slot {
		case r.start:
			f.start = l
		case r.end:
			f.end = l
		}
	}
	f.linear = r.start != noSlot && r.end != noSlot && r.start != r.end
	switch r.unit {
	case tStartMs:
		f.mul = 1e6
	case tStartS:
		f.mul = 1e9
	case tStartUp:
		f.linear = f.linear && p.version != VersionIPFIX && !p.has[sInit]
	default:
		f.linear = false
	}
}

// portMask keeps the ports of protocols that have them.
var portMask = func() (t [256]uint64) {
	for i := range t {
		if flowkey.HasPorts(uint8(i)) {
			t[i] = 0xffff
		}
	}
	return t
}()
