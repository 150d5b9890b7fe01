package templates

import (
	"net/netip"

	"weir/internal/decode"
)

// AddStatic adds a definition that the operator states for an exporter whose templates
// never arrive. It is in force until a template with the same id is received. It is not
// published, does not expire and is not evicted. AddStatic returns the error of
// decode.Compile, or an error if the store is full.
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
		d.received.CompareAndSwap(0, 1) // older than any receipt
		s.confirm(d)
		s.unrank(&d.place)
		d.domain.choose(t.ID)
	}
	sh.mu.Unlock()
	s.changed(sc.exporter, err == nil, nil)
	return err
}
