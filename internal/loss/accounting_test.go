package loss

import (
	"math"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"weir/pkg/flowpb"
)

var (
	start  = time.Unix(1_790_000_000, 0)
	router = netip.MustParseAddr("192.0.2.1")
)

// A replica has a tally and its book.
type replica struct {
	Tally
	book *Book
}

// A world has replicas, an exporter that sends to them, and a reader of the topic.
type world struct {
	t        *testing.T
	replicas []*replica
	cluster  *Cluster
	now      time.Time
	boot     time.Time
	version  uint16
	sequence uint32
	counts   Unit
	sent     int
}

func newWorld(t *testing.T, replicas int, version uint16, counts Unit) *world {
	w := &world{t: t, cluster: NewCluster(), now: start, boot: start.Add(-time.Hour), version: version, counts: counts}
	for i := range replicas {
		w.replicas = append(w.replicas, &replica{book: NewBook(string(rune('a'+i)), start)})
	}
	return w
}

// send sends a datagram with flows and options data records to a replica; the network
// loses a datagram to -1.
func (w *world) send(to, flows, options int) {
	u := Units{1, uint64(flows), uint64(flows + options), uint64(flows + options)}
	if to >= 0 {
		d := Datagram{Stream: Stream{router, w.version, 7}, Received: w.now.UnixNano(), Export: w.now.UnixNano(), Sequence: w.sequence, Sequenced: true, Units: u, Octets: 100}
		if w.version != 10 {
			d.Boot = w.boot.Unix()
		}
		w.replicas[to].Add(&d)
	}
	w.sequence += uint32(u[w.counts])
	w.sent++
}

// publish makes every replica publish its reports and the reader take them.
func (w *world) publish() {
	w.t.Helper()
	for _, r := range w.replicas {
		for _, rep := range r.book.Gather(w.now, []*Tally{&r.Tally}) {
			if err := w.cluster.Take(rep.Key, rep.Value); err != nil {
				w.t.Fatal(err)
			}
			r.book.Published(rep, nil)
		}
	}
}

// slots lets an exporter send for n slots, ten datagrams each, to all replicas in turn. lose reports whether
// datagram i, counted from the start, is lost.
func (w *world) slots(n int, lose func(i int) bool) {
	w.t.Helper()
	for range n {
		for range 10 {
			to := w.sent % len(w.replicas)
			if lose != nil && lose(w.sent) {
				to = -1
			}
			w.send(to, 20+w.sent%3, w.sent%7/6)
			w.now = w.now.Add(time.Second)
		}
		w.publish()
	}
}

func (w *world) row() Row {
	w.t.Helper()
	rows := w.cluster.View()
	if len(rows) != 1 {
		w.t.Fatalf("want one row, got %d", len(rows))
	}
	return rows[0]
}

func TestLossIsCountedOverAllReplicasByWhateverTheNumbersCount(t *testing.T) {
	for _, tt := range []struct {
		name    string
		version uint16
		counts  Unit
	}{
		{"v9 datagrams", 9, Datagrams},
		{"IPFIX records", 10, Records},
		{"IPFIX datagrams", 10, Datagrams},
		{"IPFIX flows without options", 10, Flows},
		{"v5 flows", 5, Flows},
		{"v9 flows", 9, Flows},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, 3, tt.version, tt.counts)
			w.slots(4, nil)
			got := w.row().Loss
			if !got.Usable || got.Unit != tt.counts || got.Lost != 0 || got.Restarts != 0 {
				t.Errorf("nothing is lost: want 0 %v, got %+v", tt.counts, got)
			}
			// Two datagrams in the middle of a slot, and a third at its edge.
			before := w.sequence
			lost := Units{}
			w.slots(4, func(i int) bool {
				is := i == 45 || i == 46 || i == 59
				if is {
					lost.add(&Units{1, uint64(20 + i%3), uint64(20 + i%3 + i%7/6)})
				}
				return is
			})
			got = w.row().Loss
			if !got.Usable || got.Unit != tt.counts || got.Lost != lost[tt.counts] {
				t.Errorf("want %d %v lost, got %+v", lost[tt.counts], tt.counts, got)
			}
			if sum := got.Lost + got.Received; sum != uint64(w.sequence) || before == w.sequence {
				t.Errorf("the exporter sent %d, received and lost are %d", w.sequence, sum)
			}
		})
	}
}

