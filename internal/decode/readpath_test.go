package decode

import (
	"bytes"
	"net/netip"
	"slices"

	"google.golang.org/protobuf/reflect/protoreflect"

	"weir/internal/ipfix"
	"weir/pkg/flowpb"
)

// The readable path is the oracle of the paths of the product: it decodes a record into a FlowMessage through
// protobuf's own API, one field at a time. It shares with them how a template is compiled and the rules over several
// elements, not how a message is written.

// readOracle decodes a datagram as Read does, on the readable path. It leaves r.Buf empty.
func (d *Decoder) readOracle(pkt []byte, m *Meta, r *Result) {
	d.path, d.readable = (*Decoder).readRecords, true
	d.datagram(pkt, m, r)
}

// readRecords decodes flow records into r.Messages, each with an empty Span.
func (d *Decoder) readRecords(b []byte, off int, p *Plan, r *Result) {
	for end := off + len(b); len(b) >= p.min; {
		at := end - len(b)
		if len(r.Flows) >= d.last {
			d.countUndecoded(b, at, p, r)
			return
		}
		m, rest, ok := d.rec.read(&d.ctx, d.Replica, b, at)
		if !ok {
			r.Errors = append(r.Errors, recordError(at))
			return
		}
		r.Flows, r.Messages, b = append(r.Flows, Span{}), append(r.Messages, m), rest
	}
}

var flowFields = (*flowpb.FlowMessage)(nil).ProtoReflect().Descriptor().Fields()

