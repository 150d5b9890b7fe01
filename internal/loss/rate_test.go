package loss

import (
	"math"
	"testing"
	"time"
)

// The exporter sends 85 flows per second all the time. The expected rates are by hand.
func TestRatesFollowTheTimeOfReceipt(t *testing.T) {
	for name, tt := range map[string]struct {
		clock    func(second int) time.Duration // by which the exporter's clock is wrong
		replicas int
		from, to int // seconds in which it sends
		want     float64
	}{
		"right clock":               {func(int) time.Duration { return 0 }, 1, 0, 300, 85},
		"set back by an hour":       {func(s int) time.Duration { return time.Duration(s/150) * -time.Hour }, 1, 0, 300, 85},
		"set back soon":             {func(s int) time.Duration { return time.Duration(min(1, s/40)) * -time.Hour }, 1, 0, 100, 85},
		"set forward by an hour":    {func(s int) time.Duration { return time.Duration(s/150) * time.Hour }, 1, 0, 300, 85},
		"stands still":              {func(s int) time.Duration { return time.Duration(-s) * time.Second }, 1, 0, 300, 85},
		"two replicas":              {func(int) time.Duration { return 0 }, 2, 0, 300, 85},
		"for 30 s":                  {func(int) time.Duration { return 0 }, 1, 0, 30, 85 * 30 / 29.},
		"a datagram":                {func(int) time.Duration { return 0 }, 1, 0, 1, 8.5}, // a report is of 10 s
		"a replica after the other": {func(int) time.Duration { return 0 }, -2, 0, 300, 85},
	} {
		w := newWorld(t, max(tt.replicas, -tt.replicas), 9, Datagrams)
		for s := tt.from; s < tt.to; s++ {
			at := start.Add(time.Duration(s) * time.Second)
			r := 0
			switch {
			case tt.replicas > 0:
				r = s % tt.replicas
			case s >= 285: // the second takes over
				r = 1
			}
			w.replicas[r].Add(&Datagram{
				Stream: Stream{router, 9, 7}, Received: at.UnixNano(), Export: at.Add(tt.clock(s)).UnixNano(),
				Sequenced: true, Sequence: uint32(s), Units: Units{1, 85, 85, 85},
			})
			if s%10 == 9 || s == tt.to-1 {
				w.publish()
			}
		}
		if got := w.row().FlowsPerSecond; math.Abs(got-tt.want) > tt.want/50 {
			t.Errorf("%s: %v flows per second, want %v", name, got, tt.want)
		}
	}
}

func TestAnUnknownLossHasItsReason(t *testing.T) {
	for version, want := range map[uint16]UnknownReason{1: NoSequence, 9: NoRuns} {
		w := newWorld(t, 1, version, Datagrams)
		w.replicas[0].Add(&Datagram{
			Stream: Stream{router, version, 7}, Received: start.UnixNano(), Export: start.UnixNano(), Units: Units{1, 1, 1, 1},
		})
		w.publish()
		if got := w.row().Loss; got != (Loss{Unknown: want}) {
			t.Errorf("version %d without sequence numbers: %+v, want %q", version, got, want)
		}
	}
	w := newWorld(t, 1, 9, Datagrams)
	for s := range 100 { // the same sequence number in each datagram: more is received than sent
		at := start.Add(time.Duration(s) * time.Second)
		w.replicas[0].Add(&Datagram{
			Stream: Stream{router, 9, 7}, Received: at.UnixNano(), Export: at.UnixNano(),
			Sequenced: true, Sequence: 5, Units: Units{1, 2, 2, 2},
		})
		if s%10 == 9 {
			w.publish()
		}
	}
	if got := w.row().Loss; got != (Loss{Unknown: NoUnit}) {
		t.Errorf("a sequence number that does not count: %+v, want %q", got, NoUnit)
	}

	// Only the totals are within the period that was read.
	r := &replica{book: NewBook("a", start)}
	r.Add(&Datagram{
		Stream: Stream{router, 9, 7}, Received: start.UnixNano(), Export: start.UnixNano(), Sequenced: true, Units: Units{1, 1, 1, 1},
	})
	c := NewCluster()
	for _, rep := range r.book.Gather(start, []*Tally{&r.Tally}) {
		m, _, err := parseReport(rep.Value)
		if err == nil && m.GetSummary() != nil {
			err = c.Take(rep.Key, rep.Value)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if rows := c.View(); len(rows) != 1 || rows[0].Loss != (Loss{Unknown: NoSlots}) {
		t.Errorf("totals only: %+v, want %q", rows, NoSlots)
	}
}
