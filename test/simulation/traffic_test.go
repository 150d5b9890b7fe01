//go:build synctests

package simulation

import (
	"fmt"
	"math/rand/v2"
	"time"

	"weir/internal/flowkey"
	"weir/pkg/flowpb"
)

// traffic is an action that produces a few flow records of a kind.
type traffic struct {
	Kind    trafficKind
	Records int
}

type trafficKind int

// Kinds of flow records.
const (
	tcp       trafficKind = iota // with any flags
	udp                          // also to a multicast group
	icmp                         // answered and one-way
	nat                          // translated: reported before or after
	biflow                       // both directions in one record
	sampled                      // 1 in N, also with an unknown rate
	points                       // the same packets seen by two exporters
	again                        // the same datagram through two replicas
	late                         // ended long before it is received
	skewed                       // of an exporter whose clock is an hour off
	backwards                    // later records arrive first
	firewall                     // a flow's update and teardown events, in any order
	trafficKinds
)

var trafficNames = [trafficKinds]string{"tcp", "udp", "icmp", "nat", "biflow", "sampled", "points", "again", "late", "skewed", "backwards", "firewall"}

func drawTraffic(rng *rand.Rand) action {
	kind := tcp
	if rng.IntN(2) == 0 {
		kind = trafficKind(rng.IntN(int(trafficKinds)))
	}
	return traffic{kind, 1 + rng.IntN(16)}
}

func (a traffic) String() string {
	return fmt.Sprintf("%d records: %s", a.Records, trafficNames[a.Kind])
}

func (a traffic) run(w *world, rng *rand.Rand) {
	for i := range a.Records {
		for _, m := range a.records(rng, time.Now()) {
			m.DatagramHash = w.step<<16 | uint64(i)
			w.send(m)
		}
	}
}

// records returns a record, or several that belong together. The receive time must be now, and not be
// rounded: stream time of a quiet partition advances with the wall clock and must not pass the receive time
// of the next record. Otherwise that record would be paired at a stream time that the model does not know.
func (a traffic) records(rng *rand.Rand, now time.Time) []*flowpb.FlowMessage {
	received := now
	end := received.Add(-time.Duration(rng.IntN(3000)) * time.Millisecond)
	m := &flowpb.FlowMessage{
		Type: flowpb.FlowMessage_IPFIX, SrcAddr: []byte{10, 0, 0, byte(rng.IntN(12))}, DstAddr: []byte{198, 51, 100, byte(rng.IntN(3))},
		SrcPort: 40000 + uint32(rng.IntN(2)), DstPort: 443, Proto: 6, TcpFlags: uint32(rng.IntN(32)), SamplerAddress: []byte{192, 0, 2, 1},
		Bytes: 1 + rng.Uint64N(100_000), Packets: 1 + rng.Uint64N(100), SamplingRate: 1, TimeResolutionUs: 1000,
		TimeReceivedNs: uint64(received.UnixNano()), TimeExportNs: uint64(received.UnixNano()),
	}
	if rng.IntN(4) == 0 {
		m.FlowEndReason = []uint32{2, 3}[rng.IntN(2)]
	}
	times(m, end.Add(-duration(rng, 5*time.Second)), end)
	out := []*flowpb.FlowMessage{m}
	switch a.Kind {
	case tcp, trafficKinds:
	case udp:
		m.Proto, m.DstPort, m.TcpFlags = 17, 53, 0
		if rng.IntN(5) == 0 {
			m.DstAddr = []byte{239, 1, 1, 1}
		}
	case icmp:
		m.Proto, m.SrcPort, m.DstPort, m.TcpFlags = 1, 0, 0, 0
		m.IcmpType = []uint32{8, 8, 3}[rng.IntN(3)]
		if rng.IntN(2) == 0 && m.IcmpType == 8 {
			m.IcmpType, m.SrcAddr, m.DstAddr = 0, m.DstAddr, m.SrcAddr
		}
	case nat:
		outside := []byte{203, 0, 113, 9}
		if rng.IntN(2) == 0 {
			m.PostNatSrcAddr, m.PostNatSrcPort = outside, m.SrcPort+20000
		} else {
			m.SrcAddr, m.DstAddr, m.SrcPort, m.DstPort, m.PostNatDstAddr, m.PostNatDstPort = m.DstAddr, outside, m.DstPort, m.SrcPort+20000, m.SrcAddr, m.SrcPort
		}
	case biflow:
		m.Biflow, m.ReverseBytes, m.ReversePackets, m.ReverseTcpFlags = true, rng.Uint64N(50_000), 1+rng.Uint64N(50), uint32(rng.IntN(32))
	case sampled:
		m.SamplingRate = []uint64{0, 2, 100}[rng.IntN(3)]
	case points:
		o := clone(m)
		o.SamplerAddress, o.Packets = []byte{192, 0, 2, 2}, max(1, m.Packets-rng.Uint64N(min(m.Packets, 3)))
		times(o, end.Add(-5*time.Second), end.Add(time.Duration(rng.IntN(1000))*time.Millisecond))
		out = append(out, o)
	case again:
		o := clone(m)
		o.Replica = "other"
		out = append(out, o)
	case late:
		end = end.Add(-duration(rng, 15*time.Second))
		times(m, end.Add(-duration(rng, 5*time.Second)), end)
		m.TimeExportNs = 0
	case skewed:
		m.SamplerAddress = []byte{192, 0, 2, 3}
		hour := uint64(time.Hour)
		m.TimeExportNs, m.TimeFlowStartNs, m.TimeFlowEndNs = m.TimeExportNs+hour, m.TimeFlowStartNs+hour, m.TimeFlowEndNs+hour
	case backwards:
		o := clone(m)
		o.RecordOffset = 64
		times(o, end.Add(-12*time.Second), end.Add(-9*time.Second))
		out = append(out, o)
	case firewall:
		out = firewallEvents(rng, m)
	}
	if rng.IntN(2) == 0 && a.Kind != icmp && a.Kind != nat {
		for _, m := range out {
			m.SrcAddr, m.DstAddr, m.SrcPort, m.DstPort = m.DstAddr, m.SrcAddr, m.DstPort, m.SrcPort
		}
	}
	return out
}

