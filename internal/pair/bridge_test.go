package pair

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"weir/internal/flowkey"
	"weir/pkg/flowpb"
)

// lateTraffic is traffic in which two of three records happened up to 100 s earlier, so
// that later records bridge connections, reported or not, and TCP connections pause.
func lateTraffic(seed uint64, n int) []Flow {
	flows := traffic(seed, n)
	for i := range flows {
		f := &flows[i]
		rng := rand.New(rand.NewPCG(f.Ident, seed)) // a record that is delivered again stays the same
		if f.Key.Proto == flowkey.TCP && rng.IntN(2) == 0 {
			f.There.Flags = ack
			f.Reason = 0
		}
		if rng.IntN(3) > 0 {
			by := rng.Int64N(100_000) * ms
			f.Start, f.End = f.Start-by, f.End-by
		}
	}
	return flows
}

// tcpRecord is a TCP record of seconds start to end, received at second rx; turned is the
// reply's direction.
func tcpRecord(rx, start, end, flags uint32, reply bool) func(*flowpb.FlowMessage) {
	return func(m *flowpb.FlowMessage) {
		m.TcpFlags = flags
		m.TimeReceivedNs, m.TimeFlowStartNs, m.TimeFlowEndNs = uint64(rx)*1e9, uint64(start)*1e9, uint64(end)*1e9
		m.TimeExportNs = m.TimeReceivedNs
		if reply {
			turned(m)
		}
	}
}

// The flags follow RFC 9293 sections 3.5 and 3.6: a connection begins with a SYN, and a segment without SYN belongs
// to an existing connection.
func TestATCPRecordWithoutSYNGoesOnWithWhatIsHeld(t *testing.T) {
	c := testConfig
	c.TCPPause = 300 * time.Second
	shorter := testConfig
	whole := []func(*flowpb.FlowMessage){tcpRecord(10, 1, 9, syn|ack, false), tcpRecord(10, 1, 9, syn|ack, true)}
	closed := []func(*flowpb.FlowMessage){tcpRecord(10, 1, 9, syn|ack|fin, false), tcpRecord(10, 1, 9, syn|ack|fin, true)}
	for _, tt := range []struct {
		name  string
		c     Config
		flows []func(*flowpb.FlowMessage)
		want  int
	}{
		{"a FIN once more, 40 s after the end", c, append(slices.Clone(closed), tcpRecord(50, 49, 49, ack|fin, true)), 1},
		{"data 90 s after the end", c, append(slices.Clone(closed), tcpRecord(101, 99, 100, ack|psh, true)), 2},
		{"a SYN 20 s after the end", c, append(slices.Clone(closed), tcpRecord(40, 29, 39, syn|ack, false)), 2},
		{"no flags 20 s after the end", c, append(slices.Clone(closed), tcpRecord(40, 29, 39, 0, false)), 2},
		{"data after a pause of 290 s, and of 290 s more", c, append(slices.Clone(whole), tcpRecord(360, 299, 350, ack|psh, true), tcpRecord(700, 640, 641, ack|psh, false)), 1},
		{"data after a pause of 310 s", c, append(slices.Clone(whole), tcpRecord(330, 319, 320, ack|psh, true)), 2},
		{"a SYN after a pause of 90 s", c, append(slices.Clone(whole), tcpRecord(101, 99, 100, syn|ack, false)), 2},
		{"no flags after a pause of 90 s", c, append(slices.Clone(whole), tcpRecord(101, 99, 100, 0, false)), 2},
		{"data after a pause of 90 s without PAIR_TCP_PAUSE", shorter, append(slices.Clone(whole), tcpRecord(101, 99, 100, ack|psh, false)), 2},
	} {
		x := converse(t, tt.c)
		for i, f := range tt.flows {
			x.flow(f)
			if i%2 == 1 {
				x.restart()
			}
		}
		total := uint64(0)
		x.m.Close()
		all := last(x.out)
		for _, r := range all {
			total += r.GetForward().GetOctets() + r.GetReverse().GetOctets()
		}
		if len(all) != tt.want || total != 900*uint64(len(tt.flows)) {
			t.Errorf("%s: want %d connections of %d octets, got %v", tt.name, tt.want, 900*len(tt.flows), all)
		}
	}
}

