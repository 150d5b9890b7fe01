package templates

import (
	"cmp"
	"maps"
	"slices"

	"weir/internal/decode"
)

// The functions of this file add and remove the entries of a shard within the limits. At
// the limit of an exporter they evict entries of this exporter, so that no exporter can
// evict another's entries. The shard's lock must be held for all of them.

// definition returns the definition of a template id with the layout of t, received from a
// port. It makes the definition if there is none. It returns the error of decode.Compile,
// or errFull.
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

// fact returns the fact with an id. It makes an empty fact if there is none, or returns
// errFull. text is only used for its length. The caller must fill an empty fact before it
// releases the shard's lock.
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

// domain returns the domain of sc. It makes the domain, and its exporter, if there is none.
// An empty domain is removed with its last entry: the caller must add an entry at once.
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

// choose recomputes the choice of a template id for readers, and reports whether it
// changed. It must be called after each change of the id's definitions.
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

// makeRoom evicts entries of an exporter until a new entry fits its limits. It evicts a
// sixteenth of the limit at once, so that a flood does not cost a search for each entry.
// Facts may use half of the octets and never evict a confirmed definition. makeRoom
// returns false, and counts the refusal, if there is no room.
func (s *Store) makeRoom(sh *shard, address [16]byte, isFact bool, octets int64) bool {
	octets += emptyExporter + emptyDomain // both may be new
	e, most := sh.exporters[address], s.o.MaxExporterOctets
	if e == nil {
		e = &exporter{}
	}
	if !isFact {
		n := excessEntries(e.definitions, s.o.MaxPerExporter)
		s.evictDefinitions(sh, e, n, excessOctets(e.octets, octets, most), true)
	} else {
		n := excessEntries(e.facts, s.o.MaxPerExporter)
		s.evictFacts(sh, e, n, excessOctets(e.factOctets, octets, most/2))
		s.evictDefinitions(sh, e, 0, excessOctets(e.octets, octets, most), false)
		s.evictFacts(sh, e, 0, excessOctets(e.octets, octets, most))
	}
	if e.octets+octets > most || isFact && e.factOctets+octets > most/2 {
		s.count.refused.Add(1)
		return false
	}
	return true
}

// excessEntries returns how many of n entries must be evicted before a further entry fits into most. It includes a
// sixteenth of most, so that evictions are rare.
func excessEntries(n, most int) int {
	if n < most {
		return 0
	}
	return n - most + max(1, most/16)
}

// excessOctets returns how many of n octets must be evicted before more octets fit into most. It includes a sixteenth
// of most, so that evictions are rare.
func excessOctets(n, more, most int64) int64 {
	if n+more <= most {
		return 0
	}
	return n + more - most + most/16
}

// evictDefinitions evicts at least n definitions and the given octets of an exporter, as
// far as it has them. Unless confirmed is true, it evicts unconfirmed definitions only.
// Static definitions stay.
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

// evictFacts evicts at least n facts and the given octets of an exporter, as far as it has
// them, in order of their last receipt.
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

// removeDefinition removes d from the store, its choice, the order of eviction and the
// queue.
func (s *Store) removeDefinition(sh *shard, d *definition) {
	l := d.domain.templates[d.id.template]
	l.defs = slices.DeleteFunc(l.defs, func(o *definition) bool { return o == d })
	if len(l.defs) == 0 {
		remove(&d.domain.templates, d.id.template, &d.domain.mostTemplates)
	}
	d.domain.choose(d.id.template)
	s.unrank(&d.place)
	for by := range d.records {
		s.due.cancel(&d.records[by])
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

// removeFact removes f from the store, decode.Facts, the order of eviction and the queue.
func (s *Store) removeFact(sh *shard, f *fact) {
	remove(&f.domain.facts, f.id, &f.domain.mostFacts)
	f.hide()
	s.unrank(&f.place)
	s.due.cancel(f)
	e := sh.exporters[f.domain.scope.exporter]
	e.facts--
	e.factOctets -= f.octets
	s.held.factOctets.Add(-f.octets)
	s.charge(e, -f.octets)
	s.held.facts.Add(-1)
	s.tidy(sh, f.domain)
}

// remove deletes an entry of a map. Maps do not shrink, so it copies a map whose length has
// fallen to a quarter of its greatest length. The caller must keep most, the greatest
// length since the map was made, for remove alone.
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

// tidy deletes a domain without entries, and its exporter if that was its last domain.
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
