package pair

import (
	"math/rand/v2"
	"slices"
	"testing"

	"weir/pkg/flowpb"
)

// public replaces the private address of the host by a public address, so that addresses do not
// determine the initiator of a sampled connection.
func public(m *flowpb.FlowMessage) {
	for _, a := range []*[]byte{&m.SrcAddr, &m.DstAddr} {
		if slices.Equal(*a, ip("10.0.0.5")) {
			*a = ip("198.51.100.5")
		}
	}
}

// A sampling exporter reports the first sampled packet of each direction: the order of these
// packets is no evidence for the order of the first packets.
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
					public(m)
				})
			}
			if c := x.ended(1)[0]; c.Responder.Port != tt.server || c.DirectionMethod != tt.method {
				t.Fatalf("%s: want port %d as the responder by %v, got port %d by %v", tt.name, tt.server, tt.method, c.Responder.Port, c.DirectionMethod)
			}
		}
	}
}

func TestSYNAndACKOfOnePacketIsEvidenceOfTheResponder(t *testing.T) {
	// The client's record has ten packets without SYN; the server's record starts first. The
	// server's port is not a service port and is the higher port.
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
		{"the OR of several packets, not sampled", syn | ack, 3, 1, flowpb.DirectionMethod_DIRECTION_METHOD_TCP_SYN, server},
		{"one packet with data, sampled", syn | psh | ack, 1, 1000, flowpb.DirectionMethod_DIRECTION_METHOD_LOWER_PORT, 40000},
		{"the OR of several packets with data, not sampled", syn | psh | ack, 3, 1, flowpb.DirectionMethod_DIRECTION_METHOD_TCP_SYN, server},
		{"no SYN, not sampled", psh | ack, 3, 1, flowpb.DirectionMethod_DIRECTION_METHOD_FIRST_SEEN, 40000},
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
						public(m)
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
				x.flow(func(m *flowpb.FlowMessage) { m.DstPort = 45000; set(m); public(m) })
				x.restart()
			}
			if c := x.ended(1)[0]; c.Responder.Port != tt.port || c.DirectionMethod != tt.by {
				t.Errorf("want port %d as the responder by %v, got port %d by %v", tt.port, tt.by, c.Responder.Port, c.DirectionMethod)
			}
		})
	}
}

// With sampling, a state that depends on the absence of a packet must be UNKNOWN; a state that
// depends on the presence of packets alone must not.
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
		{"no SYN, closed by both", ack | fin, ack | fin, flowpb.ConnState_CONN_STATE_SF, true},
		{"no SYN, closed by the initiator", ack | fin, ack, flowpb.ConnState_CONN_STATE_SH, false},
		{"the initiator's SYN is missing", ack, syn | ack, flowpb.ConnState_CONN_STATE_S1, false},
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

// ports is a record of 10.0.0.5:src to 192.0.2.80:dst.
func ports(src, dst uint32) func(m *flowpb.FlowMessage) {
	return func(m *flowpb.FlowMessage) { m.SrcPort, m.DstPort = src, dst }
}

