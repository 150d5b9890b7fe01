package templates

import (
	"fmt"
	"math"
	"strings"

	"weir/internal/decode"
	"weir/internal/wire"
	"weir/pkg/flowpb"
)

// Learn implements decode.State. A template that decode.Compile rejects changes nothing:
// the old definition, if any, stays in force.
func (s *Store) Learn(
	k *decode.TemplateKey, m *decode.Meta, h *decode.Header, t *decode.Template,
) (*decode.Plan, error) {
	sh := s.shardOf(&k.Exporter)
	sh.mu.Lock()
	d, changed, err := s.learn(sh, k, m, h, t)
	if err == nil {
		s.accountDefinition(d)
	}
	sh.mu.Unlock()
	if err != nil {
		return nil, err // the store is unchanged
	}
	s.changed(k.Exporter, changed, &d.place)
	return d.plan, nil
}

// learn adds a received template. changed reports whether another definition is in force
// for its port now. The shard's lock must be held.
func (s *Store) learn(
	sh *shard, k *decode.TemplateKey, m *decode.Meta, h *decode.Header, t *decode.Template,
) (d *definition, changed bool, err error) {
	a, sc := sh.allowanceOf(k.Exporter), scopeOf(k)
	d = sh.withLayout(sc, k.ID, t)
	octets := definitionOctets(t)
	if d != nil {
		octets = turnOctets
	}
	switch {
	case d != nil && d.domain.choice(k.ID).of(m.Port) == d:
		if !s.mayRepeat(a, m.Received) {
			return d, false, nil
		}
	case !s.mayChange(a, ofDefinitions, octets, m.Received):
		s.count.overBudget.Add(1)
		return nil, false, errOverBudget
	}
	isNew := a == nil
	if d == nil {
		if d, err = s.definition(sh, sc, k.ID, t, m.Port); err != nil {
			return nil, false, err
		}
	}
	if isNew {
		s.newcomer(sh.exporters[k.Exporter], m.Received)
	} else {
		s.repeated(sh, k.Exporter, m.Received)
	}
	l := d.domain.templates[k.ID]
	before := d.domain.choice(k.ID)
	at := l.receiveTime(d, m)
	newest := l.newest()
	inForce := before.of(m.Port)

	src := d.from(m.Port, at)
	if src != nil {
		src.local = at
	}
	d.local = max(d.local, at)
	d.receivedAt(at, at, origin{h.Export, h.Uptime, h.Sequence})
	d.lived(m.Port, at, h.Uptime, h.Sequence)

	was := before.fromPort(m.Port)
	if was == d {
		if newest != d { // another port sent another layout meanwhile
			s.count.conflicts.Add(1)
		}
		if d.quiet(at) {
			return d, false, nil // the usual refresh: no decision and no record is needed
		}
	} else if was != nil {
		s.count.redefined.Add(1)
	}
	changed = inForce != d
	d.domain.choose(k.ID)
	s.publishNeeded(d)
	return d, changed, nil
}

// receiveTime returns the receive time for d, raised above those of the other layouts that
// this replica received from the port. The receipts from a port must stay in order: two
// layouts in a datagram have the same receive time, and a clock may be set back.
func (l *layouts) receiveTime(d *definition, m *decode.Meta) int64 {
	at := max(m.Received, 1) // 0 stands for "never"
	for _, o := range l.defs {
		for _, s := range o.sources {
			switch {
			case s.port != m.Port || s.local == 0:
			case o == d:
				at = max(at, s.local)
			default:
				at = max(at, s.local+1)
			}
		}
	}
	return at
}

// receivedAt records a receipt by any replica.
func (d *definition) receivedAt(at, first int64, o origin) {
	if at >= d.received.Load() {
		d.received.Store(at)
		d.origin = o
	}
	if d.first == 0 || first < d.first {
		d.first = first
	}
}

