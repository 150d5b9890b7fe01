package pair

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"weir/internal/flowkey"
	"weir/pkg/flowpb"
)

// traffic makes records of few conversations, so that they meet again while
// open, in grace and after; times pass unevenly.
func traffic(seed uint64, n int) []Flow {
	rng := rand.New(rand.NewPCG(seed, 1))
	now := int64(1_700_000_000) * int64(time.Second)
	out := make([]Flow, 0, n)
	for i := range n {
		now += rng.Int64N(900) * ms
		if rng.IntN(200) == 0 {
			now += rng.Int64N(200_000) * ms
		}
		client, server := netip.AddrFrom4([4]byte{10, 0, 0, byte(rng.IntN(12))}), netip.AddrFrom4([4]byte{192, 0, 2, byte(rng.IntN(3))})
		t := flowkey.Tuple{Src: client.As16(), Dst: server.As16(), SrcPort: 40000 + uint16(rng.IntN(2)), DstPort: 443, Proto: []uint8{6, 17}[rng.IntN(2)]}
		if rng.IntN(2) == 0 {
			t.Src, t.Dst, t.SrcPort, t.DstPort = t.Dst, t.Src, t.DstPort, t.SrcPort
		}
		f := Flow{
			Ident: uint64(i) + 1, observationPoint: observationPoint{exporter: [16]byte{15: byte(rng.IntN(2))}, iface: uint8(rng.IntN(2))},
			Received: now, Resolution: ms, Rate: uint64(rng.IntN(3)),
			Start: now - rng.Int64N(30_000)*ms, Reason: uint8(rng.IntN(4)),
			There: counts{Octets: rng.Uint64N(5000), Packets: 1 + rng.Uint64N(9), Flags: uint16(rng.IntN(32))},
		}
		f.End = f.Start + rng.Int64N(10_000)*ms
		f.Key, f.SrcIsLo = t.Canon()
		if rng.IntN(10) == 0 {
			f.Biflow, f.Back = true, counts{Octets: 1, Packets: 1}
			f.quality |= bit(flowpb.Quality_QUALITY_BIFLOW)
			f.NATSrc = endpoint{port: 7}
			f.SrcMAC = 1
		}
		if i > 0 && rng.IntN(20) == 0 {
			f = out[len(out)-1-rng.IntN(min(30, len(out)))] // delivered again
			f.Received = now
		}
		out = append(out, f)
	}
	return out
}

// printed is all that an emission says.
func printed(e *Emission) string {
	return prototext.Format(e.Connection) + strconv.FormatUint(e.More, 10)
}

// undisturbed returns the reports of a single machine for flows and a long silence after them.
func undisturbed(c Config, flows []Flow) (out []string) {
	m := New(c, 1, func(x *Emission) {
		out = append(out, (prototext.Format(x.Connection) + strconv.FormatUint(x.More, 10)))
	})
	for i := range flows {
		m.Observe(&flows[i])
	}
	m.Advance(m.StreamTime() + int64(time.Hour))
	return out
}

// disturbed commits after every batch, and drops the machine after some batches: reports since the last commit are
// void, and another machine is restored from the log, from the offset of RestoreFrom on. Each machine writes a format
// out of formats.
func disturbed(t *testing.T, c Config, flows []Flow, batch, limit int, seed uint64, formats ...int) (out []string, restores int) {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 2))
	var pieces [][]byte
	var void []string
	emit := func(x *Emission) {
		void = append(void, (prototext.Format(x.Connection) + strconv.FormatUint(x.More, 10)))
	}
	c.StateFormat = formats[rng.IntN(len(formats))]
	m := New(c, 1, emit)
	committed, streamTime, from := 0, m.StreamTime(), int64(-1)
	for committed < len(flows) {
		to := min(committed+1+rng.IntN(batch), len(flows))
		for i := committed; i < to; i++ {
			m.Observe(&flows[i])
		}
		if rng.IntN(3) == 0 { // killed before the commit, or after its pieces were made
			if rng.IntN(2) == 0 {
				m.Deltas(limit)
			}
			void = nil
			c.StateFormat = formats[rng.IntN(len(formats))]
			m = New(c, 1, emit)
			if from >= 0 {
				for i := from; i < int64(len(pieces)); i++ {
					if err := m.Apply(i, pieces[i]); err != nil {
						t.Fatal(err)
					}
				}
			}
			m.Restored(streamTime)
			restores++
			continue
		}
		var offsets []int64
		for _, p := range m.Deltas(limit) {
			if len(p) > limit {
				t.Fatalf("a piece of %d octets, limit %d", len(p), limit)
			}
			offsets = append(offsets, int64(len(pieces)))
			pieces = append(pieces, slices.Clone(p))
		}
		m.Logged(offsets)
		out, void = append(out, void...), nil
		committed, streamTime, from = to, m.StreamTime(), m.RestoreFrom()
		for i := max(from, 0); from >= 0 && i < int64(len(pieces)); i++ {
			if got := int(pieces[i][0]); got > c.StateFormat {
				t.Fatalf("a restore after a commit in format %d reads a piece of format %d", c.StateFormat, got)
			}
		}
	}
	m.Advance(m.StreamTime() + int64(time.Hour))
	return append(out, void...), restores
}

