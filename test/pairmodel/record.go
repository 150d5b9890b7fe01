package pairmodel

import (
	"fmt"
	"time"

	"weir/internal/flowkey"
	"weir/pkg/flowpb"
)

// record puts a message into the model's terms; ok is false for what cannot be paired.
func (m *Model) record(f *flowpb.FlowMessage) (r *record, ok bool) {
	src, srcOK := flowkey.Address(f.SrcAddr)
	dst, dstOK := flowkey.Address(f.DstAddr)
	if !srcOK || !dstOK {
		return nil, false
	}
	empty := f.Bytes == 0 && f.Packets == 0 && f.ReverseBytes == 0 && f.ReversePackets == 0
	if empty && (f.NatEvent != 0 || f.FirewallEvent != 0) {
		return nil, false
	}
	exporter, _ := flowkey.Address(f.SamplerAddress)
	r = &record{
		identity: fmt.Sprintf("%x/%d/%d", exporter, f.DatagramHash, f.RecordOffset),
		exporter: fmt.Sprintf("%x/%d", exporter, f.ObservationDomainId),
		received: int64(f.TimeReceivedNs), start: int64(f.TimeFlowStartNs), end: int64(f.TimeFlowEndNs),
		resolution: max(int64(f.TimeResolutionUs)*1000, 1), biflow: f.Biflow,
	}
	r.point = fmt.Sprintf("%s/%d", r.exporter, f.FlowDirection)
	if f.FirewallEvent != 0 && f.FlowId != 0 {
		r.flow = fmt.Sprintf("%x/%d", exporter, f.FlowId)
		r.hasTeardown = f.Biflow && f.FirewallEvent != denial
	}
	export := int64(f.TimeExportNs)
	if r.start > r.end {
		r.start, r.end = r.end, r.start
	}
	fine := r.resolution
	if f.TimeSource == flowpb.TimeSource_TIME_SOURCE_UPTIME {
		fine = int64(time.Millisecond) // of the uptimes, which one header makes instants
	}
	shift := r.received - export
	if export == 0 || max(shift, -shift) <= int64(m.c.MaxClockSkew) {
		shift = 0
	} else {
		r.start, r.end, export = r.start+shift, r.end+shift, r.received
		r.resolution = max(r.resolution, int64(time.Second)) // of the header's clock
	}
	var srcIsLo bool
	r.conversation, srcIsLo = conversation(f, src, dst)
	r.word = word(f, srcIsLo)
	add := func(toHi bool, octets, packets uint64, flags uint32, start, end int64) {
		r.flags |= flags
		r.parts = append(r.parts, part{
			toHi: toHi, total: f.FirewallEvent == teardown && f.Biflow, octets: octets, packets: packets, rate: f.SamplingRate, flags: flags, start: start, end: end,
			ended: m.ended(f, r, flags, export), point: r.point, exporter: r.exporter,
			exporterAddr: exporter[:], domain: f.ObservationDomainId, interfaceDirection: uint32(f.FlowDirection),
			datagram: f.DatagramHash, resolution: r.resolution, fine: fine,
		})
	}
	add(srcIsLo, f.Bytes, f.Packets, f.TcpFlags, r.start, r.end)
	if f.Biflow && f.ReverseBytes|f.ReversePackets != 0 {
		start, end := r.start, r.end
		if f.ReverseTimeFlowEndNs != 0 {
			start, end = int64(f.ReverseTimeFlowStartNs)+shift, int64(f.ReverseTimeFlowEndNs)+shift
		}
		add(!srcIsLo, f.ReverseBytes, f.ReversePackets, f.ReverseTcpFlags, start, end)
	}
	return r, true
}

// word returns who initiates by the exporter's word, lo being the source: its biflowDirection, or a firewall's
// event, whose source is the initiator.
func word(f *flowpb.FlowMessage, srcIsLo bool) flowpb.BiflowDirection {
	const source, destination = flowpb.BiflowDirection_BIFLOW_DIRECTION_INITIATOR, flowpb.BiflowDirection_BIFLOW_DIRECTION_REVERSE_INITIATOR
	w := f.BiflowDirection
	if w != source && w != destination {
		if w = 0; f.FirewallEvent != 0 && f.Biflow {
			w = source
		}
	}
	if !srcIsLo && w != 0 {
		w = source + destination - w
	}
	return w
}

