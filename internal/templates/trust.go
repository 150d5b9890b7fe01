package templates

import (
	"container/list"
	"slices"
	"sync"
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

// trust keeps account of definitions that nobody has confirmed. Its lock is
// taken inside a shard's.
type trust struct {
	newcomers *rate.Limiter

	mu          sync.Mutex    // guards what follows
	unconfirmed list.List     // of *definition, in order of arrival
	used        []*definition // by decoding, not looked at yet
	later       []*definition // confirmed here, to be said when it is time
}

// doubted takes a new definition, unconfirmed. The shard's lock is held.
func (s *Store) doubted(d *definition) {
	s.trust.mu.Lock()
	d.unconfirmed = s.trust.unconfirmed.PushBack(d)
	s.trust.mu.Unlock()
}

// use notes that a data set is being decoded with d. No lock is held.
func (s *Store) use(d *definition) {
	if d.used.Load() || !d.used.CompareAndSwap(false, true) {
		return
	}
	s.trust.mu.Lock()
	s.trust.used = append(s.trust.used, d)
	s.trust.mu.Unlock()
}

// confirm notes that a replica has decoded with d. The shard's lock is held.
func (s *Store) confirm(d *definition) {
	d.confirmed = true
	d.used.Store(true)
	s.settleAccount(d)
}

// settleAccount ends the account of a definition that is confirmed, or goes. The
// shard's lock is held.
func (s *Store) settleAccount(d *definition) {
	s.trust.mu.Lock()
	if d.unconfirmed != nil {
		s.trust.unconfirmed.Remove(d.unconfirmed)
		d.unconfirmed = nil
	}
	s.trust.mu.Unlock()
}

// unconfirmed is how many definitions nobody has confirmed.
func (s *Store) unconfirmed() int {
	s.trust.mu.Lock()
	defer s.trust.mu.Unlock()
	return s.trust.unconfirmed.Len()
}

// trim drops the oldest unconfirmed definitions beyond the limit. No lock is held.
func (s *Store) trim() {
	for {
		s.trust.mu.Lock()
		if s.trust.unconfirmed.Len() <= s.o.MaxUnconfirmed {
			s.trust.mu.Unlock()
			return
		}
		d := s.trust.unconfirmed.Front().Value.(*definition) // as pushed
		s.trust.mu.Unlock()
		d.shard.mu.Lock()
		if !d.confirmed && d.known() {
			s.removeDefinition(d.shard, d)
			s.count.evicted.Add(1)
		}
		d.shard.mu.Unlock()
	}
}

// known reports whether the store still holds d. The shard's lock is held.
func (d *definition) known() bool {
	l := d.domain.templates[d.id.template]
	return l != nil && slices.Contains(l.defs, d)
}

// confirmUsed confirms what decoding used, and makes it due to be said.
func (s *Store) confirmUsed() {
	now := s.now()
	s.trust.mu.Lock()
	used, later := s.trust.used, s.trust.later
	s.trust.used, s.trust.later = nil, nil
	s.trust.mu.Unlock()
	for _, d := range used {
		d.shard.mu.Lock()
		if !d.confirmed && d.known() {
			s.confirm(d)
			s.publishHeld(d.shard, d.domain.scope.exporter)
		}
		d.sayAt = now + d.records[digestRecord].spread(s.o.Replica, confirmWithin)
		d.shard.mu.Unlock()
	}
	wait := later[:0]
	for _, d := range append(later, used...) {
		d.shard.mu.Lock()
		switch {
		case !d.known() || d.saidConfirmed() || s.o.Local:
		case d.sayAt > now:
			wait = append(wait, d)
		default:
			d.say = true
			s.publishAgain(d)
		}
		d.shard.mu.Unlock()
	}
	s.trust.mu.Lock()
	s.trust.later = append(s.trust.later, wait...)
	s.trust.mu.Unlock()
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