// A pausing connection is held for PAIR_TCP_PAUSE; connections that ended, scans and connections of other protocols
// are held for PAIR_LATE_GRACE.
func TestWhatPausesIsHeldForLongerAndGoesFirst(t *testing.T) {
	c := testConfig
	c.TCPPause, c.MaxOpen = 300*time.Second, 3
	udp := func(m *flowpb.FlowMessage) {
		tcpRecord(10, 1, 9, 0, false)(m)
		m.Proto = 17
	}
	held := func(x *talk, at int64) int {
		x.m.Advance(at * int64(time.Second))
		open, grace := x.m.Held()
		return open + grace
	}
	for _, tt := range []struct {
		name    string
		flows   []func(*flowpb.FlowMessage)
		seconds int64 // held after the record at 10 s
	}{
		{"pausing", []func(*flowpb.FlowMessage){tcpRecord(10, 1, 9, syn|ack, false)}, 375},
		{"ended by one side", []func(*flowpb.FlowMessage){tcpRecord(10, 1, 9, syn|ack|fin, false)}, 135},
		{"a scan", []func(*flowpb.FlowMessage){func(m *flowpb.FlowMessage) { tcpRecord(10, 1, 9, syn, false)(m); m.Packets = 2 }}, 135},
		{"without flags", []func(*flowpb.FlowMessage){tcpRecord(10, 1, 9, 0, false)}, 135},
		{"UDP", []func(*flowpb.FlowMessage){udp}, 135},
	} {
		x := converse(t, c)
		for _, f := range tt.flows {
			x.flow(f)
		}
		before, after := held(x, 10+tt.seconds-1), 0
		if tt.seconds > 135 {
			x.restart()
			before = held(x, 10+tt.seconds-1)
		}
		if after = held(x, 10+tt.seconds); before != 1 || after != 0 {
			t.Errorf("%s: %d held 1 s before %d s have passed, %d then", tt.name, before, tt.seconds, after)
		}
	}

	x := converse(t, c)
	other := func(port, rx uint32, f func(*flowpb.FlowMessage)) func(*flowpb.FlowMessage) {
		return func(m *flowpb.FlowMessage) { f(m); m.SrcPort, m.TimeReceivedNs = port, uint64(rx)*1e9 }
	}
	x.flow(other(1, 10, tcpRecord(10, 1, 9, syn|ack, false)))
	x.flow(other(2, 160, udp))
	x.flow(other(3, 240, udp)) // the connection of port 2 is in grace, that of port 1 pauses
	x.flow(other(4, 241, udp))
	if b := x.m.TakeBounded(); b.Paused != 1 {
		t.Errorf("want one pausing connection forgotten, got %+v", b)
	}
	if open, grace := x.m.Held(); open != 2 || grace != 1 {
		t.Errorf("want the connection in grace to stay: %d open, %d in grace", open, grace)
	}
}

// A restore must read the log from the end of the grace, not from the begin of the pause.
func TestAPauseHoldsBackTheLogForLessThanItLasts(t *testing.T) {
	c := testConfig
	c.TCPPause = 600 * time.Second
	x := converse(t, c)
	x.flow(tcpRecord(10, 1, 9, syn|ack, false))
	j := journal{from: -1}
	j.commit(x.m, 900_000)
	x.m.Advance(150 * int64(time.Second))
	j.commit(x.m, 900_000)
	if j.from != 1 {
		t.Errorf("the log is needed from piece %d, want 1", j.from)
	}
}

// A step of stream time over a silence of all exporters ends the grace of all entries. The number of entries that it
// logs must be bounded; a restore from the log must give the same state.
func TestWhatPausesAfterASilenceIsNotAllLoggedAtOnce(t *testing.T) {
	c := testConfig
	c.TCPPause = 300 * time.Second
	x := converse(t, c)
	const connections = 5 * maxLoggedAgain
	for i := range uint32(connections) {
		x.flow(func(m *flowpb.FlowMessage) {
			tcpRecord(10, 1, 9, syn|ack, false)(m)
			m.SrcPort = 1 + i
		})
	}
	x.m.Advance(90 * int64(time.Second)) // all are reported
	j := journal{from: -1}
	j.commit(x.m, 900_000)
	before := len(j.pieces)
	x.m.Advance(200 * int64(time.Second)) // and pause
	if open, grace := x.m.Held(); open != 0 || grace != connections {
		t.Fatalf("%d open, %d in grace", open, grace)
	}
	octets := 0
	j.commit(x.m, 900_000)
	for _, p := range j.pieces[before:] {
		octets += len(p)
	}
	if most := maxLoggedAgain * 200; octets == 0 || octets > most {
		t.Errorf("a step of stream time logs %d octets, want at most %d", octets, most)
	}
	m := New(c, 1, func(*Emission) {})
	for i := max(j.from, 0); i < int64(len(j.pieces)); i++ {
		if err := m.Apply(i, j.pieces[i]); err != nil {
			t.Fatal(err)
		}
	}
	m.Restored(x.m.StreamTime())
	if open, grace := m.Held(); open != 0 || grace != connections {
		t.Errorf("after a restore: %d open, %d in grace", open, grace)
	}
}

