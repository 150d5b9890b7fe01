package main

import (
	"slices"
	"testing"
)

// The ranks are those of the sign test at 95 % (e.g. Conover, Practical
// Nonparametric Statistics, table A3): for 10 values the 2nd and 9th, for 12 the
// 3rd and 10th, for 20 the 6th and 15th.
func TestTheIntervalOfAMedian(t *testing.T) {
	for _, c := range []struct{ n, low, high int }{{10, 2, 9}, {12, 3, 10}, {20, 6, 15}, {36, 12, 25}} {
		var r result
		for i := range c.n {
			r.ratios = append(r.ratios, float64(i+1))
		}
		low, high := r.interval()
		if low != float64(c.low) || high != float64(c.high) {
			t.Errorf("%d rounds: want %d and %d, got %v and %v", c.n, c.low, c.high, low, high)
		}
	}
}

func TestFewRoundsDecideNothing(t *testing.T) {
	for n := range 10 {
		r := result{ratios: make([]float64, n)}
		if got := r.verdict(3); got != undecided {
			t.Errorf("%d rounds: want %s, got %s", n, undecided, got)
		}
		_ = r.line("name", 3) // must not panic
	}
}

func TestVerdicts(t *testing.T) {
	ten := func(from, to float64) result {
		var r result
		for i := range 10 {
			r.ratios = append(r.ratios, from+(to-from)*float64(i)/9)
		}
		return r
	}
	for _, c := range []struct {
		name     string
		from, to float64
		want     string
	}{
		{"as fast", 0.99, 1.01, ok},
		{"all above the limit", 1.04, 1.06, tooSlow},
		{"around the limit", 1.00, 1.06, undecided},
		{"one disturbed round", 0.99, 1.0301, ok},
	} {
		r := ten(c.from, c.to)
		if got := r.verdict(3); got != c.want {
			t.Errorf("%s: want %s, got %s", c.name, c.want, got)
		}
	}
}

func TestNamesAndPatterns(t *testing.T) {
	out := "goos: linux\nBenchmarkWire/v5 \t      1\t 5 ns/op\nBenchmarkObserve/10000_held 1 7 ns/op\nPASS\n"
	if got := names(out); !slices.Equal(got, []string{"BenchmarkWire/v5", "BenchmarkObserve/10000_held"}) {
		t.Errorf("names: got %q", got)
	}
	if got := exactly("BenchmarkA/b.c"); got != `^BenchmarkA$/^b\.c$` {
		t.Errorf("pattern: got %s", got)
	}
}
