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
