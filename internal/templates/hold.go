package templates

import (
	"cmp"
	"maps"
	"slices"

	"weir/internal/decode"
)

// What a shard holds comes and goes here, within the limits. At the limit of one
// exporter its own entries go, so that no exporter can push out another's.
// All of this is called with the shard's lock held.

// definition returns the definition of a template id with t's layout, made if it
// is new, for a template received from port.
func (s *Store) definition(sh *shard, sc scope, template uint16, t *decode.Template, port uint16) (*definition, error) {
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
	plan, compiled, err := s.plans.get(pk, &own)
	if err != nil {
		return nil, err
	}
	d := &definition{shard: sh, id: id, plan: plan, planOctets: planOctets(plan), compiled: compiled}
	d.place.entry = d
	if !s.makeRoom(sh, sc.exporter, false, d.footprint()+d.planOctets) {
		s.plans.put(pk, plan)
		return nil, errFull
	}
	d.domain = s.domain(sh, sc)
	l := d.domain.templates[id.template]
	if l != nil && len(l.defs) >= maxLayouts {
		s.count.evicted.Add(1)
		s.removeDefinition(sh, l.leastUsed(port))
		d.domain = s.domain(sh, sc)
		l = d.domain.templates[id.template]
	}
	if l == nil {
		l = &layouts{}
		if d.domain.templates == nil {
			d.domain.templates = map[uint16]*layouts{}
		}
		d.domain.templates[id.template] = l
	}
	d.records = s.recordsOf(d)
	l.defs = append(l.defs, d)
	e := sh.exporters[sc.exporter]
	e.definitions++
	e.octets += d.planOctets
	s.held.definitions.Add(1)
	s.held.unconfirmed.Add(1)
	s.held.unconfirmedOctets.Add(d.doubtedOctets())
	s.accountDefinition(d)
	s.rank(d)
	return d, nil
}

// fact returns the fact of that id, empty if it is new.
func (s *Store) fact(sh *shard, sc scope, id factID, text string) (*fact, error) {
	if dom := sh.domain(sc); dom != nil {
		if f := dom.facts[id]; f != nil {
			return f, nil
		}
	}
	f := &fact{id: id}
	f.published = published{key: factKey(sc, id), shard: sh}
	f.place.entry = f
	if !s.makeRoom(sh, sc.exporter, true, f.footprint()+int64(len(text))) {
		return nil, errFull
	}
	f.domain = s.domain(sh, sc)
	if f.domain.facts == nil {
		f.domain.facts = map[factID]*fact{}
	}
	f.domain.facts[id] = f
	sh.exporters[sc.exporter].facts++
	s.held.facts.Add(1)
	s.accountFact(f)
	s.rankFact(f)
	return f, nil
}

