package templates

import (
	"math/bits"
	"time"
)

// At the limits in all, the entry goes that is missed least: the definition with
// which the fewest data sets were decoded, and of equal ones the one longest
// without data. A young one ranks with those of a few sets, so that forged ones
// cannot keep new exporters out. Facts of an exporter with many decoded sets go
// last. The entries stand in lists, so that an eviction costs no search.

const (
	// youngFor is how long a new or newly confirmed definition counts as young.
	youngFor = time.Minute
	// youngLevel is the least level that young definitions count as.
	youngLevel = 3
	// maxSets is how many data sets are counted per definition.
	maxSets = 64
	// levels is the number of values of levelOf.
	levels = 8
	// maxTurns bounds how many entries one eviction moves to the back of a list.
	maxTurns = 16
	// noteLimit is how many uses wait at most until somebody takes them.
	noteLimit = 1024
)

// levelOf returns the rank of a definition with so many decoded sets:
// 0, 1, 2 to 3, 4 to 7, …, 64.
func levelOf(sets uint8) int { return bits.Len8(min(sets, maxSets)) }

// An evictable is a definition or a fact. known is called with its shard's lock
// held.
type evictable interface {
	home() *shard
	known() bool     // the store holds it
	activeAt() int64 // when it was in use last, ns; read without lock
}

// A place is where an entry stands in the order of eviction. trust.mu guards it.
type place struct {
	prev, next *place
	order      *order // nil: in none
	entry      evictable
	since      int64 // ns: in order since, or last activity that was looked at
}

// An order is a list of entries, next to be evicted first.
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

// leave takes p from its order, if it is in one.
func (p *place) leave() {
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

// first returns the entry that goes first, nil if there is none but keep. Entries
// that were active since they were put in order go to the back, maxTurns at most.
func (o *order) first(keep *place) *place {
	for range maxTurns {
		p := o.front
		if p == nil {
			return nil
		}
		if at := p.entry.activeAt(); at > p.since {
			p.leave()
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

// rank puts d in order by its data sets. The shard's lock is held.
func (s *Store) rank(d *definition) {
	level := 0
	if d.confirmed {
		level = d.level()
	}
	s.trust.mu.Lock()
	if o := &s.trust.definitions[level]; d.place.order != o && !d.static {
		d.place.leave()
		o.push(&d.place, s.now())
	}
	s.trust.mu.Unlock()
	if level == levels-1 {
		s.establish(d.shard.exporters[d.domain.scope.exporter])
	}
}

// establish notes that data of an exporter was decoded many times. The shard's
// lock is held.
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

// rankFact puts a new fact in order. The shard's lock is held.
func (s *Store) rankFact(f *fact) {
	standing := 0
	if f.shard.exporters[f.domain.scope.exporter].established {
		standing = 1
	}
	s.trust.mu.Lock()
	f.place.leave()
	s.trust.facts[standing].push(&f.place, s.now())
	s.trust.mu.Unlock()
}

// unrank takes an entry from the order of eviction.
func (s *Store) unrank(p *place) {
	s.trust.mu.Lock()
	p.leave()
	s.trust.mu.Unlock()
}

// leastUsed returns the definition that goes first. trust.mu is held.
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

// leastFact returns the fact that goes first. trust.mu is held.
func (t *trust) leastFact(keep *place) *place {
	if p := t.facts[0].first(keep); p != nil {
		return p
	}
	return t.facts[1].first(keep)
}

// excess returns an entry to evict because a limit in all is exceeded, nil if none is.
func (s *Store) excess(keep *place) evictable {
	doubted := s.held.unconfirmed.Load() > int64(s.o.MaxUnconfirmed) || s.held.unconfirmedOctets.Load() > s.o.MaxUnconfirmedOctets
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

// trim evicts what is beyond the limits in all, but not keep. No lock is held.
func (s *Store) trim(keep *place) {
	if s.trust.noted.Load() >= noteLimit {
		s.takeUses()
	}
	for p := s.excess(keep); p != nil; p = s.excess(keep) {
		if s.trust.noted.Load() > 0 { // p may have got data sets
			s.takeUses()
			continue
		}
		s.evict(p)
	}
}

// evict removes an entry, if the store still holds it. No lock is held.
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
