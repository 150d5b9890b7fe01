package templates

import (
	"testing"

	"weir/internal/decode"
)

func TestAStaticDefinitionCountsUntilOneIsReceived(t *testing.T) {
	c := &clock{t0}
	s := New(Options{Now: c.now, MaxPerExporter: 4})
	if err := s.AddStatic(exporterA, 9, 7, layout(4)); err != nil {
		t.Fatal(err)
	}
	wantLayout(t, s, 1, 4)
	if n := len(s.Due()); n != 0 {
		t.Errorf("it is not shared: want nothing due, got %d", n)
	}
	c.ns += 2 * int64(lifetime)
	s.Due()
	wantLayout(t, s, 1, 4) // nor does it expire
	for id := range uint16(10) {
		if err := learnID(s, exporterA, c.ns, 400+id); err != nil {
			t.Fatal(err)
		}
	}
	wantLayout(t, s, 1, 4) // nor go at a limit

	learn(t, s, c.ns, 1, 8)
	wantLayout(t, s, 1, 8)
	wantLayout(t, s, 2, 8)
	k := definitionKey(scopeOf(key300), definitionIDOf(layout(4)))
	if err := s.Merge(k, nil); err != nil {
		t.Fatal(err)
	}
	if s.shardOf(&key300.Exporter).domain(scopeOf(key300)).templates[300].byLayout(layout(4)) == nil {
		t.Error("a tombstone took a static definition away")
	}

	learn(t, s, c.ns+1, 1, 4) // received after all: as any other from now on
	wantLayout(t, s, 1, 4)
	due := false
	for _, r := range s.Due() {
		due = due || string(r.Key) == string(k)
	}
	if !due {
		t.Error("received: want it published")
	}
	if err := s.AddStatic(exporterA, 5, 0, layout(4)); err == nil {
		t.Error("a template of version 5: want an error")
	}
	if err := s.AddStatic(exporterA, 9, 0, &decode.Template{ID: 300}); err == nil {
		t.Error("a template without fields: want an error")
	}
}
