package pair

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"weir/pkg/flowpb"
)

// A talk passes records of a conversation to a machine and collects its reports.
type talk struct {
	t        *testing.T
	c        Config
	m        *Machine
	n        uint64
	out      []*flowpb.Connection
	outcomes []Outcome
	log      [][]byte // the pieces of state of all restarts
}

func converse(t *testing.T, c Config) *talk {
	t.Helper()
	x := &talk{t: t, c: c}
	x.m = New(c, 1, x.emitted)
	return x
}

func (x *talk) emitted(e *Emission) {
	r := proto.CloneOf(e.Connection)
	r.CommunityId = CommunityID(r)
	x.out = append(x.out, r)
}

// restart commits the state of the machine and replaces it by a machine restored from the log.
func (x *talk) restart() {
	x.t.Helper()
	for _, piece := range x.m.Deltas(900_000) {
		x.log = append(x.log, slices.Clone(piece))
	}
	now := x.m.StreamTime()
	x.m = New(x.c, 1, x.emitted)
	for i, piece := range x.log {
		if err := x.m.Apply(int64(i), piece); err != nil {
			x.t.Fatal(err)
		}
	}
	x.m.Restored(now)
}

// flow observes a record of 900 octets in 9 packets, 10.0.0.5:40000 → 192.0.2.80:443, TCP with
// SYN, ACK and FIN, from 1 s to 2 s, received at 10 s; set changes it.
func (x *talk) flow(set func(m *flowpb.FlowMessage)) {
	x.t.Helper()
	x.n++
	m := &flowpb.FlowMessage{
		Type: flowpb.FlowMessage_IPFIX, SrcAddr: ip("10.0.0.5"), DstAddr: ip("192.0.2.80"), SrcPort: 40000, DstPort: 443, Proto: 6, TcpFlags: fin | syn | ack,
		SamplerAddress: ip("192.0.2.1"), Bytes: 900, Packets: 9, SamplingRate: 1, DatagramHash: x.n,
		TimeReceivedNs: 10e9, TimeExportNs: 10e9, TimeFlowStartNs: 1e9, TimeFlowEndNs: 2e9, TimeResolutionUs: 1000,
	}
	set(m)
	f, ok := FromMessage(m, &x.c)
	if !ok {
		x.t.Fatalf("not pairable: %v", m)
	}
	x.outcomes = append(x.outcomes, x.m.Observe(&f))
}

// turned is the reply's direction.
func turned(m *flowpb.FlowMessage) {
	m.SrcAddr, m.DstAddr, m.SrcPort, m.DstPort = m.DstAddr, m.SrcAddr, m.DstPort, m.SrcPort
	m.SrcMac, m.DstMac = m.DstMac, m.SrcMac
}

// ended lets time pass, and returns the last report of each connection.
func (x *talk) ended(want int) []*flowpb.Connection {
	x.t.Helper()
	x.m.Close()
	var last []*flowpb.Connection
	for _, c := range x.out {
		if i := slices.IndexFunc(last, func(o *flowpb.Connection) bool { return string(o.ConnectionId) == string(c.ConnectionId) }); i >= 0 {
			last[i] = c
		} else {
			last = append(last, c)
		}
	}
	if len(last) != want {
		x.t.Fatalf("want %d connections, got %d: %v", want, len(last), last)
	}
	return last
}

func ip(s string) []byte { return netip.MustParseAddr(s).AsSlice() }

func has(c *flowpb.Connection, q flowpb.Quality) bool { return slices.Contains(c.Quality, q) }

