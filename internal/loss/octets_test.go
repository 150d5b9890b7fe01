package loss

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"time"
)

// heap returns the octets of live objects.
func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func forged(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
}

// add counts a datagram of one flow.
func (r *replica) add(a netip.Addr, export time.Time, sequence uint32, boot int64) {
	r.Add(&Datagram{
		Stream: Stream{a, 5, 0}, Received: export.UnixNano(), Export: export.UnixNano(), Boot: boot, Sequence: sequence, Sequenced: true,
		Units: Units{1, 1, 1, 1}, Octets: 72,
	})
}

// newReplica returns a replica whose tally shares its book's memory.
func newReplica(name string) *replica {
	r := &replica{book: NewBook(name, start)}
	r.book.Attach(&r.Tally)
	return r
}

// gather publishes to clusters, and lets 10 s pass for them.
func (r *replica) gather(t *testing.T, now time.Time, to ...*Cluster) (reports int) {
	t.Helper()
	for _, rep := range r.book.Gather(now, []*Tally{&r.Tally}) {
		reports++
		for _, c := range to {
			if err := c.Take(rep.Key, rep.Value); err != nil {
				t.Fatal(err)
			}
		}
		r.book.Published(rep, nil)
	}
	for _, c := range to {
		c.Turn()
	}
	return reports
}

func (b *Book) has(a netip.Addr) bool    { return b.streams[Stream{a, 5, 0}] != nil }
func (c *Cluster) has(a netip.Addr) bool { return c.streams[Stream{a, 5, 0}] != nil }

// Every stream has 16 slots of 8 runs in each turn, the maximum. The heap must grow by
// the estimated octets within a factor of 2, and must not exceed the bound.
func TestAccountingStaysWithinItsOctets(t *testing.T) {
	for _, tt := range []struct{ streams, slots, runs, turns int }{
		{2000, 4, 8, 2}, {4000, 2, 1, 7}, {12_000, 1, 1, 1}, {200, 16, 8, 9},
	} {
		t.Run(fmt.Sprint(tt), func(t *testing.T) {
			before := heap()
			r, c := newReplica("r"), NewCluster()
			now, most := start, int64(0)
			for turn := range tt.turns {
				for i := range tt.streams {
					for slot := range tt.slots {
						for run := range tt.runs {
							r.add(forged(i), now.Add(time.Duration(slot*10)*time.Second), uint32(run)<<25+uint32(turn), int64(1000*run))
						}
					}
				}
				most = max(most, r.book.Octets()+c.Octets())
				now = now.Add(time.Duration(10*tt.slots) * time.Second)
				r.gather(t, now, c)
				most = max(most, r.book.Octets()+c.Octets())
			}
			grown, accounted := heap()-before, r.book.Octets()+c.Octets()
			if grown > 2*accounted || accounted > 2*grown {
				t.Errorf("the heap grew by %d KiB, but %d KiB are accounted for: want a factor of at most 2", grown>>10, accounted>>10)
			}
			if most > MaxOctets {
				t.Errorf("%d MiB, want at most %d", most>>20, MaxOctets>>20)
			}
			t.Logf("%d KiB of heap, %d KiB accounted, at most %d KiB", grown>>10, accounted>>10, most>>10)
			runtime.KeepAlive(r)
			runtime.KeepAlive(c)
		})
	}
	if MaxOctets != 64<<20 {
		t.Errorf("the sum of the bounds is %d MiB: want 64, as docs/receiving.md says", MaxOctets>>20)
	}
}

