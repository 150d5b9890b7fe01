package decode

import (
	"bytes"
	"encoding/binary"
	"math"
	"net/netip"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"weir/internal/ipfix"
	"weir/pkg/flowpb"
)

// Field numbers of FlowMessage (flow.proto) that the decoder names.
const (
	fType, fRate, fSequence, fSrcAddr, fDstAddr, fBytes, fPackets, fSampler = 1, 3, 4, 6, 7, 9, 10, 11
	fSrcNet, fDstNet, fProto, fSrcPort, fDstPort, fFlags                    = 16, 17, 20, 21, 22, 26
	fEtherType, fICMPType, fICMPCode, fDomain, fMPLS                        = 30, 31, 32, 70, 81
	fReceived, fStart, fEnd, fExport, fTimeSource, fResolution              = 110, 111, 112, 200, 201, 202
	fHash, fRecordOffset, fDirection, fBiflowDirection                      = 203, 204, 206, 207
	fBiflow, fRevBytes, fRevPackets, fRevStart, fRevEnd                     = 210, 211, 212, 214, 215
	fTotalBytes, fTotalPackets                                              = 220, 221
	fPostSrc, fPostDst, fPostSrcPort, fPostDstPort                          = 230, 231, 232, 233
	fRateSource, fSamplerID, fExporterPort, fExporterName, fSite            = 250, 251, 260, 261, 262
	fReplica, fAddressPlan, fElements                                       = 263, 264, 299
	fInIf, fOutIf, fToS, fTTL, fSrcMAC, fDstMAC, fDstVLAN, fRevToS          = 18, 19, 23, 25, 27, 28, 34, 217
	fInVRFRD, fOutVRFRD, fRD                                                = 277, 278, 279
	fInVRF, fRevFlags, fFirewallRule                                        = 240, 213, 280
	fUserName, fStationAddr, fStationMAC                                    = 274, 275, 276
	fLabel, fTunnelSrc, fTunnelDst, fTunnelProto, fTunnelID                 = 37, 270, 271, 272, 273
)

// number appends varint field f with value v; nothing for 0, the default of proto3.
func number(b []byte, f protowire.Number, v uint64) []byte {
	if f < 16 {
		return number1(b, byte(f<<3), v)
	}
	return number2(b, tagOf(f), v)
}

// tagOf returns the tag of a varint field with a tag of two octets (fields 16 to 2047), the first
// octet in the low bits.
func tagOf(f protowire.Number) uint16 { return uint16(f<<3&0x7f|0x80) | uint16(f>>4)<<8 }

// number1 appends a varint field with a tag of one octet. A short value is appended together with
// its tag.
func number1(b []byte, tag byte, v uint64) []byte {
	switch {
	case v == 0:
		return b
	case v < 1<<7:
		return append(b, tag, byte(v))
	case v < 1<<14:
		return append(b, tag, byte(v)|0x80, byte(v>>7))
	case v < 1<<21:
		return append(b, tag, byte(v)|0x80, byte(v>>7)|0x80, byte(v>>14))
	case v < 1<<28:
		return append(b, tag, byte(v)|0x80, byte(v>>7)|0x80, byte(v>>14)|0x80, byte(v>>21))
	}
	return protowire.AppendVarint(append(b, tag), v)
}

// number2 appends a varint field with a tag of two octets.
func number2(b []byte, tag uint16, v uint64) []byte {
	switch {
	case v == 0:
		return b
	case v < 1<<7:
		return append(b, byte(tag), byte(tag>>8), byte(v))
	case v < 1<<14:
		return append(b, byte(tag), byte(tag>>8), byte(v)|0x80, byte(v>>7))
	case v < 1<<21:
		return append(b, byte(tag), byte(tag>>8), byte(v)|0x80, byte(v>>7)|0x80, byte(v>>14))
	case v < 1<<28:
		return append(b, byte(tag), byte(tag>>8), byte(v)|0x80, byte(v>>7)|0x80, byte(v>>14)|0x80, byte(v>>21))
	case v>>56 != 0 && v>>63 == 0: // nine octets: a time, ns since the epoch
		return append(b, byte(tag), byte(tag>>8), byte(v)|0x80, byte(v>>7)|0x80, byte(v>>14)|0x80, byte(v>>21)|0x80,
			byte(v>>28)|0x80, byte(v>>35)|0x80, byte(v>>42)|0x80, byte(v>>49)|0x80, byte(v>>56))
	}
	return protowire.AppendVarint(append(b, byte(tag), byte(tag>>8)), v)
}

