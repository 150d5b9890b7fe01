package collect

import (
	"encoding/binary"
	"io"
	"net/netip"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"weir/internal/cli/capture"
	"weir/internal/cli/flowfile"
	"weir/internal/cli/offline"
	"weir/internal/cli/report"
	"weir/internal/decode"
	"weir/internal/weirtest/locked"
)

// v9Datagram returns a NetFlow v9 datagram of sets (RFC 3954 section 5).
func v9Datagram(at time.Time, sets ...[]byte) []byte {
	b := make([]byte, 20)
	b[1] = 9
	binary.BigEndian.PutUint32(b[8:], uint32(at.Unix()))
	for _, s := range sets {
		b = append(b, s...)
	}
	return b
}

// templateSet returns a template set of source address, destination address and octets; a record has 12 octets.
func templateSet(id uint16) []byte {
	return []byte{0, 0, 0, 20, byte(id >> 8), byte(id), 0, 3, 0, 8, 0, 4, 0, 12, 0, 4, 0, 1, 0, 4}
}

// dataSet is a data set with one record of templateSet(300).
var dataSet = []byte{1, 44, 0, 16, 10, 0, 0, 1, 10, 0, 0, 2, 0, 0, 0, 9}

func testCollector(t *testing.T, now time.Time) *collector {
	t.Helper()
	w, err := flowfile.Create(filepath.Join(t.TempDir(), "x.jsonl"), flowfile.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return newCollector(w, &locked.Buffer{}, now)
}

func heapNow() int {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// The memory of waiting sets must be between half of WaitingOctets and WaitingOctets: for empty, tiny and large
// sets, of one template and of as many templates as sets.
func TestWaitingSetsTakeNoMoreThanTheyAreReckonedAt(t *testing.T) {
	const datagrams = 6
	for _, tt := range []struct {
		name   string
		octets int // of a set
		ids    int
	}{
		{"empty sets", 0, 60_000}, {"sets of an octet, each of its own template", 1, 60_000}, {"sets of an octet of one template", 1, 1},
		{"large sets of one template", 1400, 1}, {"large sets, each of its own template", 1400, 60_000},
	} {
		t.Run(tt.name, func(t *testing.T) {
			now := time.Unix(1_790_000_000, 0)
			c := testCollector(t, now)
			var sent [datagrams][]byte
			for i := range sent {
				n := 0
				var sets []byte
				for len(sets) < 60_000 {
					id := 256 + (i*12_000+n)%tt.ids
					sets = binary.BigEndian.AppendUint16(sets, uint16(id))
					sets = binary.BigEndian.AppendUint16(sets, uint16(4+tt.octets))
					sets = append(sets, make([]byte, tt.octets)...)
					n++
				}
				sent[i] = v9Datagram(now, sets)
			}
			c.receive(sent[0], someExporter, now) // allocates the memory that the decoder reuses
			before, reckoned := heapNow(), c.in.WaitingOctets()
			for _, b := range sent[1:] {
				c.receive(b, someExporter, now)
			}
			grown, reckoned := heapNow()-before, c.in.WaitingOctets()-reckoned
			if grown > reckoned+1<<20 || reckoned > 2*grown+1<<20 || c.in.WaitingOctets() > 64<<20 {
				t.Errorf("%d KiB of sets take %d KiB, reckoned at %d KiB", datagrams*len(sent[0])>>10, grown>>10, reckoned>>10)
			}
			runtime.KeepAlive(c)
			runtime.KeepAlive(sent)
		})
	}
}

// Unused templates must not evict a template that data was decoded with.
func TestForgedTemplatesPushOutNoUsedOneOfACollector(t *testing.T) {
	now := time.Unix(1_790_000_000, 0)
	c := testCollector(t, now)
	c.receive(v9Datagram(now, templateSet(300)), someExporter, now)
	c.receive(v9Datagram(now, dataSet), someExporter, now)
	for i := range 70_000 { // above the limit of unconfirmed templates
		a := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		c.receive(v9Datagram(now, templateSet(300)), netip.AddrPortFrom(a, 9), now)
	}
	if s := c.in.Store.Stats(); s.Evicted == 0 || s.Pending != 0 {
		t.Errorf("want forged templates evicted, and none pending, since there is no topic: %+v", s)
	}
	before := c.in.Counts().Flows
	c.receive(v9Datagram(now, dataSet), someExporter, now)
	if got := c.in.Counts().Flows - before; got != 1 {
		t.Errorf("want the honest exporter's flow, got %d: %s", got, c.in.Summary())
	}
}

// A collector removes templates that were not received for a day (docs/templates.md), even without traffic.
// Templates of a file do not expire, whatever the times in the file.
func TestACollectorsTemplatesExpire(t *testing.T) {
	now := time.Unix(1_790_000_000, 0)
	c := testCollector(t, now)
	c.receive(v9Datagram(now, templateSet(300)), someExporter, now)
	c.receive(v9Datagram(now, dataSet), someExporter, now)
	c.tick(now.Add(23 * time.Hour))
	if n := c.in.Store.Stats().Definitions; n != 1 {
		t.Errorf("after 23 h: want the definition, got %d", n)
	}
	c.tick(now.Add(25 * time.Hour))
	if n := c.in.Store.Stats().Definitions; n != 0 {
		t.Errorf("after 25 h: want nothing, got %d definitions", n)
	}
	o := offline.New("test", nil, io.Discard, discard{})
	for _, d := range []capture.Datagram{
		{Src: someExporter, Time: now.UnixNano(), Payload: v9Datagram(now, templateSet(300))},
		{Src: someExporter, Time: now.Add(100 * 24 * time.Hour).UnixNano(), Payload: v9Datagram(now, dataSet)},
	} {
		if err := o.Datagram(&d); err != nil {
			t.Fatal(err)
		}
	}
	if o.Counts().Flows != 1 {
		t.Errorf("a capture of 100 days: want its flow, got %s", o.Summary())
	}
}

// someExporter sends the datagrams of these tests.
var someExporter = netip.MustParseAddrPort("127.0.0.1:40000")

// discard ignores decoded records.
type discard struct{}

func (discard) Consume(report.Origin, *decode.Result) error { return nil }
func (discard) Flush() error                                { return nil }
