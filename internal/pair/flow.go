package pair

import (
	"encoding/binary"
	"time"

	"github.com/cespare/xxhash/v2"

	"weir/internal/flowkey"
	"weir/pkg/flowpb"
)

// TCP control bits.
const (
	fin = 1 << iota
	syn
	rst
	psh
	ack
)

// quality is a set of qualities: bit n stands for flowpb.Quality n.
type quality uint16

// bit returns the set of q alone. q must be below 16.
func bit(q flowpb.Quality) quality { return 1 << q }

// firewallFlow marks a firewall's flow with a flow id (IE 148), whose events count both directions each. It uses the
// bit of QUALITY_UNSPECIFIED, which is never reported: older versions keep it in the logged value.
const firewallFlow quality = 1 << flowpb.Quality_QUALITY_UNSPECIFIED

// A Flow is a record in the form that the Machine uses. It must not contain pointers: entries copy parts of it. Times
// are ns since the epoch; directions are those of the record.
//
// It has the record's own directions: There is from the record's source to its destination. SrcIsLo maps them to those
// of the key.
type Flow struct {
	Key     flowkey.Key
	SrcIsLo bool
	Ident   uint64 // identity of the record: hash of exporter, datagram hash and record offset

	Scope uint64 // hash of the scope of the addresses, see PAIR_SCOPE; 0 = global

	observationPoint
	Received   int64
	Start, End int64
	Export     int64 // 0 = unknown
	Offset     int64 // receive time minus export time, before any correction; 0 = unknown
	Resolution int64 // for ordering against other datagrams of the exporter, ns
	Fine       int64 // for ordering inside the datagram, ns
	Datagram   uint64

	There, Back counts // source to destination, destination to source
	Biflow      bool   // Back is reported, even when empty
	counting    counting
	ofFlowID    bool   // an event of a firewall with a flow id (IE 148)
	Reason      uint8  // flow end reason, 0 = not reported
	Rate        uint64 // 1 in N; 0 = unknown
	Initiator   int8   // initiator as reported by the exporter: 1 source, -1 destination, 0 not reported
	ICMPCode    uint8

	InIf, OutIf    uint32
	ToS            uint8
	VLAN           uint16
	SrcMAC, DstMAC uint64
	SrcAS, DstAS   uint32
	NATSrc, NATDst endpoint // the other side of a NAT, zero = none
	vrfs           vrfs
	app            application
	quality        quality
}

// counts holds the counters, TCP flags and times of a record for a direction.
type counts struct {
	Octets, Packets uint64
	Flags           uint16
	Start, End      int64 // times of the direction; 0 = those of the record
}

// An endpoint is an address with a port on the other side of a NAT. Unset parts are zero.
type endpoint struct {
	addr [16]byte
	port uint16
}

// FromMessage converts a FlowMessage to a Flow. ok is false if the record cannot be paired: it lacks an address, or it
// is a NAT or firewall event without counters. A denied flow without counters can be paired. f does not refer to m. The
// times in m are limited to latestTime, so that the arithmetic of the package cannot overflow for any message.
func FromMessage(m *flowpb.FlowMessage, c *Config) (f Flow, ok bool) {
	src, srcOK := flowkey.Address(m.SrcAddr)
	dst, dstOK := flowkey.Address(m.DstAddr)
	if !srcOK || !dstOK {
		return f, false
	}
	empty := m.Bytes|m.Packets|m.ReverseBytes|m.ReversePackets == 0
	denied := empty && m.FirewallEvent == eventDenied
	if empty && !denied && (m.NatEvent != 0 || m.FirewallEvent != 0) {
		return f, false
	}
	f.exporter, _ = flowkey.Address(m.SamplerAddress)
	f.domain, f.iface = m.ObservationDomainId, uint8(m.FlowDirection)
	f.Received = instant(m.TimeReceivedNs)
	f.Start = instant(m.TimeFlowStartNs)
	f.End = instant(m.TimeFlowEndNs)
	f.Export = instant(m.TimeExportNs)
	f.Resolution = max(int64(m.TimeResolutionUs)*1000, 1)
	f.Fine, f.Datagram = f.Resolution, m.DatagramHash
	// With v9 uptimes, the error of the header's whole seconds is the same for all records of a datagram.
	if m.TimeSource == flowpb.TimeSource_TIME_SOURCE_UPTIME {
		f.Fine = int64(time.Millisecond)
	}
	f.There = counts{Octets: m.Bytes, Packets: m.Packets, Flags: uint16(m.TcpFlags)}
	if f.Biflow = m.Biflow; f.Biflow {
		f.quality |= bit(flowpb.Quality_QUALITY_BIFLOW)
		f.Back = counts{
			Octets: m.ReverseBytes, Packets: m.ReversePackets, Flags: uint16(m.ReverseTcpFlags),
			Start: instant(m.ReverseTimeFlowStartNs), End: instant(m.ReverseTimeFlowEndNs),
		}
	}
	f.Rate = m.SamplingRate
	f.event(m, denied)
	f.ICMPCode = uint8(m.IcmpCode)
	if reversed := f.Biflow && f.There.Octets|f.There.Packets == 0 && f.Back.Octets|f.Back.Packets != 0; reversed {
		// Only the reverse direction has packets: the record is turned around, as if reported for that direction.
		src, dst = dst, src
		f.There, f.Back = f.Back, counts{}
		f.Initiator = -f.Initiator
		m = swapped(m)
	}
	f.InIf, f.OutIf, f.ToS = m.InIf, m.OutIf, uint8(m.IpTos)
	if f.VLAN = uint16(m.SrcVlan); f.VLAN == 0 {
		f.VLAN = uint16(m.VlanId)
	}
	f.SrcMAC, f.DstMAC = m.SrcMac, m.DstMac
	f.SrcAS, f.DstAS = m.SrcAs, m.DstAs
	f.vrfs = vrfs{m.IngressVrfId, m.EgressVrfId}
	f.app = applicationOf(m.ApplicationId)
	if c.DedupContent {
		f.Ident = f.content(m)
	} else {
		f.Ident = ident(&f.exporter, m.DatagramHash, m.RecordOffset)
	}
	f.conversation(m, src, dst)
	f.Scope = f.scope(m, c.Scope)
	f.clocks(m, c)
	return f, true
}