// conversation returns the ends in order: of a translated conversation the side that has a private address.
func conversation(f *flowpb.FlowMessage, src, dst [16]byte) (c Conversation, srcIsLo bool) {
	ports := f.Proto == 6 || f.Proto == 17 || f.Proto == 132
	a, b := End{Addr: src}, End{Addr: dst}
	if ports {
		a.Port, b.Port = uint16(f.SrcPort), uint16(f.DstPort)
	}
	if f.Proto == 1 || f.Proto == 58 {
		a.Port = uint16(f.IcmpType)
		answered, is := answer(uint8(f.Proto), a.Port)
		if !is {
			b.Port = uint16(f.IcmpCode)
			return Conversation{Proto: uint8(f.Proto), Lo: a, Hi: b}, true
		}
		b.Port = answered
	}
	afterA, afterB := a, b
	if x, ok := flowkey.Address(f.PostNatSrcAddr); ok {
		afterA.Addr = x
	}
	if x, ok := flowkey.Address(f.PostNatDstAddr); ok {
		afterB.Addr = x
	}
	if ports && f.PostNatSrcPort != 0 {
		afterA.Port = uint16(f.PostNatSrcPort)
	}
	if ports && f.PostNatDstPort != 0 {
		afterB.Port = uint16(f.PostNatDstPort)
	}
	order := func(a, b End) (Conversation, bool) {
		if a.compare(b) > 0 {
			return Conversation{Proto: uint8(f.Proto), Lo: b, Hi: a}, false
		}
		return Conversation{Proto: uint8(f.Proto), Lo: a, Hi: b}, true
	}
	c, srcIsLo = order(a, b)
	if afterA == a && afterB == b {
		return c, srcIsLo
	}
	after, afterSrcIsLo := order(afterA, afterB)
	inside := func(c Conversation) bool { return flowkey.Private(&c.Lo.Addr) || flowkey.Private(&c.Hi.Addr) }
	if inside(after) && !inside(c) || inside(after) == inside(c) && less(&after, &c) {
		return after, afterSrcIsLo
	}
	return c, srcIsLo
}

func less(a, b *Conversation) bool {
	if a.Lo.Addr != b.Lo.Addr {
		return a.Lo.compare(b.Lo) < 0
	}
	if a.Hi.Addr != b.Hi.Addr {
		return a.Hi.compare(b.Hi) < 0
	}
	return a.Lo.Port < b.Lo.Port || a.Lo.Port == b.Lo.Port && a.Hi.Port < b.Hi.Port
}

// Firewall events, Cisco's guide to NSEL.
const (
	teardown = 2
	denial   = 3
	update   = 5
)

// ended says how a record leaves a direction with these flags.
func (m *Model) ended(f *flowpb.FlowMessage, r *record, flags uint32, export int64) ended {
	switch {
	case f.Proto == 6 && flags&(fin|rst) != 0, f.FlowEndReason == 3, f.FlowEndReason == 4:
		return closed
	case f.FlowEndReason == 1:
		return wentIdle
	case f.FlowEndReason == 2:
		return goesOn
	case f.FlowEndReason == 0 && f.FirewallEvent == teardown:
		return closed
	case f.FlowEndReason == 0 && f.FirewallEvent == update:
		return goesOn
	case f.FlowEndReason == 0 && export != 0 && export-r.end >= int64(m.c.InactiveTimeout-time.Second):
		return wentIdle
	case r.end-r.start >= int64(m.c.ActiveTimeout)*95/100:
		return goesOn
	}
	return unknown
}

// answer returns the ICMP type that answers a type; ok is false when none does. RFC 792, RFC 4443.
func answer(proto uint8, icmpType uint16) (answering uint16, ok bool) {
	pairs := map[uint16]uint16{8: 0, 0: 8, 13: 14, 14: 13}
	if proto == 58 {
		pairs = map[uint16]uint16{128: 129, 129: 128, 135: 136, 136: 135}
	}
	answering, ok = pairs[icmpType]
	return answering, ok
}
