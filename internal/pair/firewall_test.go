package pair

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"weir/pkg/flowpb"
)

// A firewallEvent is an event of flow 7 of a Cisco ASA, for the flow function of a talk.
type firewallEvent struct {
	event       uint32
	there, back uint64 // octets
	at          uint64 // s, of the event; the flow began at 1 s
}

// message is an NSEL record as ingest decodes it: counters of initiator and responder.
func (x firewallEvent) message(m *flowpb.FlowMessage) {
	m.Type, m.FirewallEvent, m.FlowId, m.TcpFlags = flowpb.FlowMessage_NETFLOW_V9, x.event, 7, 0
	m.Biflow, m.Bytes, m.ReverseBytes, m.Packets, m.ReversePackets = true, x.there, x.back, x.there/10, x.back/10
	m.TimeFlowEndNs = x.at * 1e9
	m.SamplingRate = 0
}

// asaFlow is the flow of nfdump's issue 116: its updates have 2557 + 31 octets and 1117
// + 0. By Cisco's guide the teardown has the whole flow's.
var asaFlow = []firewallEvent{{5, 2557, 1117, 20}, {5, 31, 0, 40}, {2, 2588, 1117, 50}}

// permutations returns all orders of n things.
func permutations(n int) (all [][]int) {
	if n == 0 {
		return [][]int{nil}
	}
	for _, p := range permutations(n - 1) {
		for i := range n {
			all = append(all, slices.Insert(slices.Clone(p), i, n-1))
		}
	}
	return all
}

func TestEventsOfAFlowCountOnceInAnyOrderAndOverRestarts(t *testing.T) {
	for _, tt := range []struct {
		name        string
		events      []firewallEvent
		there, back uint64
		exact       bool // also after a restart with state format 2
	}{
		{"updates and the teardown", asaFlow, 2588, 1117, true},
		{"a short flow: the teardown alone", []firewallEvent{{2, 3188, 279, 10}}, 3188, 279, true},
		{"a flow that goes on: updates alone", []firewallEvent{{5, 100, 10, 5}, {5, 20, 3, 10}, {5, 0, 9, 15}}, 120, 22, true},
		{"an update was lost", []firewallEvent{{5, 2557, 1117, 20}, {2, 2588, 1117, 50}}, 2588, 1117, true},
		{"the teardown twice", []firewallEvent{{5, 10, 0, 5}, {2, 15, 6, 9}, {2, 15, 6, 9}, {5, 5, 6, 9}}, 15, 6, true},
		{"a total of 32 bits that overflowed", []firewallEvent{{5, 4_000_000_000, 7, 20}, {5, 1_000_000_000, 0, 40}, {2, 705_032_704, 7, 50}}, 5_000_000_000, 7, false},
		{"one direction", []firewallEvent{{5, 0, 548, 5}, {2, 0, 548, 9}}, 0, 548, true},
	} {
		for _, format := range []int{0, 2, 3} { // 0: no restart
			if format == 2 && !tt.exact {
				continue
			}
			for _, order := range permutations(len(tt.events)) {
				c := testConfig
				c.StateFormat = max(format, 2)
				x := converse(t, c)
				for _, i := range order {
					x.flow(tt.events[i].message)
					if format != 0 {
						x.restart()
					}
				}
				got := x.ended(1)[0]
				a, z := got.GetForward(), got.GetReverse()
				want := [4]uint64{tt.there, tt.back, tt.there, tt.back}
				if have := [4]uint64{a.GetOctets(), z.GetOctets(), a.GetOctetsEst(), z.GetOctetsEst()}; have != want {
					t.Errorf("%s, order %v, format %d: want octets %v, got %v", tt.name, order, format, want, have)
				}
				if x.m.events.inUse()+x.m.links.inUse() != 0 {
					t.Errorf("%s: %d sums and %d links are left of none", tt.name, x.m.events.inUse(), x.m.links.inUse())
				}
			}
		}
	}
}

