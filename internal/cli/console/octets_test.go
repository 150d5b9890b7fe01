package console

import (
	"testing"
)

func TestSizesOfOptions(t *testing.T) {
	for s, want := range map[string]int64{"0": 0, "500MB": 500e6, "2GiB": 2 << 30, "1.5 kB": 1500, "10B": 10} {
		if got, err := ParseOctets(s); err != nil || got != want {
			t.Errorf("%s: want %d, got %d, %v", s, want, got, err)
		}
	}
	for _, s := range []string{"", "GB", "-1", "1e40", "5 parsecs", "NaN"} {
		if n, err := ParseOctets(s); err == nil {
			t.Errorf("%q: want an error, got %d", s, n)
		}
	}
}