func TestLossStaysRightWhenSlotsAreSettled(t *testing.T) {
	w := newWorld(t, 2, 10, Records)
	want := uint64(0)
	w.slots(50, func(i int) bool {
		lost := i%50 == 49
		if lost {
			want += uint64(20 + i%3 + i%7/6)
		}
		return lost
	})
	// The last datagram, 499, is lost: no later sequence number shows it.
	want -= uint64(20 + (w.sent-1)%3 + (w.sent-1)%7/6)
	if got := w.row(); got.Loss.Lost != want || got.Loss.Unit != Records || len(got.Replicas) != 2 {
		t.Errorf("want %d records lost, seen by 2, got %+v", want, got)
	}
	if n := len(w.replicas[0].book.streams[Stream{router, 10, 7}].slots); n > slotLife+1 {
		t.Errorf("a book keeps %d slots", n)
	}
}

func TestARestartIsNoLoss(t *testing.T) {
	for _, version := range []uint16{9, 10} {
		w := newWorld(t, 2, version, Records)
		w.sequence = 1000
		w.slots(5, nil)
		w.sequence, w.boot = 0, w.now
		if version == 10 {
			w.now = w.now.Truncate(slotSeconds * time.Second)
		} else { // within a slot
			w.now = w.now.Add(-5 * time.Second)
		}
		w.slots(4, nil)
		if got := w.row().Loss; !got.Usable || got.Lost != 0 || got.Restarts != 1 {
			t.Errorf("version %d: want nothing lost and one restart, got %+v", version, got)
		}
	}
}

func TestNumbersThatCountNothingAreUnusable(t *testing.T) {
	w := newWorld(t, 1, 9, Datagrams)
	for range 100 { // constant
		w.send(0, 3, 0)
		w.sequence = 5
		w.now = w.now.Add(time.Second)
		w.publish()
	}
	if got := w.row().Loss; got.Usable {
		t.Errorf("want sequence_unusable, got %+v", got)
	}
	w = newWorld(t, 1, 1, Datagrams)
	w.slots(5, nil)
	if got := w.row().Loss; got.Usable {
		t.Errorf("v1 has no sequence numbers, got %+v", got)
	}
}

func TestALateSetIsNotLost(t *testing.T) {
	w := newWorld(t, 2, 10, Records)
	w.slots(2, nil)
	at, sequence := w.now, w.sequence
	u := Units{Datagrams: 1} // the number of its records is not known yet
	late := Datagram{Stream: Stream{router, 10, 7}, Received: at.UnixNano(), Export: at.UnixNano(), Sequence: sequence, Sequenced: true, Units: u, Undecoded: 1}
	w.replicas[0].Add(&late)
	w.sequence += 25
	late.Units, late.Undecoded = Units{0, 25, 25, 25}, 0
	for range openSlots * 2 { // early enough, and when its slot is settled
		w.slots(1, nil)
		if w.now.Sub(at) == 20*time.Second || w.now.Sub(at) == 300*time.Second {
			if got := w.row().Loss.Lost; got != 25 && w.now.Sub(at) == 20*time.Second {
				t.Errorf("want 25 records missing before, got %d", got)
			}
		}
		if w.now.Sub(at) == 300*time.Second {
			w.replicas[1].Add(&late)
		}
	}
	if got := w.row(); got.Loss.Lost != 0 || got.Undecoded != 1 {
		t.Errorf("want nothing lost, got %+v", got)
	}
}

func TestWhichReplicaSawADatagramMakesNoDifference(t *testing.T) {
	lose := func(i int) bool { return i%11 == 5 }
	var want Loss
	for n := 1; n <= 4; n++ {
		w := newWorld(t, n, 10, Records)
		w.slots(8, lose)
		if got := w.row().Loss; n == 1 {
			want = got
		} else if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%d replicas: %s", n, diff)
		}
	}
	if want.Lost == 0 {
		t.Error("nothing was lost")
	}
}

func TestAClockSetBackBeginsAnew(t *testing.T) {
	w := newWorld(t, 1, 10, Records)
	w.slots(openSlots+5, nil)
	w.now = w.now.Add(-time.Hour)
	w.slots(10, func(i int) bool { return i == (openSlots+5)*10+75 })
	if got := w.row().Loss; !got.Usable || got.Lost == 0 || got.Lost > 25 {
		t.Errorf("want one datagram's records lost, got %+v", got)
	}
}

func TestAnExporterOfWhichNothingWasDecodedIsNotPublished(t *testing.T) {
	w := newWorld(t, 1, 9, Datagrams)
	w.send(0, 0, 0)
	w.publish()
	if rows := w.cluster.View(); len(rows) != 0 {
		t.Errorf("got %+v", rows)
	}
	w.send(0, 1, 0)
	w.publish()
	if got := w.row(); got.Received[Datagrams] != 2 {
		t.Errorf("want both datagrams once it is proven, got %+v", got)
	}
}