// An exporter that sends all the time must keep its place in the tally, in the book and in the cluster during
// a flood of forged streams.
func TestForgedStreamsPushOutNoEstablishedOne(t *testing.T) {
	honest := netip.MustParseAddr("192.0.2.1")
	r, c := newReplica("r"), NewCluster()
	c.MaxOctets = 1 << 20
	now, sequence := start, uint32(0)
	send := func() {
		r.add(honest, now, sequence, 0)
		sequence++
	}
	for range provenTurns + 1 {
		send()
		now = now.Add(10 * time.Second)
		r.gather(t, now, c)
	}
	forging := 0
	for range 4 {
		for range 6000 { // before the honest exporter's datagram, with the maximum of every count
			for run := range 2 {
				r.add(forged(forging), now, uint32(run)<<25, int64(1000*run))
			}
			forging++
		}
		send()
		now = now.Add(10 * time.Second)
		r.gather(t, now, c)
		if !r.book.has(honest) || !c.has(honest) {
			t.Fatal("the honest exporter's stream was forgotten")
		}
	}
	var got Row
	for _, row := range c.View() {
		if row.Exporter == honest {
			got = row
		}
	}
	if got.Received[Flows] != uint64(sequence) || got.Loss.Lost != 0 || got.Loss.Received != uint64(sequence) {
		t.Errorf("want %d flows and none lost, got %+v", sequence, got)
	}
	if n := c.Octets(); n > c.MaxOctets || r.book.Octets() > tallyMax+bookMax || len(r.book.streams) > maxStreams {
		t.Errorf("cluster %d KiB, book %d KiB of %d streams", n>>10, r.book.Octets()>>10, len(r.book.streams))
	}
}

// A new exporter becomes established while forged streams come and go; a listed exporter
// is established at once.
func TestANewExporterIsTakenInDuringAFlood(t *testing.T) {
	honest, listed := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	r, c := newReplica("r"), NewCluster()
	r.book.Listed = func(a netip.Addr) bool { return a == listed }
	c.Listed = r.book.Listed
	now, forging := start, 0
	flood := func(n int, then func()) {
		for range n {
			then()
			for range 2000 {
				r.add(forged(forging), now, 1, 0)
				forging++
			}
			now = now.Add(10 * time.Second)
			r.gather(t, now, c)
		}
	}
	flood(5, func() {})
	flood(provenTurns, func() { r.add(honest, now, 1, 0) })
	if a := r.book.streams[Stream{honest, 5, 0}]; a == nil || !a.established {
		t.Error("the new exporter is not established in the book")
	}
	flood(1, func() { r.add(honest, now, 1, 0); r.add(listed, now, 1, 0) })
	if h := c.streams[Stream{honest, 5, 0}]; h == nil || !h.established {
		t.Error("the new exporter is not established in the cluster")
	}
	if a, h := r.book.streams[Stream{listed, 5, 0}], c.streams[Stream{listed, 5, 0}]; a == nil || h == nil || !a.established || !h.established {
		t.Error("the listed exporter is not established")
	}
}

// Replicas come and go, each with its own streams, as during a week of forgeries.
func TestTheClusterForgets(t *testing.T) {
	c := NewCluster()
	c.MaxOctets = 4 << 20
	for day := range 5 {
		r := newReplica(fmt.Sprint("r", day))
		for i := range 10_000 {
			r.add(forged(10_000*day+i), start, 1, 0)
		}
		r.gather(t, start, c)
	}
	if n := c.Octets(); n > c.MaxOctets || n < c.MaxOctets/2 {
		t.Errorf("%d octets, want at most %d and the streams that fit", n, c.MaxOctets)
	}
	r := newReplica("last")
	r.add(router, start, 1, 0)
	r.gather(t, start, c)
	for range keepTurns - 2 {
		c.Turn()
	}
	if !c.has(router) {
		t.Error("forgotten before 7 days of silence are over")
	}
	for range 3 {
		c.Turn()
	}
	if len(c.streams) != 0 || c.Octets() != 0 {
		t.Errorf("after 7 days of silence: %d streams, %d octets", len(c.streams), c.Octets())
	}
}