// A Cisco ASA sends no update while nothing is transferred. Its teardown counts the whole
// flow, so that the flow is held until PAIR_TCP_PAUSE after its report.
func TestATeardownAfterASilenceCountsItsFlowOnce(t *testing.T) {
	for _, tt := range []struct {
		silence uint64 // s
		proto   uint32
		id      uint64
		want    int // connections
	}{
		{300, 6, 7, 1}, {300, 17, 7, 1}, {370, 6, 7, 1}, {380, 6, 7, 2}, {300, 17, 0, 2},
	} {
		for _, format := range []int{2, 3} {
			c := testConfig
			c.StateFormat, c.TCPPause = format, 300*time.Second
			x := converse(t, c)
			for _, e := range []firewallEvent{{5, 100, 0, 20}, {2, 150, 30, 20 + tt.silence}} {
				x.flow(func(m *flowpb.FlowMessage) {
					e.message(m)
					m.Proto, m.FlowId, m.TimeReceivedNs, m.TimeExportNs = tt.proto, tt.id, e.at*1e9, e.at*1e9
					if tt.id == 0 {
						m.TimeFlowStartNs = m.TimeFlowEndNs
					}
				})
				x.restart()
			}
			all := x.ended(tt.want)
			if r := all[len(all)-1]; r.Forward.Octets != 150 || r.Reverse.GetOctets() != 30 || tt.want == 1 && r.Version != 2 {
				t.Errorf("%+v, format %d: want 150 and 30 octets, got %v", tt, format, r)
			}
			if first := all[0]; tt.id != 0 && (first.StartUnixNs != all[len(all)-1].StartUnixNs || !proto.Equal(first.Initiator, all[len(all)-1].Initiator)) {
				t.Errorf("%+v, format %d: what a forgotten flow counted is not found by endpoints and start", tt, format)
			}
			if open, grace := x.m.Held(); open != 0 {
				t.Errorf("%d open, %d in grace", open, grace)
			}
			x.m.Advance(x.m.StreamTime() + int64(c.Linger+c.LateGrace)) // a flow after its teardown must not be held longer
			if open, grace := x.m.Held(); open+grace != 0 {
				t.Errorf("%+v: %d open and %d in grace after the teardown", tt, open, grace)
			}
		}
	}
}

// Firewalls with one direction per record count each packet in a single record.
func TestEventsOfOneDirectionAreSummed(t *testing.T) {
	x := converse(t, testConfig)
	for _, e := range []firewallEvent{{5, 100, 0, 5}, {5, 20, 0, 10}, {2, 3, 0, 15}} {
		x.flow(func(m *flowpb.FlowMessage) {
			e.message(m)
			m.Biflow = false
		})
	}
	if c := x.ended(1)[0]; c.Forward.Octets != 123 || c.Forward.Records != 3 {
		t.Errorf("want 123 octets of 3 records, got %v", c.Forward)
	}
}

// Events without a flow id may belong to several flows of a key.
func TestEventsWithoutAFlowIDAreOfSeveralFlows(t *testing.T) {
	x := converse(t, testConfig)
	for _, e := range []firewallEvent{{5, 100, 0, 5}, {2, 120, 50, 9}, {2, 7, 9, 15}} {
		x.flow(func(m *flowpb.FlowMessage) {
			e.message(m)
			m.FlowId, m.Proto = 0, 17
		})
	}
	if c := x.ended(1)[0]; c.Forward.Octets != 127 || c.Reverse.Octets != 59 {
		t.Errorf("want 120 + 7 and 50 + 9 octets, got %v", c)
	}
}

// Estimates use the sampling rate of each record. The sides of two firewalls are separate, and the side with the most
// packets is reported.
func TestEventsOfTwoFirewallsAndTheirSamplingRates(t *testing.T) {
	x := converse(t, testConfig)
	tell := func(firewall string, rate uint64, e firewallEvent) {
		x.flow(func(m *flowpb.FlowMessage) {
			e.message(m)
			m.FlowId, m.SamplerAddress, m.SamplingRate = 0, ip(firewall), rate
		})
	}
	tell("192.0.2.1", 10, firewallEvent{5, 100, 200, 5})
	tell("192.0.2.2", 10, firewallEvent{5, 90, 190, 5})
	tell("192.0.2.1", 20, firewallEvent{5, 50, 0, 8})
	tell("192.0.2.1", 10, firewallEvent{2, 150, 200, 9})
	tell("192.0.2.2", 10, firewallEvent{2, 140, 190, 9})
	c := x.ended(1)[0]
	for _, d := range []struct {
		got         *flowpb.Traffic
		octets, est uint64
	}{{c.Forward, 150, 100*10 + 50*20}, {c.Reverse, 200, 2000}} {
		if d.got.Octets != d.octets || d.got.OctetsEst != d.est || d.got.Vantages != 2 || !bytes.Equal(d.got.Exporter, ip("192.0.2.1")) {
			t.Errorf("want %d octets, estimated %d, of 192.0.2.1 and one more; got %v", d.octets, d.est, d.got)
		}
	}
}

