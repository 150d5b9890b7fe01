package report

import (
	"bytes"
	"math"
	"strings"
	"testing"

	"weir/pkg/flowpb"
)

// A router that samples 1 in 1000 packets must rank above a switch that exports all of its smaller traffic. The
// expected sums are computed by hand.
func TestConnectionsRankAndSumByEstimates(t *testing.T) {
	router := &flowpb.Connection{
		ConnectionId: []byte("router"), Protocol: 6, StartUnixNs: 1e9, EndUnixNs: 2e9,
		Initiator: &flowpb.Endpoint{Address: []byte{10, 0, 0, 1}}, Responder: &flowpb.Endpoint{Address: []byte{10, 0, 0, 2}},
		Forward: &flowpb.Traffic{Octets: 1500, OctetsEst: 1_500_000, Packets: 3, PacketsEst: 3000, SamplingRateMax: 1000},
	}
	plain := &flowpb.Connection{ // its reverse direction has no estimate, as in messages of another program
		ConnectionId: []byte("switch"), Protocol: 6, StartUnixNs: 1e9, EndUnixNs: 2e9,
		Initiator: &flowpb.Endpoint{Address: []byte{10, 0, 0, 3}}, Responder: &flowpb.Endpoint{Address: []byte{10, 0, 0, 4}},
		Forward: &flowpb.Traffic{Octets: 400_000, OctetsEst: 400_000, Packets: 300, PacketsEst: 300, SamplingRateMax: 1},
		Reverse: &flowpb.Traffic{Octets: 100_000, Packets: 200},
	}
	list := []*flowpb.Connection{plain, router}
	for _, by := range []string{byOctets, byPackets} {
		shown := (&Choice{by: by, Limit: 1}).Select(list)
		if len(shown) != 1 || shown[0] != router {
			t.Errorf("--sort %s --limit 1: got %v", by, shown)
		}
	}
	if got, want := Totals(list, 2), "total: ~2.00 MB in ~3500 packets,"; !strings.HasPrefix(got, want) {
		t.Errorf("want %q, got %q", want, got)
	}
	if got, want := Totals(list[:1], 1), "total: 500 kB in 500 packets,"; !strings.HasPrefix(got, want) {
		t.Errorf("want %q, got %q", want, got)
	}
	for form, want := range map[Form][]string{
		Brief: {"~1.50 MB", "~3000", " 500 kB", " 500 "},
		Wide:  {"~1500000", "~3000", " 400000", " 100000"},
	} {
		var b bytes.Buffer
		NewConnectionPrinter(&b, form).PrintAll(list)
		for _, w := range want {
			if !strings.Contains(b.String(), w) {
				t.Errorf("form %d: want %q in\n%s", form, w, b.String())
			}
		}
	}
}

func TestTotalsSaturate(t *testing.T) {
	c := &flowpb.Connection{Forward: &flowpb.Traffic{Octets: math.MaxUint64, Packets: math.MaxUint64}}
	if got, want := Totals([]*flowpb.Connection{c, c}, 2), "total: 18.4 EB in 18446744073709551615 packets"; !strings.HasPrefix(got, want) {
		t.Errorf("want %q, got %q", want, got)
	}
}
