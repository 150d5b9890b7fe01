package templates

import "time"

const (
	// sweepEvery is the interval of the search for expired entries.
	sweepEvery = time.Minute
	// sweepMost bounds the tombstones of a sweep. The rest waits for the next sweep.
	sweepMost = 1000
	// expirySpread is the period over which replicas notice an expiry. The tombstone of
	// the first replica makes those of the others unnecessary.
	expirySpread = 5 * time.Minute
)

// expired searches for entries that no replica received within their lifetime, at most
// once per sweepEvery, and returns their tombstones. It removes entries without a record
// on the topic; the others are removed when their tombstones are published (a definition
// has up to two records). A replica that received an entry meanwhile publishes it again
// when it reads the tombstone.
func (s *Store) expired() []Record {
	now, last := s.now(), s.swept.Load()
	passed := now - last // negative: the clock was set back
	if passed >= 0 && passed < int64(sweepEvery) || !s.swept.CompareAndSwap(last, now) {
		return nil
	}
	doubted := now - int64(lifetime) // bound of unconfirmed definitions
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

// An unseen holds the expired entries of a shard.
type unseen struct {
	facts       []*fact
	definitions []*definition
	records     []*definitionRecord // of these definitions, and records of a kind that is no longer written
}

// unseen returns the entries that were last received before the time before, and the
// unconfirmed definitions that were last received before the time doubted, both in ns.
// The shard's lock must be held.
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
