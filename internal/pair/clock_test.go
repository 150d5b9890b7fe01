package pair

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weir/pkg/flowpb"
)

// skewed adds a session of a second at base, ns, as reported by an exporter with a clock that is slow by skew and
// with export times in whole seconds. The two directions are exported in two datagrams, 400 ms apart.
func skewed(x *talk, base, skew int64, port uint32) {
	x.t.Helper()
	for _, d := range []struct {
		start, exported int64 // ms
		back            bool
	}{{0, 1500, false}, {5, 1900, true}} {
		x.flow(func(m *flowpb.FlowMessage) {
			m.TimeFlowStartNs, m.TimeFlowEndNs = uint64(base+d.start*ms-skew), uint64(base+1000*ms-skew)
			m.TimeExportNs = uint64((base + d.exported*ms - skew) / 1e9 * 1e9)
			m.TimeReceivedNs = uint64(base + d.exported*ms)
			m.FlowEndReason, m.SrcPort = 3, port
			if d.back {
				turned(m)
			}
		})
	}
}

func TestAClockNearTheLimitDoesNotSplitConnections(t *testing.T) {
	const n = 300
	for _, skew := range []int64{8_100, 9_300, 9_700, 10_000, 10_400, 11_900, -9_700, -10_000, -10_900} { // ms
		t.Run(fmt.Sprint(time.Duration(skew)*time.Millisecond), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(1, 1))
			x := converse(t, testConfig)
			for i := range n {
				skewed(x, 1_000_000e9+int64(i)*10e9+rng.Int64N(1e9), skew*ms, 40000+uint32(i))
			}
			corrected := 0
			for _, c := range x.ended(n) {
				if c.Responder.Port != 443 || c.Forward.GetOctets() != 900 || c.Reverse.GetOctets() != 900 {
					t.Fatalf("want 900 octets each way to port 443, got %v", c)
				}
				if has(c, flowpb.Quality_QUALITY_TIME_CORRECTED) {
					corrected++
				}
			}
			if corrected != 0 && corrected != n {
				t.Errorf("%d of %d connections corrected: want all or none", corrected, n)
			}
		})
	}
}

// A clock that drifts through the band is corrected from its upper end on, and until
// its lower end on the way back.
func TestTheCorrectionOfADriftingClockChangesAtTheEndsOfTheBand(t *testing.T) {
	x := converse(t, testConfig)
	var want []bool
	n := int64(0)
	for _, leg := range []struct {
		from, to, change int64 // ms; corrected from the change on, or until it
		up               bool
	}{{9000, 14000, 12000, true}, {14000, 6000, 8000, false}, {6000, 14000, 12000, true}} {
		step := int64(250)
		if !leg.up {
			step = -step
		}
		for skew := leg.from; skew != leg.to; skew += step {
			if skew == leg.change {
				continue // on the edge
			}
			x.flow(func(m *flowpb.FlowMessage) {
				at := 1_000_000e9 + n*300e9 // each a connection of its own
				m.TimeReceivedNs, m.TimeExportNs = uint64(at), uint64(at-skew*ms)
				m.TimeFlowStartNs, m.TimeFlowEndNs = m.TimeExportNs-2e9, m.TimeExportNs-1e9
			})
			n++
			want = append(want, skew > leg.change)
		}
	}
	var got []bool
	for _, c := range x.ended(len(want)) {
		got = append(got, has(c, flowpb.Quality_QUALITY_TIME_CORRECTED))
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("corrected (-want +got):\n%s", d)
	}
	if len(x.m.clocks.at) != 0 {
		t.Errorf("a clock outside the band is kept: %v", x.m.clocks.at)
	}
}

// nearLimit changes the records of an exporter as if its clock drifted around the limit, by a second per record.
func nearLimit(flows []Flow, c *Config, seed uint64) []Flow {
	rng := rand.New(rand.NewPCG(seed, 7))
	drift := int64(9_000)
	for i := range flows {
		f := &flows[i]
		if f.exporter[15] != 1 {
			continue
		}
		drift = min(max(drift+rng.Int64N(301)-150, 7_000), 13_000)
		f.Offset = (drift + rng.Int64N(1000)) * ms
		f.Start, f.End, f.Export = f.Start-f.Offset, f.End-f.Offset, f.Received-f.Offset
		if f.Offset > int64(c.MaxClockSkew)+c.clockBand() {
			f.correct() // as FromMessage does
		}
	}
	return flows
}

