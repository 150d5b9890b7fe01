package decode

import (
	"encoding/binary"

	"google.golang.org/protobuf/encoding/protowire"

	"weir/internal/ie"
	"weir/internal/ipfix"
)

// YAF keeps TCP flags and MAC addresses of a flow in a subTemplateMultiList (RFC 6313
// section 4.5.3), in one record of a template of its own. Values of such a record are
// lifted to the fields of the flow where the flow's template has no element for them.
// The list itself stays in elements.

// The list, offsets in octets; a length counts its own header of 4 octets:
//
//	0          1             3          5             length+1
//	+----------+-------------+----------+-------------+-------------+----------+------
//	| semantic | template id | length   | records     | template id | length   | ...
//	+----------+-------------+----------+-------------+-------------+----------+------
//	           |<---------------- part -------------->|<------------- part ----------
//
// The semantic (allOf, ordered, ...) does not change the meaning of a part with a single record.
// The templates are those of the exporter and domain of the datagram, so a list whose template has
// not arrived lends nothing: the flow is complete without it, and must not wait.

// maxLists is the maximum number of parts of a subTemplateMultiList that are read.
const maxLists = 16

// Fields that values are lifted to, as bits of step.to.
const (
	liftFlags = 1 << iota
	liftRevFlags
	liftSrcMAC
	liftDstMAC
	nLifts = iota
)

// liftRoom is the maximum number of octets of the fields that a list sets.
const liftRoom = 2*(2+5) + 2*(2+10)

// liftFields are the fields of FlowMessage, by bit number.
var liftFields = [nLifts]uint16{fFlags, fRevFlags, fSrcMAC, fDstMAC}

// A lift is a value that a record of a list lends to the flow.
type lift struct {
	off, length uint16 // in the record
	to          uint8  // number of the bit
}

// liftable maps the elements whose values can be lifted to bit numbers.
var liftable = map[elementID]uint8{
	{ie.CERT, 14}: 0, {ie.CERT, 15}: 0, {ie.CERT, 14 | ie.CERTReverse}: 1, {ie.CERT, 15 | ie.CERTReverse}: 1,
	iana(56): 2, iana(80): 3,
}

// findLifts returns the values that a record of the template, inside a list, lends to the enclosing
// flow. The template must have fields of fixed length only, and no addresses: records with
// addresses are flows of their own.
func (p *Plan) findLifts() (all []lift) {
	if !p.fixed || p.addrs != 0 || p.version != ipfix.VersionIPFIX {
		return nil
	}
	off := uint16(0)
	for _, f := range p.template.Fields {
		to, ok := liftable[elementID{f.PEN, f.ID}]
		if isMAC := to >= 2; ok && (isMAC && f.Length == mac || !isMAC && f.Length > 0 && f.Length <= 4) {
			all = append(all, lift{off, f.Length, to})
		}
		off += f.Length
	}
	return all
}

// liftsTo returns the bits of the fields that a list of the template may set: those that no element
// of the template itself sets.
func (p *Plan) liftsTo(holders map[uint16]int) (bits uint16) {
	if p.version != ipfix.VersionIPFIX {
		return 0
	}
	if !p.has[sFlags] && !p.joinsFlags() {
		if bits |= liftFlags; p.biflow && holders[fRevFlags] == 0 {
			bits |= liftRevFlags
		}
	}
	if holders[fSrcMAC] == 0 {
		bits |= liftSrcMAC
	}
	if holders[fDstMAC] == 0 {
		bits |= liftDstMAC
	}
	return bits
}

// lifted returns the values of list that are copied to the flow, by bit number. Parts with an
// unknown template or with several records are skipped.
func (r *record) lifted(list []byte, to uint16) (v [nLifts]uint64) {
	if len(list) == 0 {
		return v
	}
	list = list[1:] // semantic
	for n := 0; len(list) >= 4 && n < maxLists; n++ {
		id, length := binary.BigEndian.Uint16(list), int(binary.BigEndian.Uint16(list[2:]))
		if length < 4 || length > len(list) {
			return v
		}
		part := list[4:length]
		list = list[length:]
		if id < ipfix.FirstDataSet || len(part) == 0 {
			continue
		}
		p := r.decoder.State.Plan(r.decoder.key(id), &r.decoder.ctx.meta, &r.decoder.ctx.header)
		if p == nil || len(p.lifts) == 0 || len(part) != p.min {
			continue
		}
		for _, l := range p.lifts {
			if to>>l.to&1 == 1 {
				v[l.to] |= uintOf(part[l.off:][:l.length])
			}
		}
	}
	return v
}

// appendLifted appends the fields that a list lends to the flow, and the list.
func (r *record) appendLifted(dst []byte, st *step, field []byte) []byte {
	for i, v := range r.lifted(field, st.to) {
		dst = number2(dst, tagOf(protowire.Number(liftFields[i])), v)
	}
	return r.appendRaw(dst, st, field)
}
