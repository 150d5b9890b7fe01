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

// Quality as a bit set: bit n is flowpb.Quality n.
type quality uint16

func bit(q flowpb.Quality) quality { return 1 << q }

// firewallFlow is set for a firewall's flow of a flow id, of which each event counts both
// directions. It is the bit of QUALITY_UNSPECIFIED, which is not reported: versions that
// do not know it keep it.
const firewallFlow quality = 1 << flowpb.Quality_QUALITY_UNSPECIFIED

// A Flow is one record as the machine takes it; no pointers. Times are ns since
// the epoch, directions are those of the record.
type Flow struct {
	Key     flowkey.Key
	SrcIsLo bool
	Ident   uint64 // identity: exporter, datagram hash, record offset

	Scope uint64 // whose address plan: see PAIR_SCOPE; 0 = the one of all

	vantage
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
	ofFlowID    bool   // an event of a firewall that says of which flow (IE 148)
	Reason      uint8  // flow end reason, 0 = not reported
	Rate        uint64 // 1 in N; 0 = unknown
	Initiator   int8   // the exporter says: 1 source, -1 destination, 0 nothing
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

// counts are what a record says of one direction.
type counts struct {
	Octets, Packets uint64
	Flags           uint16
	Start, End      int64 // of the direction; 0 = the record's
}

type endpoint struct {
	addr [16]byte
	port uint16
}

// FromMessage makes a Flow of a FlowMessage; ok is false for what cannot be
// paired (no address pair, an event without counters).
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
	if m.TimeSource == flowpb.TimeSource_TIME_SOURCE_UPTIME { // one header, whose whole seconds all records share
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
		// Only the reverse direction has packets: it is the record's own, as for
		// a record of one direction.
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

// The values of PAIR_SCOPE: where an address names one host.
const (
	ScopeGlobal   = "global"
	ScopeExporter = "exporter"
	ScopeVRF      = "vrf"
)

// scope is a hash of whose address plan f's addresses are of, 0 for the one of
// all. Private addresses are those of the exporter's address plan, by default its
// site's, and a firewall's events are of its flow (IE 148).
func (f *Flow) scope(m *flowpb.FlowMessage, by string) uint64 {
	var b []byte
	switch by {
	case ScopeExporter:
		b = append(append(b, 'e'), f.exporter[:]...)
	case ScopeVRF:
		b = binary.BigEndian.AppendUint32(append(b, 'v'), min(f.vrfs.in, f.vrfs.out))
		b = binary.BigEndian.AppendUint32(b, max(f.vrfs.in, f.vrfs.out))
	}
	if m.FirewallEvent != 0 && m.FlowId != 0 { // events of one flow, complete in themselves
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

// content is the identity of a record by what it says, for exporters that meter
// a flow twice without saying so (PAIR_DEDUP_CONTENT).
func (f *Flow) content(m *flowpb.FlowMessage) uint64 {
	b := make([]byte, 0, 160)
	b = append(append(b, f.exporter[:]...), f.iface, byte(m.Proto), byte(m.IpTos))
	b = append(append(b, m.SrcAddr...), m.DstAddr...)
	for _, v := range []uint64{
		uint64(f.domain), uint64(m.SrcPort)<<16 | uint64(m.DstPort), m.TimeFlowStartNs, m.TimeFlowEndNs, m.Bytes, m.Packets,
		m.ReverseBytes, m.ReversePackets, uint64(m.TcpFlags)<<32 | uint64(m.ReverseTcpFlags), uint64(m.InIf)<<32 | uint64(m.OutIf), uint64(m.IcmpType)<<8 | uint64(m.IcmpCode),
	} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	return xxhash.Sum64(b)
}

// swapped is m seen from the other end: what conversation looks at.
func swapped(m *flowpb.FlowMessage) *flowpb.FlowMessage {
	return &flowpb.FlowMessage{
		Proto: m.Proto, IcmpType: m.IcmpType, IcmpCode: m.IcmpCode, TimeSource: m.TimeSource, FirewallEvent: m.FirewallEvent, FlowId: m.FlowId, OutIf: m.InIf, InIf: m.OutIf, IpTos: m.ReverseIpTos,
		SrcPort: m.DstPort, DstPort: m.SrcPort, SrcMac: m.DstMac, DstMac: m.SrcMac, SrcAs: m.DstAs, DstAs: m.SrcAs,
		SrcVlan: m.DstVlan, VlanId: m.VlanId, DatagramHash: m.DatagramHash, RecordOffset: m.RecordOffset,
		IngressVrfId: m.EgressVrfId, EgressVrfId: m.IngressVrfId, ApplicationId: m.ApplicationId, Site: m.Site, AddressPlan: m.AddressPlan, SrcAddr: m.DstAddr, DstAddr: m.SrcAddr,
		TimeFlowStartNs: m.TimeFlowStartNs, TimeFlowEndNs: m.TimeFlowEndNs, Bytes: m.ReverseBytes, Packets: m.ReversePackets, TcpFlags: m.ReverseTcpFlags,
		PostNatSrcAddr: m.PostNatDstAddr, PostNatDstAddr: m.PostNatSrcAddr, PostNatSrcPort: m.PostNatDstPort, PostNatDstPort: m.PostNatSrcPort,
	}
}

// conversation sets the key, and the other side of a NAT.
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
	if flowkey.HasPorts(t.Proto) { // of ICMP some exporters tell the identifier there
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

// latestTime is the latest time of a record, ns since the epoch: 2116. Differences and
// sums of two times cannot overflow.
const latestTime = 1<<62 - 1

// instant returns a time of a message; one after latestTime is latestTime.
func instant(ns uint64) int64 { return int64(min(ns, latestTime)) }

// shifted returns t moved by off, between the epoch and latestTime.
func shifted(t, off int64) int64 { return min(max(t+off, 0), latestTime) }

// clocks puts the times in order, and on the receiver's clock when the
// exporter's is far off. Near the limit the machine decides, by the exporter.
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
	if f.Received == 0 { // hex text: the only clock is the exporter's
		f.Received = max(f.Export, f.End)
	}
	if f.Export == 0 {
		return
	}
	if f.Offset = f.Received - f.Export; c.offLimit(f.Offset) > 0 && !c.nearLimit(f.Offset) {
		f.correct()
	}
}

// ident is the identity of a record: exporter, datagram, place in it.
func ident(exporter *[16]byte, hash uint64, off uint32) uint64 {
	var b [28]byte
	copy(b[:], exporter[:])
	binary.BigEndian.PutUint64(b[16:], hash)
	binary.BigEndian.PutUint32(b[24:], off)
	return xxhash.Sum64(b[:])
}

func unset(a *[16]byte) bool {
	return *a == [16]byte{} || *a == [16]byte{10: 0xff, 11: 0xff}
}

// An end is how a direction stands.
type end uint8

const (
	endUnknown end = iota
	endOpen        // goes on: reason 2, or as long as the active timeout
	endSoft        // idle
	endHard        // FIN, RST, end detected or forced
)

// endOf classifies a record's end for the direction with these flags.
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
