package templates

import (
	"math/bits"
	"time"
)

// At the total limits the Store evicts the definition with the fewest decoded data sets,
// among equals the definition with the longest time without data. Young definitions rank
// at youngLevel at least, so that forged definitions cannot keep new exporters out. Facts
// of established exporters go last. The entries are in linked lists, so that an eviction
// needs no search.

const (
	// youngFor is the time for which a new or newly confirmed definition is young.
	youngFor = time.Minute
	// youngLevel is the least level of a young definition.
	youngLevel = 3
	// maxSets is the greatest number of data sets that a usage counts.
	maxSets = 64
	// levels is the number of values of levelOf.
	levels = 8
	// maxTurns bounds the entries that an eviction moves to the back of a list.
	maxTurns = 16
	// noteLimit is the length of trust.uses at which trim applies them.
	noteLimit = 1024
)

// levelOf returns the level for a number of decoded sets: a level each for 0, 1, 2 to 3,
// 4 to 7, …, 64.
func levelOf(sets uint8) int { return bits.Len8(min(sets, maxSets)) }

// An evictable is a definition or a fact. The shard's lock must be held for known.
type evictable interface {
	home() *shard
	known() bool     // the store holds it
	activeAt() int64 // time of the last use, ns; read without lock
}

// A place is the list node of an entry in an order. trust.mu guards it.
type place struct {
	prev, next *place
	order      *order // nil: in no order
	entry      evictable
	since      int64 // time of insertion, or of the last use when it was moved to the back, ns
}

// An order is a linked list of entries in order of eviction.
type order struct {
	front, back *place
	n           int
}

func (o *order) push(p *place, since int64) {
	p.order, p.since = o, since
	p.prev, p.next = o.back, nil
	if o.back != nil {
		o.back.next = p
	} else {
		o.front = p
	}
	o.back = p
	o.n++
}

// unlink removes p from its order, if it has one.
func (p *place) unlink() {
	o := p.order
	if o == nil {
		return
	}
	if p.prev != nil {
		p.prev.next = p.next
	} else {
		o.front = p.next
	}
	if p.next != nil {
		p.next.prev = p.prev
	} else {
		o.back = p.prev
	}
	p.prev, p.next, p.order = nil, nil, nil
	o.n--
}

// first returns the entry to evict next, nil if there is none except keep. It moves
// entries that were used since their insertion to the back, up to maxTurns entries.
func (o *order) first(keep *place) *place {
	for range maxTurns {
		p := o.front
		if p == nil {
			return nil
		}
		if at := p.entry.activeAt(); at > p.since {
			p.unlink()
			o.push(p, at)
			continue
		}
		break
	}
	if o.front != nil && o.front == keep {
		return keep.next
	}
	return o.front
}

// rank moves d to the order of its level. The shard's lock must be held.
func (s *Store) rank(d *definition) {
	level := 0
	if d.confirmed {
		level = d.level()
	}
	s.trust.mu.Lock()
	if o := &s.trust.definitions[level]; d.place.order != o && !d.static {
		d.place.unlink()
		o.push(&d.place, s.now())
	}
	s.trust.mu.Unlock()
	if level == levels-1 {
		s.establish(d.shard.exporters[d.domain.scope.exporter])
	}
}

// establish marks an exporter as established, of which maxSets data sets were decoded with
// a definition, and moves its facts to the order that is evicted last. The shard's lock
// must be held.
func (s *Store) establish(e *exporter) {
	if e.established {
		return
	}
	e.established = true
	for dom := range e.domains {
		for _, f := range dom.facts {
			s.rankFact(f)
		}
	}
}

// rankFact moves a fact to the order of its exporter's standing. The shard's lock must be
// held.
func (s *Store) rankFact(f *fact) {
	standing := 0
	if f.shard.exporters[f.domain.scope.exporter].established {
		standing = 1
	}
	s.trust.mu.Lock()
	f.place.unlink()
	s.trust.facts[standing].push(&f.place, s.now())
	s.trust.mu.Unlock()
}

// unrank removes an entry from the order of eviction.
func (s *Store) unrank(p *place) {
	s.trust.mu.Lock()
	p.unlink()
	s.trust.mu.Unlock()
}

// leastUsed returns the definition to evict next. trust.mu must be held.
func (t *trust) leastUsed(now int64, keep *place) *place {
	var young *place
	for level := range t.definitions {
		p := t.definitions[level].first(keep)
		switch {
		case level > youngLevel && young != nil:
			return young
		case p == nil:
		case level > youngLevel || level < youngLevel && now-p.since >= int64(youngFor):
			return p
		case young == nil || p.since < young.since:
			young = p
		}
	}
	return young
}

// leastFact returns the fact to evict next. trust.mu must be held.
func (t *trust) leastFact(keep *place) *place {
	if p := t.facts[0].first(keep); p != nil {
		return p
	}
	return t.facts[1].first(keep)
}

// excess returns an entry to evict because a total limit is exceeded, nil if none is. Facts
// go before definitions only while they use more than half of the limit.
func (s *Store) excess(keep *place) evictable {
	doubted := s.held.unconfirmed.Load() > int64(s.o.MaxUnconfirmed) ||
		s.held.unconfirmedOctets.Load() > s.o.MaxUnconfirmedOctets
	facts, octets := s.held.facts.Load(), s.octets()
	full := s.held.definitions.Load()+facts > int64(s.o.MaxTotal) || octets > s.o.MaxOctets
	if !doubted && !full {
		return nil
	}
	t := &s.trust
	t.mu.Lock()
	defer t.mu.Unlock()
	var p *place
	if doubted {
		p = t.definitions[0].first(keep)
	}
	if p == nil && full {
		if facts > int64(s.o.MaxTotal)/2 || s.held.factOctets.Load() > s.o.MaxOctets/2 {
			p = t.leastFact(keep)
		}
		if p == nil {
			p = t.leastUsed(s.now(), keep)
		}
		if p == nil {
			p = t.leastFact(keep)
		}
	}
	if p == nil {
		return nil
	}
	return p.entry
}

// trim evicts the entries beyond the total limits, except keep. No lock may be held.
func (s *Store) trim(keep *place) {
	if s.trust.noted.Load() >= noteLimit {
		s.takeUses()
	}
	for p := s.excess(keep); p != nil; p = s.excess(keep) {
		if s.trust.noted.Load() > 0 { // a queued use may change the order
			s.takeUses()
			continue
		}
		s.evict(p)
	}
}

// evict removes an entry, if the store still holds it. No lock may be held.
func (s *Store) evict(p evictable) {
	sh := p.home()
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if !p.known() {
		return
	}
	switch p := p.(type) {
	case *definition:
		s.removeDefinition(sh, p)
	case *fact:
		s.removeFact(sh, p)
	}
	s.count.evicted.Add(1)
}
