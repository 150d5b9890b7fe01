package decode

import (
	"bytes"
	"encoding/binary"
	"math"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"weir/pkg/flowpb"
)

// Numbers of FlowMessage's fields that are written by name here (flow.proto).
const (
	fType, fRate, fSequence, fSrcAddr, fDstAddr, fBytes, fPackets, fSampler = 1, 3, 4, 6, 7, 9, 10, 11
	fSrcNet, fDstNet, fProto, fSrcPort, fDstPort, fFlags                    = 16, 17, 20, 21, 22, 26
	fEtherType, fICMPType, fICMPCode, fDomain, fMPLS                        = 30, 31, 32, 70, 81
	fReceived, fStart, fEnd, fExport, fTimeSource, fResolution              = 110, 111, 112, 200, 201, 202
	fHash, fRecordOffset, fDirection, fBiflowDirection                      = 203, 204, 206, 207
	fBiflow, fRevBytes, fRevPackets, fRevStart, fRevEnd                     = 210, 211, 212, 214, 215
	fTotalBytes, fTotalPackets                                              = 220, 221
	fPostSrc, fPostDst, fPostSrcPort, fPostDstPort                          = 230, 231, 232, 233
	fRateSource, fSamplerID, fExporterPort, fReplica, fElements             = 250, 251, 260, 263, 299
)

// number appends field f with value v; nothing when v is 0 (proto3's default).
func number(b []byte, f protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	if f < 16 {
		b = append(b, byte(f<<3))
	} else {
		b = append(b, byte(f<<3)|0x80, byte(f>>4))
	}
	if v < 0x80 {
		return append(b, byte(v))
	}
	return protowire.AppendVarint(b, v)
}

// octets appends field f with value v; nothing when v is empty.
func octets(b []byte, f protowire.Number, v []byte) []byte {
	if len(v) == 0 {
		return b
	}
	if f < 16 {
		b = append(b, byte(f<<3)|2)
	} else {
		b = append(b, byte(f<<3)|0x82, byte(f>>4))
	}
	b = protowire.AppendVarint(b, uint64(len(v)))
	return append(b, v...)
}

// appendHead appends what all messages of a datagram begin with; type, field 1,
// is always first.
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
	if replica != "" {
		b = protowire.AppendTag(b, fReplica, protowire.BytesType)
		b = protowire.AppendString(b, replica)
	}
	return b
}

// append appends the FlowMessage of the record that b begins with. off is the
// record's offset in the datagram. ok is false when b ends before the record.
func (r *record) append(dst []byte, c *context, head, b []byte, off int, o *outcome) (out, rest []byte, ok bool) {
	p := r.plan
	r.once = 0
	dst = append(dst, head...)
	dst = number(dst, fRecordOffset, uint64(off))
	var field []byte
	for i := range p.steps {
		st := &p.steps[i]
		if st.once != again {
			if field, b, ok = st.next(b); !ok {
				return dst, nil, false
			}
		}
		switch st.op {
		case opSkip:
		case opSlot:
			r.v[st.to] = uintOf(field)
		case opFloat:
			r.v[st.to] = floatBits(field)
		case opAddr:
			copyAddr(&r.addr[st.to], field)
		case opMPLS:
			if v := uintOf(field); v != 0 {
				dst = protowire.AppendTag(dst, fMPLS, protowire.VarintType)
				dst = protowire.AppendVarint(dst, v>>4)
			}
		case opElement:
			dst = appendElement(dst, st, field)
		default:
			if st.once != 0 {
				if empty(st.op, field) {
					continue
				}
				if r.once>>st.once&1 == 1 {
					dst = appendElement(dst, st, field)
					continue
				}
				r.once |= 1 << st.once
			}
			dst = appendField(dst, st, field)
		}
	}
	c.derive(r, o)
	return o.append(dst), b, true
}