// The high ports of the cases hint at nobody, or at the wrong side.
func TestAPrivateAddressOpensWhatIsSampled(t *testing.T) {
	const (
		private = flowpb.DirectionMethod_DIRECTION_METHOD_PRIVATE_ADDRESS
		lower   = flowpb.DirectionMethod_DIRECTION_METHOD_LOWER_PORT
	)
	for _, tt := range []struct {
		name      string
		src, dst  string
		srcPort   uint32
		dstPort   uint32
		rate      uint64
		initiator string
		by        flowpb.DirectionMethod
	}{
		{"from the private side", "192.168.1.2", "192.0.2.80", 40000, 50000, 10, "192.168.1.2", private},
		{"from the other side", "192.0.2.80", "10.1.2.3", 50000, 40000, 10, "10.1.2.3", private},
		{"one port", "172.16.0.1", "192.0.2.80", 40000, 40000, 10, "172.16.0.1", private},
		{"172.32 is not private", "172.32.0.1", "192.0.2.80", 40000, 50000, 10, "192.0.2.80", lower},
		{"of a provider's NAT, RFC 6598", "100.127.0.1", "192.0.2.80", 40000, 50000, 10, "100.127.0.1", private},
		{"100.128 is not", "100.128.0.1", "192.0.2.80", 40000, 50000, 10, "192.0.2.80", lower},
		{"unique local, RFC 4193", "fd00::1", "2001:db8::1", 40000, 50000, 10, "fd00::1", private},
		{"both private", "192.168.1.2", "10.1.2.3", 40000, 50000, 10, "10.1.2.3", lower},
		{"a service port comes first", "192.168.1.2", "192.0.2.80", 443, 50000, 10, "192.0.2.80",
			flowpb.DirectionMethod_DIRECTION_METHOD_SERVICE_PORT},
		{"unsampled", "192.0.2.80", "192.168.1.2", 40000, 50000, 1, "192.0.2.80",
			flowpb.DirectionMethod_DIRECTION_METHOD_ONLY_SENDER},
	} {
		x := converse(t, testConfig)
		x.flow(func(m *flowpb.FlowMessage) {
			m.SrcAddr, m.DstAddr, m.SrcPort, m.DstPort = ip(tt.src), ip(tt.dst), tt.srcPort, tt.dstPort
			m.Proto, m.TcpFlags, m.SamplingRate = 17, 0, tt.rate
		})
		if c := x.ended(1)[0]; !slices.Equal(c.Initiator.Address, ip(tt.initiator)) || c.DirectionMethod != tt.by {
			t.Errorf("%s: want %s by %v, got %v by %v", tt.name, tt.initiator, tt.by, c.Initiator, c.DirectionMethod)
		}
	}
}

