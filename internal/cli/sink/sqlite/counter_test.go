package sqlite

import (
	"math"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weir/internal/cli/sink"
	"weir/pkg/flowpb"
)

// An exporter may report 2^64-1 octets. The stored value must not be negative and must not make sums overflow.
func TestCountersBeyondAllBoundsAreCut(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "f.db"), "flows", sink.Options{})
	begin(t, s, "id", map[int32]int64{0: 0})
	forged := marshal(t, &flowpb.FlowMessage{
		Type: flowpb.FlowMessage_IPFIX, Bytes: math.MaxUint64, Packets: 1 << 63, Biflow: true, ReverseBytes: math.MaxInt64, ReversePackets: 1<<53 + 1,
	})
	write(t, s, sink.Record{Time: at, Messages: [][]byte{forged, forged}})
	want := []string{"18014398509481984|18014398509481984|18014398509481984|18014398509481984"} // 2^54
	got := query(t, s, "SELECT sum(octets), sum(packets), sum(reverse_octets), sum(reverse_packets) FROM flows")
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
}

// Other numbers of 64 bits must not become negative either. Identifiers must stay distinct: they are negative from
// 2^63 on.
func TestNumbersBeyondTheRangeOfSQLite(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "f.db"), "flows", sink.Options{})
	begin(t, s, "id", map[int32]int64{0: 0})
	write(t, s, sink.Record{Time: at, Messages: [][]byte{marshal(t, &flowpb.FlowMessage{
		Type: flowpb.FlowMessage_IPFIX, SamplingRate: 1 << 63, TimeFlowStartNs: math.MaxUint64,
		FlowId: math.MaxUint64, TunnelId: 1<<63 + 5,
	})}})
	want := []string{"9223372036854775807|9223372036854775807|-1|-9223372036854775803"}
	if d := cmp.Diff(want, query(t, s, "SELECT sampling_rate, start, flow_id, tunnel_id FROM flows")); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
}
