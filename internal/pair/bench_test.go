package pair

import (
	"fmt"
	"runtime"
	"testing"
	"time"
	"unsafe"

	"weir/internal/flowkey"
)

// stream generates records of new conversations, both directions in sequence, at a rate that keeps held conversations
// open.
type stream struct {
	n      uint32
	now    int64
	step   int64
	points uint32 // of each direction
}

func newStream(c *Config, held int, points uint32) *stream {
	return &stream{now: 1_700_000_000 * int64(time.Second), step: int64(c.Idle+c.LateGrace) / int64(held) / int64(points), points: points}
}

func (s *stream) next(f *Flow) {
	record := s.n / s.points
	conn := record / 2
	t := flowkey.Tuple{Src: [16]byte{10: 0xff, 11: 0xff, 12: 10, 13: byte(conn >> 16), 14: byte(conn >> 8), 15: byte(conn)}, Dst: [16]byte{10: 0xff, 11: 0xff, 12: 192, 14: byte(conn >> 24), 15: 1}, SrcPort: 40000, DstPort: 443, Proto: 17}
	if record%2 == 1 {
		t.Src, t.Dst, t.SrcPort, t.DstPort = t.Dst, t.Src, t.DstPort, t.SrcPort
	} else {
		s.now += s.step
	}
	s.n++
	*f = Flow{Ident: uint64(s.n), Received: s.now, Start: s.now, End: s.now, Resolution: ms, Rate: 1, There: counts{Octets: 100, Packets: 1}, SrcAS: 64500, DstAS: 64501}
	f.exporter, f.domain = [16]byte{15: byte(s.n % s.points)}, 1
	f.Key, f.SrcIsLo = t.Canon()
}

// fill makes a machine that holds n connections.
func fill(c Config, n int, points uint32) (*Machine, *stream) {
	m := New(c, 1, func(*Emission) {})
	s := newStream(&c, n, points)
	var f Flow
	for open, grace := 0, 0; open+grace < n; open, grace = m.Held() {
		for range min(20_000, 2*int(points)*(n-open-grace)) {
			s.next(&f)
			m.Observe(&f)
		}
		m.Deltas(900_000)
	}
	return m, s
}

func BenchmarkObserve(b *testing.B) {
	c := testConfig
	c.MaxOpen = 1 << 30
	for _, held := range []int{10_000, 1_000_000} {
		b.Run(fmt.Sprintf("%d held", held), func(b *testing.B) {
			m, s := fill(c, held, 1)
			var f Flow
			b.ReportAllocs()
			for b.Loop() {
				s.next(&f)
				m.Observe(&f)
				if len(m.log.dirty) >= 20_000 {
					m.Deltas(900_000)
				}
			}
		})
	}
}

// BenchmarkMap measures the least work of any pairing, as a baseline: it finds the value of a key in a map and stores
// it changed.
func BenchmarkMap(b *testing.B) {
	for _, held := range []int{10_000, 1_000_000} {
		b.Run(fmt.Sprintf("%d held", held), func(b *testing.B) {
			at := map[flowkey.Key]int64{}
			c := testConfig
			s := newStream(&c, held, 1)
			var f Flow
			for range 2 * held {
				s.next(&f)
				at[f.Key] = 1
			}
			s.n = 0
			for b.Loop() {
				if s.next(&f); s.n == uint32(2*held) {
					s.n = 0
				}
				v := at[f.Key]
				at[f.Key] = v + 1
			}
		})
	}
}

// BenchmarkHeld measures the memory of a held connection, in octets, with the identities of its records, for a single
// observation point and for two observation points of each direction.
func BenchmarkHeld(b *testing.B) {
	c := testConfig
	c.MaxOpen = 1 << 30
	for _, n := range []int{100_000, 1_000_000, 10_000_000} {
		for _, points := range []uint32{1, 2} {
			b.Run(fmt.Sprintf("%d connections, observation points a direction %d", n, points), func(b *testing.B) {
				if n > 1_000_000 && testing.Short() {
					b.Skip("SKIPPED: large")
				}
				for b.Loop() {
					var before, after runtime.MemStats
					runtime.GC()
					runtime.ReadMemStats(&before)
					m, _ := fill(c, n, points)
					runtime.GC()
					runtime.ReadMemStats(&after)
					open, grace := m.Held()
					b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(open+grace), "octets/connection")
					b.ReportMetric(float64(after.Sys)/(1<<30), "GiB-of-the-process")
				}
			})
		}
	}
}

// The sizes behind the bound of 400 octets for a connection of two sides.
func TestAConnectionOfTwoSidesTakesAtMost400Octets(t *testing.T) {
	if n := unsafe.Sizeof(entry{}) + unsafe.Sizeof(node{}) + 2*unsafe.Sizeof(side{}) + unsafe.Sizeof(int32(0)); n > 400 {
		t.Errorf("%d octets: an entry %d, a side %d, a bucket 4", n, unsafe.Sizeof(entry{}), unsafe.Sizeof(side{}))
	}
}