// The values of Raised must add up to the counters of the connection, in any order of events.
func TestWhatEventsRaiseAddsUpToTheConnection(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for round := range 200 {
		m, out := collector(testConfig)
		var octets, packets uint64
		events := slices.Clone(asaFlow)
		for range rng.IntN(4) {
			events = append(events, firewallEvent{uint32([]int{2, 5}[rng.IntN(2)]), rng.Uint64N(3000), rng.Uint64N(3000), 30})
		}
		rng.Shuffle(len(events), func(i, j int) { events[i], events[j] = events[j], events[i] })
		for i, e := range events {
			msg := &flowpb.FlowMessage{
				SrcAddr: ip("10.0.0.5"), DstAddr: ip("192.0.2.80"), SrcPort: 40000, DstPort: 443, Proto: 6, SamplerAddress: ip("192.0.2.1"),
				DatagramHash: uint64(i) + 1, TimeReceivedNs: 60e9, TimeExportNs: 60e9, TimeFlowStartNs: 1e9, TimeResolutionUs: 1000,
			}
			e.message(msg)
			msg.SamplingRate = 3
			f, ok := FromMessage(msg, &testConfig)
			if !ok {
				continue
			}
			if !f.Event() {
				t.Fatalf("%+v is no event", e)
			}
			m.Observe(&f)
			o, p := m.Raised()
			octets, packets = octets+o, packets+p
		}
		m.Close()
		c := last(*out)[0]
		if a, z := c.GetForward(), c.GetReverse(); octets != a.GetOctetsEst()+z.GetOctetsEst() || packets != a.GetPacketsEst()+z.GetPacketsEst() {
			t.Errorf("round %d: %d octets and %d packets were raised; %v", round, octets, packets, c)
		}
	}
}

// Interim reports must never decrease: the teardown counts the same packets as the updates.
func TestInterimReportsOfAFirewallNeverDecrease(t *testing.T) {
	c := testConfig
	c.UpdateInterval = 1
	x := converse(t, c)
	for i, e := range []firewallEvent{{5, 100, 5, 5}, {2, 130, 50, 9}, {5, 20, 40, 8}, {5, 10, 5, 9}} {
		x.flow(func(m *flowpb.FlowMessage) {
			e.message(m)
			m.TimeReceivedNs += uint64(i) * 1e9
		})
	}
	x.ended(1)
	var got []uint64
	for _, r := range x.out {
		got = append(got, r.Forward.Octets)
	}
	if !slices.IsSorted(got) || len(got) < 4 || got[len(got)-1] != 130 {
		t.Errorf("want octets that grow to 130, got %v", got)
	}
}

// A version that does not know the extension keeps it as it is and adds to the
// counters: the extension no longer gives them, and does not count.
func TestSumsThatTheCountersContradictDoNotCount(t *testing.T) {
	c := testConfig
	c.StateFormat = 3
	x := converse(t, c)
	x.flow(firewallEvent{5, 100, 10, 5}.message)
	x.flow(firewallEvent{2, 120, 30, 9}.message)
	if x.m.events.inUse() != 2 {
		t.Fatalf("%d sums are kept, want those of two directions", x.m.events.inUse())
	}
	e := x.m.table.entries.ref(1)
	for i := e.sides; i != 0; i = x.m.sides.ref(i).next {
		if s := x.m.sides.ref(i); s.octets == 120 {
			s.octets, s.octetsE = 140, 140 // an update of 20 octets, as that version adds it
		}
	}
	x.restart()
	if x.m.events.inUse() != 1 {
		t.Errorf("%d sums are kept after the restart, want those of the direction that nothing was added to", x.m.events.inUse())
	}
	x.flow(firewallEvent{5, 30, 20, 9}.message)
	if c := x.ended(1)[0]; c.Forward.Octets != 140 || c.Reverse.Octets != 30 {
		t.Errorf("want 140 octets, taken for the teardown's, and 30; got %v", c)
	}
}

