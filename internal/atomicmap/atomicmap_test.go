package atomicmap

import (
	"maps"
	"math/rand/v2"
	"sync"
	"testing"
)

// TestAgainstABuiltinMap applies random changes to a Map and to a built-in map.
func TestAgainstABuiltinMap(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2)) // the test repeats
	var m Map[uint16, int]
	want := map[uint16]int{}
	for i := range 200_000 {
		keys := 5000
		if i/20_000%2 == 1 { // few keys: the map shrinks
			keys = 20
		}
		k := uint16(rnd.IntN(keys))
		switch rnd.IntN(3) {
		case 0:
			m.Delete(k)
			delete(want, k)
		default:
			if i/20_000%2 == 1 {
				for old := range m.All() {
					m.Delete(old)
					delete(want, old)
					break
				}
			}
			m.Store(k, i)
			want[k] = i
		}
		if m.Len() != len(want) {
			t.Fatalf("step %d: want %d entries, got %d", i, len(want), m.Len())
		}
		if v, ok := m.Load(k); ok != has(want, k) || v != want[k] {
			t.Fatalf("step %d, key %d: want %d %v, got %d %v", i, k, want[k], has(want, k), v, ok)
		}
	}
	if got := maps.Collect(m.All()); !maps.Equal(got, want) {
		t.Errorf("want %d entries, got %d others", len(want), len(got))
	}
}

// A scope is a key like those of the template store.
type scope struct {
	exporter [16]byte
	domain   uint32
	version  uint8
}

func has(m map[uint16]int, k uint16) bool {
	_, ok := m[k]
	return ok
}

// TestReadersBesideAWriter is for the race detector: entries that the writer does
// not touch are always found, with a whole value.
func TestReadersBesideAWriter(t *testing.T) {
	var m Map[uint64, [2]uint64]
	for k := range uint64(64) {
		m.Store(k, [2]uint64{k, k})
	}
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				for k := range uint64(64) {
					if v, ok := m.Load(k); !ok || v[0] != v[1] {
						t.Errorf("key %d: got %v, %v", k, v, ok)
						return
					}
				}
			}
		})
	}
	for i := range uint64(20_000) {
		m.Store(64+i%3000, [2]uint64{i, i})
		m.Store(i%64, [2]uint64{i, i})
		m.Delete(64 + (i*7)%3000)
	}
	close(stop)
	readers.Wait()
}

func TestAChangeCostsTheSameWhateverTheMapHolds(t *testing.T) {
	for _, size := range []uint32{10, 100_000} {
		var m Map[uint32, *int]
		for k := range size {
			m.Store(k, nil)
		}
		n := testing.AllocsPerRun(100, func() { m.Store(7, nil) })
		if n > 1 {
			t.Errorf("%d entries: a change allocates %v times: want 1", size, n)
		}
	}
}

func TestLoadAllocatesNothing(t *testing.T) {
	var m Map[scope, int]
	for d := range uint32(100) {
		m.Store(scope{[16]byte{15: 1}, d, 9}, int(d))
	}
	if n := testing.AllocsPerRun(100, func() { m.Load(scope{[16]byte{15: 1}, 7, 9}) }); n != 0 {
		t.Errorf("want no allocations, got %v", n)
	}
}

func BenchmarkLoad(b *testing.B) {
	var m Map[scope, *int]
	builtin := map[scope]*int{}
	for d := range uint32(100) {
		m.Store(scope{[16]byte{15: 1}, d, 9}, nil)
		builtin[scope{[16]byte{15: 1}, d, 9}] = nil
	}
	b.Run("atomicmap", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			m.Load(scope{[16]byte{15: 1}, 7, 9})
		}
	})
	b.Run("builtin", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_ = builtin[scope{[16]byte{15: 1}, 7, 9}]
		}
	})
}