func TestScenario12WithinASecondTwoV9PacketsHaveNoOrder(t *testing.T) {
	for _, tt := range []struct {
		name   string
		apart  uint64 // ms, of two packets whose header clock has whole seconds
		method flowpb.DirectionMethod
	}{
		{"700 ms apart", 700, flowpb.DirectionMethod_DIRECTION_METHOD_SERVICE_PORT},
		{"1100 ms apart", 1100, flowpb.DirectionMethod_DIRECTION_METHOD_FIRST_SEEN},
	} {
		x := converse(t, testConfig)
		v9 := func(m *flowpb.FlowMessage) {
			m.Type, m.TimeSource, m.TimeResolutionUs = flowpb.FlowMessage_NETFLOW_V9, flowpb.TimeSource_TIME_SOURCE_UPTIME, 1_000_000
		}
		x.flow(func(m *flowpb.FlowMessage) { v9(m); m.TimeFlowStartNs += tt.apart * 1e6 })
		x.flow(func(m *flowpb.FlowMessage) { v9(m); turned(m) })
		if c := x.ended(1)[0]; c.DirectionMethod != tt.method {
			t.Errorf("%s: want %v, got %v", tt.name, tt.method, c.DirectionMethod)
		}
	}
}

func TestScenario13AClockAnHourAheadIsCorrectedAndPairs(t *testing.T) {
	x := converse(t, testConfig)
	x.flow(func(m *flowpb.FlowMessage) {
		m.SamplerAddress = ip("192.0.2.2")
		m.TimeExportNs, m.TimeFlowStartNs, m.TimeFlowEndNs = m.TimeExportNs+3600e9, m.TimeFlowStartNs+3600e9, m.TimeFlowEndNs+3600e9
	})
	x.flow(turned)
	c := x.ended(1)[0]
	if !has(c, flowpb.Quality_QUALITY_TIME_CORRECTED) || c.Forward == nil || c.Reverse == nil || c.StartUnixNs != 1e9 || c.EndUnixNs != 2e9 {
		t.Errorf("want both directions, from 1 s to 2 s, TIME_CORRECTED; got %v", c)
	}
}

func TestScenario14ADuplicateCountsOnce(t *testing.T) {
	x := converse(t, testConfig)
	for range 3 { // the datagram again, through another replica, and its record again from Kafka
		x.flow(func(m *flowpb.FlowMessage) {
			m.DatagramHash = 77
			m.RecordOffset = 24
			m.Replica = string(rune('a' + x.n))
		})
	}
	x.flow(func(m *flowpb.FlowMessage) { m.DatagramHash = 77; m.RecordOffset = 72 }) // the datagram's next record
	if c := x.ended(1)[0]; c.Forward.Octets != 1800 || c.Forward.Records != 2 {
		t.Errorf("want 1800 octets of 2 records, got %v", c.Forward)
	}
	if want := []Outcome{Opened, Duplicate, Duplicate, Joined}; !slices.Equal(x.outcomes, want) {
		t.Errorf("want %v, got %v", want, x.outcomes)
	}
}

func TestEstimatesOfAConnectionSaturate(t *testing.T) {
	const most = 1<<64 - 1
	x := converse(t, testConfig)
	for range 2 {
		x.flow(func(m *flowpb.FlowMessage) { m.SamplingRate = 1 << 62 })
	}
	x.flow(func(m *flowpb.FlowMessage) { m.Bytes, m.Packets = most, 1 })
	if c := x.ended(1)[0].Forward; c.OctetsEst != most || c.PacketsEst != most || c.Octets != most || c.Packets != 19 {
		t.Errorf("want all that does not fit to be 2^64-1, and 19 packets; got %v", c)
	}
}

func TestScenario15IngressAndEgressCountOnce(t *testing.T) {
	said := func(x *talk) {
		for _, d := range []flowpb.FlowDirection{flowpb.FlowDirection_FLOW_DIRECTION_INGRESS, flowpb.FlowDirection_FLOW_DIRECTION_EGRESS} {
			x.flow(func(m *flowpb.FlowMessage) { m.FlowDirection = d; m.InIf, m.OutIf = 1, 2 })
		}
	}
	unsaid := func(x *talk) {
		for range 2 {
			x.flow(func(m *flowpb.FlowMessage) { m.InIf, m.OutIf = 1, 2 })
		}
		x.flow(func(m *flowpb.FlowMessage) { m.InIf, m.OutIf = 1, 2; m.TimeFlowEndNs++ }) // another record
	}
	byContent := testConfig
	byContent.DedupContent = true
	for _, tt := range []struct {
		name   string
		c      Config
		tell   func(*talk)
		octets uint64
		multi  bool
	}{
		{"with flowDirection", testConfig, said, 900, true},
		{"without, as they are", testConfig, unsaid, 2700, false},
		{"without, by content", byContent, unsaid, 1800, false},
	} {
		x := converse(t, tt.c)
		tt.tell(x)
		if c := x.ended(1)[0]; c.Forward.Octets != tt.octets || has(c, flowpb.Quality_QUALITY_MULTI_VANTAGE) != tt.multi {
			t.Errorf("%s: want %d octets, several observation points %v; got %v", tt.name, tt.octets, tt.multi, c)
		}
	}
}

