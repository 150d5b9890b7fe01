package templates

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// Anyone can forge datagrams with templates. What bounds the harm: a definition
// is confirmed only when a data set was decoded with it; those that are not are
// few, go first, and those of many new exporters at once are not published until
// a second datagram says the same.

const (
	// newcomersASecond is how many new exporters a replica publishes at once.
	newcomersASecond = 50
	// newcomersBurst is how many after a while without any.
	newcomersBurst = 500
	// unconfirmedLife is how long an unconfirmed definition counts while there are
	// more than unconfirmedFew.
	unconfirmedLife = 10 * time.Minute
	unconfirmedFew  = 10_000
	// confirmWithin spreads what replicas say of one definition, so that one says
	// it and the others see that it is said.
	confirmWithin = 10 * time.Second
)

// trust holds the order of eviction, and what is to be said of definitions. Its
// lock is taken inside a shard's.
type trust struct {
	newcomers *rate.Limiter
	noted     atomic.Int64 // uses not taken yet

	mu          sync.Mutex              // guards what follows
	definitions [levels]order           // by sets decoded; 0: unconfirmed, in order of arrival
	facts       [2]order                // of exporters that are not established, and of those that are
	uses        []noted                 // by decoding, not taken yet
	later       map[int64][]*definition // confirmed here, to be said, by sayAt in steps of sayStep
}

// sayStep is how exactly the time is kept at which a definition is said to be
// confirmed: a look at those to come costs confirmWithin/sayStep at most.
const sayStep = int64(100 * time.Millisecond)

// sayLater takes a definition that was confirmed here.
func (t *trust) sayLater(d *definition) {
	t.mu.Lock()
	if t.later == nil {
		t.later = map[int64][]*definition{}
	}
	t.later[d.sayAt/sayStep] = append(t.later[d.sayAt/sayStep], d)
	t.mu.Unlock()
}

// confirm notes that a replica has decoded with d. The shard's lock is held.
func (s *Store) confirm(d *definition) {
	if !d.confirmed {
		s.held.unconfirmed.Add(-1)
		s.held.unconfirmedOctets.Add(-d.doubtedOctets())
	}
	d.confirmed = true
	s.rank(d)
}

// unconfirmed is how many definitions nobody has confirmed.
func (s *Store) unconfirmed() int { return int(s.held.unconfirmed.Load()) }

// known reports whether the store still holds d. The shard's lock is held.
func (d *definition) known() bool {
	l := d.domain.templates[d.id.template]
	return l != nil && slices.Contains(l.defs, d)
}

// confirmUsed confirms what decoding used, and makes it due to be said.
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

// newcomer decides whether what a new exporter sends is published at once. The
// shard's lock is held.
func (s *Store) newcomer(e *exporter, at int64) {
	if !s.trust.newcomers.AllowN(s.o.Now(), 1) {
		e.held, e.heldAt = true, at
	}
}

// holds reports whether nothing of an exporter is published. mu is held.
func (sh *shard) holds(address [16]byte) bool {
	e := sh.exporters[address]
	return e != nil && e.held
}

// again takes a further datagram of an exporter: one that says a second time
// what it said is taken for what it is. The shard's lock is held.
func (s *Store) again(sh *shard, address [16]byte, at int64) {
	if e := sh.exporters[address]; e != nil && e.held && e.heldAt != at {
		s.publishHeld(sh, address)
	}
}

// publishHeld publishes what is held back of an exporter. The shard's lock is held.
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