// event sets what a firewall's event (IE 233) and the record's own fields determine: how the record counts, the
// initiator, the reason for the end, and the qualities of the event. denied says that the event is a denied flow
// without counters.
func (f *Flow) event(m *flowpb.FlowMessage, denied bool) {
	f.counting, f.ofFlowID = countingOf(m), m.FirewallEvent != 0 && m.FlowId != 0
	if f.ofFlowID && f.counting != countsRecord && m.FirewallEvent != eventDenied {
		f.quality |= firewallFlow
	}
	f.Reason = uint8(m.FlowEndReason)
	switch {
	case m.BiflowDirection == flowpb.BiflowDirection_BIFLOW_DIRECTION_INITIATOR:
		f.Initiator = 1
	case m.BiflowDirection == flowpb.BiflowDirection_BIFLOW_DIRECTION_REVERSE_INITIATOR:
		f.Initiator = -1
	case denied || m.FirewallEvent != 0 && m.Biflow: // initiator and responder counters: the source is the initiator
		f.Initiator = 1
	}
	switch {
	case denied:
		f.quality |= bit(flowpb.Quality_QUALITY_DENIED)
	case f.Reason != 0:
	case m.FirewallEvent == eventUpdated:
		f.Reason = reasonActive
	case m.FirewallEvent == eventDeleted:
		f.Reason = reasonEnd
	}
}

// applicationOf packs an applicationId (IE 95) of at most 8 octets. A longer identifier gives the zero application.
func applicationOf(id []byte) (a application) {
	if len(id) > 8 {
		return a
	}
	for _, b := range id {
		a.id = a.id<<8 | uint64(b)
	}
	a.n = uint8(len(id))
	return a
}

// Firewall events (IE 233) and flow end reasons (IE 136).
const (
	eventDeleted = 2
	eventDenied  = 3
	eventUpdated = 5

	reasonActive = 2
	reasonEnd    = 3
)

// The values of PAIR_SCOPE: the scope in which an address identifies a host.
const (
	ScopeGlobal   = "global"
	ScopeExporter = "exporter"
	ScopeVRF      = "vrf"
)

// scope returns the hash of the scope of f's addresses, 0 if it is global. Besides PAIR_SCOPE it contains the address
// plan of the exporter, by default its site, if an address is private (flowkey.Private), and the exporter and flow id
// (IE 148) of a firewall event, so that each flow of a firewall is a connection of its own. A part of the scope begins
// with a letter (e, v, f, s) that names it: parts of different kinds must not give the same octets. A hash of 0 is
// replaced by 1, since 0 is the global scope.
func (f *Flow) scope(m *flowpb.FlowMessage, by string) uint64 {
	var b []byte
	switch by {
	case ScopeExporter:
		b = append(append(b, 'e'), f.exporter[:]...)
	case ScopeVRF:
		b = binary.BigEndian.AppendUint32(append(b, 'v'), min(f.vrfs.in, f.vrfs.out))
		b = binary.BigEndian.AppendUint32(b, max(f.vrfs.in, f.vrfs.out))
	}
	if m.FirewallEvent != 0 && m.FlowId != 0 {
		b = binary.BigEndian.AppendUint64(append(append(b, 'f'), f.exporter[:]...), m.FlowId)
	}
	plan := m.AddressPlan
	if plan == "" {
		plan = m.Site
	}
	if plan != "" && (flowkey.Private(&f.Key.Lo) || flowkey.Private(&f.Key.Hi)) {
		b = append(append(b, 's'), plan...)
	}
	if b == nil {
		return 0
	}
	return max(xxhash.Sum64(b), 1)
}