func TestScenario16TheObservationPointThatCountsEveryPacketIsReported(t *testing.T) {
	x := converse(t, testConfig)
	x.flow(func(m *flowpb.FlowMessage) {
		m.SamplerAddress, m.SamplingRate, m.Bytes, m.Packets = ip("192.0.2.2"), 1000, 100, 1
	})
	x.flow(func(*flowpb.FlowMessage) {})
	c := x.ended(1)[0]
	if f := c.Forward; f.Octets != 900 || f.OctetsEst != 900 || f.SamplingRateMax != 1 || f.Vantages != 2 || !slices.Equal(f.Exporter, ip("192.0.2.1")) {
		t.Errorf("want the 900 octets of 192.0.2.1, got %v", f)
	}
}

func TestScenario17BothSidesOfANATAreOneConnection(t *testing.T) {
	inside := func(m *flowpb.FlowMessage) { m.PostNatSrcAddr, m.PostNatSrcPort = ip("198.51.100.1"), 61000 }
	outside := func(m *flowpb.FlowMessage) { // the reply, as it comes back to the translator
		m.SrcAddr, m.SrcPort, m.DstAddr, m.DstPort = ip("192.0.2.80"), 443, ip("198.51.100.1"), 61000
		m.PostNatDstAddr, m.PostNatDstPort = ip("10.0.0.5"), 40000
		m.Bytes, m.Packets = 9000, 12
	}
	other := func(m *flowpb.FlowMessage) { m.SamplerAddress = ip("192.0.2.9") } // a router inside, which knows of no NAT
	for name, order := range map[string][]func(*flowpb.FlowMessage){
		"inside first": {inside, outside, other}, "outside first": {outside, inside, other}, "the inside router first": {other, outside, inside},
	} {
		x := converse(t, testConfig)
		for _, f := range order {
			x.flow(f)
		}
		c := x.ended(1)[0]
		if a := c.Initiator; !slices.Equal(a.Address, ip("10.0.0.5")) || a.Port != 40000 || !slices.Equal(a.NatAddress, ip("198.51.100.1")) || a.NatPort != 61000 ||
			c.Forward.Octets != 900 || c.Reverse.Octets != 9000 || !has(c, flowpb.Quality_QUALITY_NAT) {
			t.Errorf("%s: want 10.0.0.5:40000 behind 198.51.100.1:61000, 900 and 9000 octets; got %v", name, c)
		}
	}
}