// octets appends bytes field f with value v; nothing if v is empty.
func octets(b []byte, f protowire.Number, v []byte) []byte {
	n := len(v)
	switch {
	case n == 0:
		return b
	case f < 16 && n < 0x80:
		b = append(b, byte(f<<3)|2, byte(n))
	case n < 0x80:
		b = append(b, byte(f<<3)|0x82, byte(f>>4), byte(n))
	default:
		b = protowire.AppendVarint(protowire.AppendTag(b, f, protowire.BytesType), uint64(n))
	}
	return append(b, v...)
}

// appendHead appends the fields that all messages of a datagram share. The type, field 1, must come
// first.
func (c *context) appendHead(b []byte, replica string) []byte {
	h := &c.header
	b = number(b, fType, uint64(c.flowType))
	b = number(b, fSequence, uint64(h.Sequence))
	if a := c.meta.Exporter; a.Is4() {
		v := a.As4()
		b = octets(b, fSampler, v[:])
	} else if a.IsValid() {
		v := a.As16()
		b = octets(b, fSampler, v[:])
	}
	b = number(b, fDomain, uint64(h.Domain))
	b = number(b, fReceived, uint64(c.meta.Received))
	b = number(b, fExport, uint64(h.Export))
	if c.hash != 0 {
		b = protowire.AppendTag(b, fHash, protowire.Fixed64Type)
		b = binary.LittleEndian.AppendUint64(b, c.hash)
	}
	b = number(b, fExporterPort, uint64(c.meta.Port))
	b = text(b, fExporterName, c.exporter.Name)
	b = text(b, fSite, c.exporter.Site)
	b = text(b, fAddressPlan, c.exporter.AddressPlan)
	return text(b, fReplica, replica)
}

// text appends string field f with value v; nothing if v is empty.
func text(b []byte, f protowire.Number, v string) []byte {
	if v == "" {
		return b
	}
	return protowire.AppendString(protowire.AppendTag(b, f, protowire.BytesType), v)
}

// append appends the FlowMessage of the record at the beginning of b. off is the record's offset in
// the datagram. ok is false if b ends before the record; the caller must then cut out back to its
// former length.
func (r *record) append(dst []byte, c *context, head, b []byte, off int, o *outcome) (out, rest []byte, ok bool) {
	p := r.plan
	r.once, r.nameable, r.exporter = 0, 0, netip.Addr{}
	dst = append(dst, head...)
	dst = number(dst, fRecordOffset, uint64(off))
	var field []byte
	for i := range p.steps {
		st := &p.steps[i]
		if st.once != sameOctets {
			if field, b, ok = ipfix.NextField(b, st.length); !ok {
				return dst, nil, false
			}
		}
		if st.namesExporter && r.relay {
			r.relayedBy(field)
		}
		if st.name != noName {
			r.note(st.name, field)
		}
		switch st.op {
		case opSkip:
		case opSlot:
			r.v[st.to] = uintOf(field)
		case opFloat:
			r.v[st.to] = floatBits(field)
		case opAddr:
			copyAddr(&r.addr[st.to], field)
		default:
			dst = r.step(dst, st, field)
		}
	}
	c.derive(r, o)
	dst = o.append(dst)
	if p.names && c.named() {
		dst = r.appendNames(dst, c)
	}
	return r.appendLost(r.appendExporter(dst, c), o), b, true
}

