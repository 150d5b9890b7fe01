package templates

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"weir/internal/decode"
	"weir/pkg/flowpb"
)

func spoofed(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
}

// decodeWith is what decoding a data set of template 300 asks.
func decodeWith(s *Store, a netip.Addr, at int64) bool {
	return s.Plan(keyOf(a, 7, 300), &decode.Meta{Exporter: a, Port: 1, Received: at}, &decode.Header{Version: 9}) != nil
}

func confirmed(t *testing.T, r Record) bool {
	t.Helper()
	var st flowpb.ExporterState
	if err := proto.Unmarshal(r.Value, &st); err != nil {
		t.Fatal(err)
	}
	return st.GetConfirmed()
}

// Every replica receives every template and decodes with it, as a balancer that
// sprays datagrams brings about; records reach all within 10 ms. The topic gets
// each template once as it is and about once confirmed, however many they are.
func TestWritesDoNotGrowWithTheNumberOfReplicas(t *testing.T) {
	const templates = 20
	for _, tt := range []struct {
		replicas int
		kinds    int // of records
	}{{1, 1}, {4, 1}, {32, 1}, {1, 2}, {4, 2}, {32, 2}} {
		replicas := tt.replicas
		c := &clock{t0}
		var ss []*Store
		for i := range replicas {
			ss = append(ss, New(Options{Replica: fmt.Sprintf("r%d", i), Now: c.now, HashKeys: tt.kinds == 2}))
		}
		writes, said := 0, 0
		for step := range 1200 { // 12 s
			for i, s := range ss {
				if id := step*replicas + i; id < templates { // each template first at one of them
					if err := learnID(s, exporterA, c.ns, 300+uint16(id)); err != nil {
						t.Fatal(err)
					}
				}
				for id := range uint16(templates) {
					s.Plan(keyOf(exporterA, 7, 300+id), &decode.Meta{Port: 1, Received: c.ns}, &decode.Header{Version: 9})
				}
			}
			var all []Record
			for _, s := range ss {
				rs := s.Due()
				for _, r := range rs {
					s.Published(r, nil)
				}
				all = append(all, rs...)
			}
			for _, r := range all {
				writes++
				if confirmed(t, r) {
					said++
				}
				for _, s := range ss {
					if err := s.Merge(r.Key, r.Value); err != nil {
						t.Fatal(err)
					}
				}
			}
			c.ns += int64(10 * time.Millisecond)
		}
		if said < tt.kinds*templates || writes > 3*tt.kinds*templates {
			t.Errorf("%d replicas, %d templates, %d kinds of records: want each confirmed and at most 3 writes of a template and kind; got %d writes, %d of them confirmed",
				replicas, templates, tt.kinds, writes, said)
		}
	}
}

func TestManyNewExportersAreHeldBackUntilTheySayItTwice(t *testing.T) {
	s, c := newStore("r")
	for i := range newcomersBurst + 10 {
		if err := learnID(s, spoofed(i), t0, 300); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(publish(t, s)); n != newcomersBurst {
		t.Fatalf("published at once: want %d, got %d", newcomersBurst, n)
	}
	held := spoofed(newcomersBurst)
	if !decodeWith(s, held, t0) {
		t.Error("what is held back counts at this replica: want a plan")
	}
	if n := len(publish(t, s)); n != 1 {
		t.Errorf("decoded with: want it published, got %d records", n)
	}
	c.ns += minute
	if err := learnID(s, spoofed(newcomersBurst+1), c.ns, 300); err != nil {
		t.Fatal(err)
	}
	if n := len(publish(t, s)); n != 1 {
		t.Errorf("said a second time: want it published, got %d records", n)
	}
	if n := s.Stats().Definitions; n != newcomersBurst+10 {
		t.Errorf("known: want all, got %d", n)
	}
}

func TestAFloodOfDefinitionsCannotPushOutConfirmedOnes(t *testing.T) {
	c := &clock{t0}
	s := New(Options{Now: c.now, MaxUnconfirmed: 1000})
	honest := netip.MustParseAddr("198.51.100.1")
	if err := learnID(s, honest, t0, 300); err != nil {
		t.Fatal(err)
	}
	decodeWith(s, honest, t0)
	s.Due()
	for i := range 20_000 {
		if err := learnID(s, spoofed(i), t0+int64(i), 300); err != nil {
			t.Fatal(err)
		}
	}
	if !decodeWith(s, honest, t0) {
		t.Error("the honest exporter's definition went")
	}
	if decodeWith(s, spoofed(18_999), t0) || !decodeWith(s, spoofed(19_000), t0) {
		t.Error("want the newest thousand of the others, and no more")
	}
	if st := s.Stats(); st.Definitions != 1001 || st.Unconfirmed != 1000 || st.Exporters != 1001 || st.Evicted != 19_000 {
		t.Errorf("want 1001 definitions of 1001 exporters, 1000 unconfirmed, 19 000 evicted; got %+v", st)
	}
}

func TestUnconfirmedDefinitionsAreTakenBackWhileThereAreMany(t *testing.T) {
	for _, tt := range []struct{ spoofed, tombstones int }{{unconfirmedFew - 1, 0}, {unconfirmedFew + 500, sweepMost}} {
		c := &clock{t0}
		s := New(Options{Now: c.now})
		if err := learnID(s, exporterA, t0, 300); err != nil {
			t.Fatal(err)
		}
		decodeWith(s, exporterA, t0)
		for i := range tt.spoofed {
			if err := learnID(s, spoofed(i), t0, 300); err != nil {
				t.Fatal(err)
			}
			if err := learnID(s, spoofed(i), t0+1, 300); err != nil { // twice, so that it is published
				t.Fatal(err)
			}
		}
		publish(t, s)
		c.ns = t0 + int64(unconfirmedLife) + int64(expirySpread) + minute
		tombstones := 0
		for _, r := range s.Due() {
			if r.Value == nil {
				tombstones++
				if string(r.Key) == string(definitionKey(scopeOf(key300), definitionIDOf(layout(4)))) {
					t.Error("a confirmed definition is taken back")
				}
				s.Published(r, nil)
			}
		}
		if tombstones != tt.tombstones {
			t.Errorf("%d spoofed: want %d tombstones, got %d", tt.spoofed, tt.tombstones, tombstones)
		}
		if got := s.Stats().Definitions; got != 1+tt.spoofed-tt.tombstones {
			t.Errorf("known after that: want %d, got %d", 1+tt.spoofed-tt.tombstones, got)
		}
	}
}

// Exporters of one kind send the same templates: their plan is there once.
func TestEqualTemplatesShareOnePlan(t *testing.T) {
	s, _ := newStore("r")
	a, b := spoofed(1), spoofed(2)
	for _, x := range []netip.Addr{a, b} {
		if err := learnID(s, x, t0, 300); err != nil {
			t.Fatal(err)
		}
	}
	if s.Known(keyOf(a, 7, 300), 1) != s.Known(keyOf(b, 7, 300), 1) {
		t.Error("want the same plan")
	}
	for _, x := range []netip.Addr{a, b} {
		k := definitionKey(scopeOf(keyOf(x, 7, 300)), definitionIDOf(layout(4)))
		sh := s.shardOf(&keyOf(x, 7, 300).Exporter)
		for _, d := range sh.domains.All() {
			d.templates[300].defs[0].local = 0 // another replica's
		}
		if err := s.Merge(k, nil); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(s.plans.all); n != 0 {
		t.Errorf("plans of what is gone: want none, got %d", n)
	}
}
