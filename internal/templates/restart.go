package templates

import "weir/internal/decode"

// A known definition may be outdated, or decoding may lack a fact. With Options.Patient
// the data set waits for a moment in these cases:
//
//   - A v9 exporter that has restarted may use its template ids for other layouts. Its
//     definitions are doubtful until they are received again.
//   - IPFIX times that count from the exporter's start (elements 21 and 22) need its init
//     time (element 160), which may arrive in options data.
//
// After the wait Settle uses the known definition, and no further set waits.

// restartMs is the least decrease of an uptime that proves a restart, in ms. Datagrams out
// of order cause smaller decreases.
const restartMs = 60_000

// A life holds the uptime and sequence number of an exporter when it sent a definition.
// It is kept per port, since several exporters may share an address.
type life struct {
	port             uint16
	uptime, sequence uint32
	received         int64 // ns
}

// ended reports whether the exporter has restarted since: its uptime is lower and has not
// wrapped (2^32 ms are 49.7 days), and its sequence number is lower. Only the v9 header
// has an uptime (RFC 3954 section 5.1); the IPFIX header has none.
func (l *life) ended(m *decode.Meta, h *decode.Header) bool {
	if h.Version != 9 || int64(h.Uptime)+restartMs >= int64(l.uptime) || h.Sequence >= l.sequence {
		return false
	}
	passed := (m.Received - l.received) / 1e6 // ms
	return int64(l.uptime)+passed+restartMs < 1<<32
}

// doubtful reports whether d may be outdated for a datagram. It needs no lock.
func (d *definition) doubtful(m *decode.Meta, h *decode.Header) bool {
	all := d.lives.Load()
	if all == nil {
		return false
	}
	for i := range *all {
		if l := &(*all)[i]; l.port == m.Port {
			return l.ended(m, h)
		}
	}
	return false
}

// lived records a receipt of a v9 definition, which ends its doubt. The shard's lock must
// be held.
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
				return // a record of the topic that is known or older
			}
		}
	}
	d.lives.Store(&now)
	d.settled.Store(false)
}

// lacksInit reports whether times of the plan's records need an init time that no options
// data of the exporter has stated.
func (dom *domain) lacksInit(p *decode.Plan, port uint16) bool {
	return p.NeedsInit() && dom.said.InitMs(port) == 0
}

// judge returns the definition for a datagram: the newest received from its port, else the
// newest of its exporter. It returns nil if none is known, or if a Patient Store must wait.
// stale reports that the definition is doubtful and in use after Settle.
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

// Plan implements decode.State. It counts a use of the definition: the caller must decode
// a set with the plan. A caller that only needs to know must call Ready.
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

// Settle is Plan for a set that has waited. It accepts the known definition for this set
// and for later sets, until a definition is received or the exporter restarts again. It
// returns nil if no definition is known.
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

// Known returns the plan of the newest definition received from a port, else of the newest
// of the exporter, even if it is doubtful. It returns nil if there is none, and counts no
// use.
func (s *Store) Known(k *decode.TemplateKey, port uint16) *decode.Plan {
	if _, def := s.find(k, port); def != nil {
		return def.plan
	}
	return nil
}

// find returns the domain of k and the definition in force for a port; either may be nil.
func (s *Store) find(k *decode.TemplateKey, port uint16) (*domain, *definition) {
	dom := s.shardOf(&k.Exporter).domain(scopeOf(k))
	if dom == nil {
		return nil, nil
	}
	return dom, dom.choice(k.ID).of(port)
}
