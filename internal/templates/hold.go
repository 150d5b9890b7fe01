package templates

import (
	"cmp"
	"slices"

	"weir/internal/decode"
)

// What a shard holds comes and goes here, within the limits. At the limit of
// one exporter its own oldest go, so that no exporter can push out another's.
// All of this is called with the shard's lock held.

// definition returns the definition of a template id with t's layout, made if it
// is new.
func (s *Store) definition(sh *shard, sc scope, template uint16, t *decode.Template) (*definition, error) {
	if dom := sh.domain(sc); dom != nil {
		if l := dom.templates[template]; l != nil {
			if d := l.byLayout(t); d != nil {
				return d, nil
			}
		}
	}
	own := *t
	own.ID = template
	id := definitionIDOf(&own)
	pk := planKey{sc.version, template, id.digest}
	plan, err := s.plans.get(pk, &own)
	if err != nil {
		return nil, err
	}
	if !s.makeRoom(sh, sc.exporter, func(e *exporter) int { return e.definitions }, (*domain).eachDefinition) {
		s.plans.put(pk, plan)
		return nil, errFull()
	}
	dom := s.domain(sh, sc)
	l := dom.templates[id.template]
	if l == nil {
		l = &layouts{}
		dom.templates[id.template] = l
	} else if len(l.defs) >= maxLayouts {
		s.count.evicted.Add(1)
		s.removeDefinition(sh, l.oldest())
	}
	d := &definition{shard: sh, id: id, domain: dom, plan: plan}
	d.records = s.recordsOf(d)
	l.defs = append(l.defs, d)
	s.doubted(d)
	sh.exporters[sc.exporter].definitions++
	s.held.definitions.Add(1)
	return d, nil
}

// fact returns the fact of that id, empty if it is new.
func (s *Store) fact(sh *shard, sc scope, id factID) (*fact, error) {
	if dom := sh.domain(sc); dom != nil {
		if f := dom.facts[id]; f != nil {
			return f, nil
		}
	}
	if !s.makeRoom(sh, sc.exporter, func(e *exporter) int { return e.facts }, (*domain).eachFact) {
		return nil, errFull()
	}
	dom := s.domain(sh, sc)
	f := &fact{published: published{key: factKey(sc, id), shard: sh}, id: id, domain: dom}
	dom.facts[id] = f
	sh.exporters[sc.exporter].facts++
	s.held.facts.Add(1)
	return f, nil
}

// domain returns the domain of sc, made if it is new.
func (s *Store) domain(sh *shard, sc scope) *domain {
	if d := sh.domain(sc); d != nil {
		return d
	}
	d := &domain{scope: sc, templates: map[uint16]*layouts{}, facts: map[factID]*fact{}}
	sh.domains.Store(sc, d)
	if sh.exporters == nil {
		sh.exporters = map[[16]byte]*exporter{}
	}
	e := sh.exporters[sc.exporter]
	if e == nil {
		e = &exporter{domains: map[*domain]struct{}{}}
		sh.exporters[sc.exporter] = e
		s.held.exporters.Add(1)
	}
	e.domains[d] = struct{}{}
	return d
}

// choose makes what readers see of a template id follow what is known.
func (d *domain) choose(template uint16) (changed bool) {
	var c *choice
	if l := d.templates[template]; l != nil {
		c = l.choose()
	}
	switch {
	case c.equal(d.choice(template)):
		return false
	case c == nil:
		d.choices.Delete(template)
	default:
		d.choices.Store(template, c)
	}
	return true
}

// An aged is something that may have to make room.
type aged struct {
	received int64
	remove   func(*Store, *shard)
}

func (d *domain) eachDefinition(yield func(aged)) {
	for _, l := range d.templates {
		for _, def := range l.defs {
			if def.static {
				continue
			}
			yield(aged{def.received.Load(), func(s *Store, sh *shard) { s.removeDefinition(sh, def) }})
		}
	}
}

func (d *domain) eachFact(yield func(aged)) {
	for _, f := range d.facts {
		yield(aged{f.received, func(s *Store, sh *shard) { s.removeFact(sh, f) }})
	}
}

// makeRoom makes place for one more of an exporter's, a sixteenth at once, so
// that a flood does not cost a search each time. It reports whether there is
// place; if not, it is counted.
func (s *Store) makeRoom(sh *shard, address [16]byte, count func(*exporter) int, each func(*domain, func(aged))) bool {
	e := sh.exporters[address]
	full := int(s.held.definitions.Load()+s.held.facts.Load()) >= s.o.MaxTotal
	switch {
	case e == nil || count(e) == 0:
		if full {
			s.count.refused.Add(1)
		}
		return !full
	case !full && count(e) < s.o.MaxPerExporter:
		return true
	}
	var all []aged
	for d := range e.domains {
		each(d, func(a aged) { all = append(all, a) })
	}
	slices.SortFunc(all, func(a, b aged) int { return cmp.Compare(a.received, b.received) })
	for _, a := range all[:min(len(all), max(1, len(all)/16))] {
		a.remove(s, sh)
		s.count.evicted.Add(1)
	}
	return true
}

func (s *Store) removeDefinition(sh *shard, d *definition) {
	l := d.domain.templates[d.id.template]
	l.defs = slices.DeleteFunc(l.defs, func(o *definition) bool { return o == d })
	if len(l.defs) == 0 {
		delete(d.domain.templates, d.id.template)
	}
	d.domain.choose(d.id.template)
	s.settleAccount(d)
	s.plans.put(planKey{d.domain.scope.version, d.id.template, d.id.digest}, d.plan)
	sh.exporters[d.domain.scope.exporter].definitions--
	s.held.definitions.Add(-1)
	s.tidy(sh, d.domain)
}

func (s *Store) removeFact(sh *shard, f *fact) {
	delete(f.domain.facts, f.id)
	f.domain.said.Remove(f.id.what, f.id.id)
	sh.exporters[f.domain.scope.exporter].facts--
	s.held.facts.Add(-1)
	s.tidy(sh, f.domain)
}

// tidy forgets a domain, and its exporter, of which nothing is known any more.
func (s *Store) tidy(sh *shard, d *domain) {
	if len(d.templates) > 0 || len(d.facts) > 0 {
		return
	}
	sh.domains.Delete(d.scope)
	e := sh.exporters[d.scope.exporter]
	delete(e.domains, d)
	if len(e.domains) == 0 {
		delete(sh.exporters, d.scope.exporter)
		s.held.exporters.Add(-1)
	}
}
