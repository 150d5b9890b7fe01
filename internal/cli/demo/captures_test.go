package demo

import (
	"encoding/hex"
	"testing"
)

func TestHasTemplates(t *testing.T) {
	const v9, ipfix = "0009000100000000000000000000000000000000", "000a0000000000000000000000000000"
	tests := []struct {
		name string
		in   string
		want bool
	}{
		{"v9 template set", v9 + "0000000801000000", true},
		{"v9 options template set", v9 + "0001000801000000", true},
		{"v9 data set", v9 + "0100000801000000", false},
		{"v9 template after data", v9 + "01000006ffff" + "00000004", true},
		{"IPFIX template set", ipfix + "0002000801000000", true},
		{"IPFIX options template set", ipfix + "0003000801000000", true},
		{"IPFIX data set", ipfix + "0100000801000000", false},
		{"a set of length 0 does not stop the walk", ipfix + "01000000" + "00020004", true},
		{"v5 has none", "00050001000000000000", false},
		{"nothing", "", false},
		{"header cut", "0009", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b, err := hex.DecodeString(tt.in)
			if err != nil {
				t.Fatal(err)
			}
			if got := hasTemplates(b); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestTheDemosCapturesAreEmbedded(t *testing.T) {
	// Datagrams in the captures, of them with templates, counted in the set headers; the
	// third is cut to 2.
	want := map[string][2]int{
		"softflowd_v9_synth_adj.pcap": {3, 1},
		"softflowd_v5_synth_adj.pcap": {2, 0},
		"softflowd_v10_big.pcap":      {2, 1},
	}
	for _, c := range demoCaptures() {
		all, err := datagrams(c)
		if err != nil {
			t.Fatal(err)
		}
		got := [2]int{len(all), 0}
		for _, d := range all {
			if hasTemplates(d) {
				got[1]++
			}
		}
		if got != want[c.file] {
			t.Errorf("%s: %d datagrams, %d with templates; want %v", c.file, got[0], got[1], want[c.file])
		}
	}
}
