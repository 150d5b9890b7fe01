package templates

import (
	"errors"
	"testing"
)

// While Kafka is away nobody takes what is due: what waits must not be more than
// what is held, in number and on the heap.
func TestWhatIsDueIsBoundedByWhatIsHeld(t *testing.T) {
	c := &clock{t0}
	s := New(Options{Now: c.now, MaxPerExporter: 100})
	flood := func(from, to int) {
		for i := from; i < to; i++ {
			c.ns += 1e7 // within the budget of one exporter
			learnTemplate(t, s, exporterA, 1, 1, t0+int64(i), wide(uint16(300+i), i, 4))
		}
	}
	flood(0, 1000)
	before := heap()
	flood(1000, 50_000)
	if grown := heap() - before; grown > 2*s.Stats().Octets {
		t.Errorf("the heap grew by %d octets: want at most twice the %d accounted", grown, s.Stats().Octets)
	}
	if st := s.Stats(); st.Pending != st.Definitions || st.Definitions > 100 {
		t.Errorf("want all of at most 100 definitions pending, and no more; got %+v", st)
	}
	if n := len(s.due.waiting.entries); n > 3*100+64 {
		t.Errorf("the queue has %d places: want a few times 100", n)
	}
	if n := len(s.Due()); n != s.Stats().Definitions {
		t.Errorf("due: want each of %d definitions, got %d", s.Stats().Definitions, n)
	}
}

func TestWhatIsUnderWayIsBounded(t *testing.T) {
	c := &clock{t0}
	s := New(Options{Now: c.now})
	const n = 600
	for i := range n {
		c.ns += 1e9 // within the budgets
		learnTemplate(t, s, spoofed(i%200), 1, 1, t0+int64(i), wide(uint16(300+i), i, 4000))
	}
	s.Republish()
	octets := 0
	first := s.Due()
	for _, r := range first {
		octets += len(r.Value)
	}
	if octets > maxUnderWayOctets+maxValue || len(first) == 0 {
		t.Fatalf("under way: %d octets in %d records, want at most %d", octets, len(first), maxUnderWayOctets)
	}
	if got := len(s.Due()); got != 0 {
		t.Errorf("due while that is under way: want 0, got %d", got)
	}
	total := 0
	for rs := first; len(rs) > 0; rs = s.Due() {
		c.ns += 40e9 // within the budgets
		total += len(rs)
		for i, r := range rs {
			if i%100 == 99 {
				s.Published(r, errors.New("kafka is away"))
				total--
				continue
			}
			s.Published(r, nil)
		}
	}
	if total != s.Stats().Definitions {
		t.Errorf("published in the end: want %d, got %d", s.Stats().Definitions, total)
	}
}