func TestScenario18EventsOfAFirewallAreOneConnection(t *testing.T) {
	event := func(what uint32, there, back uint64) func(*flowpb.FlowMessage) {
		return func(m *flowpb.FlowMessage) {
			m.FirewallEvent, m.TcpFlags, m.Packets, m.FlowId = what, 0, 0, 7
			m.Biflow, m.Bytes, m.ReverseBytes = there|back != 0, there, back
		}
	}
	x := converse(t, testConfig)
	create := &flowpb.FlowMessage{SrcAddr: ip("10.0.0.5"), DstAddr: ip("192.0.2.80"), Proto: 6, FirewallEvent: 1}
	if _, ok := FromMessage(create, &testConfig); ok {
		t.Error("a create event alone opens a connection")
	}
	x.flow(event(5, 100, 1000))
	x.flow(func(m *flowpb.FlowMessage) {
		event(5, 10, 20)(m)
		m.TimeReceivedNs, m.TimeExportNs, m.TimeFlowEndNs = 70e9, 70e9, 69e9
	})
	x.flow(func(m *flowpb.FlowMessage) {
		event(2, 110, 1020)(m) // the whole flow
		m.TimeReceivedNs, m.TimeExportNs, m.TimeFlowEndNs = 71e9, 71e9, 70e9
	})
	c := x.ended(1)[0]
	if c.Version != 1 || c.Forward.Octets != 110 || c.Reverse.Octets != 1020 || c.DirectionMethod != flowpb.DirectionMethod_DIRECTION_METHOD_EXPORTER ||
		c.EmitReason != flowpb.EmitReason_EMIT_REASON_COMPLETE || c.EmittedUnixNs != 76e9 || !slices.Equal(c.Initiator.Address, ip("10.0.0.5")) {
		t.Errorf("want one report, 110 and 1020 octets, 5 s after the teardown; got %v", c)
	}

	denied := converse(t, testConfig)
	denied.flow(func(m *flowpb.FlowMessage) {
		event(3, 0, 0)(m)
		m.Proto = 17
	})
	d := denied.ended(1)[0]
	if d.ConnState != flowpb.ConnState_CONN_STATE_REJ || !has(d, flowpb.Quality_QUALITY_DENIED) || d.Forward.GetOctets()+d.Reverse.GetOctets() != 0 ||
		d.DirectionMethod != flowpb.DirectionMethod_DIRECTION_METHOD_EXPORTER || d.EmittedUnixNs != 15e9 {
		t.Errorf("want a refused connection without octets after 5 s, got %v", d)
	}
}

func TestScenario19FormsOfAnAddressAreOneHost(t *testing.T) {
	x := converse(t, testConfig)
	x.flow(func(*flowpb.FlowMessage) {})
	x.flow(func(m *flowpb.FlowMessage) { // the reply, by an exporter that maps IPv4 addresses
		turned(m)
		m.SrcAddr, m.DstAddr = ip("::ffff:192.0.2.80"), ip("::ffff:10.0.0.5")
	})
	if c := x.ended(1)[0]; c.IpVersion != 4 || len(c.Initiator.Address) != 4 || c.Forward == nil || c.Reverse == nil {
		t.Errorf("want one IPv4 connection of both directions, got %v", c)
	}
	link := converse(t, testConfig)
	link.flow(func(m *flowpb.FlowMessage) { m.SrcAddr, m.DstAddr = ip("fe80::1"), ip("fe80::2") }) // zones are not exported
	link.flow(func(m *flowpb.FlowMessage) { m.SrcAddr, m.DstAddr = ip("fe80::1"), ip("fe80::2"); turned(m) })
	if c := link.ended(1)[0]; c.IpVersion != 6 || c.Forward == nil || c.Reverse == nil {
		t.Errorf("want one IPv6 connection of both directions, got %v", c)
	}
}

func TestScenario20ProtocolsWithoutPortsFragmentsAndSCTP(t *testing.T) {
	for _, tt := range []struct {
		name  string
		proto uint32
		ports bool
		q     flowpb.Quality
	}{
		{"GRE", 47, false, 0},
		{"ESP", 50, false, 0},
		{"OSPF", 89, false, 0},
		{"SCTP", 132, true, 0},
		{"later fragments of UDP", 17, false, flowpb.Quality_QUALITY_FRAGMENT},
	} {
		x := converse(t, testConfig)
		set := func(m *flowpb.FlowMessage) {
			m.Proto, m.TcpFlags = tt.proto, 0
			if !tt.ports {
				m.SrcPort, m.DstPort = 0, 0
			}
		}
		x.flow(set)
		x.flow(func(m *flowpb.FlowMessage) { set(m); turned(m) })
		c := x.ended(1)[0]
		if c.Forward == nil || c.Reverse == nil || c.ConnState != 0 || has(c, flowpb.Quality_QUALITY_FRAGMENT) != (tt.q != 0) || (c.Responder.Port == 443) != tt.ports {
			t.Errorf("%s: got %v", tt.name, c)
		}
	}
	x := converse(t, testConfig)
	unreachable := func(m *flowpb.FlowMessage) {
		m.Proto, m.SrcPort, m.DstPort, m.TcpFlags, m.IcmpType, m.IcmpCode = 1, 0, 0, 0, 3, 1
	}
	x.flow(unreachable)
	x.flow(func(m *flowpb.FlowMessage) { unreachable(m); turned(m) }) // is no reply to it
	for _, c := range x.ended(2) {
		if c.Reverse != nil || has(c, flowpb.Quality_QUALITY_ONE_SIDED) || c.GetIcmpType() != 3 || c.GetIcmpCode() != 1 || c.EmittedUnixNs != 15e9 {
			t.Errorf("unreachable: want one way after 5 s, got %v", c)
		}
	}
}