func TestWhatCouldNotBePublishedIsPublishedLater(t *testing.T) {
	w := newWorld(t, 1, 9, Datagrams)
	w.send(0, 1, 0)
	b := w.replicas[0].book
	first := b.Gather(w.now, []*Tally{&w.replicas[0].Tally})
	for _, r := range first {
		b.Published(r, proto.Error)
	}
	again := b.Gather(w.now, nil)
	keys := func(rs []Report) (out []string) {
		for _, r := range rs {
			out = append(out, string(r.Key))
		}
		slices.Sort(out)
		return out
	}
	if diff := cmp.Diff(keys(first), keys(again)); diff != "" || len(first) != 2 {
		t.Errorf("%d reports, then: %s", len(first), diff)
	}
	if rest := b.Gather(w.now, nil); len(rest) != 0 {
		t.Errorf("nothing has changed: %v", keys(rest))
	}
}

func TestForgedExportersAreBounded(t *testing.T) {
	w := newWorld(t, 1, 9, Datagrams)
	for i := range maxStreams + 500 {
		a := netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)})
		w.replicas[0].Add(&Datagram{Stream: Stream{a, 9, 0}, Received: 1, Sequenced: true, Units: Units{1, 1, 1, 1}})
	}
	for i := range 100_000 { // forged export times of a single stream
		w.replicas[0].Add(&Datagram{Stream: Stream{router, 9, 1}, Received: 1, Export: int64(i) * 1e12, Sequenced: true, Units: Units{1, 1, 1, 1}})
	}
	w.publish()
	if n := len(w.replicas[0].book.streams); n > maxStreams+1 {
		t.Errorf("%d streams", n)
	}
	total := uint64(0)
	for _, r := range w.cluster.View() {
		total += r.Received[Flows]
	}
	if total != maxStreams+500+100_000 {
		t.Errorf("want every flow in a summary, got %d", total)
	}
	if w.replicas[0].book.Dropped() == 0 {
		t.Error("Dropped does not count the datagrams without a slot")
	}
}

func TestForgedExportersKeepNoRealOneOut(t *testing.T) {
	w := newWorld(t, 1, 9, Datagrams)
	for i := range 2 * maxUnproven {
		a := netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)})
		w.replicas[0].Add(&Datagram{Stream: Stream{a, 9, 0}, Received: 1, Sequenced: true, Units: Units{Datagrams: 1}})
	}
	w.publish()
	w.send(0, 1, 0)
	w.publish()
	if got := w.row(); got.Exporter != router || got.Received[Flows] != 1 {
		t.Errorf("want only the exporter with decoded data, got %+v", got)
	}
	if n := len(w.replicas[0].book.streams); n > maxUnproven+1 {
		t.Errorf("%d streams", n)
	}
}

func TestWhatAFlowSaysOfItsExporterIsInTheSummary(t *testing.T) {
	flow, err := proto.Marshal(&flowpb.FlowMessage{SamplingRate: 512, SamplingSource: flowpb.SamplingSource_SAMPLING_SOURCE_OPTIONS, ExporterName: "edge-1", Site: "ams"})
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, 1, 9, Datagrams)
	w.replicas[0].Add(&Datagram{Stream: Stream{router, 9, 7}, Received: start.UnixNano(), Export: start.UnixNano(), Units: Units{1, 600, 600, 600}, Octets: 9, Errors: 2, Flow: flow})
	w.publish()
	got := w.row()
	want := Row{
		Stream: Stream{router, 9, 7}, Name: "edge-1", Site: "ams", First: start, Last: start, Received: Units{1, 600, 600, 600}, Octets: 9, Errors: 2,
		SamplingRate: 512, SamplingSource: flowpb.SamplingSource_SAMPLING_SOURCE_OPTIONS, Replicas: []string{"a"}, FlowsPerSecond: 60,
		Loss: Loss{Unknown: NoRuns},
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(time.Time.Equal)); diff != "" {
		t.Error(diff)
	}
}

