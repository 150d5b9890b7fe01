package bounded

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"testing"
)

// fill returns a full Map: 1 → 10, 2 → 20, …
func fill(limit int) Map[int, int] {
	m := New[int, int](limit)
	for i := 1; i <= limit; i++ {
		m.PutOrRefuse(i, 10*i)
	}
	return m
}

func keys(m *Map[int, int]) []int { return slices.Sorted(maps.Keys(maps.Collect(m.All()))) }

func TestANewKeyAtTheLimit(t *testing.T) {
	isOdd := func(v int) bool { return v/10%2 == 1 }
	for _, c := range []struct {
		name string
		put  func(*Map[int, int], int) bool
		want []int // keys after 9 was put into 1, 2, …, 8
	}{
		{"refuse", func(m *Map[int, int], k int) bool { return m.PutOrRefuse(k, 1) }, []int{1, 2, 3, 4, 5, 6, 7, 8}},
		{"forget", func(m *Map[int, int], k int) bool { m.PutOrForget(k, 1); return true }, []int{9}},
		{"evict least", func(m *Map[int, int], k int) bool { m.PutOrEvict(k, 1, 0, cmp.Compare[int]); return true }, []int{2, 3, 4, 5, 6, 7, 8, 9}},
		{"evict greatest", func(m *Map[int, int], k int) bool {
			m.PutOrEvict(k, 1, 8, func(a, b int) int { return b - a })
			return true
		}, []int{1, 2, 3, 4, 5, 6, 7, 9}},
		{"free expired", func(m *Map[int, int], k int) bool { m.PutOrFree(k, 1, isOdd); return true }, []int{2, 4, 6, 8, 9}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := fill(8)
			if !c.put(&m, 3) || m.Len() != 8 || m.Get(3) != 1 {
				t.Errorf("a known key at the limit: %d entries, value %d, want 8 and 1", m.Len(), m.Get(3))
			}
			m = fill(8)
			if stored := c.put(&m, 9); stored != slices.Contains(c.want, 9) {
				t.Errorf("stored: %v", stored)
			}
			if got := keys(&m); !slices.Equal(got, c.want) {
				t.Errorf("keys %v, want %v", got, c.want)
			}
			m = fill(8)
			m.Delete(8)
			if !c.put(&m, 9) || m.Len() != 8 {
				t.Errorf("a new key below the limit: %d entries, want 8", m.Len())
			}
		})
	}
}

// An eighth of 16 is 2: of 16 entries that have not expired 2 go, and the new key comes.
func TestAnEighthIsFree(t *testing.T) {
	no := func(int) bool { return false }
	m := fill(16)
	m.PutOrFree(17, 170, no)
	if m.Len() != 15 || m.Get(17) != 170 {
		t.Errorf("%d entries, 17 → %d, want 15 and 170", m.Len(), m.Get(17))
	}
	m = fill(3) // an eighth of 3 is less than an entry
	m.PutOrFree(4, 40, no)
	if m.Len() != 3 || m.Get(4) != 40 {
		t.Errorf("%d entries, 4 → %d, want 3 and 40", m.Len(), m.Get(4))
	}
}

// A sample of 2 cannot find the least of 1000 each time, and must not look at more than 2.
func TestASampleBoundsTheCostOfAnEviction(t *testing.T) {
	m, compared := fill(1000), 0
	m.PutOrEvict(1001, 1, 2, func(a, b int) int { compared++; return cmp.Compare(a, b) })
	if compared != 1 || m.Len() != 1000 {
		t.Errorf("%d comparisons, %d entries, want 1 and 1000", compared, m.Len())
	}
}

func TestTheEmptyMap(t *testing.T) {
	m := New[int, int](1)
	m.Delete(1)
	if v, ok := m.Lookup(1); v != 0 || ok || m.Get(1) != 0 || m.Len() != 0 || m.IsFull() || len(keys(&m)) != 0 {
		t.Errorf("an empty map has entries: %v, %v", v, ok)
	}
	var zero Map[int, int]
	if !zero.IsFull() || zero.PutOrRefuse(1, 1) {
		t.Error("the zero value takes an entry")
	}
}

func BenchmarkLookup(b *testing.B) {
	type value struct{ n int }
	m, plain := New[netip.Addr, *value](16384), map[netip.Addr]*value{}
	var all []netip.Addr
	for i := range 1000 {
		a := netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)})
		all, plain[a] = append(all, a), &value{i}
		m.PutOrRefuse(a, plain[a])
	}
	sum := 0
	b.Run("map", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			sum += plain[all[i%len(all)]].n
		}
	})
	b.Run("bounded", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			sum += m.Get(all[i%len(all)]).n
		}
	})
	_ = sum
}