// appendField appends a field that needs no rule.
func appendField(dst []byte, st *step, field []byte) []byte {
	f := protowire.Number(st.to)
	switch st.op {
	case opUint:
		v := uintOf(field)
		switch f {
		case fDirection, fBiflowDirection: // enums here: one more than the element
			if v > 3 || f == fDirection && v > 1 {
				return appendElement(dst, st, field)
			}
			v++
		}
		return number(dst, f, v)
	case opString:
		field = bytes.TrimRight(field, "\x00")
		if !utf8.Valid(field) {
			field = bytes.ToValidUTF8(field, []byte("\uFFFD"))
		}
	case opBytes:
		if f == 82 { // repeated: an empty one is still one
			dst = protowire.AppendTag(dst, f, protowire.BytesType)
			return protowire.AppendBytes(dst, field)
		}
	}
	return octets(dst, f, field)
}

// empty tells whether a field that shares its place with others holds nothing.
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

func appendElement(dst []byte, st *step, field []byte) []byte {
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
	dst = protowire.AppendTag(dst, fElements, protowire.BytesType)
	dst = protowire.AppendVarint(dst, uint64(n))
	dst = number(dst, 1, uint64(st.pen))
	dst = number(dst, 2, uint64(st.id))
	return octets(dst, 3, field)
}

// append appends the fields that rules made.
func (o *outcome) append(b []byte) []byte {
	b = octets(b, fSrcAddr, o.src.bytes())
	b = octets(b, fDstAddr, o.dst.bytes())
	b = number(b, fBytes, o.octets)
	b = number(b, fPackets, o.packets)
	b = number(b, fSrcNet, uint64(o.srcNet))
	b = number(b, fDstNet, uint64(o.dstNet))
	b = number(b, fProto, uint64(o.proto))
	b = number(b, fSrcPort, uint64(o.srcPort))
	b = number(b, fDstPort, uint64(o.dstPort))
	b = number(b, fFlags, uint64(o.flags))
	b = number(b, fEtherType, uint64(o.etherType))
	b = number(b, fICMPType, uint64(o.icmpType))
	b = number(b, fICMPCode, uint64(o.icmpCode))
	b = number(b, fStart, uint64(o.start))
	b = number(b, fEnd, uint64(o.end))
	b = number(b, fTimeSource, uint64(o.source))
	b = number(b, fResolution, uint64(o.resolutionUs))
	b = number(b, fRate, o.rate)
	b = number(b, fRateSource, uint64(o.rateSource))
	b = number(b, fSamplerID, o.sampler)
	b = number(b, fTotalBytes, o.totalOctets)
	b = number(b, fTotalPackets, o.totalPackets)
	if o.biflow {
		b = number(b, fBiflow, 1)
		b = number(b, fRevBytes, o.revOctets)
		b = number(b, fRevPackets, o.revPackets)
		b = number(b, fRevStart, uint64(o.revStart))
		b = number(b, fRevEnd, uint64(o.revEnd))
	}
	b = octets(b, fPostSrc, o.postSrc.bytes())
	b = octets(b, fPostDst, o.postDst.bytes())
	b = number(b, fPostSrcPort, uint64(o.postSrcPort))
	return number(b, fPostDstPort, uint64(o.postDstPort))
}

// floatBits reads a float32 or float64 as the bits of a float64.
func floatBits(b []byte) uint64 {
	if len(b) == 4 {
		return math.Float64bits(float64(math.Float32frombits(binary.BigEndian.Uint32(b))))
	}
	return binary.BigEndian.Uint64(b)
}

func copyAddr(to *[16]byte, b []byte) {
	if len(b) == 4 {
		*to = [16]byte{10: 0xff, 11: 0xff, 12: b[0], 13: b[1], 14: b[2], 15: b[3]}
		return
	}
	copy(to[:], b)
}

var flowTypes = map[uint16]flowpb.FlowMessage_FlowType{
	1: flowpb.FlowMessage_NETFLOW_V1, 5: flowpb.FlowMessage_NETFLOW_V5, 7: flowpb.FlowMessage_NETFLOW_V7,
	9: flowpb.FlowMessage_NETFLOW_V9, 10: flowpb.FlowMessage_IPFIX,
}