// LearnFact implements decode.State.
func (s *Store) LearnFact(k *decode.TemplateKey, m *decode.Meta, h *decode.Header, f decode.OptionsFact) {
	if !known(f.What) || !possible(f.What, f.Number) || scopeOf(k).check() != nil {
		return
	}
	f.Text = strings.ToValidUTF8(f.Text, "\uFFFD") // protobuf strings must be valid UTF-8
	sh := s.shardOf(&k.Exporter)
	sh.mu.Lock()
	changed := s.learnFact(sh, k, m, h, f)
	sh.mu.Unlock()
	s.changed(k.Exporter, changed, nil)
}

// impossible returns the error for a fact whose number is out of range.
func impossible(what flowpb.Fact_What, number uint64) error {
	if what == flowpb.Fact_WHAT_SAMPLER {
		return fmt.Errorf("sampling rate 1 in %d: want at most %d", number, uint32(decode.MaxSamplingRate))
	}
	return fmt.Errorf("data type %d of an element: want at most %d", number, math.MaxUint8)
}

// possible reports whether the number of a fact is within range: sampling rates up to
// decode.MaxSamplingRate, data types (RFC 5610 section 3.1) up to an octet.
func possible(what flowpb.Fact_What, number uint64) bool {
	switch what {
	case flowpb.Fact_WHAT_SAMPLER:
		return number <= decode.MaxSamplingRate
	case flowpb.Fact_WHAT_ELEMENT_DEFINITION:
		return number <= math.MaxUint8
	default:
		return true
	}
}

// known reports whether this version defines the kind of fact.
func known(what flowpb.Fact_What) bool {
	return what > flowpb.Fact_WHAT_UNSPECIFIED && flowpb.Fact_What_name[int32(what)] != ""
}

// learnFact adds a received fact. changed reports whether a port reads another value now.
// The shard's lock must be held.
func (s *Store) learnFact(
	sh *shard, k *decode.TemplateKey, m *decode.Meta, h *decode.Header, is decode.OptionsFact,
) (changed bool) {
	sc, id, v := scopeOf(k), factID{is.What, is.ID}, factValue{is.Number, is.Text}
	a := sh.allowanceOf(k.Exporter)
	octets := factOctets(v.text)
	switch sh.noveltyOf(sc, id, m.Port, v) {
	case factSame:
		if !s.mayRepeat(a, m.Received) {
			return false
		}
		octets = 0
	case factTurn:
		octets = turnOctets
	case factNew:
	}
	if octets > 0 && !s.mayChange(a, ofFacts, octets, m.Received) {
		s.count.overBudget.Add(1)
		return false
	}
	f, err := s.fact(sh, sc, id, v.text)
	if err != nil {
		return false // makeRoom counted it
	}
	at := max(m.Received, 1)
	if f.local > 0 {
		at = max(at, f.local)
		if v != f.is {
			at = max(at, f.local+1)
		}
	}
	f.local = at
	if own, ok := f.valueFrom(int32(m.Port)); ok && own == v && v != f.is { // another port sent another value meanwhile
		s.count.factConflicts.Add(1)
	}
	changed = f.receive(factSource{is: v, received: at, port: int32(m.Port)}, at, origin{h.Export, h.Uptime, h.Sequence})
	s.accountFact(f)
	if f.needed() {
		s.due.add(f)
	}
	return changed
}

// withLayout returns the definition of a template id with the layout of t, nil if there is
// none. The shard's lock must be held.
func (sh *shard) withLayout(sc scope, id uint16, t *decode.Template) *definition {
	dom := sh.domain(sc)
	if dom == nil || dom.templates[id] == nil {
		return nil
	}
	return dom.templates[id].byLayout(t)
}

// errOverBudget is the error of Learn for a template beyond the budget of its exporter, or
// of all exporters, for new definitions. It is a shared value, so that a flood costs no
// allocation; the caller must not change it.
var errOverBudget error = &wire.Error{
	What: "template: too many new templates from this exporter or from all exporters", Cause: wire.BadTemplate,
}

// errFull is the error of Learn for a template without room at the limits. The caller must
// not change it.
var errFull error = &wire.Error{What: "template: the store is full", Cause: wire.BadTemplate}