// A censor or an intrusion prevention system answers a SYN with a RST of the server's
// address; the server's SYN+ACK comes after it. softflowd and others end the flow at the
// RST. A reused port has a SYN of the side that opened, too.
func TestARSTBeforeTheSYNACKOpensNoSecondConnection(t *testing.T) {
	first := []func(*flowpb.FlowMessage){tcpRecord(10, 1, 1, syn, false), tcpRecord(10, 2, 2, rst|ack, true)}
	injected := append(slices.Clone(first), tcpRecord(20, 3, 9, syn|ack|psh, true), tcpRecord(20, 4, 9, ack|rst, false))
	reused := append(slices.Clone(first), tcpRecord(20, 3, 9, syn|ack|psh, false), tcpRecord(20, 4, 9, syn|ack, true))
	ended := []func(*flowpb.FlowMessage){
		tcpRecord(10, 1, 2, syn|ack|psh|fin, false), tcpRecord(10, 1, 2, syn|ack|psh|rst, true), tcpRecord(20, 4, 9, syn|ack, true),
	}
	for _, tt := range []struct {
		name  string
		flows []func(*flowpb.FlowMessage)
		want  int
	}{{"injected", injected, 1}, {"the port is used again", reused, 2}, {"reset after data", ended, 2}} {
		x := converse(t, testConfig)
		for _, f := range tt.flows {
			x.flow(f)
		}
		x.ended(tt.want)
	}
	rng := rand.New(rand.NewPCG(1, 1))
	for range 30 {
		rng.Shuffle(len(injected), func(i, j int) { injected[i], injected[j] = injected[j], injected[i] })
		x := converse(t, testConfig)
		for i, f := range injected {
			x.flow(func(m *flowpb.FlowMessage) { f(m); m.TimeReceivedNs, m.TimeExportNs = 20e9+uint64(i), 20e9 })
		}
		x.m.Close()
		if all := unmerged(last(x.out)); len(all) != 1 || all[0].Forward.Records != 2 || all[0].Reverse.Records != 2 {
			t.Fatalf("in another order: %v", all)
		}
	}
}

// unmerged leaves out the connections that became a part of another.
func unmerged(all []*flowpb.Connection) []*flowpb.Connection {
	return slices.DeleteFunc(slices.Clone(all), func(c *flowpb.Connection) bool {
		return c.EmitReason == flowpb.EmitReason_EMIT_REASON_MERGED
	})
}

func TestARecordThatBridgesTwoConnectionsMakesThemOne(t *testing.T) {
	part := func(rx, start, end int64) func(*flowpb.FlowMessage) {
		return func(m *flowpb.FlowMessage) {
			m.Proto, m.TcpFlags, m.TimeExportNs = 17, 0, 0
			m.TimeReceivedNs, m.TimeFlowStartNs, m.TimeFlowEndNs = uint64(rx)*1e9, uint64(start)*1e9, uint64(end)*1e9
		}
	}
	for _, tt := range []struct {
		name    string
		rx      int64 // of the record that bridges
		late    int64 // of the second part
		version uint32
		reports int // of the connection that was merged
	}{
		{"both are open", 202, 201, 1, 0},
		{"both were reported", 280, 201, 2, 2},
		{"the first was reported", 280, 250, 2, 0},
	} {
		x := converse(t, testConfig)
		x.flow(part(200, 1, 10))
		x.flow(part(tt.late, 100, 110))
		x.restart()
		x.flow(part(tt.rx, 50, 60))
		x.restart()
		x.m.Close()
		all := last(x.out)
		one := unmerged(all)
		if len(one) != 1 {
			t.Fatalf("%s: want one connection, got %v", tt.name, all)
		}
		if c := one[0]; c.Forward.GetOctets() != 2700 || c.Forward.Records != 3 || c.StartUnixNs != 1e9 || c.EndUnixNs != 110e9 || c.FirstReceivedUnixNs != 200e9 || c.Version != tt.version {
			t.Errorf("%s: want 2700 octets of 3 records from 1 s to 110 s, version %d; got %v", tt.name, tt.version, c)
		}
		reports := 0
		for _, r := range x.out {
			if string(r.ConnectionId) != string(one[0].ConnectionId) {
				reports++
			}
		}
		if reports != tt.reports {
			t.Errorf("%s: %d reports of the other, want %d: %v", tt.name, reports, tt.reports, x.out)
		}
		for _, r := range all {
			if r != one[0] && (r.Version != 2 || !r.Final || r.Forward != nil || r.Reverse != nil || r.ConnState != 0 || len(r.Quality) != 0 ||
				r.Initiator == nil || r.EmittedUnixNs != tt.rx*1e9) {
				t.Errorf("%s: want version 2, final, without traffic, when the record came; got %v", tt.name, r)
			}
		}
	}
}