func TestScenario21AScanDoesNotPushOutConnections(t *testing.T) {
	c := testConfig
	c.MaxOpen = 100_000
	scans := uint32(2_000_000)
	if testing.Short() {
		scans = 200_000
	}
	evicted, real := 0, map[string]uint64{}
	m := New(c, 1, func(e *Emission) {
		if e.Responder.Port == 443 {
			real[string(e.ConnectionId)] = e.Forward.GetOctets() + e.Reverse.GetOctets()
		}
		if e.EmitReason == flowpb.EmitReason_EMIT_REASON_EVICTED {
			evicted++
			if e.Responder.Port == 443 {
				t.Fatalf("a connection was given up for a scan: %v", e.Connection)
			}
		}
	})
	most := 0
	observe := func(f *flowpb.FlowMessage) {
		x, ok := FromMessage(f, &c)
		if !ok {
			t.Fatal("not pairable")
		}
		m.Observe(&x)
		if open, grace := m.Held(); open+grace > most {
			most = open + grace
		}
	}
	const talks = 1000
	at := uint64(10e9)
	msg := func(src, dst []byte, sport, dport uint32, packets, octets uint64, n uint64) *flowpb.FlowMessage {
		return &flowpb.FlowMessage{
			Type: flowpb.FlowMessage_IPFIX, SrcAddr: src, DstAddr: dst, SrcPort: sport, DstPort: dport, Proto: 17, SamplerAddress: ip("192.0.2.1"),
			Bytes: octets, Packets: packets, DatagramHash: n, TimeReceivedNs: at, TimeFlowStartNs: at - 1e6, TimeFlowEndNs: at, TimeResolutionUs: 1000,
		}
	}
	for i := range uint32(talks) {
		observe(msg([]byte{10, 1, byte(i >> 8), byte(i)}, ip("192.0.2.80"), 40000, 443, 9, 900, uint64(i)+1))
	}
	for i := range scans {
		at += uint64(30 * time.Second / time.Duration(scans)) // all within the time of the grace
		observe(msg(ip("198.51.100.7"), []byte{10, byte(i >> 16), byte(i >> 8), byte(i)}, 55555, 23, 1, 40, uint64(i)+1_000_000))
	}
	for i := range uint32(talks) {
		observe(msg(ip("192.0.2.80"), []byte{10, 1, byte(i >> 8), byte(i)}, 443, 40000, 12, 100, uint64(i)+10_000_000))
	}
	m.Close()
	if most > c.MaxOpen {
		t.Errorf("%d held at once, at most %d", most, c.MaxOpen)
	}
	if evicted == 0 || len(real) != talks {
		t.Errorf("%d evicted, %d of %d connections", evicted, len(real), talks)
	}
	for id, n := range real {
		if n != 1000 {
			t.Fatalf("%x: want 1000 octets, got %d", id, n)
		}
	}
}

