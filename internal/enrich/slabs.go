package enrich

import "slices"

// octetSlabs hold the keys and values of the records that a transaction produces. They are used again once it is
// committed: the client has finished with its records then. After an abort they must be left to the client.
type octetSlabs struct {
	slabs [][]byte
	used  int // slabs of the open transaction; the last of them is being filled
}

const (
	slabOctets = 1 << 18
	// slabRoom is the room that a slab has at least for a record. A longer record moves the slab to a larger array.
	slabRoom = 4096
	// maxSlabs bounds the slabs that are kept between transactions: 16 MiB. A transaction of 20 000 connections
	// takes about 6 MiB.
	maxSlabs = 64
)

// current returns the slab to append a record to. The caller must then call appended.
func (s *octetSlabs) current() []byte {
	if s.used > 0 {
		if b := s.slabs[s.used-1]; cap(b)-len(b) >= slabRoom {
			return b
		}
	}
	if s.used == len(s.slabs) {
		s.slabs = append(s.slabs, make([]byte, 0, slabOctets))
	}
	s.used++
	return s.slabs[s.used-1]
}

// appended stores the slab of current after the caller has appended a record to it.
func (s *octetSlabs) appended(b []byte) { s.slabs[s.used-1] = b }

// reuse empties the slabs. It must be called only after the transaction is committed.
func (s *octetSlabs) reuse() {
	if len(s.slabs) > maxSlabs {
		clear(s.slabs[maxSlabs:])
		s.slabs = s.slabs[:maxSlabs]
	}
	s.slabs = slices.DeleteFunc(s.slabs, func(b []byte) bool { return cap(b) > slabOctets }) // grown by long records
	for i, b := range s.slabs {
		s.slabs[i] = b[:0]
	}
	s.used = 0
}
