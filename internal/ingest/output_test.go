package ingest

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"
	"time"

	"weir/internal/ingest/budget"
	"weir/internal/weirtest/locked"
)

// namesAndFlows returns an IPFIX message with a name of 255 octets for interface 1, and a message
// with n flows of 10 octets that refer to it twice.
func namesAndFlows(n int) (names, flows []byte) {
	set := func(id byte, content []byte) []byte {
		return append([]byte{1, id, byte((len(content) + 4) >> 8), byte(len(content) + 4)}, content...)
	}
	names = ipfixMessage([]byte{0, 3, 0, 18, 1, 2, 0, 2, 0, 1, 0, 10, 0, 1, 0, 82, 0, 255}, set(2, append([]byte{1}, strings.Repeat("n", 255)...)))
	tmpl := []byte{0, 2, 0, 24, 1, 0, 0, 4, 0, 8, 0, 4, 0, 12, 0, 4, 0, 10, 0, 1, 0, 14, 0, 1}
	return names, ipfixMessage(tmpl, set(0, bytes.Repeat([]byte{10, 0, 0, 1, 10, 0, 0, 2, 1, 1}, n)))
}

func droppedFlows(r *Replica, reason string) (dropped float64) {
	for _, x := range []string{"192.0.2.1", "192.0.2.2", "192.0.2.10", "other"} {
		dropped += counted(r.metrics.dropped.WithLabelValues(x, reason))
	}
	return dropped
}

// Long names in small records: the exporter is charged for output beyond twelve times its
// octets from its budget, then its flows are dropped and counted; another exporter
// has a budget of its own.
func TestOutputIsBoundedByTheOctetsReceived(t *testing.T) {
	b := embedded(t)
	var log locked.Buffer
	c := config(b.Addr(), "r")
	c.OutputExtraEach, c.OutputExtra = 200_000, 300_000 // twice that at once
	r, stop := start(t, c, &log)
	eventually(t, "ready", func() bool { return r.Ready() == nil })
	at := time.Now()
	from := netip.MustParseAddrPort("192.0.2.1:9")
	const records = 1000
	names, flows := namesAndFlows(records)
	r.Receive(names, from, at)
	sent, output := 0, 0
	for range 4 {
		r.Receive(flows, from, at)
		sent += records
		for _, s := range r.run.Load().direct.res.Flows {
			output += s.KeyEnd - s.Start
		}
	}
	if most := 4*budget.FreeOutput*len(flows) + 400_000; output > most {
		t.Errorf("want at most %d octets of %d, got %d", most, 4*len(flows), output)
	}
	if got := r.Stats(); int(got.Flows+got.Dropped) != sent || got.Dropped == 0 || float64(got.Dropped) != droppedFlows(r, reasonOutput) {
		t.Errorf("want %d flows, decoded or dropped as output_limit; got %d and %d (%v)", sent, got.Flows, got.Dropped, droppedFlows(r, reasonOutput))
	}
	decoded := r.Stats().Flows
	honest := netip.MustParseAddrPort("192.0.2.2:9")
	r.Receive(packet(t, "v5_30.hex"), honest, at)
	if n := r.Stats().Flows - decoded; n != 30 {
		t.Errorf("an exporter within its octets: want 30 flows, got %d", n)
	}
	decoded = r.Stats().Flows
	r.Receive(flows, from, at.Add(10*time.Second))
	if n := int(r.Stats().Flows - decoded); n <= budget.FreeOutput*len(flows)/500 || n == records {
		t.Errorf("10 s later: want the budget to allow some flows more, got %d", n)
	}
	if err := stop(); err != nil {
		t.Errorf("shutdown: %v", err)
	}
}
