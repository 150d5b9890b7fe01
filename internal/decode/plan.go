package decode

import (
	"slices"

	"google.golang.org/protobuf/encoding/protowire"

	"weir/internal/ie"
	"weir/internal/ipfix"
	"weir/internal/wire"
	"weir/pkg/flowpb"
)

// A step is the compiled action for a field of a record, or for neighbouring fields that are
// skipped.
type step struct {
	op            op
	once          uint8 // ≠ 0: of the steps with this number, the first that is not empty sets the field
	length        uint16
	tag           uint16 // opPlain: tag of the protobuf field, see tagOf
	to            uint16 // field number, slot or address
	id            uint16
	pen           uint32
	namesExporter bool     // see ofExporter
	name          nameKind // ≠ 0: the value may have a name

	undefined uint8 // ≠ 0: the element has no name in the registry; 1 + its index in Plan.undefined

	extension *ie.Extension // opExtended
}

// A Plan is a template compiled for decoding: a step per field in record order, neighbouring
// skipped fields merged into one step. It is immutable and safe for concurrent use.
//
// Example, the steps of a template of NetFlow v9:
//
//	type        length  step
//	8  IPv4 src    4    opAddr  to aSrc4
//	12 IPv4 dst    4    opAddr  to aDst4
//	10 input       4    opPlain to field 18, with the name of the interface
//	1  octets      4    opSlot  to sOctets
//	210 padding    1    opSkip, 4 octets together with the next field
//	210 padding    3
//	33001          2    opElement: no typed field, kept raw in elements
//
// A Plan depends on version, template and the process's ELEMENTS_FILE, never on options data or the
// exporter, so all exporters with an equal template can share it.
type Plan struct {
	template  Template
	version   uint8
	min       int // least octets of a record; the exact length if fixed
	fixed     bool
	steps     []step
	has       [nSlots]bool
	addrs     uint8 // a bit per address
	times     timeRule
	reverse   timeRule // of the reverse direction
	biflow    bool
	needsInit bool // see NeedsInit
	sampled   bool // records may state a sampling rate
	rates     int  // number of families of rate elements, see rateFamilies
	clocks    int  // number of kinds of time elements
	relayed   bool // records may name their exporter
	stray     []stray
	names     bool    // values of the records may have names
	undefined []Field // elements that have no name in the registry, at most MaxDefined
	picks     picks
	tunnel    [2]tunnelRule // IPv4 inside, IPv6 inside
	inner     uint8         // a bit per address that an inner tuple repeats
	tenant    bool          // tunnel is the rule of a tenant's tuple
	client    bool          // the source is the client by its element, and no element states the initiator
	station   bool          // the only address is the wireless client's
	lifts     []lift        // values that records of this template, inside a list, set in the enclosing flow
	fast      *fastPlan     // nil: records take the appending path
	fast6     *fastPlan     // of records with IPv6 addresses, in a template of both families; see arrangements
	options   []optionStep
}

// Template returns the definition that the plan was compiled from. The caller must not change it.
func (p *Plan) Template() *Template { return &p.template }

// NeedsInit reports whether times of the records are uptimes without a reference: the template has
// no systemInitTimeMilliseconds (IE 160), so options data must supply it.
func (p *Plan) NeedsInit() bool { return p.needsInit }

// Compile builds the plan of a template of version 9 or 10. It returns a *wire.Error with
// BadTemplate for templates that no record can have: without fields, with records of no octets,
// with a scope count above the field count, with too many fields. It does not retain t.
func Compile(version uint8, t *Template) (*Plan, error) {
	if e := t.Check(version); e != nil {
		return nil, e
	}
	return compile(version, t), nil
}

// compile builds the plan of a checked template. The order of its passes is fixed: meanings fills has
// and addrs, tunnels change actions, decide selects rules by the slots of the template, settle
// returns unused slots to elements, and has then shrinks to the slots that rules read. steps exist
// only after makeSteps, and arrangements reads all of it.
func compile(version uint8, t *Template) *Plan {
	p := &Plan{template: t.Clone(), version: version}
	p.min, p.fixed = t.MinLen()
	if t.Options {
		p.options = p.optionSteps()
		return p
	}
	acts, second := p.meanings()
	if p.findTunnel(acts); !p.tunnels() {
		p.findTenant(acts)
	}
	p.decide()
	holders := p.settle(acts)
	for s := range p.has {
		p.has[s] = p.has[s] && p.usesSlot(slot(s))
	}
	p.stray = p.strays()
	p.lifts = p.findLifts()
	p.findList(acts, holders)
	p.makeSteps(acts, second, holders)
	p.needsInit = p.version == ipfix.VersionIPFIX && !p.has[sInit] &&
		p.times.source == flowpb.TimeSource_TIME_SOURCE_UPTIME
	p.names = p.nameKinds()
	p.findUndefined()
	p.fast, p.fast6 = p.arrangements()
	return p
}

