package enrich

import (
	"bytes"
	"testing"
)

// fill appends n records of size octets, filled with v, and returns them.
func (s *octetSlabs) fill(n, size int, v byte) (records [][]byte) {
	for range n {
		b := s.current()
		start := len(b)
		b = append(b, bytes.Repeat([]byte{v}, size)...)
		s.appended(b)
		records = append(records, b[start:len(b):len(b)])
	}
	return records
}

func TestRecordsOfATransactionDoNotShareOctets(t *testing.T) {
	var s octetSlabs
	first := s.fill(2000, 300, 1)
	long := s.fill(1, 3*slabOctets, 2)
	last := s.fill(10, 300, 3)
	for v, records := range map[byte][][]byte{1: first, 2: long, 3: last} {
		for i, r := range records {
			if bytes.Count(r, []byte{v}) != len(r) {
				t.Fatalf("record %d of those filled with %d was overwritten", i, v)
			}
		}
	}
}

func TestACommittedTransactionLeavesItsSlabsToTheNext(t *testing.T) {
	var s octetSlabs
	value := bytes.Repeat([]byte{1}, 300)
	transaction := func() {
		for range 5000 {
			s.appended(append(s.current(), value...))
		}
		s.reuse()
	}
	transaction()
	if n := testing.AllocsPerRun(10, transaction); n != 0 {
		t.Errorf("a transaction like the last allocates %.0f times", n)
	}
	s.fill((maxSlabs+3)*slabOctets/slabRoom, slabRoom, 1)
	s.reuse()
	if len(s.slabs) != maxSlabs {
		t.Errorf("%d slabs are kept, want %d", len(s.slabs), maxSlabs)
	}
}

// Each record longer than slabRoom may move the slab to a larger array: one transaction of such records would be kept in
// memory for good.
func TestSlabsThatLongRecordsHaveGrownAreNotKept(t *testing.T) {
	var s octetSlabs
	s.fill(5000, 3*slabRoom, 1) // 60 MiB
	s.reuse()
	kept := 0
	for _, b := range s.slabs {
		kept += cap(b)
	}
	if kept > maxSlabs*slabOctets {
		t.Errorf("%d octets are kept, want %d at most", kept, maxSlabs*slabOctets)
	}
}
