package pair

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"weir/internal/flowkey"
	"weir/pkg/flowpb"
)

// one returns a record of a UDP conversation from 10.0.0.5:40000 to 192.0.2.80:443.
func one(ident uint64, start, end int64) Flow {
	t := flowkey.Tuple{Src: [16]byte{10: 0xff, 11: 0xff, 12: 10, 15: 5}, Dst: [16]byte{10: 0xff, 11: 0xff, 12: 192, 14: 2, 15: 80}, SrcPort: 40000, DstPort: 443, Proto: 17}
	f := Flow{Ident: ident, Received: end, Start: start, End: end, Resolution: ms, Rate: 1, There: counts{Octets: 900, Packets: 9}}
	f.Key, f.SrcIsLo = t.Canon()
	return f
}

// last returns the last report of each connection, in the order of first reports.
func last(all []*flowpb.Connection) (out []*flowpb.Connection) {
	for _, c := range all {
		if i := slices.IndexFunc(out, func(o *flowpb.Connection) bool { return string(o.ConnectionId) == string(c.ConnectionId) }); i >= 0 {
			out[i] = c
		} else {
			out = append(out, c)
		}
	}
	return out
}

// collector returns a machine and its reports.
func collector(c Config) (*Machine, *[]*flowpb.Connection) {
	out := new([]*flowpb.Connection)
	return New(c, 1, func(e *Emission) { *out = append(*out, proto.CloneOf(e.Connection)) }), out
}

// A NetFlow v5 header names an engine out of 65 536, and each engine is an observation point. 1.6 MB of datagrams
// suffice for 70 000 records.
func TestManyObservationPointsOfOneConnectionAreMerged(t *testing.T) {
	const n, base = 6000, 1000 * int64(time.Second)
	for _, tt := range []struct {
		name   string
		at     func(i int) (start, end int64)
		octets func(i int) uint64
		want   uint64
	}{
		// The design's rule: of observation points that overlap the strongest counts.
		{"all at the same time", func(int) (int64, int64) { return base, base + 10*ms }, func(i int) uint64 { return uint64(i%1000) + 1 }, 1000},
		// Observation points 3 s apart observed different packets: they are summed.
		{"one after the other", func(i int) (int64, int64) { s := base + int64(i)*3*int64(time.Second); return s, s + ms }, func(int) uint64 { return 7 }, 7 * n},
		{"one before the other", func(i int) (int64, int64) { s := base + int64(n-i)*3*int64(time.Second); return s, s + ms }, func(int) uint64 { return 7 }, 7 * n},
		{"half of them in one place", func(i int) (int64, int64) {
			s := base + int64(i/2)*3*int64(time.Second)
			return s, s + ms
		}, func(i int) uint64 { return uint64(7 - i%2*2) }, 7 * n / 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := testConfig
			c.UpdateInterval = 0
			m, out := collector(c)
			largest := 0
			for i := range n {
				start, end := tt.at(i)
				f := one(uint64(i)+1, start, end)
				f.Received, f.exporter[15], f.domain = base+int64(i)*ms, 1, uint32(i)
				f.There = counts{Octets: tt.octets(i), Packets: tt.octets(i)}
				m.Observe(&f)
				if i%5000 == 4999 {
					for _, p := range m.Deltas(900_000) {
						largest = max(largest, len(p))
					}
				}
			}
			// 48 sides of at most 150 octets, and the fixed fields of an entry.
			if largest > 8000 {
				t.Errorf("a piece of one connection has %d octets", largest)
			}
			if used := m.sides.inUse(); used > 2*maxSides {
				t.Errorf("%d sides are held", used)
			}
			if b := m.TakeBounded(); b.ObservationPoints != n-maxSides {
				t.Errorf("%d parts of records count as merged, want %d", b.ObservationPoints, n-maxSides)
			}
			m.Close()
			got := last(*out)
			if len(got) != 1 || got[0].Forward.Octets != tt.want || !has(got[0], flowpb.Quality_QUALITY_MANY_VANTAGES) {
				t.Errorf("want one connection of %d octets, MANY_VANTAGES; got %d: %v", tt.want, len(got), got)
			}
			if m.sides.inUse()+len(m.points.at) != 0 {
				t.Errorf("%d sides and %d observation points are left of none", m.sides.inUse(), len(m.points.at))
			}
		})
	}
}