// 1 200 forged addresses sort before the addresses of honest exporters.
func TestTheTopIsWhoIsActiveLongest(t *testing.T) {
	listed, old, busy := netip.MustParseAddr("192.0.2.9"), netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	r, c := newReplica("r"), NewCluster()
	c.Listed = func(a netip.Addr) bool { return a == listed }
	now := start
	turn := func(also ...netip.Addr) {
		for _, a := range append(also, old) {
			r.add(a, now, 1, 0)
		}
		now = now.Add(10 * time.Second)
		r.gather(t, now, c)
	}
	for range provenTurns {
		turn(busy, busy)
	}
	turn()
	for i := range 1200 {
		r.add(forged(i), now, 1, 0)
	}
	turn(listed)
	top := c.Top(1000, 100)
	want := []netip.Addr{listed, old, busy}
	if len(top) != 100 { // few are new
		t.Fatalf("want 100 rows, got %d", len(top))
	}
	for i, a := range want {
		if top[i].Exporter != a {
			t.Errorf("row %d: want %v, got %v", i, a, top[i].Exporter)
		}
	}
	if top := c.Top(2, 100); len(top) != 2 {
		t.Errorf("want 2 rows, got %d", len(top))
	}
}

// The Gathers after a full Gather report the rest.
func TestReportsOfOneGatherAreBounded(t *testing.T) {
	r, c := newReplica("r"), NewCluster()
	const streams = 100
	r.book.reports = 64 << 10
	gather := func(take func(Report)) (octets int) {
		for _, rep := range r.book.Gather(start, []*Tally{&r.Tally}) {
			octets += len(rep.Key) + len(rep.Value)
			take(rep)
		}
		if octets > 72<<10 { // the last stream is reported whole
			t.Errorf("%d octets of reports, want about %d at most", octets, 64<<10)
		}
		return octets
	}
	for round := range 5 { // Kafka is away
		for i := range streams {
			for slot := range 6 {
				for run := range 4 {
					r.add(forged(i), start.Add(time.Duration(10*slot+60*round)*time.Second), uint32(run)<<25, int64(1000*run))
				}
			}
		}
		gather(func(rep Report) { r.book.Published(rep, errors.New("away")) })
	}
	turns := 0
	for octets := -1; octets != 0 && turns < 30; turns++ {
		octets = gather(func(rep Report) {
			if err := c.Take(rep.Key, rep.Value); err != nil {
				t.Fatal(err)
			}
		})
	}
	if turns < 3 || turns == 30 || len(c.streams) != streams {
		t.Errorf("want %d streams reported by several gatherings, got %d by %d", streams, len(c.streams), turns-1)
	}
}

// A forged message without records has a sequence number two million away: in a slot
// with other datagrams, in a slot of its own, and in a slot far ahead.
func TestOneForgedSequenceNumberCountsNothingLost(t *testing.T) {
	for name, at := range map[string]func(w *world) time.Time{
		"within a slot":      func(w *world) time.Time { return w.now },
		"in the last slot":   func(w *world) time.Time { return w.now.Add(-10 * time.Second) },
		"in a slot to come":  func(w *world) time.Time { return w.now.Add(10 * time.Second) },
		"in an hour's slot":  func(w *world) time.Time { return w.now.Add(time.Hour) },
		"in a slot long ago": func(w *world) time.Time { return w.now.Add(-100 * time.Second) },
	} {
		for _, ahead := range []int32{2 * near, -2 * near} {
			t.Run(fmt.Sprint(name, ahead), func(t *testing.T) {
				w := newWorld(t, 2, 10, Records)
				w.sequence = 3 * near
				first := w.sequence
				w.slots(30, nil)
				w.replicas[0].Add(&Datagram{
					Stream: Stream{router, 10, 7}, Received: w.now.UnixNano(), Export: at(w).UnixNano(),
					Sequence: w.sequence + uint32(ahead), Sequenced: true, Units: Units{Datagrams: 1},
				})
				for range 400 {
					w.slots(1, nil)
					if got := w.row().Loss; !got.Usable || got.Unit != Records || got.Lost != 0 {
						t.Fatalf("nothing is lost; got %+v", got)
					}
				}
				if got := w.row().Loss; got.Received != uint64(w.sequence-first) || got.Restarts != 0 {
					t.Errorf("want %d received and no restart, got %+v", w.sequence-first, got)
				}
			})
		}
	}
}

