package templates

import "time"

const (
	// sweepEvery is how often what nobody receives any more is looked for.
	sweepEvery = time.Minute
	// sweepMost is how many tombstones one sweep gives: the rest waits a minute.
	sweepMost = 1000
	// expirySpread is how far apart replicas notice that something expired: the
	// first one's tombstone saves the others theirs.
	expirySpread = 5 * time.Minute
)

// expired returns tombstones of what no replica received within its lifetime,
// at most once per sweepEvery. What the topic does not have goes at once; the
// rest when its tombstones are published: a definition has up to two records. A
// replica that did receive it meanwhile answers the tombstone with a publication.
func (s *Store) expired() []Record {
	now, last := s.now(), s.swept.Load()
	passed := now - last // negative: the clock was set back
	if passed >= 0 && passed < int64(sweepEvery) || !s.swept.CompareAndSwap(last, now) {
		return nil
	}
	doubted := now - int64(lifetime) // of unconfirmed definitions
	if s.unconfirmed() > unconfirmedFew {
		doubted = now - int64(unconfirmedLife)
	}
	var out []Record
	bury := func(p publishable) {
		if len(out) < sweepMost && s.due.start(p, 0, false) {
			out = append(out, Record{Key: p.state().key})
		}
	}
	for i := range s.shard {
		sh := &s.shard[i]
		sh.mu.Lock()
		old := sh.unseen(now-int64(lifetime), doubted, s.o.Replica)
		for _, f := range old.facts {
			if f.onTopic == 0 {
				s.removeFact(sh, f)
			} else {
				bury(f)
			}
		}
		for _, d := range old.definitions {
			d.bequeath()
			if !d.onTopic() {
				s.removeDefinition(sh, d)
			}
		}
		for _, r := range old.records {
			if r.there {
				bury(r)
			}
		}
		sh.mu.Unlock()
	}
	return out
}

// An unseen is what nobody received for its lifetime.
type unseen struct {
	facts       []*fact
	definitions []*definition
	records     []*definitionRecord // of these definitions, and of others that are received but not written any more
}

// unseen returns what was last received before a time, and definitions that are
// not confirmed before another, ns.
func (sh *shard) unseen(before, doubted int64, replica string) (out unseen) {
	old := func(p publishable, received, before int64) bool {
		return received < before && received+p.state().spread(replica, expirySpread) < before
	}
	for _, dom := range sh.domains.All() {
		for _, l := range dom.templates {
			for _, d := range l.defs {
				since := before
				if !d.confirmed {
					since = doubted
				}
				all := !d.static && old(&d.records[digestRecord], d.received.Load(), since)
				if all {
					out.definitions = append(out.definitions, d)
				}
				for by := range d.records {
					r := &d.records[by]
					if all || !d.static && r.there && old(r, r.latest, before) && !r.needed() {
						out.records = append(out.records, r)
					}
				}
			}
		}
		for _, f := range dom.facts {
			if old(f, f.received, before) {
				out.facts = append(out.facts, f)
			}
		}
	}
	return out
}
