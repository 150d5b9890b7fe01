package spelling

import "testing"

func TestDistance(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want int
	}{
		{"", "", 0},
		{"", "abc", 3},
		{"abc", "", 3},
		{"kitten", "sitting", 3}, // the usual example of the edit distance
		{"decode", "decode", 0},
		{"dcode", "decode", 1},
	} {
		if got := Distance(tt.a, tt.b); got != tt.want {
			t.Errorf("distance(%q, %q): want %d, got %d", tt.a, tt.b, tt.want, got)
		}
	}
}
