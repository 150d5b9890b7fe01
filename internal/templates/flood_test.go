package templates

import (
	"runtime"
	"testing"

	"weir/internal/decode"
)

// allocatedBy returns the octets that f allocates.
func allocatedBy(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// A new template, a new domain and an eviction must cost the same whatever else is
// known of the exporter. The bounds are four times what the first of them costs.
func TestATemplateCostsTheSameWhateverIsKnownOfItsExporter(t *testing.T) {
	const n = 4096
	templates := func(s *Store, from, to int) {
		for i := from; i < to; i++ {
			if err := learnID(s, exporterA, t0+int64(i), uint16(300+i)); err != nil {
				t.Fatal(err)
			}
		}
	}
	domains := func(s *Store, from, to int) {
		for i := from; i < to; i++ {
			k := keyOf(exporterA, uint32(i), 300)
			if _, err := s.Learn(k, &decode.Meta{Exporter: exporterA, Port: 1, Received: t0 + int64(i)}, &decode.Header{}, layout(4)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, flood := range map[string]func(s *Store, from, to int){"templates": templates, "domains": domains} {
		t.Run(name, func(t *testing.T) {
			s := New(Options{Now: (&clock{t0}).now, MaxPerExporter: n, MaxUnconfirmed: 3 * n})
			first := allocatedBy(func() { flood(s, 0, n/4) })
			allocatedBy(func() { flood(s, n/4, n) })
			evicting := allocatedBy(func() { flood(s, n, n+n/4) })
			if got := s.Stats(); got.Evicted == 0 || got.Definitions > n {
				t.Fatalf("want evictions and at most %d definitions, got %+v", n, got)
			}
			if evicting > 4*first {
				t.Errorf("%d templates took %d octets when %d are known: want at most 4 times the %d of the first", n/4, evicting, n, first)
			}
		})
	}
}

// New templates after the first are charged to their exporter, by their width; what
// is received again is free, and other exporters are not kept out.
func TestNewTemplatesHaveABudget(t *testing.T) {
	c := &clock{t0}
	s := New(Options{Now: c.now})
	k := &decode.TemplateKey{Exporter: decode.Map16(exporterA), Domain: 1, Version: 10}
	send := func(i int) error {
		is := wide(uint16(300+i), i, 4000) // 32 064 octets of the budget of 1 MiB
		k.ID = is.ID
		_, err := s.Learn(k, &decode.Meta{Exporter: exporterA, Port: 1, Received: c.ns}, &decode.Header{Version: 10}, is)
		return err
	}
	accepted := 0
	for i := range 100 {
		if send(i) == nil {
			accepted++
		}
	}
	if got := s.Stats(); accepted != 33 || got.Definitions != 33 || got.OverBudget != 67 {
		t.Errorf("want 33 templates of 32 064 octets learnt and 67 over the budget, got %d, %+v", accepted, got)
	}
	if err := send(0); err != nil {
		t.Errorf("a known template: %v", err)
	}
	if err := learnID(s, spoofed(1), c.ns, 300); err != nil {
		t.Errorf("another exporter's template: %v", err)
	}
	c.ns += 2e9 // 16 KiB/s
	if err := send(99); err != nil {
		t.Errorf("2 s later: %v", err)
	}
}