// An exporter that ends a flow at the RST of its own direction reports the other
// direction of a reused port in a single record. The connections must stay separate, also if two routers report them:
// the record of the second router spans the connections of the first.
func TestARecordOverSeveralConnectionsDoesNotMergeThem(t *testing.T) {
	for name, flows := range map[string][]func(*flowpb.FlowMessage){
		"reset after data": {
			tcpRecord(10, 1, 2, syn|ack|psh|rst, true), tcpRecord(10, 4, 5, syn|ack|psh|rst, true), tcpRecord(10, 7, 8, syn|ack|psh|rst, true),
			tcpRecord(30, 1, 8, syn|ack|psh, false),
		},
		"refused": {
			tcpRecord(10, 1, 1, ack|rst, true), tcpRecord(20, 12, 12, ack|rst, true), tcpRecord(30, 24, 24, ack|rst, true), tcpRecord(40, 1, 24, syn, false),
		},
	} {
		inTurn := []int{0, 1, 0, 1, 0, 1, 0, 1}
		for _, routers := range [][]int{{0, 0, 0, 0}, inTurn, {0, 0, 0, 0, 1, 1, 1, 1}} {
			x := converse(t, testConfig)
			var next [2]int
			for _, router := range routers {
				x.flow(func(m *flowpb.FlowMessage) {
					flows[next[router]](m)
					m.SamplerAddress = ip([]string{"192.0.2.1", "192.0.2.2"}[router])
				})
				next[router]++
			}
			if all := x.ended(3); len(unmerged(all)) != 3 {
				t.Errorf("%s, by routers %v: want 3 connections, got %v", name, routers, all)
			}
		}
	}
}

// Cisco's guide to NSEL: an update counts since the previous update, the teardown counts the whole flow. It bridges
// the connections of updates that were far apart.
func TestATeardownThatBridgesTheUpdatesOfItsFlowCountsItOnce(t *testing.T) {
	for name, total := range map[string]uint64{"the updates are whole": 250, "an update was lost": 400} {
		c := testConfig
		c.StateFormat = 3
		x := converse(t, c)
		event := func(what uint32, rx, start, end, octets uint64) {
			x.flow(func(m *flowpb.FlowMessage) {
				m.FirewallEvent, m.TcpFlags, m.Packets, m.FlowId, m.Biflow = what, 0, 0, 7, true
				m.Bytes, m.ReverseBytes = octets, 10*octets
				m.TimeReceivedNs, m.TimeExportNs, m.TimeFlowStartNs, m.TimeFlowEndNs = rx*1e9, rx*1e9, start*1e9, end*1e9
			})
			x.restart()
		}
		event(eventUpdated, 210, 1, 10, 100)
		event(eventUpdated, 211, 200, 210, 150)
		event(eventDeleted, 212, 1, 211, total)
		event(eventDeleted, 213, 1, 211, total) // through another path
		r := x.ended(1)[0]
		if r.Forward.Octets != total || r.Reverse.Octets != 10*total || r.Version != 1 {
			t.Errorf("%s: want %d and %d octets, got %v", name, total, 10*total, r)
		}
	}
}