func TestScopesKeepAddressPlansApart(t *testing.T) {
	scoped := func(s string) Config {
		c := testConfig
		c.Scope = s
		return c
	}
	exporter := func(m *flowpb.FlowMessage) { m.SamplerAddress = ip("192.0.2.2") }
	for _, tt := range []struct {
		name  string
		c     Config
		first func(*flowpb.FlowMessage)
		reply func(*flowpb.FlowMessage)
		want  int
	}{
		{"global: two exporters, one host", scoped(ScopeGlobal), func(*flowpb.FlowMessage) {}, exporter, 1},
		{"two exporters, two hosts", scoped(ScopeExporter), func(*flowpb.FlowMessage) {}, exporter, 2},
		{"one exporter", scoped(ScopeExporter), exporter, exporter, 1},
		{"from one VRF to the other and back", scoped(ScopeVRF), func(m *flowpb.FlowMessage) { m.IngressVrfId, m.EgressVrfId = 1, 2 }, func(m *flowpb.FlowMessage) { m.IngressVrfId, m.EgressVrfId = 2, 1 }, 1},
		{"in another VRF", scoped(ScopeVRF), func(m *flowpb.FlowMessage) { m.IngressVrfId, m.EgressVrfId = 1, 1 }, func(m *flowpb.FlowMessage) { m.IngressVrfId, m.EgressVrfId = 2, 2 }, 2},
		{"a private address at two sites", testConfig, func(m *flowpb.FlowMessage) { m.Site = "fra" }, func(m *flowpb.FlowMessage) { m.Site = "ams" }, 2},
		{"a private address at two sites of one address plan", testConfig, func(m *flowpb.FlowMessage) { m.Site, m.AddressPlan = "fra", "corp" }, func(m *flowpb.FlowMessage) { m.Site, m.AddressPlan = "ams", "corp" }, 1},
		{"a private address in two address plans of one site", testConfig, func(m *flowpb.FlowMessage) { m.Site, m.AddressPlan = "fra", "corp" }, func(m *flowpb.FlowMessage) { m.Site, m.AddressPlan = "fra", "lab" }, 2},
		{"a site and an address plan of its name", testConfig, func(m *flowpb.FlowMessage) { m.Site = "fra" }, func(m *flowpb.FlowMessage) { m.Site, m.AddressPlan = "ams", "fra" }, 1},
		{"public addresses in two address plans", testConfig, func(m *flowpb.FlowMessage) { m.SrcAddr, m.AddressPlan = ip("198.51.100.5"), "corp" }, func(m *flowpb.FlowMessage) { m.DstAddr, m.AddressPlan = ip("198.51.100.5"), "lab" }, 1},
		{"public addresses at two sites", testConfig, func(m *flowpb.FlowMessage) { m.SrcAddr, m.Site = ip("198.51.100.5"), "fra" }, func(m *flowpb.FlowMessage) { m.DstAddr, m.Site = ip("198.51.100.5"), "ams" }, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			x := converse(t, tt.c)
			x.flow(tt.first)
			x.flow(func(m *flowpb.FlowMessage) { turned(m); tt.reply(m) })
			x.ended(tt.want)
		})
	}
}

// Two offices with a VPN between them: both exporters see both directions.
func TestTwoSitesOfOneAddressPlanReportAConnectionOnce(t *testing.T) {
	x := converse(t, testConfig)
	for _, site := range []string{"fra", "ams"} {
		for _, back := range []bool{false, true} {
			x.flow(func(m *flowpb.FlowMessage) {
				m.Site, m.AddressPlan, m.DstAddr = site, "corp", ip("10.2.0.7")
				if site == "ams" {
					m.SamplerAddress = ip("192.0.2.2")
				}
				if back {
					turned(m)
				}
			})
		}
	}
	if c := x.ended(1)[0]; c.Forward.Octets != 900 || c.Reverse.Octets != 900 || !has(c, flowpb.Quality_QUALITY_MULTI_VANTAGE) {
		t.Errorf("want 900 octets each way by two observation points, got %v", c)
	}
}

