package saturating

import "testing"

const most = 1<<64 - 1

func TestResultsThatDoNotFitAreTheGreatestNumber(t *testing.T) {
	for _, tt := range []struct{ a, b, sum, product uint64 }{
		{0, 0, 0, 0},
		{1500, 1000, 2500, 1_500_000},
		{1 << 32, 1<<32 - 1, 1<<33 - 1, 1<<64 - 1<<32},
		{1 << 32, 1 << 32, 1 << 33, most},
		{1 << 63, 1 << 63, most, most},
		{most, 1, most, most},
		{most, 0, most, 0},
		{most - 1, 1, most, most - 1},
	} {
		for range 2 {
			if got := Add(tt.a, tt.b); got != tt.sum {
				t.Errorf("%d + %d: want %d, got %d", tt.a, tt.b, tt.sum, got)
			}
			if got := Mul(tt.a, tt.b); got != tt.product {
				t.Errorf("%d × %d: want %d, got %d", tt.a, tt.b, tt.product, got)
			}
			tt.a, tt.b = tt.b, tt.a
		}
	}
	if a, b := Estimate(7, 0), Estimate(1<<40, 1<<30); a != 7 || b != most {
		t.Errorf("estimates: want 7 and the greatest number, got %d and %d", a, b)
	}
}
