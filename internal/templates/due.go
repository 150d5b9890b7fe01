package templates

import (
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"
)

// A publishable is a definition or a fact: something the shared log may lack.
// Its methods are called with its shard's lock held.
type publishable interface {
	state() *published
	kind() kind
	exporter() [16]byte
	needed() bool
	value(replica string) ([]byte, error)
}

// published is where an entry stands with the shared log. It is guarded by the
// shard's lock.
type published struct {
	key       []byte
	shard     *shard
	onTopic   int64 // receive time in the topic's last record, ns; 0: not there
	refreshAt int64 // a reception from this time on is published, ns
	queued    bool
}

func (p *published) state() *published { return p }

// seen notes that the topic's last record of the entry has this receive time.
func (p *published) seen(at int64, replica string) {
	p.onTopic = at
	const vary = refreshInterval / 5
	p.refreshAt = at + int64(refreshInterval-vary) + p.spread(replica, 2*vary)
}

// spread is a time up to within, ns, that differs by entry and replica: when all
// replicas could do a thing, one does it and the others see that it is done.
func (p *published) spread(replica string, within time.Duration) int64 {
	var h xxhash.Digest
	h.Reset()
	_, _ = h.Write(p.key)
	_, _ = h.WriteString(replica)
	return int64(h.Sum64() % uint64(within))
}

// A queue holds what may be due, in order. Its lock is taken inside a shard's.
type queue struct {
	off bool // nothing is queued; not changed after New

	mu       sync.Mutex
	waiting  []publishable
	late     [nKinds][]publishable  // beyond a budget of their own, in order
	lateAt   int64                  // when late was looked at last, ns
	underWay map[string]publishable // by key
}

// add queues p once.
func (q *queue) add(p publishable) {
	if q.off {
		return
	}
	st := p.state()
	if st.queued {
		return
	}
	st.queued = true
	q.mu.Lock()
	q.waiting = append(q.waiting, p)
	q.mu.Unlock()
}

func (q *queue) take() []publishable {
	q.mu.Lock()
	defer q.mu.Unlock()
	w := q.waiting
	q.waiting = nil
	return w
}

// start marks p as under way, unless it is already.
func (q *queue) start(p publishable) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	k := string(p.state().key)
	if _, is := q.underWay[k]; is {
		return false
	}
	q.underWay[k] = p
	return true
}

func (q *queue) end(key []byte) publishable {
	q.mu.Lock()
	defer q.mu.Unlock()
	p := q.underWay[string(key)]
	delete(q.underWay, string(key))
	return p
}

func (q *queue) pending() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := len(q.waiting) + len(q.underWay)
	for _, late := range q.late {
		n += len(late)
	}
	return n
}

const (
	// lateEvery is how often what is beyond a budget is looked at, and lateMost
	// how much of a kind then.
	lateEvery = 100 * time.Millisecond
	lateMost  = 4096
)

// delay puts p behind what is beyond a budget already.
func (q *queue) delay(p publishable) {
	p.state().queued = true
	q.mu.Lock()
	q.late[p.kind()] = append(q.late[p.kind()], p)
	q.mu.Unlock()
}

// takeLate takes the first of what is beyond a budget, nil if nothing is.
func (q *queue) takeLate(k kind) publishable {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.late[k]) == 0 {
		return nil
	}
	p := q.late[k][0]
	q.late[k][0] = nil
	q.late[k] = q.late[k][1:]
	return p
}

// lookLate reports how much of what is beyond a budget is to be looked at now.
func (q *queue) lookLate(now int64) (most [nKinds]int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if passed := now - q.lateAt; passed >= 0 && passed < int64(lateEvery) {
		return most
	}
	q.lateAt = now
	for k := range most {
		most[k] = min(len(q.late[k]), lateMost)
	}
	return most
}

// Due returns what is to be published now: new or changed definitions and
// facts, refreshes that are due, and tombstones (value nil) of what nobody
// received for its lifetime. What is beyond a budget is returned later. Each is marked as under way until
// Published is called with the outcome; until then it is not returned again.
func (s *Store) Due() []Record {
	s.confirmUsed()
	out := s.expired()
	now := s.now()
	for _, p := range s.due.take() {
		out, _ = s.appendDue(out, p, now)
	}
	for k, n := range s.due.lookLate(now) {
		for total := false; n > 0 && !total && s.totalLeft(kind(k), now); n-- {
			p := s.due.takeLate(kind(k))
			if p == nil {
				break
			}
			out, total = s.appendDue(out, p, now)
		}
	}
	s.trimLate(ofFacts, int(s.held.facts.Load()))
	s.trimLate(ofDefinitions, int(recordKinds)*int(s.held.definitions.Load()))
	return out
}

// trimLate drops what is not needed any more once that may be half of what is
// beyond a budget. held is how many records the store may have of the kind.
func (s *Store) trimLate(k kind, held int) {
	s.due.mu.Lock()
	late := s.due.late[k]
	if len(late) <= 2*held+lateMost {
		s.due.mu.Unlock()
		return
	}
	s.due.late[k] = nil
	s.due.mu.Unlock()
	for _, p := range late {
		st := p.state()
		st.shard.mu.Lock()
		if st.queued = false; p.needed() {
			s.due.delay(p)
		}
		st.shard.mu.Unlock()
	}
}

// appendDue appends the record of p, if it is still needed and within the budgets;
// total says that the total of its kind forbids it. Beyond a budget it stays due.
func (s *Store) appendDue(out []Record, p publishable, now int64) (_ []Record, total bool) {
	st := p.state()
	st.shard.mu.Lock()
	defer st.shard.mu.Unlock()
	st.queued = false
	if !p.needed() { // another replica published it meanwhile, or it is gone
		return out, false
	}
	a := st.shard.allowanceOf(p.exporter())
	may, total := s.mayPublish(a, p.kind(), now)
	switch {
	case !may:
		s.due.delay(p)
	case !s.due.start(p):
		s.due.add(p) // changed while under way: once more after that
	default:
		v, err := p.value(s.o.Replica)
		if err != nil { // not UTF-8 in what came from outside: kept for this replica alone
			s.due.end(st.key)
			break
		}
		s.publishing(a, p.kind(), int64(len(st.key)+len(v)))
		out = append(out, Record{Key: st.key, Value: v})
	}
	return out, total
}

// Published tells the outcome of publishing r; after an error it becomes due
// again.
func (s *Store) Published(r Record, err error) {
	p := s.due.end(r.Key)
	if p == nil {
		return
	}
	if err == nil {
		_ = s.Merge(r.Key, r.Value) // of our own making: sound
		return
	}
	mu := &p.state().shard.mu
	mu.Lock()
	defer mu.Unlock()
	s.due.add(p)
}

// Republish makes everything due that this replica received itself within its
// lifetime: the shared log was lost.
func (s *Store) Republish() {
	since := s.now() - int64(lifetime)
	for i := range s.shard {
		sh := &s.shard[i]
		sh.mu.Lock()
		for _, d := range sh.domains.All() {
			for _, l := range d.templates {
				for _, def := range l.defs {
					for by := range def.records {
						def.records[by].lose()
					}
					if def.local > since {
						s.publishAgain(def)
					}
				}
			}
			for _, f := range d.facts {
				f.onTopic, f.topic = 0, nil
				if f.local > since {
					s.due.add(f)
				}
			}
		}
		sh.mu.Unlock()
	}
}