// An exporter's inactive timeout ends a record, not a TCP session: ssh with a pause
// of 20 s, and then more than a minute of traffic before the next record comes.
func TestATCPSessionWithPausesIsOneConnection(t *testing.T) {
	const (
		inactive = 1 // flow end reasons
		active   = 2
		ended    = 3
	)
	type part struct {
		start, end, exported uint64 // s
		reason, flags        uint32
	}
	session := []part{{1000, 1005, 1020, inactive, syn | ack}, {1025, 1085, 1086, active, ack}, {1085, 1100, 1101, ended, ack | fin}}
	unsaid := slices.Clone(session) // v5 and v9: the export time says that the flow was idle
	for i := range unsaid {
		unsaid[i].reason = 0
	}
	// The longest pause there can be: PAIR_IDLE, with the record at the end of the
	// active timeout.
	longest := []part{{1000, 1005, 1020, inactive, syn | ack}, {1080, 1140, 1141, active, ack}, {1140, 1150, 1151, ended, ack | fin}}
	for _, tt := range []struct {
		name   string
		parts  []part
		biflow bool
		at     uint64 // s, of the last report
	}{
		{"with end reasons", session, false, 1106},
		{"without end reasons", unsaid, false, 1106},
		{"in biflow records", session, true, 1106},
		{"after a pause of PAIR_IDLE", longest, false, 1156},
	} {
		t.Run(tt.name, func(t *testing.T) {
			x := converse(t, testConfig)
			for _, p := range tt.parts {
				for _, back := range []bool{false, true}[:2-btoi(tt.biflow)] {
					x.flow(func(m *flowpb.FlowMessage) {
						m.TimeFlowStartNs, m.TimeFlowEndNs = p.start*1e9, p.end*1e9
						m.TimeExportNs, m.TimeReceivedNs = p.exported*1e9, p.exported*1e9
						m.FlowEndReason, m.TcpFlags, m.DstPort = p.reason, p.flags, 22
						if tt.biflow {
							m.Biflow, m.ReverseBytes, m.ReversePackets, m.ReverseTcpFlags = true, m.Bytes, m.Packets, p.flags
						}
						if back {
							turned(m)
						}
					})
				}
			}
			c := x.ended(1)[0]
			if c.Forward.Octets != 2700 || c.Reverse.Octets != 2700 || c.ConnState != flowpb.ConnState_CONN_STATE_SF || c.EmittedUnixNs != int64(tt.at)*1e9 {
				t.Errorf("want 2700 octets each way, SF, reported at %d s; got %v", tt.at, c)
			}
		})
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// Of other protocols an idle flow ends the conversation: most are a question and its answer.
func TestAnIdleUDPConversationIsReportedAfterTheLinger(t *testing.T) {
	for _, tt := range []struct {
		name   string
		set    func(m *flowpb.FlowMessage)
		reason flowpb.EmitReason
		at     int64
	}{
		{"UDP, idle both ways", func(m *flowpb.FlowMessage) { m.Proto, m.TcpFlags, m.FlowEndReason = 17, 0, 1 }, flowpb.EmitReason_EMIT_REASON_COMPLETE, 15e9},
		{"TCP, idle both ways", func(m *flowpb.FlowMessage) { m.TcpFlags, m.FlowEndReason = ack, 1 }, flowpb.EmitReason_EMIT_REASON_IDLE, 85e9},
		{"TCP, a FIN one way and idle the other", func(m *flowpb.FlowMessage) {
			if m.TcpFlags, m.FlowEndReason = ack, 1; m.DstPort == 443 {
				m.TcpFlags |= fin
			}
		}, flowpb.EmitReason_EMIT_REASON_COMPLETE, 15e9},
	} {
		x := converse(t, testConfig)
		for _, back := range []bool{false, true} {
			x.flow(func(m *flowpb.FlowMessage) {
				if back {
					turned(m)
				}
				tt.set(m)
			})
		}
		if c := x.ended(1)[0]; c.EmitReason != tt.reason || c.EmittedUnixNs != tt.at {
			t.Errorf("%s: want %v at %d s, got %v at %d s", tt.name, tt.reason, tt.at/1e9, c.EmitReason, c.EmittedUnixNs/1e9)
		}
	}
}