// step appends a field that needs no rule over several elements.
func (r *record) step(dst []byte, st *step, field []byte) []byte {
	switch st.op {
	case opPlain:
		return number2(dst, st.tag, uintOf(field))
	case opMPLS:
		if v := uintOf(field); v != 0 {
			dst = protowire.AppendTag(dst, fMPLS, protowire.VarintType)
			dst = protowire.AppendVarint(dst, v>>4)
		}
		return dst
	case opElement:
		return r.appendRaw(dst, st, field)
	case opList:
		return r.appendLifted(dst, st, field)
	case opSegment:
		return number2(dst, tagOf(fTunnelID), uintOf(field)&segmentMask)
	case opDSCP:
		if tos, ok := tosOf(field); ok {
			return number2(dst, tagOf(protowire.Number(st.to)), tos)
		}
		return r.appendRaw(dst, st, field)
	case opRD:
		var room [maxRDText]byte
		if rd, ok := appendRD(room[:0], field); ok {
			return octets(dst, protowire.Number(st.to), rd)
		}
		return r.appendRaw(dst, st, field)
	case opExtended:
		if out, ok := appendExtended(dst, st, field); ok {
			return out
		}
		return r.appendRaw(dst, st, field)
	case opInner, opInnerAddr:
		if r.inner(st, field) {
			return dst
		}
		return r.appendRaw(dst, st, field)
	}
	if st.once != 0 {
		if empty(st.op, field) {
			return dst
		}
		if r.once>>st.once&1 == 1 {
			return r.appendRaw(dst, st, field)
		}
		r.once |= 1 << st.once
	}
	if out, ok := appendField(dst, st, field); ok {
		return out
	}
	return r.appendRaw(dst, st, field)
}

// appendRaw appends a field as an Element, unless DropElements is set.
func (r *record) appendRaw(dst []byte, st *step, field []byte) []byte {
	if r.drop {
		return dst
	}
	if d := r.definition(st); d.Name != "" {
		return appendDefined(dst, st, field, d)
	}
	return appendElement(dst, st, field)
}

// appendLost appends the values that have no place in the message as Elements, after all others.
func (r *record) appendLost(dst []byte, o *outcome) []byte {
	for _, l := range r.lost(o) {
		dst = r.appendRaw(dst, &step{pen: l.pen, id: l.id}, l.octets)
	}
	return dst
}

// appendField appends a field that needs no rule. ok is false for a value that the field cannot
// hold.
func appendField(dst []byte, st *step, field []byte) (out []byte, ok bool) {
	f := protowire.Number(st.to)
	switch st.op {
	case opUint:
		v := uintOf(field)
		switch f {
		case fDirection, fBiflowDirection: // enums in the message: one more than the element's value
			if v > 3 || f == fDirection && v > 1 {
				return dst, false
			}
			v++
		}
		return number(dst, f, v), true
	case opString:
		field = bytes.TrimRight(field, "\x00")
		if !utf8.Valid(field) {
			field = bytes.ToValidUTF8(field, []byte("\uFFFD"))
		}
	case opBytes:
		if f == 82 { // a repeated field: an empty value counts too
			dst = protowire.AppendTag(dst, f, protowire.BytesType)
			return protowire.AppendBytes(dst, field), true
		}
	}
	return octets(dst, f, field), true
}

// empty reports whether a field that competes with others for a message field (step.once) holds
// nothing.
func empty(o op, field []byte) bool {
	if o == opString || o == opOctets {
		return len(bytes.TrimRight(field, "\x00")) == 0
	}
	for _, b := range field {
		if b != 0 {
			return false
		}
	}
	return true
}

// appendElement appends a field as an Element without a name.
//
// An Element is a nested message. Example, dataLinkFrameSize (IE 312) of 1500 octets:
//
//	da 12  07      10 b8 02   1a 02 05 dc
//	tag    length  id = 312   tag, length and octets of the value
//
// The enterprise number, field 1, is absent for elements of IANA. Name and type (fields 4 and 5)
// follow the value if the exporter defined the element, see appendDefined.
func appendElement(dst []byte, st *step, field []byte) []byte {
	return appendElementOf(dst, st, field, elementSize(st, field))
}

// elementSize returns the octets of an Element without a name.
func elementSize(st *step, field []byte) int {
	n := protowire.SizeVarint(uint64(len(field))) + len(field) + 1
	if st.pen != 0 {
		n += 1 + protowire.SizeVarint(uint64(st.pen))
	}
	if st.id != 0 {
		n += 1 + protowire.SizeVarint(uint64(st.id))
	}
	if len(field) == 0 {
		n -= 2
	}
	return n
}

// appendElementOf appends an Element of n octets up to its value. The caller must append the rest
// of the n octets.
func appendElementOf(dst []byte, st *step, field []byte, n int) []byte {
	dst = protowire.AppendTag(dst, fElements, protowire.BytesType)
	dst = protowire.AppendVarint(dst, uint64(n))
	dst = number(dst, 1, uint64(st.pen))
	dst = number(dst, 2, uint64(st.id))
	return octets(dst, 3, field)
}