// The initiator of a connection with records of one direction, or with two directions that began
// together. 198.51.100.5 is the sender of the first record.
func TestTheInitiatorOfAConnectionWithoutEvidence(t *testing.T) {
	const (
		sender = "198.51.100.5"
		other  = "192.0.2.80"
		udp    = 17
		tcp    = 6
	)
	c := testConfig
	c.Service = func(_ uint8, port uint16) bool { return port == 5060 || port == 20000 || port == 993 }
	for _, tt := range []struct {
		name      string
		proto     uint32
		flags     uint32
		src, dst  uint32
		both      bool
		rate      uint64
		initiator string
		by        flowpb.DirectionMethod
	}{
		{"high ports, to the higher", udp, 0, 40000, 50000, false, 1, sender, flowpb.DirectionMethod_DIRECTION_METHOD_ONLY_SENDER},
		{"high ports, to the lower", udp, 0, 50000, 40000, false, 1, sender, flowpb.DirectionMethod_DIRECTION_METHOD_ONLY_SENDER},
		{"high ports, the rate is unknown", udp, 0, 40000, 50000, false, 0, sender, flowpb.DirectionMethod_DIRECTION_METHOD_ONLY_SENDER},
		{"a later fragment of the same datagram", udp, 0, 0, 0, false, 1, sender, flowpb.DirectionMethod_DIRECTION_METHOD_ONLY_SENDER},
		{"high ports, TCP without SYN", tcp, ack | psh, 40000, 50000, false, 1, sender, flowpb.DirectionMethod_DIRECTION_METHOD_ONLY_SENDER},
		{"TCP, a SYN from the lower port", tcp, syn, 40000, 50000, false, 1, sender, flowpb.DirectionMethod_DIRECTION_METHOD_TCP_SYN},
		{"TCP, a SYN+ACK from the higher port", tcp, syn | ack, 50000, 40000, false, 1, other, flowpb.DirectionMethod_DIRECTION_METHOD_TCP_SYN},
		{"high ports, sampled", udp, 0, 40000, 50000, false, 10, other, flowpb.DirectionMethod_DIRECTION_METHOD_LOWER_PORT},
		{"one high port, sampled", udp, 0, 40000, 40000, false, 10, sender, flowpb.DirectionMethod_DIRECTION_METHOD_ONLY_SENDER},
		{"high ports, both seen", udp, 0, 40000, 50000, true, 1, other, flowpb.DirectionMethod_DIRECTION_METHOD_LOWER_PORT},
		{"from a service", udp, 0, 443, 40000, false, 1, other, flowpb.DirectionMethod_DIRECTION_METHOD_SERVICE_PORT},
		{"from a registered service", udp, 0, 5060, 40000, false, 1, other, flowpb.DirectionMethod_DIRECTION_METHOD_SERVICE_PORT},
		{"between system ports", udp, 0, 53, 123, false, 1, sender, flowpb.DirectionMethod_DIRECTION_METHOD_ONLY_SENDER},
		{"between registered ports", udp, 0, 5060, 20000, false, 1, sender, flowpb.DirectionMethod_DIRECTION_METHOD_ONLY_SENDER},
		{"between system ports, both seen", udp, 0, 53, 123, true, 1, other, flowpb.DirectionMethod_DIRECTION_METHOD_LOWER_PORT},
		{"a registered port to a system port", tcp, ack, 20000, 80, false, 1, sender, flowpb.DirectionMethod_DIRECTION_METHOD_SERVICE_PORT},
		{"a registered port to a system port, both seen", tcp, ack, 20000, 80, true, 1, sender, flowpb.DirectionMethod_DIRECTION_METHOD_SERVICE_PORT},
		{"a system port to a registered port", udp, 0, 80, 20000, false, 1, other, flowpb.DirectionMethod_DIRECTION_METHOD_SERVICE_PORT},
		{"FTP data", tcp, syn | ack, 20, 40000, true, 1, sender, flowpb.DirectionMethod_DIRECTION_METHOD_SERVICE_PORT},
		{"port 20 of UDP", udp, 0, 20, 40000, true, 1, other, flowpb.DirectionMethod_DIRECTION_METHOD_SERVICE_PORT},
		{"TCP with SYN and ACK, to the higher", tcp, syn | ack | psh, 40000, 50000, false, 1, other, flowpb.DirectionMethod_DIRECTION_METHOD_LOWER_PORT},
		{"TCP with SYN and ACK, to the lower", tcp, syn | ack | psh, 50000, 40000, false, 1, sender, flowpb.DirectionMethod_DIRECTION_METHOD_LOWER_PORT},
		{"TCP with SYN and ACK, one port", tcp, syn | ack | psh, 40000, 40000, false, 1, sender, flowpb.DirectionMethod_DIRECTION_METHOD_ONLY_SENDER},
		{"NFS from a port without a name", udp, 0, 1023, 2049, false, 1, sender, flowpb.DirectionMethod_DIRECTION_METHOD_SERVICE_PORT},
		{"NFS from a system port with a name", tcp, ack, 993, 2049, true, 1, sender, flowpb.DirectionMethod_DIRECTION_METHOD_SERVICE_PORT},
		{"NFS to a system port without a name", tcp, ack, 2049, 700, true, 1, other, flowpb.DirectionMethod_DIRECTION_METHOD_SERVICE_PORT},
		{"NFS's port to a web server", tcp, ack, 2049, 443, true, 1, sender, flowpb.DirectionMethod_DIRECTION_METHOD_SERVICE_PORT},
		{"a registered service from a port without a name", udp, 0, 700, 5060, false, 1, sender, flowpb.DirectionMethod_DIRECTION_METHOD_SERVICE_PORT},
		{"a system port with a name from a registered one", tcp, ack, 5060, 993, true, 1, sender, flowpb.DirectionMethod_DIRECTION_METHOD_SERVICE_PORT},
		{"a system port without a name from a high port", tcp, ack, 40000, 700, true, 1, sender, flowpb.DirectionMethod_DIRECTION_METHOD_SERVICE_PORT},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, exchanged := range []bool{false, true} { // the order of the addresses does not matter
				x := converse(t, c)
				for _, back := range []bool{false, true}[:1+btoi(tt.both)] {
					x.flow(func(m *flowpb.FlowMessage) {
						ports(tt.src, tt.dst)(m)
						m.Proto, m.TcpFlags, m.SamplingRate, m.Packets = tt.proto, tt.flags, tt.rate, 9
						if tt.flags == syn|ack && !tt.both {
							m.Packets = 1
						}
						public(m)
						if exchanged {
							m.SrcAddr, m.DstAddr = m.DstAddr, m.SrcAddr
						}
						if back {
							turned(m)
						}
					})
				}
				want := tt.initiator
				if exchanged {
					want = map[string]string{sender: other, other: sender}[want]
				}
				if c := x.ended(1)[0]; !slices.Equal(c.Initiator.Address, ip(want)) || c.DirectionMethod != tt.by {
					t.Errorf("want %s by %v, got %v by %v", want, tt.by, c.Initiator, c.DirectionMethod)
				}
			}
		})
	}
}

