package pair

import (
	"math/rand/v2"
	"testing"

	"weir/pkg/flowpb"
)

// A sampling exporter reports the first packet that it sampled of each direction:
// which direction that was first in says nothing about who sent the first packet.
func TestSampledUDPIsDecidedByThePortNotByTheStart(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for _, tt := range []struct {
		name   string
		server uint32
		rates  [2]uint64 // of the client's and of the server's record
		method flowpb.DirectionMethod
	}{
		{"both directions sampled, to port 443", 443, [2]uint64{1000, 1000}, flowpb.DirectionMethod_DIRECTION_METHOD_SERVICE_PORT},
		{"the client's sampled", 443, [2]uint64{1000, 1}, flowpb.DirectionMethod_DIRECTION_METHOD_SERVICE_PORT},
		{"the server's sampled", 443, [2]uint64{1, 1000}, flowpb.DirectionMethod_DIRECTION_METHOD_SERVICE_PORT},
		{"between two ports that are no services", 39999, [2]uint64{1000, 1000}, flowpb.DirectionMethod_DIRECTION_METHOD_LOWER_PORT},
	} {
		for range 100 {
			x := converse(t, testConfig)
			for i, rate := range tt.rates {
				start := uint64(1000e9 + rng.Float64()*10e9) // the connection lasts 10 s
				x.flow(func(m *flowpb.FlowMessage) {
					m.Proto, m.TcpFlags, m.SamplingRate, m.DstPort = 17, 0, rate, tt.server
					m.TimeFlowStartNs, m.TimeFlowEndNs = start, 1010e9
					m.TimeExportNs, m.TimeReceivedNs = 1026e9, 1026e9
					m.Packets, m.Bytes = 3, 3000
					if i == 1 {
						turned(m)
					}
				})
			}
			if c := x.ended(1)[0]; c.Responder.Port != tt.server || c.DirectionMethod != tt.method {
				t.Fatalf("%s: want port %d as the responder by %v, got port %d by %v", tt.name, tt.server, tt.method, c.Responder.Port, c.DirectionMethod)
			}
		}
	}
}

func TestSYNAndACKOfOnePacketIsEvidenceOfTheResponder(t *testing.T) {
	// A record of ten packets from the client, and one of the server's. The server's
	// port is no service and the higher one, and its record starts first.
	const server = 45000
	for _, tt := range []struct {
		name    string
		flags   uint32
		packets uint64
		rate    uint64
		method  flowpb.DirectionMethod
		port    uint32
	}{
		{"one packet, sampled", syn | ack, 1, 1000, flowpb.DirectionMethod_DIRECTION_METHOD_TCP_SYN, server},
		{"one packet, not sampled", syn | ack, 1, 1, flowpb.DirectionMethod_DIRECTION_METHOD_TCP_SYN, server},
		{"the OR of several packets, sampled", syn | ack, 3, 1000, flowpb.DirectionMethod_DIRECTION_METHOD_LOWER_PORT, 40000},
		{"the OR of several packets, not sampled", syn | ack, 3, 1, flowpb.DirectionMethod_DIRECTION_METHOD_FIRST_SEEN, 40000},
		{"one packet with data, sampled", syn | psh | ack, 1, 1000, flowpb.DirectionMethod_DIRECTION_METHOD_LOWER_PORT, 40000},
		{"one packet with FIN, sampled", syn | ack | fin, 1, 1000, flowpb.DirectionMethod_DIRECTION_METHOD_LOWER_PORT, 40000},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, first := range []bool{false, true} { // the order of arrival does not matter
				x := converse(t, testConfig)
				for _, back := range []bool{first, !first} {
					x.flow(func(m *flowpb.FlowMessage) {
						m.DstPort, m.SamplingRate = server, tt.rate
						m.TcpFlags, m.Packets, m.TimeFlowStartNs, m.TimeFlowEndNs = ack, 10, 3e9, 8e9
						if back {
							turned(m)
							m.TcpFlags, m.Packets, m.TimeFlowStartNs, m.TimeFlowEndNs = tt.flags, tt.packets, 1e9, 1e9
						}
					})
				}
				if c := x.ended(1)[0]; c.Responder.Port != tt.port || c.DirectionMethod != tt.method {
					t.Errorf("want port %d as the responder by %v, got port %d by %v", tt.port, tt.method, c.Responder.Port, c.DirectionMethod)
				}
			}
		})
	}
}