// timeline generates records of a conversation, and the connections that they form by the documented rule of time: a
// pause longer than limit begins a new connection.
func timeline(rng *rand.Rand, proto uint8, limit int64) (flows []Flow, want []string) {
	at, begins := int64(1_700_000_000)*int64(time.Second), true
	tuple := flowkey.Tuple{Src: [16]byte{10: 0xff, 11: 0xff, 12: 10, 15: 1}, Dst: [16]byte{10: 0xff, 11: 0xff, 12: 192, 15: 2}, SrcPort: 40000, DstPort: 443, Proto: proto}
	var sum [2]counts
	start := at
	for n := 2 + rng.IntN(20); n > 0; n-- {
		f := Flow{
			Ident: uint64(n), Resolution: ms, Rate: 1, Start: at, End: at + rng.Int64N(20_000)*ms,
			There: counts{Octets: 1 + rng.Uint64N(5000), Packets: 3 + rng.Uint64N(9)},
		}
		x, i := tuple, 0
		if rng.IntN(2) == 0 {
			i, x.Src, x.Dst, x.SrcPort, x.DstPort = 1, x.Dst, x.Src, x.DstPort, x.SrcPort
		}
		if proto == flowkey.TCP {
			if f.There.Flags = ack; begins {
				f.There.Flags |= syn
			}
		}
		f.Key, f.SrcIsLo = x.Canon()
		flows = append(flows, f)
		sum[i].Octets, sum[i].Packets, begins = sum[i].Octets+f.There.Octets, sum[i].Packets+f.There.Packets, false
		at = f.End + 1 + rng.Int64N(limit)
		if n == 1 || rng.IntN(4) == 0 {
			want = append(want, fmt.Sprintf("%d to %d: %d/%d %d/%d", start, f.End, sum[0].Octets, sum[0].Packets, sum[1].Octets, sum[1].Packets))
			at = f.End + limit + 10*int64(time.Second) + rng.Int64N(limit)
			start, begins, sum = at, true, [2]counts{}
		}
	}
	slices.Sort(want)
	return flows, want
}

func TestConnectionsDoNotDependOnTheOrderOfArrival(t *testing.T) {
	merges := 0
	for seed := range uint64(400) {
		rng := rand.New(rand.NewPCG(seed, 11))
		c := testConfig
		c.UpdateInterval, c.TCPPause, c.LateGrace = 0, 300*time.Second, time.Hour
		proto, limit := uint8(17), int64(c.Idle)
		if seed%2 == 1 {
			proto, limit = flowkey.TCP, int64(c.TCPPause)
		}
		flows, want := timeline(rng, proto, limit)
		for range 10 {
			rng.Shuffle(len(flows), func(i, j int) { flows[i], flows[j] = flows[j], flows[i] })
			m, out := collector(c)
			now := int64(1_700_100_000) * int64(time.Second)
			for i := range flows {
				now += rng.Int64N(50_000) * ms // some are reported before the next comes
				flows[i].Received = now
				m.Observe(&flows[i])
			}
			m.Close()
			var got []string
			for _, r := range last(*out) {
				if r.EmitReason == flowpb.EmitReason_EMIT_REASON_MERGED {
					merges++
					continue
				}
				there, back := r.Forward, r.Reverse
				if r.Initiator.Port == 443 {
					there, back = back, there
				}
				got = append(got, fmt.Sprintf("%d to %d: %d/%d %d/%d", r.StartUnixNs, r.EndUnixNs, there.GetOctets(), there.GetPackets(), back.GetOctets(), back.GetPackets()))
			}
			slices.Sort(got)
			if d := gocmp.Diff(want, got); d != "" {
				t.Fatalf("seed %d, protocol %d (-made +paired):\n%s\n%s", seed, proto, d, strings.Join(want, "\n"))
			}
		}
	}
	if merges < 1000 {
		t.Errorf("%d reported connections were merged: proves little", merges)
	}
}

// A record may bridge many entries of a key, each with many sides. The work is bounded by the records that opened the
// merged entries before.
func TestBridgingManyConnectionsKeepsTheBounds(t *testing.T) {
	c := testConfig
	m, out := collector(c)
	in, ident := uint64(0), uint64(0)
	observe := func(start, end int64, domain uint32) {
		ident++
		f := one(ident, start*int64(time.Second), end*int64(time.Second))
		f.Received, f.domain = 10_000*int64(time.Second)+int64(ident), domain
		in += f.There.Octets
		m.Observe(&f)
	}
	for k := range int64(maxSameKey) {
		for domain := range uint32(maxSides) {
			observe(k*100, k*100+1, uint32(k)*maxSides+domain)
		}
	}
	if open, _ := m.Held(); open != maxSameKey {
		t.Fatalf("%d open", open)
	}
	observe(0, maxSameKey*100, 1_000_000)
	if open, grace := m.Held(); open != 1 || grace != 0 || m.table.entries.inUse() != 1 || m.sides.inUse() > 2*maxSides || len(m.points.at) > 2*maxSides {
		t.Errorf("%d open, %d in grace, %d entries, %d sides, %d observation points", open, grace, m.table.entries.inUse(), m.sides.inUse(), len(m.points.at))
	}
	m.Close()
	if len(*out) != 1 || m.sides.inUse()+m.table.entries.inUse()+len(m.points.at) != 0 {
		t.Errorf("%d reports; %d sides, %d entries, %d observation points are left", len(*out), m.sides.inUse(), m.table.entries.inUse(), len(m.points.at))
	}
}
