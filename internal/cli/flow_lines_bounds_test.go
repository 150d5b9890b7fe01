package cli

import (
	"fmt"
	"strings"
	"testing"
)

func TestUnknownFieldsAreListedUpToABound(t *testing.T) {
	file := strings.Builder{}
	for i := range 50 {
		fmt.Fprintf(&file, `{"1700000000.25": {"client": ["192.0.2.1", 4], "header": {"version": 9}, "flows": [{"n%d%s": 1}]}}`+"\n", i, strings.Repeat("x", 1000))
	}
	got := run(t, file.String(), "decode", "-")
	line := "n0" + strings.Repeat("x", 57) + "…, n1" // the first of them, cut
	if got.code != 0 || !strings.Contains(got.errout, line) || !strings.Contains(got.errout, ", and others\n") || len(got.errout) > 20*70+200 {
		t.Errorf("exit code %d, %d octets of errors: %s", got.code, len(got.errout), got.errout)
	}
}
