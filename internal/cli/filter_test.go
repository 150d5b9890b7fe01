package cli

import (
	"strings"
	"testing"

	"weir/internal/weirtest/captures"
)

func TestFlowsAndConnectionsTakeAnExpression(t *testing.T) {
	file := captures.File("softflowd_v9_synth_adj.pcap")
	all := strings.Count(run(t, "", "flows", "--json", file).out, "\n")
	for _, tt := range []struct {
		args  []string
		lines int
	}{
		{[]string{"flows", "--json", "--filter", "any"}, 34},
		{[]string{"flows", "--json", "--filter", "dst port 443"}, 2},
		{[]string{"flows", "--json", "--filter", "dst port 443", "--host", "10.1.1.10"}, 1},
		{[]string{"flows", "--json", "--filter", "not any"}, 0},
		{[]string{"flows", "--json", "--filter", ""}, 34},
		{[]string{"connections", "-n", "--json", "--filter", "responder port 443"}, 2},
	} {
		got := run(t, "", append(tt.args, file)...)
		if n := strings.Count(got.out, "\n"); n != tt.lines || got.code != 0 {
			t.Errorf("%q: want %d lines of %d, got %d (exit code %d): %s", tt.args, tt.lines, all, n, got.code, got.errout)
		}
	}
}

func TestAWrongExpressionIsShownWithItsPlace(t *testing.T) {
	for _, verb := range []string{"flows", "connections"} {
		got := run(t, "", verb, "--filter", "src net 10/8 and prot 6", captures.File("softflowd_v9_synth_adj.pcap"))
		want := "weir " + verb + ": --filter: the expression is wrong at character 18:\n" +
			"  src net 10/8 and prot 6\n" +
			"                   ^ \"prot\" is no property of a " + strings.TrimSuffix(verb, "s") + ": is proto meant?\n" +
			"see weir " + verb + " --help\n"
		if got.code != 2 || got.out != "" || got.errout != want {
			t.Errorf("exit code %d, stdout %q, want on stderr\n%s\ngot\n%s", got.code, got.out, want, got.errout)
		}
	}
}