// domain returns the domain of sc, made if it is new.
func (s *Store) domain(sh *shard, sc scope) *domain {
	if d := sh.domain(sc); d != nil {
		return d
	}
	d := &domain{scope: sc}
	sh.domains.Store(sc, d)
	if sh.exporters == nil {
		sh.exporters = map[[16]byte]*exporter{}
	}
	e := sh.exporters[sc.exporter]
	if e == nil {
		e = &exporter{domains: map[*domain]struct{}{}}
		sh.exporters[sc.exporter] = e
		s.held.exporters.Add(1)
		s.charge(e, emptyExporter)
	}
	e.domains[d] = struct{}{}
	s.charge(e, emptyDomain)
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

// makeRoom makes room within the limits of one exporter for an entry of so many
// octets, a sixteenth at once, so that a flood does not cost a search each time.
// Facts have half of the octets, and never push out a confirmed definition. It
// reports whether there is room; if not, it is counted.
func (s *Store) makeRoom(sh *shard, address [16]byte, isFact bool, octets int64) bool {
	octets += emptyExporter + emptyDomain // both may be new
	e, most := sh.exporters[address], s.o.MaxExporterOctets
	if e == nil {
		e = &exporter{}
	}
	if !isFact {
		s.evictDefinitions(sh, e, beyond(e.definitions, s.o.MaxPerExporter), beyondOctets(e.octets, octets, most), true)
	} else {
		s.evictFacts(sh, e, beyond(e.facts, s.o.MaxPerExporter), beyondOctets(e.factOctets, octets, most/2))
		s.evictDefinitions(sh, e, 0, beyondOctets(e.octets, octets, most), false)
		s.evictFacts(sh, e, 0, beyondOctets(e.octets, octets, most))
	}
	if e.octets+octets > most || isFact && e.factOctets+octets > most/2 {
		s.count.refused.Add(1)
		return false
	}
	return true
}

// beyond returns how many of n entries have to go for one more.
func beyond(n, most int) int {
	if n < most {
		return 0
	}
	return n - most + max(1, most/16)
}

// beyondOctets returns how many octets have to go for so many more.
func beyondOctets(n, more, most int64) int64 {
	if n+more <= most {
		return 0
	}
	return n + more - most + most/16
}

// evictDefinitions evicts at least so many definitions of an exporter, and so many
// octets; unless confirmed, only those that are not.
func (s *Store) evictDefinitions(sh *shard, e *exporter, n int, octets int64, confirmed bool) {
	if n <= 0 && octets <= 0 {
		return
	}
	var all []*definition
	for dom := range e.domains {
		for _, l := range dom.templates {
			for _, d := range l.defs {
				if !d.static && (confirmed || d.level() == 0) {
					all = append(all, d)
				}
			}
		}
	}
	slices.SortFunc(all, evictBefore)
	aim := e.octets - octets
	for i, d := range all {
		if i >= n && e.octets <= aim {
			return
		}
		s.removeDefinition(sh, d)
		s.count.evicted.Add(1)
	}
}

// evictFacts evicts at least so many facts of an exporter, and so many octets, those
// first that were received the longest ago.
func (s *Store) evictFacts(sh *shard, e *exporter, n int, octets int64) {
	if n <= 0 && octets <= 0 {
		return
	}
	var all []*fact
	for dom := range e.domains {
		for _, f := range dom.facts {
			all = append(all, f)
		}
	}
	slices.SortFunc(all, func(a, b *fact) int { return cmp.Compare(a.received, b.received) })
	aim := e.octets - octets
	for i, f := range all {
		if i >= n && e.octets <= aim {
			return
		}
		s.removeFact(sh, f)
		s.count.evicted.Add(1)
	}
}

func (s *Store) removeDefinition(sh *shard, d *definition) {
	l := d.domain.templates[d.id.template]
	l.defs = slices.DeleteFunc(l.defs, func(o *definition) bool { return o == d })
	if len(l.defs) == 0 {
		remove(&d.domain.templates, d.id.template, &d.domain.mostTemplates)
	}
	d.domain.choose(d.id.template)
	s.unrank(&d.place)
	for by := range d.records {
		s.due.leave(&d.records[by])
	}
	if !d.confirmed {
		s.held.unconfirmed.Add(-1)
		s.held.unconfirmedOctets.Add(-d.doubtedOctets())
	}
	s.plans.put(planKey{d.domain.scope.version, d.id.template, d.id.digest}, d.plan)
	e := sh.exporters[d.domain.scope.exporter]
	e.definitions--
	e.octets -= d.planOctets
	s.charge(e, -d.octets)
	s.held.definitions.Add(-1)
	s.tidy(sh, d.domain)
}

func (s *Store) removeFact(sh *shard, f *fact) {
	remove(&f.domain.facts, f.id, &f.domain.mostFacts)
	f.hide()
	s.unrank(&f.place)
	s.due.leave(f)
	e := sh.exporters[f.domain.scope.exporter]
	e.facts--
	e.factOctets -= f.octets
	s.held.factOctets.Add(-f.octets)
	s.charge(e, -f.octets)
	s.held.facts.Add(-1)
	s.tidy(sh, f.domain)
}

// remove deletes an entry of a map. Maps do not shrink: one that has held many more than
// it does now is made anew. most is how many it held at most; it is kept here.
func remove[K comparable, V any](m *map[K]V, k K, most *int) {
	const few, shrink = 64, 4
	*most = max(*most, len(*m))
	delete(*m, k)
	if *most < few || len(*m) > *most/shrink {
		return
	}
	is := make(map[K]V, len(*m))
	maps.Copy(is, *m)
	*m, *most = is, len(is)
}

// tidy forgets a domain, and its exporter, of which nothing is known any more.
func (s *Store) tidy(sh *shard, d *domain) {
	if len(d.templates) > 0 || len(d.facts) > 0 {
		return
	}
	sh.domains.Delete(d.scope)
	e := sh.exporters[d.scope.exporter]
	remove(&e.domains, d, &e.mostDomains)
	s.charge(e, -emptyDomain)
	if len(e.domains) == 0 {
		delete(sh.exporters, d.scope.exporter)
		s.held.exporters.Add(-1)
		s.charge(e, -emptyExporter)
	}
}
