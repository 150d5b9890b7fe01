package cli

import (
	"strings"
	"testing"

	"weir/internal/weirtest/captures"
)

// Counted from the packets of the synthetic traffic: 17 736 octets, and 7280 + 1820 + 1640 of them belong to HTTPS.
func TestTopSumsFlows(t *testing.T) {
	file := captures.File("softflowd_v9_synth_adj.pcap")
	for _, tt := range []struct {
		args string
		want []string // of the lines of stdout
	}{
		{"--json --by src_addr,dst_port --limit 1 --filter tcp", []string{`{"src_addr":"192.0.2.80","dst_port":40001,"flows":1,"packets":7,"octets":7280,`}},
		{"--csv --by service --limit 1", []string{"service,flows,packets,octets,", "https,4,19,10740,", "other,30,50,6996,"}},
		{"--by proto --limit 1 --sort flows", []string{"proto", "tcp ", "other "}},
		{"--by srcip/24 --limit 1", []string{"srcip", "192.0.2.0/24 ", "other "}},
		{
			"--in connections -n --json --by responder,service --limit 1",
			[]string{`{"responder":"192.0.2.80","service":"https","connections":1,"flows":2,"packets":15,"octets":9100,`},
		},
		{"--every 1h --by proto --limit 1 --json", []string{`{"time":"2023-11-14T22:00:00Z","proto":6,`}},
	} {
		got := run(t, "", append(append([]string{"top"}, strings.Fields(tt.args)...), file)...)
		lines := strings.Split(strings.TrimSuffix(got.out, "\n"), "\n")
		ok := got.code == 0 && len(lines) == len(tt.want)
		for i := range min(len(lines), len(tt.want)) {
			ok = ok && strings.HasPrefix(lines[i], tt.want[i])
		}
		if !ok || !strings.Contains(got.errout, "total: ") {
			t.Errorf("top %s: exit code %d, want %q, got\n%s%s", tt.args, got.code, tt.want, got.out, got.errout)
		}
	}
}

func TestTopRefusesWrongFlags(t *testing.T) {
	file := captures.File("softflowd_v9_synth_adj.pcap")
	for args, text := range map[string]string{
		"--by nothing": "no field of a flow", "--sort size": "want octets", "--limit x": "want a number", "--groups 0": "1 or more",
		"--in x": "want flows or connections", "--json --csv": "only one", "--every -1s": "1ms or more", "--since 1h": "for the topic",
		"--filter prot": "is wrong at character 1", "--sort connections": "--in connections",
	} {
		got := run(t, "", append(append([]string{"top"}, strings.Fields(args)...), file)...)
		if got.code != 2 || got.out != "" || !strings.Contains(got.errout, text) {
			t.Errorf("top %s: exit code %d, want %q, got %s%s", args, got.code, text, got.out, got.errout)
		}
	}
}