// settle makes elements of the actions whose value no rule uses. It returns the number of steps
// that write each field of the message.
func (p *Plan) settle(acts []action) (holders map[uint16]int) {
	holders = map[uint16]int{}
	for i, a := range acts {
		switch a.op {
		case opSlot, opFloat:
			if !p.usesSlot(slot(a.to)) {
				// No rule uses it: a second family of times, initiator's octets beside
				// plain octets.
				acts[i] = action{op: opElement}
			}
		case opUint, opBytes, opOctets, opString:
			holders[a.to]++
		case opDSCP, opSegment:
			if holders[a.to]++; holders[a.to] > 1 { // repeated: the first counts, this field is kept raw
				acts[i] = action{op: opElement}
			}
		}
	}
	return holders
}

// findList makes a list of the first subTemplateMultiList, if its records can set fields of the
// flow that no element of the template sets.
func (p *Plan) findList(acts []action, holders map[uint16]int) {
	for i, f := range p.template.Fields {
		if to := p.liftsTo(holders); acts[i].op == opElement && f.PEN == 0 && f.ID == ipfix.SubTemplateMultiList && to != 0 {
			acts[i] = action{op: opList, to: to}
			break // of several lists the first counts
		}
	}
}

// makeSteps appends the steps of all fields. holders counts the steps that write a field of the
// message.
func (p *Plan) makeSteps(acts, second []action, holders map[uint16]int) {
	onces := map[uint16]uint8{}
	for i, f := range p.template.Fields {
		st := step{op: acts[i].op, to: acts[i].to, length: f.Length, id: f.ID, pen: f.PEN}
		direct := st.op == opUint || st.op == opBytes || st.op == opOctets || st.op == opString
		if direct && holders[st.to] > 1 {
			if onces[st.to] == 0 {
				onces[st.to] = uint8(min(len(onces)+1, 63))
			}
			st.once = onces[st.to]
		}
		st.name, st.namesExporter = nameOf(&st), ofExporter(f)
		p.relayed = p.relayed || st.namesExporter
		if st.op == opExtended {
			x, _ := ie.Extended(f.PEN, f.ID)
			st.extension = &x
		}
		if st.op == opUint && st.once == 0 && st.to >= 16 && st.to != fDirection && st.to != fBiflowDirection {
			st.op, st.tag = opPlain, tagOf(protowire.Number(st.to))
		}
		if n := len(p.steps); n > 0 && p.steps[n-1].absorb(&st) {
			continue
		}
		p.steps = append(p.steps, st)
		if p.ambiguous(&st) {
			p.steps = append(p.steps, step{op: opElement, length: st.length, id: st.id, pen: st.pen, once: sameOctets})
		}
		if a := second[i]; a.op != opSkip {
			p.steps = append(p.steps, step{op: a.op, to: a.to, length: st.length, id: st.id, pen: st.pen, once: sameOctets})
		}
	}
}

// absorb merges a skipping step with the skipping step that follows it, and reports whether it could. The sum of their
// lengths must be below ipfix.VarLen, which marks a variable length.
func (st *step) absorb(next *step) bool {
	if st.op != opSkip || next.op != opSkip || st.length == ipfix.VarLen || next.length == ipfix.VarLen ||
		int(st.length)+int(next.length) >= ipfix.VarLen {
		return false
	}
	st.length += next.length
	return true
}

// meanings returns the action of each field and its second action (opSkip: none), and sets p.has
// and p.addrs. Of a repeated element the first counts; later fields are kept raw.
func (p *Plan) meanings() (acts, second []action) {
	acts, second = p.fieldMeanings()
	for i, f := range p.template.Fields {
		a := acts[i]
		switch a.op {
		case opSlot, opFloat:
			if p.has[a.to] { // repeated: the first counts, later fields are kept raw
				a = action{op: opElement}
				break
			}
			p.has[a.to] = true
		case opAddr:
			if p.addrs>>a.to&1 == 1 {
				a = action{op: opElement}
				break
			}
			p.addrs |= 1 << a.to
		}
		acts[i] = a
		switch b := &second[i]; {
		case b.op == opAddr:
			p.addrs |= 1 << b.to
		case b.op == opSlot && p.has[b.to]:
			*b = action{}
		case b.op == opSlot:
			p.has[b.to] = true
		}
		p.biflow = p.biflow || f.PEN == reversePEN
	}
	return acts, second
}

// decide selects the rules by the slots that the plan has.
func (p *Plan) decide() {
	p.biflow = p.biflow || p.has[sInitOctets] && p.has[sRespOctets] || p.has[sInitPackets] && p.has[sRespPackets] ||
		p.has[sRevOctets] || p.has[sRevPackets] || p.has[sRevInitialFlags] || p.has[sRevUnionFlags]
	p.picks = p.pick()
	for _, family := range rateFamilies {
		if p.hasAll(family) {
			p.rates++
		}
	}
	p.sampled = p.rates > 0
	for t := tStartS; t < nTimes; t += 2 {
		if p.has[sTimes+t] && t != tDurationMs || p.has[sTimes+t+1] && t+1 != tDurationUs {
			p.clocks++
		}
	}
	p.times = ruleOf(p, sTimes)
	p.reverse = ruleOf(p, sReverseTimes)
}