func TestObservationPointsWithinTheBoundAreKeptApart(t *testing.T) {
	m, out := collector(testConfig)
	for i := range 2 * maxSides {
		f := one(uint64(i)+1, 1000*int64(time.Second), 1001*int64(time.Second))
		f.exporter[15], f.SrcIsLo = byte(i), i%2 == 0
		m.Observe(&f)
	}
	m.Close()
	c := (*out)[0]
	if c.Forward.Vantages != maxSides || c.Reverse.Vantages != maxSides || has(c, flowpb.Quality_QUALITY_MANY_VANTAGES) || m.TakeBounded() != (Bounded{}) {
		t.Errorf("want %d observation points of each direction, nothing merged; got %v", maxSides, c)
	}
}

// The end of the connection that a dropped observation point observed must be kept.
func TestTheEndThatAMergedObservationPointSawCounts(t *testing.T) {
	m, out := collector(testConfig)
	for i := range maxSides + 1 {
		for back := range 2 {
			f := one(uint64(2*i+back)+1, 1000*int64(time.Second), 1001*int64(time.Second))
			f.Key.Proto, f.exporter[15], f.SrcIsLo = flowkey.TCP, byte(i), back == 0
			if f.There.Flags = ack; i == maxSides { // the weakest: the only one that saw SYN and FIN
				f.There = counts{Octets: 1, Packets: 1, Flags: syn | ack | fin}
			}
			m.Observe(&f)
		}
	}
	m.Advance(m.StreamTime() + int64(testConfig.Linger))
	if len(*out) != 1 || (*out)[0].EmitReason != flowpb.EmitReason_EMIT_REASON_COMPLETE || (*out)[0].ConnState != flowpb.ConnState_CONN_STATE_SF {
		t.Errorf("want SF, COMPLETE after PAIR_LINGER; got %v", *out)
	}
}

// An entry with more sides than maxSides, as a version without that bound wrote it.
func TestSidesBeyondTheBoundAreMergedAtRestore(t *testing.T) {
	big := New(testConfig, 1, func(*Emission) {})
	first := one(1, 1000*int64(time.Second), 1001*int64(time.Second))
	big.Observe(&first)
	e := big.table.entries.ref(1)
	for i := range 21_000 {
		s := big.newSide(e, observationPoint{domain: uint32(i) + 1})
		*s = side{point: s.point, next: s.next, toHi: i%2 == 0, octets: uint64(i), octetsE: uint64(i),
			packets: 1, packsE: 1, start: first.Start, end: first.End, rateMin: 1, rateMax: 1, records: 1}
	}
	pieces := big.Deltas(10 << 20)
	m, out := collector(testConfig)
	if err := m.Apply(0, pieces[0]); err != nil {
		t.Fatal(err)
	}
	m.Restored(first.Received)
	if used := m.sides.inUse(); used != 2*maxSides {
		t.Errorf("%d sides are held, want %d", used, 2*maxSides)
	}
	m.Close()
	if c := (*out)[0]; c.Forward.Octets != 900 && c.Reverse.Octets != 900 || max(c.Forward.Octets, c.Reverse.Octets) != 20_999 || !has(c, flowpb.Quality_QUALITY_MANY_VANTAGES) {
		t.Errorf("want the strongest of each direction, 900 octets of 9 packets and 20 999 of 1; got %v", c)
	}
}

// With many connections of a key, each record must be compared with a bounded number of them, no octets may be lost,
// and entries of other keys must stay.
func TestManyConnectionsOfOneKeyAreGivenUp(t *testing.T) {
	const n = 3000
	m, out := collector(testConfig)
	other := one(1, 999*int64(time.Second), 1000*int64(time.Second))
	other.Key.LoPort++
	m.Observe(&other)
	base := 1_000_000 * int64(time.Second)
	for i := range n {
		f := one(uint64(i)+2, base+int64(i)*100*int64(time.Second), base+int64(i)*100*int64(time.Second)+1)
		f.Received = other.Received + int64(i)*ms/1000
		m.Observe(&f)
		k := stateKey{f.Key, 0}
		same, hash := 0, k.hash()
		for i := m.table.first(&k, hash); i != 0; i = m.table.next(i) {
			same++
		}
		if same > maxSameKey {
			t.Fatalf("record %d: %d connections of one key", i, same)
		}
	}
	if open, _ := m.Held(); open != maxSameKey+1 {
		t.Errorf("%d are open, want %d and one of another key", open, maxSameKey)
	}
	evicted := 0
	for _, c := range *out {
		if c.EmitReason == flowpb.EmitReason_EMIT_REASON_EVICTED {
			evicted++
		}
	}
	if b := m.TakeBounded(); evicted != n-maxSameKey || b.SameKey != n-maxSameKey {
		t.Errorf("%d reported as evicted, %d counted, want %d", evicted, b.SameKey, n-maxSameKey)
	}
	m.Close()
	sum := uint64(0)
	for _, c := range last(*out) {
		sum += c.Forward.GetOctets() + c.Reverse.GetOctets()
	}
	if sum != 900*(n+1) {
		t.Errorf("%d octets of %d", sum, 900*(n+1))
	}
}

