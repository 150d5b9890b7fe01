package budget

import (
	"net/netip"
	"testing"
	"time"

	"weir/internal/decode"
)

func TestOctetsAreBoundedByExporterAndInAll(t *testing.T) {
	at := time.Unix(1_700_000_000, 0)
	a, other := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	b := New(Limit{600.0 / 3600, 600}, Limit{10, 1000})
	for i, step := range []struct {
		after    time.Duration
		exporter netip.Addr
		octets   int
		want     Refusal
	}{
		{0, a, 600, None},
		{0, a, 1, Exporter},
		{0, other, 401, All},
		{0, other, 400, None}, // what was refused took nothing off its own
		{time.Second, other, 11, All},
		{0, other, 10, None},
		{time.Hour, a, 600, None},
	} {
		at = at.Add(step.after)
		if got := b.Spend(step.exporter, step.octets, at); got != step.want {
			t.Errorf("step %d: want %d, got %d", i, step.want, got)
		}
	}
	for i := range 2 * maxExporters {
		b.Spend(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 1, at)
	}
	if n := b.exporters.Len(); n > maxExporters {
		t.Errorf("budgets: want at most %d, got %d", maxExporters, n)
	}
}

// 12 times 100 octets are free, 64 times more are decoded, and the budget has 500 of them.
func TestOutputBeyondTheBudgetIsCut(t *testing.T) {
	if got := OutputLimit(100); got != 7600 {
		t.Errorf("limit for 100 octets: %d, want 7600", got)
	}
	if got := OutputLimit(60_000); got != 720_000+256<<10 {
		t.Errorf("limit for 60000 octets: %d, want 982144", got)
	}
	exporter, at := netip.MustParseAddr("192.0.2.1"), time.Unix(1_700_000_000, 0)
	b := New(Limit{0, 500}, Limit{0, 10_000})
	for i, step := range []struct{ octets, flows, beyond int }{
		{1200, 12, 0},
		{1700, 17, 0}, // takes the budget
		{1300, 12, 1},
		{2000, 12, 8}, // of 2000 octets, 1200 are free
		{1200, 12, 0}, // nothing beyond what is free
	} {
		res := decode.Result{Buf: make([]byte, step.octets)}
		for end := 100; end <= step.octets; end += 100 {
			res.Flows = append(res.Flows, decode.Span{Start: end - 100, ValueEnd: end - 10, KeyEnd: end})
		}
		b.ChargeOutput(&res, exporter, 100, at)
		if len(res.Flows) != step.flows || res.Beyond != step.beyond {
			t.Errorf("step %d: %d flows, %d beyond; want %d, %d", i, len(res.Flows), res.Beyond, step.flows, step.beyond)
		}
	}
}
