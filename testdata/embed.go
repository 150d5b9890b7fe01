// Package testdata holds the captures that `weir demo` replays.
package testdata

import "embed"

// Captures are exports of real exporters as pcap files, below captures/; their
// provenance is in captures/README.md.
//
//go:embed captures/softflowd_v10_big.pcap captures/softflowd_v5_synth_adj.pcap captures/softflowd_v9_synth_adj.pcap
var Captures embed.FS