// Of the connections of a key, those already reported must be evicted first.
func TestReportedConnectionsOfAKeyGoFirst(t *testing.T) {
	m, out := collector(testConfig)
	base := 1000 * int64(time.Second)
	put := func(i int, received int64) {
		f := one(uint64(i)+1, base+int64(i)*200*int64(time.Second), base+int64(i)*200*int64(time.Second)+1)
		f.Received = received
		m.Observe(&f)
	}
	for i := range maxSameKey - 1 {
		put(i, base)
	}
	m.Advance(base + int64(testConfig.Idle))
	for i := range 10 {
		put(100+i, m.StreamTime())
	}
	if open, grace := m.Held(); open != 10 || grace != maxSameKey-10 || len(*out) != maxSameKey-1 {
		t.Errorf("%d open, %d in grace after %d reports; want 10, %d, %d", open, grace, len(*out), maxSameKey-10, maxSameKey-1)
	}
}

func TestTimesOfAnyValueKeepConnectionsApart(t *testing.T) {
	x := converse(t, testConfig)
	x.flow(func(*flowpb.FlowMessage) {})
	for _, v := range []uint64{0x8000_0000_0000_0000, 0x8000_0000_0000_0001, math.MaxUint64, math.MaxInt64, 1 << 62} {
		x.flow(func(m *flowpb.FlowMessage) { m.TimeFlowStartNs, m.TimeFlowEndNs, m.TimeExportNs = v, v, 0 })
		x.flow(func(m *flowpb.FlowMessage) { m.TimeReceivedNs, m.TimeExportNs = v&(1<<40), v })
	}
	x.m.Close()
	for _, c := range x.out {
		if c.StartUnixNs > c.EndUnixNs || c.StartUnixNs < 0 {
			t.Errorf("from %d to %d", c.StartUnixNs, c.EndUnixNs)
		}
		if c.StartUnixNs == 1e9 && c.EndUnixNs > 100e9 {
			t.Errorf("a record of the year 2116 joined: from %d to %d", c.StartUnixNs, c.EndUnixNs)
		}
	}
}

// settings draws other durations and bounds, of those that may change at a restart.
func settings(rng *rand.Rand, c Config) Config {
	span := func(least, most int64) time.Duration {
		return time.Duration(least+rng.Int64N(most-least)) * time.Second
	}
	c.ActiveTimeout, c.InactiveTimeout = span(5, 100), span(1, 30)
	c.Idle = c.ActiveTimeout + span(1, 100)
	c.Linger = min(c.Idle, span(1, 60))
	c.LateGrace = time.Duration(rng.IntN(2)) * span(0, 200)
	c.ClockSkew, c.UpdateInterval = span(0, 5), time.Duration(rng.IntN(2))*span(5, 100)
	c.MaxOpen = []int{6, 30, 1_000_000}[rng.IntN(3)]
	c.StateFormat = 2 + rng.IntN(2)
	return c
}

