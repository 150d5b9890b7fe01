package decode

import (
	"slices"

	"google.golang.org/protobuf/encoding/protowire"

	"weir/internal/wire"
)

// A step is what to do with one field.
type step struct {
	op     op
	once   uint8 // ≠ 0: the first step with this number that holds a value gets the field
	length uint16
	tag    uint16 // opPlain: of its field, see tagOf
	to     uint16 // field number, slot or address
	id     uint16
	pen    uint32
}

// A Plan is a template compiled for decoding: what to do with each field in
// record order, with neighbouring unwanted fields folded into one skip. It is
// immutable and safe for concurrent use.
type Plan struct {
	template Template
	version  uint8
	min      int // octets; the exact record length when fixed
	fixed    bool
	steps    []step
	has      [nSlots]bool
	addrs    uint8 // bit per address
	times    timeRule
	reverse  timeRule // of the reverse direction
	biflow   bool
	sampled  bool // records may state a sampling rate
	picks    picks
	fast     *fastPlan // nil: records take the appending path
}

// Template returns the definition that the plan was compiled from. The caller
// does not change it.
func (p *Plan) Template() *Template { return &p.template }

// Compile builds the plan of a template of version 9 or 10. It refuses (a
// *wire.Error with BadTemplate) what no record can have: no fields, a record of
// no octets, a scope count above the field count, too many fields. It keeps
// nothing of t.
func Compile(version uint8, t *Template) (*Plan, error) {
	if e := t.check(version); e != nil {
		return nil, e
	}
	return compile(version, t), nil
}

func compile(version uint8, t *Template) *Plan {
	p := &Plan{template: t.clone(), version: version}
	p.min, p.fixed = t.minLen()
	if t.Options {
		return p
	}
	times := map[slot]bool{}
	holders := map[uint16]int{} // field number → steps that write it
	acts := make([]action, len(t.Fields))
	hopLimit := slices.ContainsFunc(t.Fields, func(f Field) bool { return f == Field{ID: 192, Length: f.Length} })
	for i, f := range t.Fields {
		a := meaningOf(version, f)
		if f.PEN == 0 && f.ID == 52 && hopLimit {
			a = action{op: opElement} // minimumTTL gives way to ipTTL
		}
		switch a.op {
		case opSlot, opFloat:
			if p.has[a.to] { // repeated: the first one counts, this one is kept raw
				a = action{op: opElement}
				break
			}
			p.has[a.to] = true
			if t := slot(a.to); t >= sTimes && t < sReverseTimes {
				if t -= sTimes; t < tDurationMs || t > tDurationUs {
					times[t&^1] = true
				}
			}
		case opAddr:
			if p.addrs>>a.to&1 == 1 {
				a = action{op: opElement}
				break
			}
			p.addrs |= 1 << a.to
		case opUint, opBytes, opOctets, opString:
			holders[a.to]++
		}
		acts[i] = a
	}
	onces := map[uint16]uint8{}
	for i, f := range t.Fields {
		st := step{op: acts[i].op, to: acts[i].to, length: f.Length, id: f.ID, pen: f.PEN}
		if holders[st.to] > 1 && st.op >= opUint && st.op != opSlot && st.op != opFloat && st.op != opAddr && st.op != opMPLS && st.op != opElement {
			if onces[st.to] == 0 {
				onces[st.to] = uint8(min(len(onces)+1, 63))
			}
			st.once = onces[st.to]
		}
		if st.op == opUint && st.once == 0 && st.to >= 16 && st.to != fDirection && st.to != fBiflowDirection {
			st.op, st.tag = opPlain, tagOf(protowire.Number(st.to))
		}
		if n := len(p.steps); st.op == opSkip && n > 0 && p.steps[n-1].op == opSkip && st.length != VarLen && p.steps[n-1].length != VarLen && int(p.steps[n-1].length)+int(st.length) < VarLen {
			p.steps[n-1].length += st.length
			continue
		}
		p.steps = append(p.steps, st)
		const post4, post6 = 1<<aPostSrc4 | 1<<aPostDst4, 1<<aPostSrc6 | 1<<aPostDst6
		if st.op == opAddr && st.to >= aPostSrc4 && p.addrs&post4 != 0 && p.addrs&post6 != 0 {
			// Both families after NAT: one of them is used, so both are kept as they are.
			p.steps = append(p.steps, step{op: opElement, length: st.length, id: st.id, pen: st.pen, once: again})
		}
		if isTime := st.op == opSlot && slot(st.to) >= sTimes && slot(st.to) < sReverseTimes; isTime && len(times) > 1 {
			// Several families: one of them is used, so all are kept as they are.
			p.steps = append(p.steps, step{op: opElement, length: st.length, id: st.id, pen: st.pen, once: again})
		}
		if f.PEN == reversePEN {
			p.biflow = true
		}
	}
	p.biflow = p.biflow || p.has[sInitOctets] && p.has[sRespOctets] || p.has[sInitPackets] && p.has[sRespPackets]
	p.picks = p.pick()
	p.sampled = p.has[sInterval] || p.has[sRandom] || p.has[sInterval305] || p.has[sSize309] || p.has[sProbability]
	p.times = ruleOf(p, sTimes)
	p.reverse = ruleOf(p, sReverseTimes)
	p.fast = p.arrange()
	return p
}

// again marks an element step that takes the octets of the step before it.
const again = 64

const reversePEN = 29305

// next returns the octets of the step's field and what follows; ok is false
// when the record ends before.
func (st *step) next(b []byte) (field, rest []byte, ok bool) {
	n := int(st.length)
	if st.length == VarLen {
		if len(b) == 0 {
			return nil, nil, false
		}
		n, b = int(b[0]), b[1:]
		if n == 255 {
			if len(b) < 2 {
				return nil, nil, false
			}
			n, b = int(b[0])<<8|int(b[1]), b[2:]
		}
	}
	if n > len(b) {
		return nil, nil, false
	}
	return b[:n], b[n:], true
}

// uintOf reads a big-endian integer of 1 to 8 octets.
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

// recordError says that a record ends before its fields do.
func recordError(off int) wire.Error {
	return wire.Error{Off: off, What: "record", Cause: wire.Truncated}
}