func TestARestoredMachineKeepsTheCorrectionOfClocks(t *testing.T) {
	restores, corrected := 0, 0
	for seed := range uint64(8) {
		flows := nearLimit(traffic(seed, 900), &testConfig, seed)
		want := undisturbed(testConfig, flows)
		got, n := disturbed(t, testConfig, flows, 40, 900_000, seed, 3)
		restores += n
		if d := cmp.Diff(want, got); d != "" {
			t.Fatalf("seed %d (-undisturbed +disturbed):\n%.3000s", seed, d)
		}
		m := New(testConfig, 1, func(*Emission) {})
		for i := range flows {
			m.Observe(&flows[i])
			corrected += len(m.clocks.at)
		}
	}
	if restores == 0 || corrected == 0 {
		t.Errorf("%d restores, %d records with a decision kept: proves nothing", restores, corrected)
	}
}

// Format 2 has no decisions: a connection that was open goes on as it was.
func TestAfterARestoreFromFormat2AClockGoesOnAsItsNewestConnection(t *testing.T) {
	for _, tt := range []struct {
		first, then int64 // ms of offset
		corrected   bool
	}{{10_300, 9_600, true}, {9_600, 10_300, false}} {
		x := converse(t, testConfig)
		for i, offset := range []int64{tt.first, tt.then} {
			x.flow(func(m *flowpb.FlowMessage) {
				at := int64(1_000_000e9) + int64(i)*ms*400
				m.TimeReceivedNs, m.TimeExportNs = uint64(at), uint64(at-offset*ms)
				m.TimeFlowStartNs, m.TimeFlowEndNs = uint64(at-10_000*ms-1e9), uint64(at-10_000*ms)
				m.TcpFlags = ack
				if i == 1 {
					turned(m)
				}
			})
			x.restart()
		}
		if c := x.ended(1)[0]; has(c, flowpb.Quality_QUALITY_TIME_CORRECTED) != tt.corrected || c.EndUnixNs-c.StartUnixNs > 2e9 {
			t.Errorf("offsets %d and %d ms: want corrected %v, two records at most 2 s apart; got %v", tt.first, tt.then, tt.corrected, c)
		}
	}
}

func TestForgedExportersNearTheLimitAreBounded(t *testing.T) {
	c := testConfig
	c.StateFormat, c.MaxOpen = 3, 100
	m := New(c, 1, func(*Emission) {})
	f := nearLimit(traffic(1, 1), &c, 1)[0]
	f.Offset, f.Start, f.End = 9_000*ms, f.Received, f.Received
	for i := range uint32(5 * maxClocks) {
		f.domain, f.Ident = i, uint64(i)+1
		m.Observe(&f)
	}
	shared := 0
	m.shared.forEach(tagClocks, func(string, []byte) { shared++ })
	if len(m.clocks.at) != maxClocks || shared != maxClocks || len(m.clocks.order) > 2*maxClocks {
		t.Errorf("%d decisions, %d logged, %d in order; want %d, %d, at most %d", len(m.clocks.at), shared, len(m.clocks.order), maxClocks, maxClocks, 2*maxClocks)
	}
	for i := range uint32(maxClocks) {
		if _, ok := m.clocks.at[clock{f.exporter, 4*maxClocks + i}]; !ok {
			t.Fatalf("the newest clocks are not kept: %d", i)
		}
	}
	if !slices.IsSortedFunc(m.clocks.order, func(a, b ordered) int { return int(a.seq) - int(b.seq) }) {
		t.Error("the order of decisions is lost")
	}
}

// State can hold more clocks than a machine keeps: the newest decisions stay, the others
// are removed from the state too.
func TestRestoredClocksAreBounded(t *testing.T) {
	c := testConfig
	c.StateFormat = 3
	from, m := New(c, 1, func(*Emission) {}), New(c, 1, func(*Emission) {})
	of := func(i int) clock { return clock{domain: uint32(i)} }
	const n = 2*maxClocks + 7
	for i := range n {
		key := of(i).key()
		from.shared.set(tagClocks, key, binary.AppendUvarint([]byte{1}, uint64(i+1)))
	}
	for i, p := range from.Deltas(1 << 20) {
		if err := m.Apply(int64(i), p); err != nil {
			t.Fatal(err)
		}
	}
	m.Restored(1)
	m.Deltas(1 << 20)
	_, oldest := m.clocks.at[of(n-maxClocks)]
	_, beyond := m.clocks.at[of(n-maxClocks-1)]
	if len(m.clocks.at) != maxClocks || len(m.shared.at) != maxClocks || !oldest || beyond {
		t.Errorf("%d clocks, %d in the state, want the newest %d", len(m.clocks.at), len(m.shared.at), maxClocks)
	}
}