// content returns the identity of a record by its content, for exporters that meter a flow at two interfaces without
// reporting it (PAIR_DEDUP_CONTENT). It has no receive time, export time or datagram hash: the records that an exporter
// sends for the two interfaces must have the same identity.
func (f *Flow) content(m *flowpb.FlowMessage) uint64 {
	b := make([]byte, 0, 160)
	b = append(append(b, f.exporter[:]...), f.iface, byte(m.Proto), byte(m.IpTos))
	b = append(append(b, m.SrcAddr...), m.DstAddr...)
	for _, v := range []uint64{
		uint64(f.domain), uint64(m.SrcPort)<<16 | uint64(m.DstPort), m.TimeFlowStartNs, m.TimeFlowEndNs,
		m.Bytes, m.Packets, m.ReverseBytes, m.ReversePackets,
		uint64(m.TcpFlags)<<32 | uint64(m.ReverseTcpFlags),
		uint64(m.InIf)<<32 | uint64(m.OutIf),
		uint64(m.IcmpType)<<8 | uint64(m.IcmpCode),
	} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	return xxhash.Sum64(b)
}

// swapped returns m with source and destination exchanged. It has only the fields that FromMessage and conversation
// read after the exchange.
func swapped(m *flowpb.FlowMessage) *flowpb.FlowMessage {
	return &flowpb.FlowMessage{
		Proto: m.Proto, IcmpType: m.IcmpType, IcmpCode: m.IcmpCode, TimeSource: m.TimeSource,
		FirewallEvent: m.FirewallEvent, FlowId: m.FlowId, OutIf: m.InIf, InIf: m.OutIf, IpTos: m.ReverseIpTos,
		SrcPort: m.DstPort, DstPort: m.SrcPort, SrcMac: m.DstMac, DstMac: m.SrcMac, SrcAs: m.DstAs, DstAs: m.SrcAs,
		SrcVlan: m.DstVlan, VlanId: m.VlanId, DatagramHash: m.DatagramHash, RecordOffset: m.RecordOffset,
		IngressVrfId: m.EgressVrfId, EgressVrfId: m.IngressVrfId, ApplicationId: m.ApplicationId,
		Site: m.Site, AddressPlan: m.AddressPlan, SrcAddr: m.DstAddr, DstAddr: m.SrcAddr,
		TimeFlowStartNs: m.TimeFlowStartNs, TimeFlowEndNs: m.TimeFlowEndNs,
		Bytes: m.ReverseBytes, Packets: m.ReversePackets, TcpFlags: m.ReverseTcpFlags,
		PostNatSrcAddr: m.PostNatDstAddr, PostNatDstAddr: m.PostNatSrcAddr,
		PostNatSrcPort: m.PostNatDstPort, PostNatDstPort: m.PostNatSrcPort,
	}
}

// conversation sets the key of f, which has the endpoints inside a NAT, and the endpoints outside it. A record of a
// translated conversation has the tuple before the translation, and post-NAT elements (225 to 228, 281, 282) for the
// tuple after it. Which of the two is the inside depends on the direction: flowkey.Inside decides.
func (f *Flow) conversation(m *flowpb.FlowMessage, src, dst [16]byte) {
	t := flowkey.Tuple{
		Src: src, Dst: dst, SrcPort: uint16(m.SrcPort), DstPort: uint16(m.DstPort),
		Proto: uint8(m.Proto), ICMPType: uint8(m.IcmpType), ICMPCode: uint8(m.IcmpCode),
	}
	if flowkey.HasPorts(t.Proto) && t.SrcPort|t.DstPort == 0 {
		f.quality |= bit(flowpb.Quality_QUALITY_FRAGMENT)
	}
	post := t
	translated := false
	replace := func(a *[16]byte, by []byte) {
		if x, ok := flowkey.Address(by); ok && !unset(&x) && x != *a {
			*a, translated = x, true
		}
	}
	replace(&post.Src, m.PostNatSrcAddr)
	replace(&post.Dst, m.PostNatDstAddr)
	if flowkey.HasPorts(t.Proto) { // for ICMP, some exporters report the ICMP identifier in the NAT port fields
		if p := uint16(m.PostNatSrcPort); p != 0 && p != post.SrcPort {
			post.SrcPort, translated = p, true
		}
		if p := uint16(m.PostNatDstPort); p != 0 && p != post.DstPort {
			post.DstPort, translated = p, true
		}
	}
	if !translated {
		f.Key, f.SrcIsLo = t.Canon()
		return
	}
	var swapped bool
	f.Key, f.SrcIsLo, swapped = flowkey.Inside(&t, &post)
	inside, outside := &t, &post
	if swapped {
		inside, outside = outside, inside
	}
	if outside.Src != inside.Src || outside.SrcPort != inside.SrcPort {
		f.NATSrc = endpoint{outside.Src, outside.SrcPort}
	}
	if outside.Dst != inside.Dst || outside.DstPort != inside.DstPort {
		f.NATDst = endpoint{outside.Dst, outside.DstPort}
	}
	f.quality |= bit(flowpb.Quality_QUALITY_NAT)
}