// read returns the FlowMessage of the record at the beginning of b.
func (r *record) read(c *context, replica string, b []byte, off int) (m *flowpb.FlowMessage, rest []byte, ok bool) {
	r.once, r.nameable, r.exporter = 0, 0, netip.Addr{}
	m = &flowpb.FlowMessage{
		Type: c.flowType, SequenceNum: c.header.Sequence, ObservationDomainId: c.header.Domain,
		TimeReceivedNs: uint64(c.meta.Received), TimeExportNs: uint64(c.header.Export), DatagramHash: c.hash,
		RecordOffset: uint32(off), ExporterPort: uint32(c.meta.Port), Replica: replica,
		ExporterName: c.exporter.Name, Site: c.exporter.Site, AddressPlan: c.exporter.AddressPlan,
	}
	if c.meta.Exporter.IsValid() {
		m.SamplerAddress = c.meta.Exporter.AsSlice()
	}
	var field []byte
	for i := range r.plan.steps {
		st := &r.plan.steps[i]
		if st.once != sameOctets {
			if field, b, ok = ipfix.NextField(b, st.length); !ok {
				return nil, nil, false
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
		case opMPLS:
			if v := uintOf(field); v != 0 {
				m.MplsLabel = append(m.MplsLabel, uint32(v>>4))
			}
		case opElement:
			r.keepRaw(m, st, field)
		case opList:
			r.setLifted(m, st, field)
		case opSegment:
			m.TunnelId = uintOf(field) & segmentMask
		case opDSCP, opRD:
			r.setForm(m, st, field)
		case opExtended:
			to := m.ProtoReflect()
			if out, ok := appendExtended(to.GetUnknown(), st, field); ok {
				to.SetUnknown(out)
			} else {
				r.keepRaw(m, st, field)
			}
		case opInner, opInnerAddr:
			if !r.inner(st, field) {
				r.keepRaw(m, st, field)
			}
		default:
			r.set(m, st, field)
		}
	}
	var o outcome
	c.derive(r, &o)
	o.set(m)
	r.setNames(m, c)
	r.setExporter(m)
	for _, l := range r.lost(&o) {
		r.keepRaw(m, &step{pen: l.pen, id: l.id}, l.octets)
	}
	return m, b, true
}

// keepRaw adds a field as an Element, unless DropElements is set.
func (r *record) keepRaw(m *flowpb.FlowMessage, st *step, field []byte) {
	if r.drop {
		return
	}
	e := &flowpb.Element{Pen: st.pen, Id: uint32(st.id)}
	if len(field) > 0 {
		e.Value = bytes.Clone(field)
	}
	if d := r.definition(st); d.Name != "" {
		e.Name, e.Type = d.Name, uint32(d.Type)
	}
	m.Elements = append(m.Elements, e)
}

// setLifted sets the fields that a list lends to the flow, and keeps the list.
func (r *record) setLifted(m *flowpb.FlowMessage, st *step, field []byte) {
	v := r.lifted(field, st.to)
	m.TcpFlags, m.ReverseTcpFlags = m.TcpFlags|uint32(v[0]), m.ReverseTcpFlags|uint32(v[1])
	m.SrcMac, m.DstMac = m.SrcMac|v[2], m.DstMac|v[3]
	r.keepRaw(m, st, field)
}

// setForm sets the step's message field to a converted form: a ToS octet or the text of a route
// distinguisher.
func (r *record) setForm(m *flowpb.FlowMessage, st *step, field []byte) {
	to, fd := m.ProtoReflect(), flowFields.ByNumber(protoreflect.FieldNumber(st.to))
	if st.op == opDSCP {
		if v := uintOf(field); v < 64 {
			to.Set(fd, protoreflect.ValueOfUint32(uint32(v)*4))
			return
		}
	} else if rd, ok := appendRD(nil, field); ok {
		to.Set(fd, protoreflect.ValueOfString(string(rd)))
		return
	}
	r.keepRaw(m, st, field)
}

// set sets the step's message field to the value of its octets.
func (r *record) set(m *flowpb.FlowMessage, st *step, field []byte) {
	if st.once != 0 {
		if empty(st.op, field) {
			return
		}
		if r.once>>st.once&1 == 1 {
			r.keepRaw(m, st, field)
			return
		}
		r.once |= 1 << st.once
	}
	fd := flowFields.ByNumber(protoreflect.FieldNumber(st.to))
	to := m.ProtoReflect()
	switch {
	case fd.IsList():
		l := to.Mutable(fd).List()
		l.Append(protoreflect.ValueOfBytes(bytes.Clone(field)))
	case fd.Kind() == protoreflect.BytesKind:
		if len(field) > 0 {
			to.Set(fd, protoreflect.ValueOfBytes(bytes.Clone(field)))
		}
	case fd.Kind() == protoreflect.StringKind:
		s := bytes.ToValidUTF8(bytes.TrimRight(field, "\x00"), []byte("\uFFFD"))
		to.Set(fd, protoreflect.ValueOfString(string(s)))
	case fd.Kind() == protoreflect.EnumKind:
		v := uintOf(field)
		if v > 255 || fd.Enum().Values().ByNumber(protoreflect.EnumNumber(v+1)) == nil {
			r.keepRaw(m, st, field)
			return
		}
		to.Set(fd, protoreflect.ValueOfEnum(protoreflect.EnumNumber(v+1)))
	case fd.Kind() == protoreflect.Uint32Kind:
		to.Set(fd, protoreflect.ValueOfUint32(uint32(uintOf(field))))
	default:
		to.Set(fd, protoreflect.ValueOfUint64(uintOf(field)))
	}
}

// set sets the fields that the rules set.
func (o *outcome) set(m *flowpb.FlowMessage) {
	m.SrcAddr, m.DstAddr = slices.Clone(o.src.bytes()), slices.Clone(o.dst.bytes())
	m.PostNatSrcAddr, m.PostNatDstAddr = slices.Clone(o.postSrc.bytes()), slices.Clone(o.postDst.bytes())
	m.PostNatSrcPort, m.PostNatDstPort = o.postSrcPort, o.postDstPort
	m.Bytes, m.Packets, m.TotalBytes, m.TotalPackets = o.octets, o.packets, o.totalOctets, o.totalPackets
	m.SrcNet, m.DstNet, m.Proto, m.SrcPort, m.DstPort = o.srcNet, o.dstNet, o.proto, o.srcPort, o.dstPort
	m.Etype, m.IcmpType, m.IcmpCode = o.etherType, o.icmpType, o.icmpCode
	m.TcpFlags |= o.flags // only one of the two is set
	m.TimeFlowStartNs, m.TimeFlowEndNs = uint64(o.start), uint64(o.end)
	m.TimeSource, m.TimeResolutionUs = o.source, o.resolutionUs
	m.SamplingRate, m.SamplingSource, m.SamplerId = o.rate, o.rateSource, o.sampler
	if o.biflow {
		m.Biflow, m.ReverseBytes, m.ReversePackets = true, o.revOctets, o.revPackets
		m.ReverseTimeFlowStartNs, m.ReverseTimeFlowEndNs = uint64(o.revStart), uint64(o.revEnd)
		m.ReverseTcpFlags |= o.revFlags // only one of the two is set
	}
	if o.repeats {
		m.IpTos, m.Ipv6FlowLabel = max(m.IpTos, o.tos), max(m.Ipv6FlowLabel, o.label) // only one of the two is set
		m.TunnelSrcAddr, m.TunnelDstAddr = slices.Clone(o.tunnelSrc.bytes()), slices.Clone(o.tunnelDst.bytes())
		m.TunnelProto = o.tunnelProto
	}
	if o.client {
		m.BiflowDirection = flowpb.BiflowDirection_BIFLOW_DIRECTION_INITIATOR
	}
}

// setNames sets the names of a record's values.
func (r *record) setNames(m *flowpb.FlowMessage, c *context) {
	for k, to := range map[nameKind]*string{
		inIfName: &m.InIfName, outIfName: &m.OutIfName, inVRFName: &m.IngressVrfName, outVRFName: &m.EgressVrfName,
		applicationName: &m.ApplicationName,
	} {
		if r.nameable>>k&1 == 1 {
			if s := c.name(k, r.named[k]); s != "" {
				*to = s
			}
		}
	}
	if r.nameable>>inVRFName&1 == 1 {
		m.IngressVrfRd = c.vrfRD(r.named[inVRFName])
	}
	if r.nameable>>outVRFName&1 == 1 {
		m.EgressVrfRd = c.vrfRD(r.named[outVRFName])
	}
}

// setExporter sets the exporter that the record names.
func (r *record) setExporter(m *flowpb.FlowMessage) {
	if !r.exporter.IsValid() {
		return
	}
	e := r.exporterOf()
	m.SamplerAddress, m.ExporterName, m.Site, m.AddressPlan = r.exporter.AsSlice(), e.Name, e.Site, e.AddressPlan
}