// A restart may change every setting, up and down: nothing is lost, nothing is
// reported twice, versions have no gap, and nothing stays open longer than the
// settings say.
func TestSettingsMayChangeAtAnyRestart(t *testing.T) {
	restarts := 0
	for seed := range uint64(150) {
		rng := rand.New(rand.NewPCG(seed, 11))
		var committed, void []*flowpb.Connection
		emit := func(e *Emission) { void = append(void, proto.CloneOf(e.Connection)) }
		c := testConfig
		m, j := New(c, 1, emit), journal{from: -1, streamTime: math.MinInt64}
		flows := traffic(seed, 900)
		done, in := 0, uint64(0)
		for done < len(flows) {
			batch := flows[done:min(len(flows), done+1+rng.IntN(60))]
			octets := uint64(0)
			for i, f := range batch {
				f.observationPoint, f.Ident, f.Rate = observationPoint{}, uint64(done+i)+1, 1 // one observation point and no duplicates: sums are exact
				octets += f.There.Octets + f.Back.Octets
				m.Observe(&f)
			}
			if rng.IntN(4) == 0 { // the idle rule
				m.Advance(m.StreamTime() + rng.Int64N(40)*int64(time.Second))
			}
			killed := rng.IntN(6) == 0
			if !killed {
				j.commit(m, 1600)
				committed, done, in = append(committed, void...), done+len(batch), in+octets
			} else if rng.IntN(2) == 0 {
				m.Deltas(1600)
			}
			void = nil
			if killed || rng.IntN(3) == 0 {
				c = settings(rng, c)
				m = New(c, 1, emit)
				j.restore(t, m)
				restarts++
			}
			if open, grace := m.Held(); open < 0 || grace < 0 || open+grace != m.table.entries.inUse() {
				t.Fatalf("seed %d: %d open, %d in grace, %d in the table", seed, open, grace, m.table.entries.inUse())
			}
			inOrder(t, m)
		}
		m.Advance(m.StreamTime() + int64(c.Idle))
		if open, _ := m.Held(); open != 0 {
			t.Fatalf("seed %d: %d connections are open PAIR_IDLE after the last record", seed, open)
		}
		check(t, seed, append(committed, void...), in)
	}
	if restarts < 1000 {
		t.Errorf("%d restarts prove little", restarts)
	}
}

// inOrder holds that each queue is in the order of deadlines.
func inOrder(t *testing.T, m *Machine) {
	t.Helper()
	for q := range m.queues {
		at := int64(math.MinInt64)
		for i := m.queues[q].front; i != 0; i = m.table.nodes.ref(i).after {
			e := m.table.entries.ref(i)
			if e.deadline < at {
				t.Fatalf("queue %d: deadline %d after %d", q, e.deadline, at)
			}
			at = e.deadline
		}
	}
}

// check checks that the reports have every version once, that the last version is final, and the sum of octets.
func check(t *testing.T, seed uint64, reports []*flowpb.Connection, octets uint64) {
	t.Helper()
	versions := map[string]uint32{}
	for _, c := range reports {
		id := string(c.ConnectionId)
		if versions[id]++; c.Version != versions[id] {
			t.Fatalf("seed %d: %x: version %d is reported after %d", seed, id[:4], c.Version, versions[id]-1)
		}
	}
	sum := uint64(0)
	for _, c := range last(reports) {
		if !c.Final {
			t.Fatalf("seed %d: the last report of %x is not final", seed, c.ConnectionId[:4])
		}
		sum += c.GetForward().GetOctets() + c.GetReverse().GetOctets()
	}
	if sum != octets {
		t.Fatalf("seed %d: %d octets are reported of %d", seed, sum, octets)
	}
}

// AdvanceUpTo in several calls must emit the same reports as a single Advance, for any deadlines; a restore between
// two calls must change nothing.
func TestAdvanceInPiecesGivesTheSame(t *testing.T) {
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 13))
		flows := traffic(seed, 500)
		for i := range flows { // many deadlines are equal
			flows[i].Received -= flows[i].Received % (20 * int64(time.Second))
		}
		c := testConfig
		c.StateFormat = 2 + int(seed%2)
		if seed%3 == 0 {
			c.MaxOpen = 12
		}
		want := undisturbed(c, flows)
		var got []string
		calls := 0
		emit := func(e *Emission) { got = append(got, printed(e)) }
		m, j := New(c, 1, emit), journal{from: -1}
		advance := func(t0 int64) {
			for {
				calls++
				n := rng.IntN(4)
				before := len(got)
				more := m.AdvanceUpTo(t0, n)
				if len(got)-before > n {
					t.Fatalf("seed %d: %d reports, at most %d", seed, len(got)-before, n)
				}
				if more != m.Due(t0) {
					t.Fatalf("seed %d: more is %v, due is %v", seed, more, m.Due(t0))
				}
				inOrder(t, m)
				if rng.IntN(3) == 0 {
					j.commit(m, 1600)
					m = New(c, 1, emit)
					j.restore(t, m)
				}
				if !more {
					return
				}
			}
		}
		for i := range flows {
			advance(flows[i].Received)
			m.Observe(&flows[i])
		}
		advance(m.StreamTime() + int64(time.Hour))
		if fmt.Sprint(want) != fmt.Sprint(got) {
			t.Fatalf("seed %d: %d reports in pieces, %d in one go:\n%.2000s\n%.2000s", seed, len(got), len(want), got, want)
		}
		if calls < len(flows) {
			t.Error("proves little")
		}
	}
}

