package templates

import (
	"weir/internal/decode"
	"weir/internal/ipfix"
)

// A Session holds the templates of a Transport Session over TCP or TLS. Templates belong
// to the session and can be withdrawn in it (RFC 7011 sections 8 and 8.1). Options data
// belongs to the exporter and goes to the Store. A Session implements decode.State and
// decode.Withdrawer. It must be used by one goroutine at a time, and must be closed.
type Session struct {
	shared *Store
	budget Budget
	rate   bucket // of sessionChanges
	spent  int64  // receive time of the message that exhausted rate, ns; 0: none
	most   int    // bound of definitions
	places int    // entries of known that are charged to budget: a map does not shrink
	known  map[sessionKey]sessionPlan
}

// A Budget bounds the octets of the definitions of sessions. It must be safe for
// concurrent use if sessions share it.
type Budget interface {
	// Take reserves n octets. It returns false, and reserves nothing, beyond a bound.
	Take(n int) bool
	// Give returns n reserved octets.
	Give(n int)
}

// sessionPlace is the size of an entry of Session.known without its plan, in octets.
const sessionPlace = 96

type sessionKey struct {
	domain uint32
	id     uint16
}

type sessionPlan struct {
	plan   *decode.Plan
	octets int
	data   bool // a Template, not an Options Template
}

// unbounded is a Budget without a bound.
type unbounded struct{}

func (unbounded) Take(int) bool { return true }
func (unbounded) Give(int)      {}

// NewSession returns a Session. It holds up to Options.MaxPerExporter definitions and
// takes their octets from b; nil: without a bound. The caller must call Close.
func (s *Store) NewSession(b Budget) *Session {
	if b == nil {
		b = unbounded{}
	}
	return &Session{shared: s, budget: b, most: s.o.MaxPerExporter, known: map[sessionKey]sessionPlan{}}
}

// Close returns all octets of the session to its budget. The Session must not be used
// afterwards.
func (s *Session) Close() {
	for at := range s.known {
		s.forget(at)
	}
	s.renew()
}

// forget removes a definition and returns its octets to the budget.
func (s *Session) forget(at sessionKey) {
	s.budget.Give(s.known[at].octets)
	delete(s.known, at)
}

// renew replaces an empty map, since maps do not shrink, and returns its places to the
// budget.
func (s *Session) renew() {
	if len(s.known) == 0 && s.places > 0 {
		s.budget.Give(s.places * sessionPlace)
		s.known, s.places = map[sessionKey]sessionPlan{}, 0
	}
}

// Plan implements decode.State.
func (s *Session) Plan(k *decode.TemplateKey, _ *decode.Meta, _ *decode.Header) *decode.Plan {
	return s.known[sessionKey{k.Domain, k.ID}].plan
}

// affords charges a new definition to sessionChanges. After the first refusal it refuses
// the rest of the message without reading the clock. It counts refusals.
func (s *Session) affords(t *decode.Template, received int64) bool {
	n := definitionOctets(t)
	if received == 0 || s.spent != received {
		if now := s.shared.now(); s.rate.fits(sessionChanges, now, n) {
			s.rate.taken += n
			return true
		}
		s.spent = received
	}
	s.shared.count.overBudget.Add(1)
	return false
}

// Learn implements decode.State. A definition replaces the old definition of its id, even
// without a Template Withdrawal (RFC 7011 section 8.1 requires it), so that the data that
// follows can be decoded.
func (s *Session) Learn(
	k *decode.TemplateKey, m *decode.Meta, _ *decode.Header, t *decode.Template,
) (*decode.Plan, error) {
	at := sessionKey{k.Domain, k.ID}
	is, known := s.known[at]
	if known && is.plan.Template().SameLayout(t) {
		return is.plan, nil
	}
	if !known && len(s.known) >= s.most {
		return nil, errFull
	}
	if !s.affords(t, m.Received) {
		if known { // its data must not be decoded by the old layout
			s.forget(at)
			s.renew()
		}
		return nil, errOverBudget
	}
	plan, err := decode.Compile(k.Version, t)
	if err != nil {
		return nil, err
	}
	if known {
		s.forget(at)
	}
	octets := plan.HeapOctets() // it walks the plan: call it only once
	if err := s.pay(octets); err != nil {
		return nil, err
	}
	s.known[at] = sessionPlan{plan, octets, !t.Options}
	return plan, nil
}

// pay reserves the octets of a definition, and of its place, in the budget.
func (s *Session) pay(octets int) error {
	place := 0
	if len(s.known) == s.places {
		place = 1
	}
	if !s.budget.Take(octets + place*sessionPlace) {
		s.renew()
		return errFull
	}
	s.places += place
	return nil
}

// Withdraw implements decode.Withdrawer. It withdraws a template, or all templates of the
// domain if the id is a Set ID: 2 for Templates, 3 for Options Templates (RFC 7011
// section 8.1).
func (s *Session) Withdraw(k *decode.TemplateKey, options bool) bool {
	at, all := sessionKey{k.Domain, k.ID}, uint16(ipfix.IPFIXTemplates)
	if options {
		all = ipfix.IPFIXOptions
	}
	if k.ID == all {
		for o, is := range s.known {
			if o.domain == at.domain && is.data != options {
				s.forget(o)
			}
		}
		s.renew()
		return true
	}
	is, known := s.known[at]
	if !known || is.data == options {
		return false
	}
	s.forget(at)
	s.renew()
	return true
}

// Facts implements decode.State.
func (s *Session) Facts(k *decode.TemplateKey) *decode.Facts { return s.shared.Facts(k) }

// LearnFact implements decode.State.
func (s *Session) LearnFact(k *decode.TemplateKey, m *decode.Meta, h *decode.Header, f decode.OptionsFact) {
	s.shared.LearnFact(k, m, h, f)
}