// Where nothing decides, the direction that seems to begin first is the better guess.
func TestAnArbitraryInitiatorIsTheOneThatSeemsToBeginFirst(t *testing.T) {
	for _, first := range []string{"10.0.0.5", "192.0.2.80"} {
		x := converse(t, testConfig)
		for _, back := range []bool{false, true} {
			x.flow(func(m *flowpb.FlowMessage) {
				ports(123, 123)(m)
				m.Proto, m.TcpFlags, m.TimeResolutionUs = 17, 0, 1_000_000
				if back {
					turned(m)
				}
				if !slices.Equal(m.SrcAddr, ip(first)) {
					m.TimeFlowStartNs += 20e6
				}
			})
		}
		c := x.ended(1)[0]
		if !slices.Equal(c.Initiator.Address, ip(first)) || c.DirectionMethod != flowpb.DirectionMethod_DIRECTION_METHOD_ARBITRARY {
			t.Errorf("want %s by ARBITRARY, got %v by %v", first, c.Initiator, c.DirectionMethod)
		}
	}
}

// A multicast or broadcast address must not be a source (RFC 1122 section 3.2.1.3, RFC 4291 section
// 2.7): such an address that sends is a forged or anonymised host, so that replies are possible and
// other evidence determines the initiator.
func TestAMulticastAddressThatSendsIsNoGroup(t *testing.T) {
	const host = "10.0.0.5"
	for _, group := range []string{"230.1.2.3", "255.255.255.255", "ff02::fb"} {
		host := host
		if len(ip(group)) == 16 {
			host = "fe80::5"
		}
		toGroup := func(m *flowpb.FlowMessage) { m.SrcAddr, m.DstAddr = ip(host), ip(group) }
		fromGroup := func(m *flowpb.FlowMessage) { toGroup(m); turned(m) }
		udp := func(m *flowpb.FlowMessage) { m.Proto, m.TcpFlags = 17, 0 }
		for _, tt := range []struct {
			name      string
			flows     []func(m *flowpb.FlowMessage)
			initiator string
			by        flowpb.DirectionMethod
			oneSided  bool
			reported  int64 // s
		}{
			{"a receiver alone", []func(m *flowpb.FlowMessage){toGroup}, host, flowpb.DirectionMethod_DIRECTION_METHOD_MULTICAST, false, 15},
			{"a sender alone", []func(m *flowpb.FlowMessage){func(m *flowpb.FlowMessage) { fromGroup(m); udp(m); ports(40000, 50000)(m) }},
				group, flowpb.DirectionMethod_DIRECTION_METHOD_ONLY_SENDER, true, 85},
			{"a sender alone, from a service", []func(m *flowpb.FlowMessage){func(m *flowpb.FlowMessage) { fromGroup(m); udp(m) }},
				host, flowpb.DirectionMethod_DIRECTION_METHOD_SERVICE_PORT, true, 85},
			{"the address of a TCP client", []func(m *flowpb.FlowMessage){
				func(m *flowpb.FlowMessage) { fromGroup(m); ports(40000, 50000)(m); m.TcpFlags = syn },
				func(m *flowpb.FlowMessage) { toGroup(m); ports(50000, 40000)(m); m.TcpFlags = rst | ack },
			}, group, flowpb.DirectionMethod_DIRECTION_METHOD_TCP_SYN, false, 15},
			{"both send, the host first", []func(m *flowpb.FlowMessage){
				func(m *flowpb.FlowMessage) { toGroup(m); udp(m) },
				func(m *flowpb.FlowMessage) { fromGroup(m); udp(m); m.TimeFlowStartNs += 50e6 },
			}, host, flowpb.DirectionMethod_DIRECTION_METHOD_FIRST_SEEN, false, 85},
		} {
			x := converse(t, testConfig)
			for _, set := range tt.flows {
				x.flow(func(m *flowpb.FlowMessage) { m.TcpFlags = syn | ack; m.Packets = 2; set(m) })
			}
			if len(tt.flows) == 1 && tt.reported == 15 { // unknown end: a reply is not awaited
				x.m.Advance(15e9)
			}
			c := x.ended(1)[0]
			if !slices.Equal(c.Initiator.Address, ip(tt.initiator)) || c.DirectionMethod != tt.by ||
				has(c, flowpb.Quality_QUALITY_ONE_SIDED) != tt.oneSided || c.EmittedUnixNs != tt.reported*1e9 {
				t.Errorf("%s, %s: want %s by %v, one-sided %v, reported at %d s; got %v", group, tt.name, tt.initiator, tt.by, tt.oneSided, tt.reported, c)
			}
		}
	}
}