// The loss of an exporter with a single datagram per slot appears a slot later.
func TestALossBetweenSingleDatagramsCounts(t *testing.T) {
	w := newWorld(t, 1, 5, Flows)
	single := func(n int) {
		for range n {
			w.send(0, 30, 0)
			w.now = w.now.Add(10 * time.Second)
			w.publish()
		}
	}
	single(30)
	w.sequence += 5000
	single(1)
	if got := w.row().Loss; got.Lost != 0 {
		t.Errorf("one datagram alone may be forged: want nothing lost yet, got %+v", got)
	}
	single(30)
	if got := w.row().Loss; got.Lost != 5000 || got.Restarts != 0 {
		t.Errorf("want 5000 lost, got %+v", got)
	}
}

// Forged sequence numbers that take all runs of a slot do not keep the exporter's own
// out.
func TestForgedRunsDoNotCrowdOutTheExporters(t *testing.T) {
	w := newWorld(t, 1, 10, Records)
	for range 10 {
		for i := range 2 * maxRuns {
			w.replicas[0].Add(&Datagram{
				Stream: Stream{router, 10, 7}, Received: w.now.UnixNano(), Export: w.now.UnixNano(), Sequence: uint32(i) << 27, Sequenced: true, Units: Units{Datagrams: 1},
			})
		}
		w.sequence = max(w.sequence, 10_000_000)
		w.slots(1, nil)
	}
	if got := w.row().Loss; got.Lost > 30 || got.Received+30 < uint64(w.sequence-10_000_000) {
		t.Errorf("%d were sent and none is lost, got %+v", w.sequence-10_000_000, got)
	}
}

// While Kafka is unavailable, unpublished slots accumulate up to the bound. An exporter with few slots must
// still have room for its own.
func TestSlotsThatWaitForKafkaAreSharedByAllStreams(t *testing.T) {
	const streams, turns = 250, 5
	r := newReplica("r")
	now := start
	turn := func(slots, runs int) {
		for i := range streams {
			for slot := range slots {
				for run := range runs {
					r.add(forged(i), now.Add(time.Duration(10*slot)*time.Second), uint32(run)<<25, int64(1000*run))
				}
			}
		}
		r.add(router, now, 1, 0)
		now = now.Add(time.Duration(10*slots) * time.Second)
		for _, rep := range r.book.Gather(now, []*Tally{&r.Tally}) {
			r.book.Published(rep, errors.New("away"))
		}
	}
	for range provenTurns {
		turn(1, 1)
	}
	for range turns {
		turn(16, 8)
		if n := r.book.Octets(); n > bookMax {
			t.Fatalf("%d KiB, want at most %d", n>>10, bookMax>>10)
		}
	}
	if r.book.Dropped() == 0 {
		t.Error("Dropped does not count the datagrams without a slot")
	}
	if got := len(r.book.streams[Stream{router, 5, 0}].slots); got != provenTurns+turns {
		t.Errorf("the exporter with one slot each time: want %d slots, got %d", provenTurns+turns, got)
	}
}

// New streams may use a quarter of the memory of tallies, and an established stream must have its own account
// even if it comes last.
func TestForgedStreamsFillNoTally(t *testing.T) {
	r := newReplica("r")
	now := start
	for range provenTurns {
		r.add(router, now, 1, 0)
		now = now.Add(10 * time.Second)
		r.gather(t, now)
	}
	const streams = maxStreams + 100
	for i := range streams {
		for run := range 2 {
			r.add(forged(i), now, uint32(run)<<25, int64(1000*run))
		}
	}
	r.add(router, now, 2, 0)
	if got := r.streams[Stream{router, 5, 0}]; got == nil || got.received[Datagrams] != 1 {
		t.Error("the established stream has no account of its own")
	}
	if n := r.book.room.used.Load(); n > tallyMax/4+(slotOctets+runOctets+accountOctets) {
		t.Errorf("%d KiB, want at most a quarter of %d", n>>10, tallyMax>>10)
	}
	if got := r.streams[Stream{}].received[Datagrams]; got == 0 {
		t.Error("the zero Stream does not count the streams without room")
	}
	r.gather(t, now)
	if n := r.book.room.used.Load(); n != 0 {
		t.Errorf("an emptied tally holds %d octets", n)
	}
}
