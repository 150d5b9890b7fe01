package templates

import (
	"net/netip"

	"weir/internal/decode"
)

// AddStatic takes a definition that an operator states for an exporter whose
// templates never arrive. It counts until one of the same id is received, is not
// shared, and does not go. The error is Compile's, or that the store is full.
func (s *Store) AddStatic(exporter netip.Addr, version uint8, domain uint32, t *decode.Template) error {
	sc := scope{decode.Map16(exporter), domain, version}
	if err := sc.check(); err != nil {
		return err
	}
	sh := s.shardOf(&sc.exporter)
	sh.mu.Lock()
	d, err := s.definition(sh, sc, t.ID, t, 0)
	if err == nil {
		d.static = true
		d.first = max(d.first, 1)
		d.received.CompareAndSwap(0, 1) // older than anything
		s.confirm(d)
		s.unrank(&d.place)
		d.domain.choose(t.ID)
	}
	sh.mu.Unlock()
	s.changed(sc.exporter, err == nil, nil)
	return err
}
