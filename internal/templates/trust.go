package templates

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// Over UDP anyone can forge datagrams with templates. Four rules bound the harm. A
// definition is confirmed only if a data set was decoded with it. Unconfirmed definitions
// are bounded. They are evicted first. In a flood of new exporters, a definition is
// published only on its second receipt, or after it was confirmed.

const (
	// newcomersASecond is the rate of new exporters above which a replica holds back
	// their records until their second datagram.
	newcomersASecond = 50
	// newcomersBurst is the burst of that limit.
	newcomersBurst = 500
	// unconfirmedLife is the lifetime of unconfirmed definitions while the store has
	// more than unconfirmedFew of them.
	unconfirmedLife = 10 * time.Minute
	unconfirmedFew  = 10_000
	// confirmWithin is the period over which replicas publish the confirmation of a
	// definition. The record of the first replica makes the others unnecessary.
	confirmWithin = 10 * time.Second
)

// A trust holds the order of eviction and the confirmations to publish. Its lock may be
// taken while a shard is locked, never the reverse.
type trust struct {
	newcomers *rate.Limiter
	noted     atomic.Int64 // length of uses

	mu          sync.Mutex              // guards the fields below
	definitions [levels]order           // by level; 0: unconfirmed, in order of arrival
	facts       [2]order                // of newcomers, and of established exporters
	uses        []noted                 // uses by decoding that takeUses has not applied yet
	later       map[int64][]*definition // confirmations to publish, by sayAt in units of sayStep
}

// sayStep is the resolution of definition.sayAt. A search of trust.later visits at most
// confirmWithin/sayStep entries.
const sayStep = int64(100 * time.Millisecond)

// sayLater schedules the publication of a confirmation at d.sayAt.
func (t *trust) sayLater(d *definition) {
	t.mu.Lock()
	if t.later == nil {
		t.later = map[int64][]*definition{}
	}
	t.later[d.sayAt/sayStep] = append(t.later[d.sayAt/sayStep], d)
	t.mu.Unlock()
}

// confirm records that a replica has decoded data with d. The shard's lock must be held.
func (s *Store) confirm(d *definition) {
	if !d.confirmed {
		s.held.unconfirmed.Add(-1)
		s.held.unconfirmedOctets.Add(-d.doubtedOctets())
	}
	d.confirmed = true
	s.rank(d)
}

// unconfirmed returns the number of unconfirmed definitions.
func (s *Store) unconfirmed() int { return int(s.held.unconfirmed.Load()) }

// known reports whether the store still holds d. The shard's lock must be held.
func (d *definition) known() bool {
	l := d.domain.templates[d.id.template]
	return l != nil && slices.Contains(l.defs, d)
}

// confirmUsed confirms the definitions that decoding used, and queues the confirmations
// that are due and that no other replica has published.
func (s *Store) confirmUsed() {
	s.takeUses()
	now := s.now()
	var say []*definition
	s.trust.mu.Lock()
	for at, all := range s.trust.later {
		if at < now/sayStep {
			say = append(say, all...)
			delete(s.trust.later, at)
		}
	}
	s.trust.mu.Unlock()
	for _, d := range say {
		d.shard.mu.Lock()
		if d.known() && !d.saidConfirmed() {
			d.say = true
			s.publishAgain(d)
		}
		d.shard.mu.Unlock()
	}
}

// newcomer holds back the records of a new exporter if there are too many new exporters.
// at is the receive time of its first datagram. The shard's lock must be held.
func (s *Store) newcomer(e *exporter, at int64) {
	if !s.trust.newcomers.AllowN(s.o.Now(), 1) {
		e.held, e.heldAt = true, at
	}
}

// holds reports whether the records of an exporter are held back. mu must be held.
func (sh *shard) holds(address [16]byte) bool {
	e := sh.exporters[address]
	return e != nil && e.held
}

// repeated publishes the held-back records of an exporter if a second datagram, received
// at another time than the first, repeats a definition. The shard's lock must be held.
func (s *Store) repeated(sh *shard, address [16]byte, at int64) {
	if e := sh.exporters[address]; e != nil && e.held && e.heldAt != at {
		s.publishHeld(sh, address)
	}
}

// publishHeld queues the held-back records of an exporter. The shard's lock must be held.
func (s *Store) publishHeld(sh *shard, address [16]byte) {
	e := sh.exporters[address]
	if e == nil || !e.held {
		return
	}
	e.held = false
	for dom := range e.domains {
		for _, l := range dom.templates {
			for _, d := range l.defs {
				s.publishAgain(d)
			}
		}
		for _, f := range dom.facts {
			s.due.add(f)
		}
	}
}
