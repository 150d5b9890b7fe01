package templates

import "weir/internal/decode"

// A definition that is known may be the wrong one still, or lack a fact: then a
// data set is worth a moment's wait, see Options.Patient.
//
//   - A v9 exporter that has restarted may use its template ids for other layouts
//     now. Its definitions are in doubt until they come again.
//   - IPFIX times that count from the exporter's start (IE 21, 22) mean little
//     without its init time (IE 160), which may come in options data.
//
// After the wait Settle takes what there is, and no further set waits for it.

// restartMs is how much lower than before an uptime is after a restart: less may
// be datagrams out of order.
const restartMs = 60_000

// A life is where an exporter's clock and count stood when it sent a definition
// from a port: several exporters may be behind one address.
type life struct {
	port             uint16
	uptime, sequence uint32
	received         int64 // ns
}

// over reports whether the exporter has restarted since: its uptime is lower and
// has not wrapped (2^32 ms are 49.7 days), and its sequence is lower.
func (l *life) over(m *decode.Meta, h *decode.Header) bool {
	if h.Version != 9 || int64(h.Uptime)+restartMs >= int64(l.uptime) || h.Sequence >= l.sequence {
		return false
	}
	passed := (m.Received - l.received) / 1e6 // ms
	return int64(l.uptime)+passed+restartMs < 1<<32
}

// doubtful reports whether the plan of d may be the wrong one for a datagram.
func (d *definition) doubtful(m *decode.Meta, h *decode.Header) bool {
	all := d.lives.Load()
	if all == nil {
		return false
	}
	for i := range *all {
		if l := &(*all)[i]; l.port == m.Port {
			return l.over(m, h)
		}
	}
	return false
}

// lived notes a reception of a v9 definition: it is in no doubt any more. The
// shard's lock is held.
func (d *definition) lived(port uint16, at int64, uptime, sequence uint32) {
	if d.domain.scope.version != 9 {
		return
	}
	now := []life{{port, uptime, sequence, at}}
	if all := d.lives.Load(); all != nil {
		for _, l := range *all {
			switch {
			case l.port != port && len(now) < maxSources:
				now = append(now, l)
			case l.port == port && l.received >= at:
				return // from the topic: known already, or older
			}
		}
	}
	d.lives.Store(&now)
	d.settled.Store(false)
}

// lacksInit reports whether times of the definition's records need an init time
// that nobody has said yet.
func (dom *domain) lacksInit(p *decode.Plan, port uint16) bool {
	return p.NeedsInit() && dom.said.InitMs(port) == 0
}

// judge finds the definition for a datagram: the newest received from its port,
// else the newest of all from its exporter. nil: none is known, or a Patient
// Store doubts it; stale: it is doubted, and settled for.
func (s *Store) judge(k *decode.TemplateKey, m *decode.Meta, h *decode.Header) (def *definition, stale bool) {
	dom, def := s.find(k, m.Port)
	switch {
	case def == nil || !s.o.Patient:
		return def, false
	case def.doubtful(m, h):
		if !def.settled.Load() {
			return nil, false
		}
		return def, true
	case dom.lacksInit(def.plan, m.Port) && !dom.settled.Load():
		return nil, false
	}
	return def, false
}

// Plan implements decode.State. A set is taken to be decoded with it: Ready is
// for whoever only asks.
func (s *Store) Plan(k *decode.TemplateKey, m *decode.Meta, h *decode.Header) *decode.Plan {
	def, stale := s.judge(k, m, h)
	if def == nil {
		return nil
	}
	if stale {
		s.count.stale.Add(1)
	}
	s.use(def, m)
	return def.plan
}

// Ready reports whether Plan has a definition for a datagram.
func (s *Store) Ready(k *decode.TemplateKey, m *decode.Meta, h *decode.Header) bool {
	def, _ := s.judge(k, m, h)
	return def != nil
}

// Settle is Plan for a set that has waited: what is known is good enough, for
// this set and for those to come, until a definition comes or an exporter's next
// restart. nil: nothing is known.
func (s *Store) Settle(k *decode.TemplateKey, m *decode.Meta, h *decode.Header) *decode.Plan {
	dom, def := s.find(k, m.Port)
	if def == nil {
		return nil
	}
	if def.doubtful(m, h) {
		def.settled.Store(true)
		s.count.stale.Add(1)
	} else if dom.lacksInit(def.plan, m.Port) {
		dom.settled.Store(true)
	}
	s.use(def, m)
	return def.plan
}

// Known returns the newest definition received from a port, else the newest of
// all from this exporter, in doubt or not; nil when there is none.
func (s *Store) Known(k *decode.TemplateKey, port uint16) *decode.Plan {
	if _, def := s.find(k, port); def != nil {
		return def.plan
	}
	return nil
}

func (s *Store) find(k *decode.TemplateKey, port uint16) (*domain, *definition) {
	dom := s.shardOf(&k.Exporter).domain(scopeOf(k))
	if dom == nil {
		return nil, nil
	}
	return dom, dom.choice(k.ID).of(port)
}
