package templates

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weir/internal/decode"
	"weir/pkg/flowpb"
)

func limited(perExporter, total int) *Store {
	c := &clock{t0}
	return New(Options{Now: c.now, MaxPerExporter: perExporter, MaxTotal: total})
}

func learnID(s *Store, a netip.Addr, at int64, id uint16) error {
	_, err := s.Learn(keyOf(a, 7, id), &decode.Meta{Exporter: a, Port: 1, Received: at}, &decode.Header{}, layout(4))
	return err
}

func TestAtItsLimitAnExportersOldestDefinitionGoes(t *testing.T) {
	s := limited(4, 100)
	other := netip.MustParseAddr("192.0.2.2")
	if err := learnID(s, other, t0-1, 300); err != nil {
		t.Fatal(err)
	}
	for i := range uint16(6) {
		if err := learnID(s, exporterA, t0+int64(i), 300+i); err != nil {
			t.Fatal(err)
		}
	}
	var got []uint16
	for id := range uint16(6) {
		if s.Known(keyOf(exporterA, 7, 300+id), 1) != nil {
			got = append(got, 300+id)
		}
	}
	if d := cmp.Diff([]uint16{302, 303, 304, 305}, got); d != "" {
		t.Errorf("known (-want +got):\n%s", d)
	}
	if s.Known(keyOf(other, 7, 300), 1) == nil {
		t.Error("another exporter's definition went")
	}
	if st := s.Stats(); st.Evicted != 2 || st.Definitions != 5 {
		t.Errorf("want 2 evicted, 5 known; got %+v", st)
	}
	if got := len(s.Due()); got != 5 {
		t.Errorf("due: want what is known, 5; got %d", got)
	}
}

func TestAtTheLimitInTotalTheOldestUnconfirmedDefinitionGoesForANewExporter(t *testing.T) {
	s := limited(100, 3)
	for i := range uint16(3) {
		if err := learnID(s, exporterA, t0+int64(i), 300+i); err != nil {
			t.Fatal(err)
		}
	}
	if err := learnID(s, netip.MustParseAddr("192.0.2.2"), t0+10, 300); err != nil {
		t.Errorf("a new exporter: %v", err)
	}
	if err := learnID(s, exporterA, t0+11, 310); err != nil {
		t.Errorf("a known exporter's new template: %v", err)
	}
	for id, want := range map[uint16]bool{300: false, 301: false, 302: true, 310: true} {
		if got := s.Known(keyOf(exporterA, 7, id), 1) != nil; got != want {
			t.Errorf("template %d is known: want %v, got %v", id, want, got)
		}
	}
	if st := s.Stats(); st.Refused != 0 || st.Evicted != 2 || st.Definitions != 3 {
		t.Errorf("want none refused, 2 evicted, 3 known; got %+v", st)
	}
}

func TestNoMoreThanEightLayoutsOfATemplateIDAreKept(t *testing.T) {
	s, _ := newStore("r1")
	for i := range uint16(20) {
		learn(t, s, t0+int64(i), i, 1+i)
	}
	if st := s.Stats(); st.Definitions != 8 || st.Evicted != 12 {
		t.Errorf("want 8 known, 12 evicted; got %+v", st)
	}
	wantLayout(t, s, 19, 20)
	wantLayout(t, s, 0, 20)
}

func TestAtItsLimitAnExportersOldestFactGoes(t *testing.T) {
	s := limited(3, 100)
	for i := range uint64(5) {
		learnFact(s, t0+int64(i), decode.OptionsFact{What: flowpb.Fact_WHAT_SAMPLER, ID: i, Number: 10})
	}
	if got := fmt.Sprint(ratesOf(s.Facts(key300))); got != "map[2:10 3:10 4:10]" {
		t.Errorf("samplers: want 2, 3 and 4, got %s", got)
	}
}