// firewallEvents returns some of the events of a flow: updates, which count since the previous update, and a
// teardown, which counts more than all updates of the flow together. Any of the updates may be missing.
func firewallEvents(rng *rand.Rand, m *flowpb.FlowMessage) (out []*flowpb.FlowMessage) {
	m.Biflow, m.TcpFlags, m.FlowEndReason, m.FlowId = true, 0, 0, 1+rng.Uint64N(3)
	for i := range 1 + rng.IntN(3) {
		o := clone(m)
		o.FirewallEvent, o.RecordOffset = 5, 24*uint32(i+1)
		o.ReverseBytes, o.ReversePackets = rng.Uint64N(50_000), rng.Uint64N(50)
		if i == 2 {
			o.FirewallEvent, o.Bytes, o.ReverseBytes = 2, 1<<40+o.Bytes, 1<<40+o.ReverseBytes
			o.Packets, o.ReversePackets = 1<<30+o.Packets, 1<<30+o.ReversePackets
		}
		out = append(out, o)
	}
	rng.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

func times(m *flowpb.FlowMessage, start, end time.Time) {
	m.TimeFlowStartNs, m.TimeFlowEndNs = uint64(start.UnixNano()), uint64(end.UnixNano())
}

// recordKey returns the key of a flow's record as ingest writes it: equal for both directions of a
// conversation.
func recordKey(m *flowpb.FlowMessage) []byte {
	t := flowkey.Tuple{SrcPort: uint16(m.SrcPort), DstPort: uint16(m.DstPort), Proto: uint8(m.Proto), ICMPType: uint8(m.IcmpType), ICMPCode: uint8(m.IcmpCode)}
	t.Src, _ = flowkey.Address(m.SrcAddr)
	t.Dst, _ = flowkey.Address(m.DstAddr)
	post := t
	if a, ok := flowkey.Address(m.PostNatSrcAddr); ok {
		post.Src, post.SrcPort = a, uint16(m.PostNatSrcPort)
	}
	if a, ok := flowkey.Address(m.PostNatDstAddr); ok {
		post.Dst, post.DstPort = a, uint16(m.PostNatDstPort)
	}
	k, _ := t.Canon()
	if post != t {
		k, _, _ = flowkey.Inside(&t, &post)
	}
	return k.Append(nil)
}
