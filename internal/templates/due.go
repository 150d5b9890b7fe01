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
	known() bool // the store holds it
	value(replica string) ([]byte, error)
}

// published is where an entry stands with the shared log. It is guarded by the
// shard's lock.
type published struct {
	key       []byte
	shard     *shard
	onTopic   int64 // receive time in the topic's last record, ns; 0: not there
	refreshAt int64 // a reception from this time on is published, ns
	line      *line // nil: it does not wait; guarded by the queue's lock, as position
	position  int   // in line
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

// A line holds entries in order. Those that leave it make a gap.
type line struct {
	entries []publishable // nil: a gap
	head    int           // no entry before it
	n       int           // entries
}

func (l *line) push(p publishable) {
	if len(l.entries) > 2*l.n+64 {
		l.close()
	}
	l.entries = append(l.entries, p)
	p.state().line, p.state().position = l, len(l.entries)-1
	l.n++
}

// close closes the gaps.
func (l *line) close() {
	all := make([]publishable, 0, l.n+l.n/2)
	for _, p := range l.entries[l.head:] {
		if p != nil {
			p.state().position = len(all)
			all = append(all, p)
		}
	}
	l.entries, l.head = all, 0
}

// remove takes p, which is in l, from it.
func (l *line) remove(p publishable) {
	st := p.state()
	l.entries[st.position] = nil
	st.line = nil
	l.n--
}

// take takes the first entry, nil if there is none.
func (l *line) take() publishable {
	for ; l.head < len(l.entries); l.head++ {
		if p := l.entries[l.head]; p != nil {
			l.remove(p)
			return p
		}
	}
	l.entries, l.head = nil, 0
	return nil
}

// maxUnderWay and maxUnderWayOctets bound what is under way to the shared log: an
// entry that waits in the store takes less than a record in a Kafka client.
const (
	maxUnderWay       = 16_384
	maxUnderWayOctets = 16 << 20 // of values
)

// A queue holds what may be due, in order. What the store does not hold any more
// leaves it. Its lock is taken inside a shard's.
type queue struct {
	off bool // nothing is queued; not changed after New

	mu       sync.Mutex
	waiting  line
	late     [nKinds]line        // beyond a budget of their own
	lateAt   int64               // when late was looked at last, ns
	underWay map[string]underWay // by key
	octets   int                 // of values under way
}

type underWay struct {
	entry   publishable
	octets  int  // of the value
	ofTotal bool // it was charged to the total of its kind, not to exporterFirst
}

// add queues p once.
func (q *queue) add(p publishable) {
	if q.off {
		return
	}
	q.mu.Lock()
	if p.state().line == nil {
		q.waiting.push(p)
	}
	q.mu.Unlock()
}

// delay puts p behind what is beyond a budget already.
func (q *queue) delay(p publishable) {
	q.mu.Lock()
	if p.state().line == nil {
		q.late[p.kind()].push(p)
	}
	q.mu.Unlock()
}

// leave takes p from where it waits, if it does.
func (q *queue) leave(p publishable) {
	q.mu.Lock()
	if l := p.state().line; l != nil {
		l.remove(p)
	}
	q.mu.Unlock()
}

// take takes the next entry, nil if there is none, or no room for one under way.
func (q *queue) take() publishable {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.takeOf(&q.waiting)
}

// takeLate takes the first of what is beyond a budget, nil if there is none, or no
// room for one under way.
func (q *queue) takeLate(k kind) publishable {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.takeOf(&q.late[k])
}

func (q *queue) takeOf(l *line) publishable {
	if len(q.underWay) >= maxUnderWay || q.octets >= maxUnderWayOctets {
		return nil
	}
	return l.take()
}

// start marks p as under way, unless it is already.
func (q *queue) start(p publishable, octets int, ofTotal bool) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	k := string(p.state().key)
	if _, is := q.underWay[k]; is {
		return false
	}
	q.underWay[k] = underWay{p, octets, ofTotal}
	q.octets += octets
	return true
}

// end removes the record under way with this key and returns it; its entry is nil if there is none.
func (q *queue) end(key []byte) underWay {
	q.mu.Lock()
	defer q.mu.Unlock()
	w := q.underWay[string(key)]
	delete(q.underWay, string(key))
	q.octets -= w.octets
	return w
}

// length returns how many entries wait within the budgets.
func (q *queue) length() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.waiting.n
}

func (q *queue) pending() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := q.waiting.n + len(q.underWay)
	for i := range q.late {
		n += q.late[i].n
	}
	return n
}

const (
	// lateEvery is how often what is beyond a budget is looked at, and lateMost
	// how much of a kind then.
	lateEvery = 100 * time.Millisecond
	lateMost  = 4096
)

// lookLate reports how much of what is beyond a budget is to be looked at now.
func (q *queue) lookLate(now int64) (most [nKinds]int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if passed := now - q.lateAt; passed >= 0 && passed < int64(lateEvery) {
		return most
	}
	q.lateAt = now
	for k := range most {
		most[k] = min(q.late[k].n, lateMost)
	}
	return most
}

// Due returns what is to be published now: new or changed definitions and
// facts, refreshes that are due, and tombstones (value nil) of what nobody
// received for its lifetime. Each is marked as under way until
// Published is called with the outcome; until then it is not returned again.
func (s *Store) Due() []Record {
	s.confirmUsed()
	out := s.expired()
	now := s.now()
	for range s.due.length() {
		p := s.due.take()
		if p == nil {
			break
		}
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
	return out
}

// appendDue appends the record of p, if it is still needed and within the budgets;
// total says that the total of its kind forbids it. Beyond a budget it stays due.
func (s *Store) appendDue(out []Record, p publishable, now int64) (_ []Record, total bool) {
	st := p.state()
	st.shard.mu.Lock()
	defer st.shard.mu.Unlock()
	if !p.needed() { // another replica published it meanwhile, or it is gone
		return out, false
	}
	a := st.shard.allowanceOf(p.exporter())
	may, total := s.mayPublish(a, p.kind(), now)
	if !may {
		s.due.delay(p)
		return out, total
	}
	v, err := p.value(s.o.Replica)
	switch {
	case err != nil: // not UTF-8 in what came from outside: kept for this replica alone
	case !s.due.start(p, len(v), a.beyondFirst()):
		s.due.add(p) // changed while under way: once more after that
	default:
		s.publishing(a, p.kind(), int64(len(st.key)+len(v)))
		out = append(out, Record{Key: st.key, Value: v})
	}
	return out, total
}

// Published tells the outcome of publishing r. After an error r becomes due
// again, and its octets go back to the budgets: an outage must not spend them.
func (s *Store) Published(r Record, err error) {
	w := s.due.end(r.Key)
	p := w.entry
	if p == nil {
		return
	}
	if err == nil {
		_ = s.Merge(r.Key, r.Value) // of our own making: sound
		return
	}
	sh := p.state().shard
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if r.Value != nil { // a tombstone is not charged
		s.refund(sh.allowanceOf(p.exporter()), p.kind(), int64(len(r.Key)+len(r.Value)), w.ofTotal)
	}
	if p.known() {
		s.due.add(p)
	}
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
				s.accountFact(f)
				if f.local > since {
					s.due.add(f)
				}
			}
		}
		sh.mu.Unlock()
	}
}
