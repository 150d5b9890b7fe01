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
// rest when its tombstone is published. A replica that did receive it meanwhile
// answers the tombstone with a publication.
func (s *Store) expired() []Record {
	now, last := s.now(), s.swept.Load()
	if now-last < int64(sweepEvery) || !s.swept.CompareAndSwap(last, now) {
		return nil
	}
	doubted := now - int64(lifetime) // of unconfirmed definitions
	if s.unconfirmed() > unconfirmedFew {
		doubted = now - int64(unconfirmedLife)
	}
	var out []Record
	for i := range s.shard {
		sh := &s.shard[i]
		sh.mu.Lock()
		for _, p := range sh.unseen(now-int64(lifetime), doubted, s.o.Replica) {
			switch {
			case p.state().onTopic == 0:
				s.remove(sh, p)
			case len(out) < sweepMost && s.due.start(p):
				out = append(out, Record{Key: p.state().key})
			}
		}
		sh.mu.Unlock()
	}
	return out
}

// unseen returns what was last received before a time, and definitions that are
// not confirmed before another, ns.
func (sh *shard) unseen(before, doubted int64, replica string) (out []publishable) {
	old := func(p publishable, received, before int64) {
		if received < before && received+p.state().spread(replica, expirySpread) < before {
			out = append(out, p)
		}
	}
	for _, d := range sh.domains.All() {
		for _, l := range d.templates {
			for _, def := range l.defs {
				if def.static {
					continue
				}
				if def.confirmed {
					old(def, def.received.Load(), before)
				} else {
					old(def, def.received.Load(), doubted)
				}
			}
		}
		for _, f := range d.facts {
			old(f, f.received, before)
		}
	}
	return out
}

func (s *Store) remove(sh *shard, p publishable) {
	switch p := p.(type) {
	case *definition:
		s.removeDefinition(sh, p)
	case *fact:
		s.removeFact(sh, p)
	}
}