// The extension is bounded, whatever observation points and counters say, so that versions that
// keep unknown extensions keep it.
func TestTheExtensionOfEventsIsBounded(t *testing.T) {
	c := testConfig
	c.StateFormat = 3
	m, _ := collector(c)
	ident := uint64(0)
	for i := range 30 {
		for _, counting := range []counting{countsUpdate, countsFlow} {
			ident++
			f := one(ident, 1000*ms, 2000*ms)
			f.exporter, f.domain = [16]byte{0x20, 15: byte(i)}, 1<<31+uint32(i)
			f.counting, f.Biflow, f.Rate = counting, true, 1<<20
			f.There, f.Back = counts{Octets: 1 << 63, Packets: 1 << 62}, counts{Octets: 1<<63 + 1, Packets: 1 << 62}
			m.Observe(&f)
		}
	}
	if n := m.events.inUse(); n != 0 { // merging drops them: more than maxSides observation points
		t.Errorf("%d sums are left of merged sides", n)
	}
	m, _ = collector(c)
	for i := range 10 {
		for _, counting := range []counting{countsUpdate, countsFlow} {
			ident++
			f := one(ident, 1000*ms, 2000*ms)
			f.exporter, f.domain = [16]byte{0x20, 15: byte(i)}, 1<<31+uint32(i)
			f.counting, f.Biflow, f.Rate = counting, true, 1<<20
			f.There, f.Back = counts{Octets: 1 << 63, Packets: 1 << 62}, counts{Octets: 1<<63 + 1, Packets: 1 << 62}
			m.Observe(&f)
		}
	}
	if n := m.events.inUse(); n != maxEventSums {
		t.Errorf("%d sums are kept, want %d", n, maxEventSums)
	}
	with, without := len(m.Deltas(1 << 20)[0]), 0
	e := m.table.entries.ref(1)
	m.dropEvents(e)
	m.log.changed(1, e)
	without = len(m.Deltas(1 << 20)[0])
	if n := with - without; n < 100 || n > 3+maxEventOctets {
		t.Errorf("the extension has %d octets, want at most %d", n, 3+maxEventOctets)
	}
}

// A record of the key without an event counts with the updates.
func TestAPlainRecordBesideEventsCountsWithTheUpdates(t *testing.T) {
	x := converse(t, testConfig)
	tell := func(e firewallEvent, plain bool) {
		x.flow(func(m *flowpb.FlowMessage) {
			e.message(m)
			if m.FlowId = 0; plain {
				m.FirewallEvent = 0
			}
		})
	}
	tell(firewallEvent{5, 100, 10, 5}, false)
	tell(firewallEvent{2, 120, 10, 9}, false)
	tell(firewallEvent{0, 40, 0, 9}, true)
	if c := x.ended(1)[0]; c.Forward.Octets != 140 || c.Reverse.Octets != 10 {
		t.Errorf("want 100 + 40 octets, more than the teardown's, and 10; got %v", c)
	}
}

func TestARestoredMachineWithEventsIsTheSame(t *testing.T) {
	c := testConfig
	c.StateFormat = 3
	rng := rand.New(rand.NewPCG(5, 6))
	for round := range 100 {
		want, got := converse(t, c), converse(t, c)
		for range 3 + rng.IntN(6) {
			e := firewallEvent{uint32([]int{2, 5, 5}[rng.IntN(3)]), 1 + rng.Uint64N(300), rng.Uint64N(300), 5 + rng.Uint64N(9)}
			want.flow(e.message)
			got.flow(e.message)
			got.restart()
		}
		if d := cmp.Diff(want.ended(1), got.ended(1), protocmp.Transform()); d != "" {
			t.Fatalf("round %d (-without restarts +with):\n%s", round, d)
		}
	}
}

func FuzzReadEvents(f *testing.F) {
	c := testConfig
	c.StateFormat = 3
	m := New(c, 1, func(*Emission) {})
	for i, counting := range []counting{countsUpdate, countsFlow} {
		r := one(uint64(i)+1, 1000*ms, 2000*ms)
		r.counting, r.Biflow, r.There, r.Back = counting, true, counts{Octets: 100 + uint64(i)*50, Packets: 1}, counts{Octets: 10, Packets: 1}
		m.Observe(&r)
	}
	var b coder
	e := m.table.entries.ref(1)
	m.appendEvents(&b, e)
	f.Add(b.b[2:])
	f.Add([]byte{1, 0})
	f.Fuzz(func(t *testing.T, in []byte) {
		if err := m.readEvents(in, e); err != nil && !errors.Is(err, errCut) {
			t.Errorf("error %v", err)
		}
		if n := m.events.inUse(); n > maxEventSums {
			t.Errorf("%d sums", n)
		}
		for i := m.links.ref(e.link).events; i != 0; i = m.events.ref(i).next {
			if x := m.events.ref(i); x.updates.greatest(x.flow) != m.sides.ref(x.side).amounts() {
				t.Errorf("sums %s do not give the counters", fmt.Sprint(*x))
			}
		}
	})
}
