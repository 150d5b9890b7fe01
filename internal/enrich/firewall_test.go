package enrich

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"weir/pkg/flowpb"
)

// For a firewall's updates and teardown the traffic metrics must count the increase of the flow by each event: the 120
// octets there and 30 back of the teardown, once, and 7 of another flow without a teardown; sampled 1 in 2.
func TestTrafficMetricsCountAFirewallsFlowOnce(t *testing.T) {
	c := cluster(t)
	flows := newFlowWriter(t, c)
	reg := prometheus.NewRegistry()
	w, err := New(config(c, "a"), Deps{Log: slog.New(slog.DiscardHandler), Now: time.Now, Metrics: reg})
	if err != nil {
		t.Fatal(err)
	}
	at := time.Now()
	event := func(id uint64, event uint32, there, back uint64) {
		flows.put(0, at, []byte{10, 0, 0, 1}, 40000, func(m *flowpb.FlowMessage) {
			m.FirewallEvent, m.FlowId, m.Biflow, m.SamplingRate = event, id, true, 2
			m.Bytes, m.ReverseBytes, m.Packets, m.ReversePackets = there, back, there/10, back/10
		})
	}
	event(7, 5, 50, 10)
	event(7, 2, 120, 30)
	event(7, 5, 70, 20) // sent before the teardown
	event(8, 5, 0, 7)
	flows.put(0, at, []byte{10, 0, 0, 2}, 40001) // 900 octets in 9 packets
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	eventually(t, "five flows are taken", func() bool { return w.Stats().Flows == 5 })
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	sums, _ := gathered(t, reg)
	for name, want := range map[string]float64{
		"weir_traffic_octets_total in": 2*(120+30+7) + 900, "weir_traffic_octets_total out": 2*(120+30+7) + 900,
		"weir_traffic_packets_total in": 2*(12+3) + 9,
	} {
		if sums[name] != want {
			t.Errorf("%s: want %v, got %v", name, want, sums[name])
		}
	}
}