// append appends the fields that the rules set.
func (o *outcome) append(b []byte) []byte {
	b = octets(b, fSrcAddr, o.src.bytes())
	b = octets(b, fDstAddr, o.dst.bytes())
	b = number1(b, fBytes<<3, o.octets)
	b = number1(b, fPackets<<3, o.packets)
	b = number2(b, tagOf(fSrcNet), uint64(o.srcNet))
	b = number2(b, tagOf(fDstNet), uint64(o.dstNet))
	b = number2(b, tagOf(fProto), uint64(o.proto))
	b = number2(b, tagOf(fSrcPort), uint64(o.srcPort))
	b = number2(b, tagOf(fDstPort), uint64(o.dstPort))
	b = number2(b, tagOf(fFlags), uint64(o.flags))
	b = number2(b, tagOf(fEtherType), uint64(o.etherType))
	b = number2(b, tagOf(fStart), uint64(o.start))
	b = number2(b, tagOf(fEnd), uint64(o.end))
	b = number2(b, tagOf(fTimeSource), uint64(o.source))
	b = number2(b, tagOf(fResolution), uint64(o.resolutionUs))
	if o.icmpType|o.icmpCode != 0 {
		b = number2(b, tagOf(fICMPType), uint64(o.icmpType))
		b = number2(b, tagOf(fICMPCode), uint64(o.icmpCode))
	}
	if o.rate|o.sampler != 0 {
		b = number1(b, fRate<<3, o.rate)
		b = number2(b, tagOf(fRateSource), uint64(o.rateSource))
		b = number2(b, tagOf(fSamplerID), o.sampler)
	}
	if o.totalOctets|o.totalPackets != 0 {
		b = number2(b, tagOf(fTotalBytes), o.totalOctets)
		b = number2(b, tagOf(fTotalPackets), o.totalPackets)
	}
	if o.biflow {
		b = number2(b, tagOf(fBiflow), 1)
		b = number2(b, tagOf(fRevBytes), o.revOctets)
		b = number2(b, tagOf(fRevPackets), o.revPackets)
		b = number2(b, tagOf(fRevStart), uint64(o.revStart))
		b = number2(b, tagOf(fRevEnd), uint64(o.revEnd))
		b = number2(b, tagOf(fRevFlags), uint64(o.revFlags))
	}
	if o.postSrc.octets != nil || o.postDst.octets != nil || o.postSrcPort|o.postDstPort != 0 {
		b = octets(b, fPostSrc, o.postSrc.bytes())
		b = octets(b, fPostDst, o.postDst.bytes())
		b = number2(b, tagOf(fPostSrcPort), uint64(o.postSrcPort))
		b = number2(b, tagOf(fPostDstPort), uint64(o.postDstPort))
	}
	if o.repeats {
		b = number2(b, tagOf(fToS), uint64(o.tos))
		b = number2(b, tagOf(fLabel), uint64(o.label))
		b = octets(b, fTunnelSrc, o.tunnelSrc.bytes())
		b = octets(b, fTunnelDst, o.tunnelDst.bytes())
		b = number2(b, tagOf(fTunnelProto), uint64(o.tunnelProto))
	}
	if o.client {
		b = number2(b, tagOf(fBiflowDirection), uint64(flowpb.BiflowDirection_BIFLOW_DIRECTION_INITIATOR))
	}
	return b
}

// floatBits converts a float32 or float64 to the bits of a float64.
func floatBits(b []byte) uint64 {
	if len(b) == 4 {
		return math.Float64bits(float64(math.Float32frombits(binary.BigEndian.Uint32(b))))
	}
	return binary.BigEndian.Uint64(b)
}

// copyAddr stores an address of 4 or 16 octets, IPv4 as v4-mapped.
func copyAddr(to *[16]byte, b []byte) {
	if len(b) == 4 {
		*to = [16]byte{10: 0xff, 11: 0xff, 12: b[0], 13: b[1], 14: b[2], 15: b[3]}
		return
	}
	copy(to[:], b)
}

// flowTypes maps versions to the type of their flows.
var flowTypes = map[uint16]flowpb.FlowMessage_FlowType{
	1: flowpb.FlowMessage_NETFLOW_V1, 5: flowpb.FlowMessage_NETFLOW_V5, 7: flowpb.FlowMessage_NETFLOW_V7,
	9: flowpb.FlowMessage_NETFLOW_V9, 10: flowpb.FlowMessage_IPFIX,
}