// altered returns a piece with the connection that first opens, and with its sides replaced by sides.
func altered(t *testing.T, first Flow, sides []side) []byte {
	t.Helper()
	m := New(testConfig, 1, func(*Emission) {})
	m.Observe(&first)
	e := m.table.entries.ref(1)
	m.releaseParts(e)
	for i := range sides {
		s := m.newSide(e, observationPoint{domain: uint32(i) + 1})
		next, v := s.next, s.point
		*s = sides[i]
		s.next, s.point = next, v
	}
	pieces := m.Deltas(1 << 20)
	if len(pieces) != 1 {
		t.Fatalf("%d pieces", len(pieces))
	}
	return pieces[0]
}

// The 25th side is as far from each of the others as two times can be.
func TestSidesOfAnyTimesAreMergedAtRestore(t *testing.T) {
	first := one(1, 1000*int64(time.Second), 1001*int64(time.Second))
	sides := []side{{toHi: true, rateMin: 1, rateMax: 1, records: 1, packets: 1}}
	for i := range maxSides {
		sides = append(sides, side{toHi: true, rateMin: 1, rateMax: 1, records: 1, packets: 1, start: math.MaxInt64, end: int64(i) + 1})
	}
	m, out := collector(testConfig)
	if err := m.Apply(0, altered(t, first, sides)); err != nil {
		t.Fatal(err)
	}
	m.Restored(first.Received)
	if used := m.sides.inUse(); used != maxSides {
		t.Errorf("%d sides are held, want %d", used, maxSides)
	}
	m.Close()
	if len(*out) != 1 {
		t.Errorf("%d connections, want 1", len(*out))
	}
}

func TestAnEntryWithoutSidesIsRefused(t *testing.T) {
	first := one(1, 1000*int64(time.Second), 1001*int64(time.Second))
	m, _ := collector(testConfig)
	if err := m.Apply(0, altered(t, first, nil)); !errors.Is(err, errPiece) {
		t.Errorf("want an error that names the piece, got %v", err)
	}
}

// A version without maxSameKey wrote 9 000 connections of a key, each of them twice. A restored machine must hold
// each once; the next records of the key must evict all but maxSameKey, the oldest first, and report each.
func TestAKeyWithManyRestoredConnectionsIsBroughtToItsBound(t *testing.T) {
	const n = 9000
	old := New(testConfig, 1, func(*Emission) {})
	base := one(1, 999*int64(time.Second), 1000*int64(time.Second))
	old.Observe(&base)
	first := *old.table.entries.ref(1)
	for i := range n - 1 {
		e := first
		e.origin, e.seq, e.sides, e.marks, e.in = uint64(i)+2, uint64(i)+2, 0, 0, queueNone
		x := old.table.insert(&e, e.key.hash())
		s := old.newSide(old.table.entries.ref(x), base.observationPoint)
		v := s.point
		*s = *old.sides.ref(first.sides)
		s.point, s.next = v, 0
	}
	m, out := collector(testConfig)
	for round := range int64(2) {
		for i := range int32(n) {
			old.log.changed(i+1, old.table.entries.ref(i+1))
		}
		for i, p := range old.Deltas(900_000) {
			if err := m.Apply(100*round+int64(i), p); err != nil {
				t.Fatal(err)
			}
		}
	}
	m.Restored(base.Received)
	if open, _ := m.Held(); open != n || m.crowds != nil {
		t.Fatalf("%d connections are restored, want %d", open, n)
	}
	const records = 10
	for i := range records {
		f := one(n+uint64(i)+1, base.Start+int64(i+1)*int64(time.Hour), base.End+int64(i+1)*int64(time.Hour))
		f.Received = base.Received
		before := len(*out)
		m.Observe(&f)
		if got := len(*out) - before; got > maxSameKeyEvicted {
			t.Fatalf("record %d pushed out %d connections, at most %d", i, got, maxSameKeyEvicted)
		}
	}
	if open, _ := m.Held(); open != maxSameKey {
		t.Errorf("%d are open, want %d", open, maxSameKey)
	}
	const gone = n + records - maxSameKey
	if b := m.TakeBounded(); len(*out) != gone || b.SameKey != gone {
		t.Errorf("%d reported, %d counted, want %d", len(*out), b.SameKey, gone)
	}
	if id, want := (*out)[0].ConnectionId, first.id(); string(id) != string(want[:]) {
		t.Error("the oldest is not the first that went")
	}
}
