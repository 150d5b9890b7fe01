package pair

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"weir/internal/flowkey"
	"weir/pkg/flowpb"
)

// mixture is lateTraffic of which some conversations are events of a firewall, with and
// without flow ids, and some records are denials, biflows or the second packet of a
// handshake.
func mixture(seed uint64, n int) []Flow {
	flows := lateTraffic(seed, n)
	for i := range flows {
		f := &flows[i]
		rng := rand.New(rand.NewPCG(f.Ident, seed+1000)) // a record that is delivered again stays the same
		switch kind := f.Key.Lo[15] % 4; kind {
		case 0, 1:
			asEvent(f, rng)
			if kind == 0 {
				f.ofFlowID, f.Scope = true, 1+uint64(rng.IntN(2))
				f.quality |= firewallFlow
			}
		case 2:
			if rng.IntN(30) == 0 {
				f.There.Octets, f.There.Packets = 0, 0
				f.quality |= bit(flowpb.Quality_QUALITY_DENIED)
			}
		}
		if f.Key.Proto == flowkey.TCP && rng.IntN(40) == 0 {
			f.There.Flags, f.There.Packets = syn|ack, 1
		}
	}
	return flows
}

// asEvent makes f an update or a teardown, or a plain record of the flow's key.
func asEvent(f *Flow, rng *rand.Rand) {
	f.Biflow, f.Initiator, f.Rate = true, 1, 1
	f.quality |= bit(flowpb.Quality_QUALITY_BIFLOW)
	f.There.Flags, f.Back = 0, counts{Octets: rng.Uint64N(3000), Packets: rng.Uint64N(5)}
	switch rng.IntN(6) {
	case 0, 1:
		f.counting, f.Reason = countsFlow, 3
	case 2:
		f.counting, f.Reason = countsRecord, 0
	default:
		f.counting, f.Reason = countsUpdate, 2
	}
}

// mixtureConfigs have interim reports, pauses, a small PAIR_MAX_OPEN and unusual graces.
func mixtureConfigs() map[string]Config {
	all := testConfig
	all.UpdateInterval, all.TCPPause = 20*time.Second, 200*time.Second
	full, noGrace, long := all, all, all
	full.MaxOpen = 9
	noGrace.LateGrace = 0
	long.LateGrace, long.UpdateInterval = 400*time.Second, 0
	return map[string]Config{"interim reports and pauses": all, "at capacity": full, "without grace": noGrace, "a long grace": long}
}

// Merges, pauses, evictions, interim and late reports and events of firewalls come
// together: a machine that is dropped and restored at any time must report the same as an undisturbed machine.
func TestAMixtureIsRestoredAsItWas(t *testing.T) {
	for name, c := range mixtureConfigs() {
		for seed := range uint64(4) {
			flows := mixture(seed, 700)
			want := undisturbed(c, flows)
			for _, batch := range []int{3, 60} {
				got, restores := disturbed(t, c, flows, batch, 900_000, seed, 3)
				if d := cmp.Diff(want, got); d != "" || restores == 0 {
					t.Fatalf("%s, seed %d, batches of %d: %d restores (-undisturbed +disturbed):\n%.2500s",
						name, seed, batch, restores, d)
				}
			}
		}
	}
}

// Versions of an id must be 1, 2, 3 …, with MERGED as the last. With a single observation point octets must never
// decrease. The counts of held connections must be right, and no part of a pool may be left at the end.
func TestReportsOfAMixtureAreCumulativeAndContiguous(t *testing.T) {
	merged, raised := 0, 0
	for name, c := range mixtureConfigs() {
		for seed := range uint64(12) {
			latest := map[string]*flowpb.Connection{}
			m := New(c, 1, func(e *Emission) {
				old := latest[string(e.ConnectionId)]
				isMerged := e.EmitReason == flowpb.EmitReason_EMIT_REASON_MERGED
				switch before, now := totalOctets(old), totalOctets(e.Connection); {
				case e.Version != old.GetVersion()+1:
					t.Errorf("%s, seed %d: version %d after %d", name, seed, e.Version, old.GetVersion())
				case old.GetEmitReason() == flowpb.EmitReason_EMIT_REASON_MERGED:
					t.Errorf("%s, seed %d: a report after MERGED: %v", name, seed, e)
				case seed%2 == 0 && !isMerged && now < before:
					t.Errorf("%s, seed %d: %d octets after %d: %v", name, seed, now, before, e)
				case isMerged:
					merged++
				}
				latest[string(e.ConnectionId)] = proto.CloneOf(e.Connection)
			})
			for i, f := range mixture(seed, 700) {
				if f.Ident = uint64(i) + 1; seed%2 == 0 {
					f.observationPoint = observationPoint{}
				}
				m.Observe(&f)
				if f.Event() {
					octets, packets := m.Raised()
					if most := f.There.Octets + f.Back.Octets; octets > most || packets > f.There.Packets+f.Back.Packets {
						t.Errorf("%s, seed %d: an event of %d octets raises its connection by %d", name, seed, most, octets)
					}
					raised++
				}
				if open, grace := m.Held(); open < 0 || grace < 0 || open+grace != m.table.entries.inUse() {
					t.Fatalf("%s, seed %d: %d open, %d in grace, %d in the table", name, seed, open, grace, m.table.entries.inUse())
				}
			}
			m.Advance(m.StreamTime() + int64(time.Hour))
			if n := m.table.entries.inUse() + m.sides.inUse() + m.links.inUse() + m.events.inUse() + len(m.points.at); n != 0 {
				t.Errorf("%s, seed %d: %d entries, sides, links, sums and observation points are left", name, seed, n)
			}
		}
	}
	if merged < 20 || raised < 1000 {
		t.Errorf("%d merged after a report, %d events: want at least 20 and 1000", merged, raised)
	}
}

// totalOctets returns the estimated octets of both directions of c.
func totalOctets(c *flowpb.Connection) uint64 {
	return c.GetForward().GetOctetsEst() + c.GetReverse().GetOctetsEst()
}