// latestTime is the latest time of a record, ns since the epoch, in the year 2116. Differences and sums of two times
// up to it cannot overflow an int64.
const latestTime = 1<<62 - 1

// instant returns a time of a message, limited to latestTime.
func instant(ns uint64) int64 { return int64(min(ns, latestTime)) }

// shifted returns t+off, limited to the range from the epoch to latestTime.
func shifted(t, off int64) int64 { return min(max(t+off, 0), latestTime) }

// clocks completes and orders the times of f, and corrects them to the receiver's clock if the offset of the exporter's
// clock is clearly above MaxClockSkew. Near the limit, Machine.onClock decides per clock. Offset is the receive time
// minus the export time: it contains the delay of the network, which is small against the limit.
func (f *Flow) clocks(m *flowpb.FlowMessage, c *Config) {
	if m.TimeSource == flowpb.TimeSource_TIME_SOURCE_EXPORT_TIME {
		f.quality |= bit(flowpb.Quality_QUALITY_TIME_FALLBACK)
	}
	if f.Start == 0 && f.End == 0 {
		f.Start, f.End = f.Received, f.Received
		f.quality |= bit(flowpb.Quality_QUALITY_TIME_FALLBACK)
	}
	if f.Start > f.End {
		f.Start, f.End = f.End, f.Start
	}
	if f.Received == 0 { // input without receive times, such as hex text: the exporter's clock stands in
		f.Received = max(f.Export, f.End)
	}
	if f.Export == 0 {
		return
	}
	if f.Offset = f.Received - f.Export; c.offLimit(f.Offset) > 0 && !c.nearLimit(f.Offset) {
		f.correct()
	}
}

// ident returns the identity of a record: a hash of the exporter, the datagram's hash and the offset in the datagram.
func ident(exporter *[16]byte, hash uint64, off uint32) uint64 {
	var b [28]byte
	copy(b[:], exporter[:])
	binary.BigEndian.PutUint64(b[16:], hash)
	binary.BigEndian.PutUint32(b[24:], off)
	return xxhash.Sum64(b[:])
}

// unset reports whether a is the unspecified address, of IPv6 or IPv4.
func unset(a *[16]byte) bool {
	return *a == [16]byte{} || *a == [16]byte{10: 0xff, 11: 0xff}
}

// An end is the state of a direction after its newest record. Its values are logged, and ordered: the greater wins
// among records that end at the same time.
type end uint8

const (
	endUnknown end = iota // the record gives no indication
	endOpen               // continues: flow end reason 2, or a span close to the active timeout
	endSoft               // idle: flow end reason 1, or exported after the inactive timeout
	endHard               // ended: FIN, RST, or flow end reason 3 or 4
)

// endOf returns the end state of f for a direction with these TCP flags. Without a flow end reason (IE 136) it infers
// the state from the exporter's timeouts. Examples with 60 s and 15 s: a record that spans 57 s or more continues
// (endOpen); a record that is exported 14 s or more after its last packet is idle (endSoft). The margins allow for
// exporters that check their timeouts periodically.
func (f *Flow) endOf(c *Config, flags uint16) end {
	tcp := f.Key.Proto == flowkey.TCP
	switch {
	case tcp && flags&(fin|rst) != 0, f.Reason == 3, f.Reason == 4:
		return endHard
	case f.Reason == 1:
		return endSoft
	case f.Reason == 2:
		return endOpen
	case f.Reason == 0 && f.Export != 0 && f.quality&bit(flowpb.Quality_QUALITY_TIME_FALLBACK) == 0 &&
		f.Export-f.End >= int64(c.InactiveTimeout-time.Second):
		return endSoft
	case f.End-f.Start >= int64(c.ActiveTimeout)*95/100:
		return endOpen
	}
	return endUnknown
}
