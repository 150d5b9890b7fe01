package report

import (
	"io"
	"testing"

	"weir/pkg/flowpb"
)

// The totals of weir flows must count a firewall's flow once, by its teardown.
func TestTheSumOfFlowsCountsAFirewallsFlowOnce(t *testing.T) {
	p := NewFlowPrinter(io.Discard, JSONLines, NewFilter(), 0, nil)
	if err := p.Print([]*flowpb.FlowMessage{
		{FirewallEvent: 5, FlowId: 7, Biflow: true, Bytes: 100, ReverseBytes: 10, Packets: 2},
		{FirewallEvent: 2, FlowId: 7, Biflow: true, Bytes: 150, ReverseBytes: 20, Packets: 3},
	}); err != nil {
		t.Fatal(err)
	}
	if got := p.Summary(); got != "2 flows shown, 170 B in 3 packets; 0 left out" {
		t.Errorf("got %q", got)
	}
}
