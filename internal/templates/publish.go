package templates

import (
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"
)

// A publishable is a record that the shared log may lack: of a definition, or of a fact.
// The shard's lock must be held for its methods.
type publishable interface {
	state() *published
	kind() kind
	exporter() [16]byte
	needed() bool
	known() bool // the store holds it
	value(replica string) ([]byte, error)
}

// A published holds the state of a record on the shared log. The shard's lock guards it,
// except line and position.
type published struct {
	key       []byte
	shard     *shard
	onTopic   int64 // receive time in the topic's last record, ns; 0: no record
	refreshAt int64 // receive time from which a receipt must be published, ns
	line      *line // nil: not queued; the queue's lock guards line and position
	position  int   // index in line.entries
}

func (p *published) state() *published { return p }

// seen records the receive time of the topic's last record, and sets the next refresh.
func (p *published) seen(at int64, replica string) {
	p.onTopic = at
	const vary = refreshInterval / 5
	p.refreshAt = at + int64(refreshInterval-vary) + p.spread(replica, 2*vary)
}

// spread returns a delay below within, in ns, that depends on the record and the replica.
// When all replicas could publish a record, usually the replica with the least delay
// publishes it and the others see its record.
func (p *published) spread(replica string, within time.Duration) int64 {
	var h xxhash.Digest
	h.Reset()
	_, _ = h.Write(p.key)
	_, _ = h.WriteString(replica)
	return int64(h.Sum64() % uint64(within))
}

// A line is a FIFO of records that permits removal in the middle, which leaves a gap.
type line struct {
	entries []publishable // nil: a gap
	head    int           // index before which all entries are gaps
	n       int           // number of entries without gaps
}

func (l *line) push(p publishable) {
	if len(l.entries) > 2*l.n+64 {
		l.compact()
	}
	l.entries = append(l.entries, p)
	p.state().line, p.state().position = l, len(l.entries)-1
	l.n++
}

// compact removes the gaps.
func (l *line) compact() {
	all := make([]publishable, 0, l.n+l.n/2)
	for _, p := range l.entries[l.head:] {
		if p != nil {
			p.state().position = len(all)
			all = append(all, p)
		}
	}
	l.entries, l.head = all, 0
}

// remove removes p, which must be in l.
func (l *line) remove(p publishable) {
	st := p.state()
	l.entries[st.position] = nil
	st.line = nil
	l.n--
}

// pop removes and returns the first entry, nil if there is none.
func (l *line) pop() publishable {
	for ; l.head < len(l.entries); l.head++ {
		if p := l.entries[l.head]; p != nil {
			l.remove(p)
			return p
		}
	}
	l.entries, l.head = nil, 0
	return nil
}

// maxUnderWay and maxUnderWayOctets bound the records that are being produced to the shared
// log: an entry in the queue needs less memory than a record in a Kafka client.
const (
	maxUnderWay       = 16_384
	maxUnderWayOctets = 16 << 20 // of values
)

// A queue holds the records that may be due, in order. The record of an entry must leave
// the queue when the store removes the entry. Its lock may be taken while a shard is
// locked, never the reverse.
type queue struct {
	off bool // nothing is queued; constant after New

	mu       sync.Mutex          // guards the fields below
	waiting  line                // records within the budgets
	late     [nKinds]line        // records beyond a budget
	lateAt   int64               // time of the last lookLate, ns
	underWay map[string]underWay // records being produced, by key
	octets   int                 // octets of the values being produced
}

// An underWay is a record that is being produced.
type underWay struct {
	entry   publishable
	octets  int  // octets of the value
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

// delay queues p behind the other records beyond a budget.
func (q *queue) delay(p publishable) {
	q.mu.Lock()
	if p.state().line == nil {
		q.late[p.kind()].push(p)
	}
	q.mu.Unlock()
}

// cancel removes p from its line, if it is queued.
func (q *queue) cancel(p publishable) {
	q.mu.Lock()
	if l := p.state().line; l != nil {
		l.remove(p)
	}
	q.mu.Unlock()
}

// popWaiting removes and returns the next record within the budgets. It returns nil if
// there is none, or if too many records are being produced.
func (q *queue) popWaiting() publishable {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.popFrom(&q.waiting)
}

// popLate removes and returns the next record of a kind beyond a budget. It returns nil if
// there is none, or if too many records are being produced.
func (q *queue) popLate(k kind) publishable {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.popFrom(&q.late[k])
}

// popFrom removes and returns the first entry of l. q.mu must be held.
func (q *queue) popFrom(l *line) publishable {
	if len(q.underWay) >= maxUnderWay || q.octets >= maxUnderWayOctets {
		return nil
	}
	return l.pop()
}

// start marks p as being produced. It returns false if a record with its key is already.
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

// end removes and returns the record with this key that is being produced. Its entry is nil
// if there is none.
func (q *queue) end(key []byte) underWay {
	q.mu.Lock()
	defer q.mu.Unlock()
	w := q.underWay[string(key)]
	delete(q.underWay, string(key))
	q.octets -= w.octets
	return w
}

// length returns the number of queued records within the budgets.
func (q *queue) length() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.waiting.n
}

// pending returns the number of records that are queued or being produced.
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
	// lateEvery is the interval at which Due retries records beyond a budget, lateMost
	// bounds the records of a kind in a retry.
	lateEvery = 100 * time.Millisecond
	lateMost  = 4096
)

// lookLate returns, by kind, the number of records beyond a budget to retry now.
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

// Due returns the records to produce now: new or changed definitions and facts, refreshes,
// and tombstones (nil values) of expired entries. The caller must call it regularly, and
// must call Published with the outcome of each record. Until then Due does not return a
// record with the same key again.
func (s *Store) Due() []Record {
	s.confirmUsed()
	out := s.expired()
	now := s.now()
	for range s.due.length() {
		p := s.due.popWaiting()
		if p == nil {
			break
		}
		out, _ = s.appendDue(out, p, now)
	}
	for k, n := range s.due.lookLate(now) {
		for total := false; n > 0 && !total && s.totalLeft(kind(k), now); n-- {
			p := s.due.popLate(kind(k))
			if p == nil {
				break
			}
			out, total = s.appendDue(out, p, now)
		}
	}
	return out
}

// appendDue appends the record of p, if it is still needed and within the budgets. total
// reports that the total of its kind forbids it. A record beyond a budget stays due.
func (s *Store) appendDue(out []Record, p publishable, now int64) (_ []Record, total bool) {
	st := p.state()
	st.shard.mu.Lock()
	defer st.shard.mu.Unlock()
	if !p.needed() { // another replica published it meanwhile, or the entry was removed
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
	case err != nil: // a text is not valid UTF-8: the entry is not shared
	case !s.due.start(p, len(v), a.beyondFirst()):
		s.due.add(p) // changed while being produced: publish it again afterwards
	default:
		s.publishing(a, p.kind(), int64(len(st.key)+len(v)))
		out = append(out, Record{Key: st.key, Value: v})
	}
	return out, total
}

// Published reports the outcome of producing r. After an error r becomes due again and its
// octets return to the budgets, since an outage must not exhaust them. Otherwise r is
// merged as if it had been read from the topic.
func (s *Store) Published(r Record, err error) {
	w := s.due.end(r.Key)
	p := w.entry
	if p == nil {
		return
	}
	if err == nil {
		_ = s.Merge(r.Key, r.Value) // cannot fail: this store made the record
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

// Republish makes all entries due that this replica received itself within their lifetime.
// It must be called when the topic was deleted or lost its records.
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