func TestProcessesThatEndedLongAgoAreForgotten(t *testing.T) {
	c := NewCluster()
	for i := range maxLives + 5 {
		at := start.Add(time.Duration(i) * time.Hour)
		r := &replica{book: NewBook("a", at)}
		r.Add(&Datagram{Stream: Stream{router, 9, 7}, Received: at.UnixNano(), Export: at.UnixNano(), Units: Units{1, 1, 1, 1}})
		for _, rep := range r.book.Gather(at, []*Tally{&r.Tally}) {
			if err := c.Take(rep.Key, rep.Value); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got := c.View()[0]; got.Received[Flows] != maxLives || !got.First.Equal(start.Add(5*time.Hour)) {
		t.Errorf("want the last %d processes, got %+v", maxLives, got)
	}
}

func FuzzTake(f *testing.F) {
	w := &world{cluster: NewCluster(), now: start, version: 9, replicas: []*replica{{book: NewBook("a", start)}}}
	w.send(0, 3, 1)
	for _, r := range w.replicas[0].book.Gather(start, []*Tally{&w.replicas[0].Tally}) {
		f.Add(r.Key, r.Value)
	}
	f.Fuzz(func(t *testing.T, key, value []byte) {
		c := NewCluster()
		for i := range 3 {
			if c.Take(append(key, byte(i)), value) == nil {
				for _, r := range c.View() {
					checkRow(t, r)
				}
			}
		}
	})
}

// A datagram of 100 is lost in each slot, so that no slot is complete in any unit. The
// expected loss is the number of records that the test does not pass to a tally.
func TestWithALossInEverySlotTheUnitWithTheLeastMissingIsTaken(t *testing.T) {
	for _, tt := range []struct {
		name           string
		version        uint16
		counts         Unit
		flows, options int
	}{
		{"v9 that counts flows", 9, Flows, 30, 0},
		{"v9 that counts datagrams", 9, Datagrams, 30, 0},
		{"v9 that counts records", 9, Records, 25, 5},
		{"IPFIX that counts datagrams", 10, Datagrams, 30, 1},
		{"IPFIX that counts records", 10, Records, 25, 5},
		{"v5", 5, Flows, 30, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, 2, tt.version, tt.counts)
			const slots = 25 // some are settled
			for range slots {
				for i := range 100 {
					to := i % 2
					if i == 50 {
						to = -1
					}
					w.send(to, tt.flows, tt.options)
					w.now = w.now.Add(slotSeconds * time.Second / 100)
				}
				w.publish()
			}
			unit := map[Unit]int{Datagrams: 1, Flows: tt.flows, Records: tt.flows + tt.options}[tt.counts]
			want := uint64(slots * unit)
			if got := w.row().Loss; !got.Usable || got.Unit != tt.counts || got.Lost != want {
				t.Errorf("want %d %v lost of %d, got %+v", want, tt.counts, slots*100*unit, got)
			}
		})
	}
}

// A repeated datagram gives the only slot so far an excess. In datagrams nearly
// everything would be missing.
func TestARepeatedDatagramIsNoReasonForAnotherUnit(t *testing.T) {
	w := newWorld(t, 1, 10, Records)
	for range 5 {
		w.send(0, 25, 0)
		w.now = w.now.Add(time.Second)
	}
	w.sequence -= 25
	w.send(0, 25, 0)
	w.now = w.now.Add(slotSeconds * time.Second)
	w.send(0, 25, 0)
	w.publish()
	if got := w.row().Loss; got.Unit != Records || got.Lost != 0 {
		t.Errorf("want no records lost, got %+v", got)
	}
}

// RFC 7011 section 3.1: the sequence number is modulo 2^32, and an exporting process
// that starts counts from 0. IPFIX has no uptime that would distinguish them.
func TestAnIPFIXRestartShortlyBefore2To32IsNoLoss(t *testing.T) {
	for name, before := range map[string]uint32{"2 000 records": 2_000, "a million": 1_000_000, "200 million": 200_000_000} {
		for _, within := range []bool{false, true} { // a slot
			w := newWorld(t, 2, 10, Records)
			w.now = w.now.Truncate(slotSeconds * time.Second)
			w.sequence = -before - 5*10*21
			for range 5 {
				w.slots(1, nil)
			}
			if within {
				w.now = w.now.Add(-5 * time.Second)
			}
			w.sequence = 0
			w.slots(5, nil)
			if got := w.row().Loss; !got.Usable || got.Lost != 0 || got.Restarts != 1 {
				t.Errorf("%s before 2^32, within a slot: %v: want nothing lost and one restart, got %+v", name, within, got)
			}
		}
	}
}

func TestSequenceNumbersThatPass2To32AreNoRestart(t *testing.T) {
	for _, version := range []uint16{9, 10} {
		for _, lost := range []bool{false, true} { // the datagrams at 2^32
			w := newWorld(t, 3, version, Records)
			w.sequence = math.MaxUint32 - 450 // 2^32 is passed in the third slot
			w.slots(2, nil)
			want := uint64(0)
			w.slots(4, func(i int) bool {
				is := lost && i >= 20 && i < 23
				if is {
					want += uint64(20 + i%3 + i%7/6)
				}
				return is
			})
			if got := w.row().Loss; !got.Usable || got.Lost != want || got.Restarts != 0 {
				t.Errorf("version %d: want %d records lost and no restart, got %+v", version, want, got)
			}
		}
	}
}
