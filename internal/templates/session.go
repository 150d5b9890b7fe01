package templates

import (
	"weir/internal/decode"
)

// A Session is what is known within one transport session over TCP or TLS:
// templates are of the session alone, and are withdrawn there (RFC 7011 sections 8
// and 8.1); what options data says is of the exporter, and shared. It implements
// decode.State and decode.Withdrawer, for one goroutine.
type Session struct {
	shared *Store
	budget Budget
	rate   bucket // of sessionChanges
	spent  int64  // receive time of the message that found nothing left of it, ns; 0: none
	most   int    // definitions
	places int    // of known that are paid for: a map does not shrink
	known  map[sessionKey]sessionPlan
}

// A Budget bounds the octets of sessions' definitions.
type Budget interface {
	// Take takes n octets; false when they are beyond a bound, and nothing is taken.
	Take(n int) bool
	// Give returns n octets.
	Give(n int)
}

// sessionPlace is what an entry of a Session takes beside its plan, octets.
const sessionPlace = 96

type sessionKey struct {
	domain uint32
	id     uint16
}

type sessionPlan struct {
	plan   *decode.Plan
	octets int
	data   bool // of a template, not of an options template
}

// unbounded is the Budget of a session that has none.
type unbounded struct{}

func (unbounded) Take(int) bool { return true }
func (unbounded) Give(int)      {}

// NewSession returns a Session that keeps at most as many definitions as s does of
// an exporter, and takes their octets from a budget; nil: without a bound. It must
// be closed.
func (s *Store) NewSession(b Budget) *Session {
	if b == nil {
		b = unbounded{}
	}
	return &Session{shared: s, budget: b, most: s.o.MaxPerExporter, known: map[sessionKey]sessionPlan{}}
}

// Close returns what the session took from its budget.
func (s *Session) Close() {
	for at := range s.known {
		s.forget(at)
	}
	s.renew()
}

// forget removes a definition.
func (s *Session) forget(at sessionKey) {
	s.budget.Give(s.known[at].octets)
	delete(s.known, at)
}

// renew returns the places of a map that became empty.
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

// affords charges a new definition; the rest of a message is refused that found nothing
// left. It counts what is refused.
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

// Learn implements decode.State. A definition takes the place of the one that its
// id had, withdrawn or not: nothing of what follows it is lost then.
func (s *Session) Learn(k *decode.TemplateKey, m *decode.Meta, _ *decode.Header, t *decode.Template) (*decode.Plan, error) {
	at := sessionKey{k.Domain, k.ID}
	is, known := s.known[at]
	if known && is.plan.Template().SameLayout(t) {
		return is.plan, nil
	}
	if !known && len(s.known) >= s.most {
		return nil, errFull
	}
	if !s.affords(t, m.Received) {
		if known { // its data must not be read by the layout that it had
			s.forget(at)
			s.renew()
		}
		return nil, errOverBudget
	}
	plan, err := decode.Compile(k.Version, t)
	if err != nil {
		return nil, err
	}
	if known { // as above
		s.forget(at)
	}
	octets := plan.HeapOctets() // a walk of the plan: once
	if err := s.pay(octets); err != nil {
		return nil, err
	}
	s.known[at] = sessionPlan{plan, octets, !t.Options}
	return plan, nil
}

// pay takes the octets of a definition, and of its place, from the budget.
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

// Withdraw implements decode.Withdrawer: of one template, or, under the id of a set
// of templates or options templates, of all of the domain.
func (s *Session) Withdraw(k *decode.TemplateKey, options bool) bool {
	at, all := sessionKey{k.Domain, k.ID}, uint16(decode.IPFIXTemplates)
	if options {
		all = decode.IPFIXOptions
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
func (s *Session) LearnFact(k *decode.TemplateKey, m *decode.Meta, h *decode.Header, f decode.Fact) {
	s.shared.LearnFact(k, m, h, f)
}