func TestARestoredMachineContinuesAsTheOneThatWroteTheLog(t *testing.T) {
	small := testConfig
	small.MaxOpen = 8
	interim := testConfig
	interim.UpdateInterval = 20 * time.Second
	pauses := testConfig
	pauses.TCPPause = 200 * time.Second
	for name, c := range map[string]Config{"as usual": testConfig, "with evictions": small, "with interim reports": interim, "with pauses": pauses} {
		for _, batch := range []int{3, 40, 400} { // 400 records span more than linger and grace
			for format, limit := range map[int]int{2: 1600, 3: 900_000} {
				t.Run(fmt.Sprintf("%s, batches of %d, pieces of %d, format %d", name, batch, limit, format), func(t *testing.T) {
					restores := 0
					for seed := range uint64(4) {
						flows := traffic(seed, 900)
						if seed%2 == 1 {
							flows = lateTraffic(seed, 900)
						}
						want := undisturbed(c, flows)
						got, n := disturbed(t, c, flows, batch, limit, seed, format)
						restores += n
						if d := cmp.Diff(want, got); d != "" {
							t.Fatalf("seed %d: %d emissions undisturbed, %d disturbed (-undisturbed +disturbed):\n%.3000s", seed, len(want), len(got), d)
						}
					}
					if restores == 0 {
						t.Error("never killed: nothing was proved")
					}
				})
			}
		}
	}
}

func TestWhatEndsHeldIsCounted(t *testing.T) {
	m := New(testConfig, 1, func(*Emission) {})
	flows := traffic(1, 500)
	for i := range flows {
		m.Observe(&flows[i])
		if open, grace := m.Held(); open < 0 || grace < 0 || open+grace != m.table.entries.inUse() {
			t.Fatalf("after %d records: %d open, %d in grace, %d in the table", i, open, grace, m.table.entries.inUse())
		}
	}
	m.Advance(m.StreamTime() + int64(time.Hour))
	if open, grace := m.Held(); open+grace+m.table.entries.inUse()+m.sides.inUse()+m.links.inUse()+len(m.points.at) != 0 {
		t.Errorf("after an hour: %d open, %d in grace, %d entries, %d sides, %d links, %d observation points",
			open, grace, m.table.entries.inUse(), m.sides.inUse(), m.links.inUse(), len(m.points.at))
	}
	m.Deltas(1 << 20)
	if from := m.RestoreFrom(); from != -1 {
		t.Errorf("nothing is held, the log is needed from %d", from)
	}
}

func TestAtCapacityScansGoFirstAndAreReported(t *testing.T) {
	c := testConfig
	c.MaxOpen = 2
	var out []*flowpb.Connection
	m := New(c, 1, func(x *Emission) { out = append(out, proto.CloneOf(x.Connection)) })
	put := func(port uint16, packets uint64, at int64) {
		f := Flow{Ident: uint64(port), Received: at, Start: at, End: at, Resolution: ms, There: counts{Octets: 40, Packets: packets}}
		tuple := flowkey.Tuple{Src: netip.MustParseAddr("10.0.0.1").As16(), Dst: netip.MustParseAddr("10.0.0.2").As16(), SrcPort: port, DstPort: 80, Proto: 17}
		f.Key, f.SrcIsLo = tuple.Canon()
		m.Observe(&f)
	}
	put(1001, 9, 1000*ms) // older, but not small
	put(1002, 1, 2000*ms) // a scan
	put(1003, 5, 3000*ms)
	if len(out) != 1 || out[0].EmitReason != flowpb.EmitReason_EMIT_REASON_EVICTED || out[0].Initiator.Port != 1002 {
		t.Fatalf("want the scan from port 1002 evicted, got %v", out)
	}
	put(1004, 5, 4000*ms)
	if len(out) != 2 || out[1].Initiator.Port != 1001 {
		t.Fatalf("then the one due next, got %v", out)
	}
}

func FuzzApplyRefusesWhatIsNoPiece(f *testing.F) {
	for _, format := range []int{2, 3} {
		c := testConfig
		c.StateFormat = format
		m := New(c, 1, func(*Emission) {})
		flows := traffic(3, 40)
		for i := range flows {
			m.Observe(&flows[i])
		}
		m.shared.set(1, []byte("key"), []byte("value"))
		for _, p := range m.Deltas(4000) {
			f.Add(p)
		}
		f.Add([]byte{byte(format), 0, 0, 0, 1})
	}
	f.Add(section3([]byte{sectionShared, 9, 1, 'k', 1, 'v'}, []byte{9, 1, 2}))
	f.Fuzz(func(t *testing.T, piece []byte) {
		c := testConfig
		m := New(c, 1, func(*Emission) {})
		if m.Apply(0, piece) != nil {
			return
		}
		m.Restored(0)
		again := New(c, 1, func(*Emission) {})
		rewritten(t, m, again)
		if open, grace := m.Held(); open+grace != m.table.entries.inUse() {
			t.Fatalf("%d open, %d in grace, %d in the table", open, grace, m.table.entries.inUse())
		}
		m.Advance(1 << 62)
	})
}

// rewritten writes all that m holds in format 3, and restores to from it.
func rewritten(t *testing.T, m, to *Machine) {
	t.Helper()
	m.c.StateFormat = 3
	for i := int32(1); i <= m.table.entries.n; i++ {
		if e := m.table.entries.ref(i); e.marks&isHeld != 0 {
			m.log.changed(i, e)
		}
	}
	for i := range m.shared.values {
		if len(m.shared.values[i].value) > 0 {
			m.shared.changed(int32(i))
		}
	}
	for i, p := range m.Deltas(900_000) {
		if err := to.Apply(int64(i), p); err != nil {
			t.Fatalf("what was applied and written again is refused: %v", err)
		}
	}
	to.Restored(m.StreamTime())
	open, grace := m.Held()
	if o, g := to.Held(); o != open || g != grace || len(to.shared.at) != len(m.shared.at) || len(to.kept) != len(m.kept) {
		t.Fatalf("written again: %d open, %d in grace, %d shared, %d extended; were %d, %d, %d, %d",
			o, g, len(to.shared.at), len(to.kept), open, grace, len(m.shared.at), len(m.kept))
	}
}