// Exporters of biflows with tcpControlBits (IE 6) but no reverse element report the flags of one
// direction. Each TCP segment but the first SYN and some RSTs has an ACK (RFC 9293 section 3.10.7),
// so that the absence of all flags in a direction is no evidence for the absence of SYN and FIN.
func TestADirectionWithoutFlagsIsNoEvidence(t *testing.T) {
	const service, onlySYN = flowpb.DirectionMethod_DIRECTION_METHOD_SERVICE_PORT, flowpb.DirectionMethod_DIRECTION_METHOD_TCP_SYN
	const unknown = flowpb.ConnState_CONN_STATE_UNKNOWN
	for _, tt := range []struct {
		there, back uint32
		method      flowpb.DirectionMethod
		state       flowpb.ConnState
	}{
		{fin | syn | psh | ack, 0, service, unknown},
		{rst | syn | ack, 0, service, unknown},
		{syn, 0, onlySYN, unknown},
		{ack, syn | ack, onlySYN, flowpb.ConnState_CONN_STATE_S1}, // the SYN was not metered
	} {
		for _, biflow := range []bool{true, false} {
			x := converse(t, testConfig)
			x.flow(func(m *flowpb.FlowMessage) {
				m.TcpFlags = tt.there
				if m.Biflow = biflow; biflow {
					m.ReverseBytes, m.ReversePackets, m.ReverseTcpFlags = 700, 7, tt.back
				}
			})
			if !biflow {
				x.flow(func(m *flowpb.FlowMessage) { turned(m); m.TcpFlags = tt.back })
			}
			c := x.ended(1)[0]
			if c.Initiator.Port != 40000 || c.DirectionMethod != tt.method || c.ConnState != tt.state {
				t.Errorf("flags %#x and %#x, biflow %v: want port 40000 by %v, %v; got port %d by %v, %v", tt.there, tt.back, biflow,
					tt.method, tt.state, c.Initiator.Port, c.DirectionMethod, c.ConnState)
			}
		}
	}
}
