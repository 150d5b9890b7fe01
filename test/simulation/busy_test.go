//go:build synctests

package simulation

import (
	"fmt"
	"math/rand/v2"
	"time"

	"weir/pkg/flowpb"
)

// busyProfile has no faults: connections of quiet conversations must be reported although another
// conversation is busy.
var busyProfile = profile{
	name: "busy", class: exact, share: 1,
	setup: func(rng *rand.Rand) setup {
		return setup{Partitions: 2 + rng.Int32N(3), Members: 1, MaxOpen: 1_000_000}
	},
	weight: []weighted{{10, drawTraffic}, {1, drawBusy}},
}

// busy keeps the partition of a conversation busy, so that every transaction of its member has flows.
type busy struct {
	Port uint16
	For  time.Duration
}

// busyEvery is the interval between the records of the busy conversation. Every transaction, for which a
// member gathers records for 200 ms, contains some of them.
const busyEvery = 100 * time.Millisecond

func drawBusy(rng *rand.Rand) action {
	return busy{uint16(1024 + rng.IntN(60000)), 50*time.Second + duration(rng, 10*time.Second)}
}

func (a busy) String() string { return fmt.Sprintf("for %v one conversation alone is busy", a.For) }

func (a busy) run(w *world, _ *rand.Rand) {
	began := time.Now()
	for i := uint64(0); time.Since(began) < a.For; i++ {
		received := time.Now()
		m := &flowpb.FlowMessage{
			Type: flowpb.FlowMessage_IPFIX, SrcAddr: []byte{10, 1, 0, 1}, DstAddr: []byte{198, 51, 100, 77}, SrcPort: uint32(a.Port), DstPort: 443, Proto: 17,
			SamplerAddress: []byte{192, 0, 2, 1}, Bytes: 100 + i, Packets: 1, SamplingRate: 1, TimeResolutionUs: 1000, DatagramHash: w.step<<16 | i,
			TimeReceivedNs: uint64(received.UnixNano()), TimeExportNs: uint64(received.UnixNano()),
		}
		times(m, received.Add(-time.Second), received)
		w.send(m)
		time.Sleep(busyEvery)
	}
	open := 0.0
	for n := range len(w.members) {
		open += w.pick(n).gauge("weir_enrich_connections_open")
	}
	if open > 1 {
		w.find(findStuck, "%v after the last flow of any other conversation %v connections are open", a.For, open)
	}
}
