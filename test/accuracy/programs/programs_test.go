package programs

import "testing"

// The last lines of pmacctd 1.7.7 that ended with status 1, on a busy machine and with a
// configuration that it does not take.
func TestPluginEnded(t *testing.T) {
	const (
		shutdown = "INFO ( default_nfprobe/nfprobe ): Shutting down on user request.\n"
		lost     = "WARN ( default/core ): connection lost to 'default_nfprobe-nfprobe'; closing connection.\n"
		core     = "WARN ( default/core ): no more plugins active. Shutting down.\n"
	)
	for _, c := range []struct {
		output string
		want   bool
	}{
		{shutdown + lost + core, true},
		{lost + core, false}, // the plugin failed
		{"ERROR ( default/core ): no plugins have been activated.\n", false},
	} {
		if got := pluginEnded(c.output); got != c.want {
			t.Errorf("%q: %v, want %v", c.output, got, c.want)
		}
	}
}