// rateFamilies lists the slots that together state a sampling rate, by precedence.
var rateFamilies = [][]slot{
	{sInterval}, {sRandom}, {sInterval305, sSpace306}, {sSize309, sPopulation310}, {sProbability},
}

// hasAll reports whether the template has all slots.
func (p *Plan) hasAll(slots []slot) bool {
	return !slices.ContainsFunc(slots, func(s slot) bool { return !p.has[s] })
}

// usesSlot reports whether a rule reads slot s, which the template has.
func (p *Plan) usesSlot(s slot) bool {
	k := &p.picks
	switch s {
	case k.octets, k.packets, k.totalOctets, k.totalPackets, k.srcPort, k.dstPort, k.flags,
		k.postSrcPort, k.postDstPort, k.sampler,
		sProto, sEtherType, sIPVersion, sTypeV4, sCodeV4, sTypeV6, sCodeV6:
		return true
	case sTotalOctets, sTotalPackets: // they have fields of their own
		return true
	case k.revOctets, k.revPackets:
		return p.biflow
	case sICMPv4, sICMPv6, sSrcNet4, sSrcNet6, sDstNet4, sDstNet6:
		return p.usesFamilySlot(s)
	case sInit:
		return p.times.unit == tStartUp && p.times.source != 0 || p.reverse.unit == tStartUp && p.reverse.source != 0
	}
	switch {
	case s >= sToS:
		return true // present only in templates whose rules read them
	case s >= sTimes && s < sReverseTimes:
		return p.times.usesSlot(s)
	case s >= sReverseTimes && s < sReverseTimes+nTimes:
		return p.reverse.usesSlot(s)
	}
	return slices.ContainsFunc(rateFamilies, func(f []slot) bool { return slices.Contains(f, s) && p.hasAll(f) })
}

// usesFamilySlot is usesSlot for slots whose use depends on the address families of the template:
// ICMP type and code in one element, and prefix lengths.
func (p *Plan) usesFamilySlot(s slot) bool {
	k := &p.picks
	v4, v6 := p.addrs&(1<<aSrc4|1<<aDst4) != 0, p.addrs&(1<<aSrc6|1<<aDst6) != 0
	apart4, apart6 := p.has[sTypeV4] || p.has[sCodeV4], p.has[sTypeV6] || p.has[sCodeV6]
	switch s {
	case sICMPv4:
		return !apart4 || k.icmp6 == s && !apart6 && (v6 || !v4)
	case sICMPv6:
		return !apart6
	case sSrcNet4, sSrcNet6:
		return s == k.src4Net && (v4 || !v6) || s == k.src6Net && v6
	default: // sDstNet4, sDstNet6
		return s == k.dst4Net && (v4 || !v6) || s == k.dst6Net && v6
	}
}

// ambiguous reports whether the field must be kept raw in addition to its meaning: either the
// message does not hold its whole value, or its use depends on the record and not on the template.
func (p *Plan) ambiguous(st *step) bool {
	switch st.op {
	case opSegment: // its first octet is the type of overlay network
		return true
	case opAddr:
		const post4, post6 = 1<<aPostSrc4 | 1<<aPostDst4, 1<<aPostSrc6 | 1<<aPostDst6
		return st.to >= aPostSrc4 && p.addrs&post4 != 0 && p.addrs&post6 != 0
	case opSlot, opFloat:
		if s := slot(st.to); s >= sTimes && s < sReverseTimes && s != sTimes+tDurationMs && s != sTimes+tDurationUs {
			return p.clocks > 1
		}
		inFamily := func(f []slot) bool { return slices.Contains(f, slot(st.to)) }
		return p.rates > 1 && slices.ContainsFunc(rateFamilies, inFamily)
	}
	return false
}

// sameOctets, as step.once, marks a step that reads the octets of the step before it.
const sameOctets = 64

// reversePEN is the enterprise number of reverse Information Elements, RFC 5103 section 6.1.
const reversePEN = 29305

// uintOf returns a big-endian integer of 1 to 8 octets.
func uintOf(b []byte) uint64 {
	switch len(b) {
	case 1:
		return uint64(b[0])
	case 2:
		return uint64(b[0])<<8 | uint64(b[1])
	case 4:
		return uint64(b[0])<<24 | uint64(b[1])<<16 | uint64(b[2])<<8 | uint64(b[3])
	}
	var v uint64
	for _, c := range b {
		v = v<<8 | uint64(c)
	}
	return v
}

// recordError returns the error for a record that ends before its fields.
func recordError(off int) wire.Error {
	return wire.Error{Off: off, What: "record", Cause: wire.Truncated}
}
