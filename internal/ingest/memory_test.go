package ingest

import (
	"strings"
	"testing"
)

func TestThePartsHaveToFitIntoTheWhole(t *testing.T) {
	c := Config{MaxOctets: 64 << 20, ParkMax: 32 << 20, Undecoded: UndecodedConfig{Burst: 32 << 20}, Templates: TemplatesConfig{Max: 65536}}
	const need = (6*64 + 2*32 + 2*32 + 64 + 128) << 20
	if got := c.memory(); got != need {
		t.Errorf("what the parts come to: want %d, got %d", need, got)
	}
	for max, want := range map[int]string{0: "", need: "", need - 1: "may need 704 MiB: lower them or raise it (PRODUCE_MAX_OCTETS 384 MiB", -1: "MEMORY_MAX=-1"} {
		c.MemoryMax = max
		err := c.Validate()
		if (err != nil) != (want != "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("MEMORY_MAX=%d: want %q, got %v", max, want, err)
		}
	}
	c.MemoryMax = 2 * need
	if got := c.memory(); got != 2*need {
		t.Errorf("the whole: want %d, got %d", 2*need, got)
	}
}
