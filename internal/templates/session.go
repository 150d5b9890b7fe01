package templates

import (
	"weir/internal/decode"
)

// A Session is what is known within one transport session over TCP or TLS:
// templates are of the session alone, and are withdrawn there (RFC 7011 sections 8
// and 8.1); what options data says is of the exporter, and shared. It implements
// decode.State and decode.Withdrawer, for one goroutine.
type Session struct {
	shared decode.State
	most   int // definitions
	known  map[sessionKey]sessionPlan
}

type sessionKey struct {
	domain uint32
	id     uint16
}

type sessionPlan struct {
	plan *decode.Plan
	data bool // of a template, not of an options template
}

// NewSession returns a Session that keeps at most as many definitions as s does of
// an exporter.
func (s *Store) NewSession() *Session {
	return &Session{shared: s, most: s.o.MaxPerExporter, known: map[sessionKey]sessionPlan{}}
}

// Plan implements decode.State.
func (s *Session) Plan(k *decode.TemplateKey, _ *decode.Meta, _ *decode.Header) *decode.Plan {
	return s.known[sessionKey{k.Domain, k.ID}].plan
}

// Learn implements decode.State. A definition takes the place of the one that its
// id had, withdrawn or not: nothing of what follows it is lost then.
func (s *Session) Learn(k *decode.TemplateKey, _ *decode.Meta, _ *decode.Header, t *decode.Template) (*decode.Plan, error) {
	at := sessionKey{k.Domain, k.ID}
	is, known := s.known[at]
	if known && is.plan.Template().SameLayout(t) {
		return is.plan, nil
	}
	if !known && len(s.known) >= s.most {
		return nil, errFull()
	}
	plan, err := decode.Compile(k.Version, t)
	if err != nil {
		return nil, err
	}
	s.known[at] = sessionPlan{plan, !t.Options}
	return plan, nil
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
				delete(s.known, o)
			}
		}
		return true
	}
	is, known := s.known[at]
	if !known || is.data == options {
		return false
	}
	delete(s.known, at)
	return true
}

// Facts implements decode.State.
func (s *Session) Facts(k *decode.TemplateKey) *decode.Facts { return s.shared.Facts(k) }

// LearnFact implements decode.State.
func (s *Session) LearnFact(k *decode.TemplateKey, m *decode.Meta, h *decode.Header, f decode.Fact) {
	s.shared.LearnFact(k, m, h, f)
}
