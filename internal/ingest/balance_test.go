package ingest

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"weir/internal/weirtest/locked"
	"weir/internal/wire"
)

// sumOf returns the sum of the counters of a collector whose label values include value, or of all
// counters if value is "".
func sumOf(t *testing.T, c prometheus.Collector, value string) (sum int) {
	t.Helper()
	ch := make(chan prometheus.Metric)
	go func() { c.Collect(ch); close(ch) }()
	for m := range ch {
		var d dto.Metric
		if err := m.Write(&d); err != nil {
			t.Fatal(err)
		}
		is := value == ""
		for _, l := range d.GetLabel() {
			is = is || l.GetValue() == value
		}
		if is {
			sum += int(d.GetCounter().GetValue())
		}
	}
	return sum
}

// The input is a hostile mix, random but repeatable. Every data set must be decoded, be an error,
// wait, or be dropped with a reason, and so must every record of sets with a known template. The
// expected values are counted when the datagrams are made.
func TestNothingOfAHostileMixIsUncounted(t *testing.T) {
	b := embedded(t)
	var log locked.Buffer
	c := config(b.Addr(), "r")
	c.ParkFor, c.ParkMax = 20*time.Millisecond, 64<<10
	c.Undecoded.Exporter, c.Undecoded.Burst, c.Undecoded.Rate = 4<<10, 128<<10, 1<<10
	c.OutputExtraEach, c.OutputExtra = 20_000, 150_000
	r, stop := start(t, c, &log)
	eventually(t, "ready", func() bool { return r.Ready() == nil })
	rng := rand.New(rand.NewPCG(1, 2))
	// Templates by id: of records of 1, 10 and 40 octets, an element of an unknown
	// vendor among them.
	templates := ipfixMessage([]byte{
		0, 2, 0, 64,
		1, 0, 0, 1, 0, 4, 0, 1, // 256: 1 octet
		1, 1, 0, 4, 0, 8, 0, 4, 0, 12, 0, 4, 0, 10, 0, 1, 0, 14, 0, 1, // 257: 10 octets
		1, 2, 0, 4, 0, 8, 0, 4, 0, 12, 0, 4, 0x80 | 1, 0xf4, 0, 16, 0, 0, 0x7f, 0xff, 0x80 | 1, 0xf5, 0, 16, 0, 0, 0x7f, 0xff, // 258: 40 octets
		0, 0, 0, 0,
	})
	size := map[int]int{256: 1, 257: 10, 258: 40}
	set := func(id, octets int) []byte {
		s := make([]byte, 4+octets)
		s[0], s[1], s[2], s[3] = byte(id>>8), byte(id), byte((4+octets)>>8), byte(4+octets)
		for i := 4; i < len(s); i++ {
			s[i] = byte(rng.IntN(2)) // interface 1 has a long name
		}
		return s
	}
	var records, short, unknown int
	now := time.Now()
	names, _ := namesAndFlows(1)
	for i := range byte(30) { // the other thirty never send their templates
		from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, i}), 9)
		r.Receive(names, from, now)
		r.Receive(templates, from, now)
	}
	for range 3000 {
		at := rng.IntN(60)
		from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(at)}), 9)
		var sets [][]byte
		for range 1 + rng.IntN(4) {
			id, octets := 256+rng.IntN(4), rng.IntN(300)
			if rng.IntN(20) == 0 {
				octets = rng.IntN(8000)
			}
			sets = append(sets, set(id, octets))
			switch {
			case at >= 30 || id == 259: // 259: nobody sends its template
				unknown++
			case octets > 0 && octets < size[id]:
				short++
			default:
				records += octets / size[id]
			}
		}
		r.Receive(ipfixMessage(sets...), from, now)
	}
	eventually(t, "no set waits in memory", func() bool {
		buffered, _ := r.buffer.held()
		n, _ := r.run.Load().undecoded.producer.Buffered()
		return buffered == 0 && n == 0
	})
	if err := stop(); err != nil {
		t.Errorf("shutdown: %v", err)
	}
	appended, refused := sumOf(t, r.metrics.late, lateAppended), sumOf(t, r.metrics.sets, "")
	if appended+refused != unknown || appended == 0 || refused == 0 {
		t.Errorf("sets without template: want %d, got %d on the topic and %d dropped by reason", unknown, appended, refused)
	}
	if got := sumOf(t, r.metrics.errors, string(wire.NoRecord)); got != short || short == 0 {
		t.Errorf("sets shorter than a record: want %d, got %d", short, got)
	}
	s := r.Stats()
	tooSmall, output := sumOf(t, r.metrics.dropped, reasonTooSmall), sumOf(t, r.metrics.dropped, reasonOutput)
	if int(s.Flows)+tooSmall+output != records || tooSmall == 0 || output == 0 {
		t.Errorf("records: want %d, got %d flows, %d too small, %d beyond the output", records, s.Flows, tooSmall, output)
	}
	if got := sumOf(t, r.metrics.dropped, ""); got != int(s.Dropped) || got != tooSmall+output {
		t.Errorf("want all %d dropped flows to have a reason, got %d", s.Dropped, got)
	}
	if got := sumOf(t, r.metrics.flows, ""); got != int(s.Flows) {
		t.Errorf("want %d flows by exporter, got %d", s.Flows, got)
	}
}
