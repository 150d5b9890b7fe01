package pair

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weir/pkg/flowpb"
)

// hostile makes records with times, counters, rates, flags and clocks of any value, of
// few conversations.
func hostile(t *testing.T, c *Config, seed uint64, n int) (flows []Flow) {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 1))
	odd := func() uint64 {
		switch rng.IntN(6) {
		case 0:
			return 0
		case 1:
			return math.MaxUint64 >> rng.IntN(64)
		case 2:
			return 1 << rng.IntN(64)
		}
		return uint64(1_700_000_000e9) + rng.Uint64N(400e9)
	}
	now := uint64(1_700_000_000e9)
	for len(flows) < n {
		now += rng.Uint64N(3e9)
		m := &flowpb.FlowMessage{
			Type: flowpb.FlowMessage_IPFIX, SrcAddr: ip("10.0.0.5"), DstAddr: ip("192.0.2.80"), SrcPort: 40000 + rng.Uint32N(6), DstPort: 443,
			Proto: []uint32{6, 17, 1, 58, 47}[rng.IntN(5)], TcpFlags: rng.Uint32N(64), FlowEndReason: rng.Uint32N(6),
			SamplerAddress: ip("192.0.2.1"), ObservationDomainId: rng.Uint32N(3), Bytes: 900, Packets: rng.Uint64N(3), SamplingRate: rng.Uint64N(3),
			DatagramHash: rng.Uint64N(200), TimeReceivedNs: now, TimeResolutionUs: 1000,
			TimeExportNs: now - 8e9 - rng.Uint64N(4e9), // about PAIR_MAX_CLOCK_SKEW off
		}
		m.TimeFlowEndNs = m.TimeExportNs
		m.TimeFlowStartNs = m.TimeFlowEndNs - rng.Uint64N(60e9)
		if rng.IntN(4) == 0 {
			m.TimeFlowStartNs, m.TimeFlowEndNs, m.TimeExportNs = odd(), odd(), odd()
		}
		if rng.IntN(10) == 0 {
			m.Bytes, m.Packets, m.SamplingRate = odd(), odd(), odd()
		}
		if rng.IntN(8) == 0 {
			m.Biflow, m.ReverseBytes, m.ReversePackets, m.ReverseTcpFlags = true, odd(), odd(), rng.Uint32N(64)
			m.ReverseTimeFlowStartNs, m.ReverseTimeFlowEndNs = odd(), odd()
		}
		if rng.IntN(8) == 0 {
			m.PostNatSrcAddr, m.PostNatSrcPort = []byte{192, 0, 2, byte(rng.IntN(9))}, rng.Uint32N(70000)
		}
		if rng.IntN(2) == 0 {
			turned(m)
		}
		if f, ok := FromMessage(m, c); ok {
			flows = append(flows, f)
		}
	}
	return flows
}

func TestHostileValuesAreRestoredAsTheyWere(t *testing.T) {
	seeds, near := uint64(60), 0
	if testing.Short() {
		seeds = 10
	}
	for seed := range seeds {
		rng := rand.New(rand.NewPCG(seed, 8))
		c := testConfig
		c.MaxOpen = 3 + rng.IntN(30)
		c.UpdateInterval = time.Duration(rng.IntN(3)) * 20 * time.Second
		c.LateGrace = time.Duration(rng.IntN(3)) * 30 * time.Second
		flows := hostile(t, &c, seed, 300)
		for i := range flows {
			if c.nearLimit(flows[i].Offset) {
				near++
			}
		}
		want := undisturbed(c, flows)
		got, restores := disturbed(t, c, flows, 9, 900_000, seed, 3)
		if d := cmp.Diff(want, got); d != "" || restores == 0 {
			t.Fatalf("seed %d: %d restores (-undisturbed +disturbed):\n%.3000s", seed, restores, d)
		}
	}
	if near == 0 {
		t.Error("no clock near the limit: proves little")
	}
}