// The evidence is a record's: it stays when the direction goes on with more packets.
func TestSYNAndACKOfOnePacketStaysEvidence(t *testing.T) {
	answer := func(m *flowpb.FlowMessage) {
		turned(m)
		m.SamplingRate, m.TcpFlags, m.Packets = 1000, syn|ack, 1
	}
	for _, tt := range []struct {
		name  string
		first func(m *flowpb.FlowMessage)
		rest  []func(m *flowpb.FlowMessage)
		port  uint32 // of the responder
		by    flowpb.DirectionMethod
	}{
		{"more records of the responder", answer, []func(m *flowpb.FlowMessage){
			func(m *flowpb.FlowMessage) { turned(m); m.SamplingRate, m.TcpFlags = 1000, ack },
		}, 45000, flowpb.DirectionMethod_DIRECTION_METHOD_TCP_SYN},
		{"an unsampled record of a biflow", func(m *flowpb.FlowMessage) {
			m.TcpFlags, m.Biflow, m.ReverseTcpFlags, m.ReversePackets, m.ReverseBytes = ack, true, syn|ack, 1, 60
		}, nil, 45000, flowpb.DirectionMethod_DIRECTION_METHOD_TCP_SYN},
		{"the exporter's word comes before it", answer, []func(m *flowpb.FlowMessage){
			func(m *flowpb.FlowMessage) {
				turned(m)
				m.SamplingRate, m.TcpFlags, m.BiflowDirection = 1000, ack, flowpb.BiflowDirection_BIFLOW_DIRECTION_INITIATOR
			},
		}, 40000, flowpb.DirectionMethod_DIRECTION_METHOD_EXPORTER},
		{"both sides send it: a simultaneous open has no initiator", answer, []func(m *flowpb.FlowMessage){
			func(m *flowpb.FlowMessage) { m.SamplingRate, m.TcpFlags, m.Packets = 1000, syn|ack, 1 },
		}, 40000, flowpb.DirectionMethod_DIRECTION_METHOD_LOWER_PORT},
	} {
		t.Run(tt.name, func(t *testing.T) {
			x := converse(t, testConfig)
			for _, set := range append([]func(m *flowpb.FlowMessage){tt.first}, tt.rest...) {
				x.flow(func(m *flowpb.FlowMessage) { m.DstPort = 45000; set(m) })
				x.restart()
			}
			if c := x.ended(1)[0]; c.Responder.Port != tt.port || c.DirectionMethod != tt.by {
				t.Errorf("want port %d as the responder by %v, got port %d by %v", tt.port, tt.by, c.Responder.Port, c.DirectionMethod)
			}
		})
	}
}

// A state that rests on a packet that was not seen is unknown where packets are
// sampled; one that rests on packets alone is not.
func TestAConnectionStateIsUnknownWhereThePacketMayNotBeSampled(t *testing.T) {
	const none = -1 // the direction is not seen
	for _, tt := range []struct {
		name      string
		o, r      int // flags
		all       flowpb.ConnState
		sampledBy bool // whether it stays when sampled
	}{
		{"a SYN without an answer", syn, none, flowpb.ConnState_CONN_STATE_S0, false},
		{"established", syn | ack, syn | ack, flowpb.ConnState_CONN_STATE_S1, false},
		{"closed by the initiator alone", syn | ack | fin, syn | ack, flowpb.ConnState_CONN_STATE_S2, false},
		{"closed by the responder alone", syn | ack, syn | ack | fin, flowpb.ConnState_CONN_STATE_S3, false},
		{"refused: the answer may be a RST later on", syn, rst | ack, flowpb.ConnState_CONN_STATE_REJ, false},
		{"a SYN, a RST and no answer", syn | rst, none, flowpb.ConnState_CONN_STATE_RSTOS0, false},
		{"a SYN, a FIN and no answer", syn | fin, none, flowpb.ConnState_CONN_STATE_SH, false},
		{"closed by both", syn | ack | fin, syn | ack | fin, flowpb.ConnState_CONN_STATE_SF, true},
		{"reset by the initiator", syn | ack | rst, syn | ack, flowpb.ConnState_CONN_STATE_RSTO, true},
		{"reset by the responder", syn | ack, syn | ack | rst, flowpb.ConnState_CONN_STATE_RSTR, true},
		{"no SYN", ack, ack, flowpb.ConnState_CONN_STATE_OTH, true},
	} {
		for _, rates := range [][2]uint64{{1, 1}, {0, 0}, {100, 100}, {100, 1}, {1, 100}} {
			x := converse(t, testConfig)
			for i, flags := range []int{tt.o, tt.r} {
				if flags == none {
					continue
				}
				x.flow(func(m *flowpb.FlowMessage) {
					m.TcpFlags, m.SamplingRate = uint32(flags), rates[i]
					if i == 1 {
						turned(m)
					}
				})
			}
			want := tt.all
			if sampled := rates[0] > 1 || rates[1] > 1 && tt.r != none; sampled && !tt.sampledBy {
				want = flowpb.ConnState_CONN_STATE_UNKNOWN
			}
			if c := x.ended(1)[0]; c.ConnState != want {
				t.Errorf("%s, rates %v: want %v, got %v", tt.name, rates, want, c.ConnState)
			}
		}
	}
}
