package templates

import (
	"sync"

	"weir/internal/decode"
)

// Budgets bound the cost of the definitions and facts of a sender, who may be forged.
//
// Learning: a new definition or fact is charged to its exporter and to a total. Beyond the
// budget it is refused and counted; the exporter will send it again. Each exporter has a
// reserve outside the total, so that a flood from forged addresses cannot keep out the
// first template and sampling rate of an honest exporter.
//
// Repeating: a repeated definition or fact that is in force for its port has a budget of
// its own, so that an exporter with templates in each datagram does not exhaust its budget
// for learning. Beyond the budget it stays in force, but its receipt is not recorded.
//
// Publishing: a record is charged to its exporter and to the total of its kind before it
// goes to the topic. Beyond the budget it stays due.
//
// Example: a router with 4 000 interfaces sends a name and a description of 40 octets for
// each (8 000 facts of 104 octets, 830 KB). Its burst covers all of them. They are about
// 1.2 MB on the topic: 0.5 MB at once and the rest within 45 s.
var (
	// exporterChanges bounds the octets of new definitions and facts of an exporter, as
	// counted by definitionOctets and factOctets. 16 KiB/s are 256 facts without a name
	// per second.
	exporterChanges = limit{burst: 1 << 20, perSecond: 16 << 10}
	// exporterReserve is the part of exporterChanges that the totals do not bound: 8
	// facts or a template of 56 fields at once, and a fact every 4 s.
	exporterReserve = limit{burst: 512, perSecond: 16}
	// exporterRepeats bounds the number of recorded repeats of an exporter, which take
	// about 1 µs each. totalRepeats bounds those of all exporters.
	exporterRepeats = limit{burst: 16_384, perSecond: 2048}
	totalRepeats    = limit{burst: 131_072, perSecond: 65_536}
	// sessionChanges bounds the octets of new definitions of a session over TCP. Over
	// TCP an exporter does not repeat a refused definition, so the limit is above the
	// need of any exporter: 4 096 templates of 120 fields at once.
	sessionChanges = limit{burst: 4 << 20, perSecond: 64 << 10}
	// totalChanges bounds the octets of all exporters beyond their reserves: 16 384
	// facts without a name per second.
	totalChanges = [nKinds]limit{
		ofFacts:       {burst: 32 << 20, perSecond: 1 << 20},
		ofDefinitions: {burst: 64 << 20, perSecond: 4 << 20},
	}

	// exporterRecords bounds the octets of an exporter's records to the topic.
	exporterRecords = limit{burst: 512 << 10, perSecond: 16 << 10}
	// exporterFirst is the part of exporterRecords that the totals do not bound.
	exporterFirst = limit{burst: 4 << 10, perSecond: 64}
	// totalRecords bounds the records of all exporters beyond exporterFirst.
	totalRecords = [nKinds]limit{
		ofFacts:       {burst: 32 << 20, perSecond: 512 << 10},
		ofDefinitions: {burst: 32 << 20, perSecond: 1 << 20},
	}
)

// A limit is the capacity and the refill rate of a bucket, in octets; limits of repeats
// count repeats.
type limit struct{ burst, perSecond int64 }

// A bucket is a token bucket. The zero value is full.
type bucket struct {
	taken int64 // octets taken at the time at; above the burst: debt
	at    int64 // ns
}

// refill returns the octets that have flowed in until now, in ns. A clock that is set back
// returns nothing.
func (b *bucket) refill(l limit, now int64) {
	const second = int64(1e9)
	passed := now - b.at
	switch {
	case passed < 0:
		b.at = now
	case b.taken == 0 || passed/second > b.taken/l.perSecond:
		b.taken, b.at = 0, now
	default:
		in := l.perSecond * passed / second // cannot overflow: the case above bounds passed
		b.taken = max(0, b.taken-in)
		b.at += in * second / l.perSecond // not now: the fraction of an octet counts next time
	}
}

// has reports whether an octet is left. The taker may then exceed the burst: taken becomes
// a debt.
func (b *bucket) has(l limit, now int64) bool {
	b.refill(l, now)
	return b.taken < l.burst
}

// fits reports whether n octets are left.
func (b *bucket) fits(l limit, now, n int64) bool {
	b.refill(l, now)
	return b.taken+n <= l.burst
}

// giveBack returns n taken octets.
func (b *bucket) giveBack(n int64) { b.taken = max(0, b.taken-n) }

// A kind selects the totals to which an entry is charged.
type kind uint8

const (
	ofFacts kind = iota
	ofDefinitions
	nKinds
)

// A budgets holds the totals of a Store.
type budgets struct {
	mu      sync.Mutex // guards the fields below; taken inside a shard's lock
	changes [nKinds]bucket
	repeats bucket
	records [nKinds]bucket
}

// An allowance holds the buckets of an exporter. Its shard's lock guards it.
type allowance struct {
	changes, reserve bucket
	repeats          bucket
	records, first   bucket

	// Receive times of the datagrams that exhausted a budget, ns; 0: none.
	spent         [nKinds]int64
	spentOfRepeat int64
}

// turnOctets is the cost of a known definition or fact that replaces the definition or
// value in force for its port.
const turnOctets = 64

// factOctets returns the cost of a new fact, about its size in memory.
func factOctets(text string) int64 { return 64 + int64(len(text)) }

// definitionOctets returns the cost of a new definition, about its size in memory.
func definitionOctets(t *decode.Template) int64 { return 64 + 8*int64(len(t.Fields)) }

// mayChange charges an exporter for a definition or fact of n octets from a datagram
// received at the time received. If it returns false, the caller must refuse the entry; the
// rest of the datagram is then refused without reading the clock. a is nil for a new
// exporter: then an entry beyond the reserve is charged to the total, and no bucket of the
// exporter is charged. The shard's lock must be held.
func (s *Store) mayChange(a *allowance, k kind, n, received int64) bool {
	if a != nil && a.spent[k] == received && received != 0 {
		return false
	}
	now := s.now()
	var fresh allowance
	if a == nil {
		a = &fresh
	}
	if !a.changes.fits(exporterChanges, now, min(n, exporterChanges.burst)) || !s.takeChange(a, k, now, n) {
		a.spent[k] = received
		return false
	}
	a.changes.taken += n
	return true
}

// mayRepeat charges an exporter for a repeated definition or fact that is in force for its
// port, from a datagram received at the time received. If it returns false, the caller must
// not record the receipt. The shard's lock must be held.
func (s *Store) mayRepeat(a *allowance, received int64) bool {
	if a.spentOfRepeat == received && received != 0 {
		return false
	}
	now := s.now()
	if a.repeats.fits(exporterRepeats, now, 1) {
		s.spent.mu.Lock()
		fits := s.spent.repeats.fits(totalRepeats, now, 1)
		if fits {
			s.spent.repeats.taken++
		}
		s.spent.mu.Unlock()
		if fits {
			a.repeats.taken++
			return true
		}
	}
	a.spentOfRepeat = received
	return false
}

// takeChange takes n octets from an exporter's reserve, else from the total. It returns
// false if neither has them.
func (s *Store) takeChange(a *allowance, k kind, now, n int64) bool {
	if a.reserve.fits(exporterReserve, now, n) {
		a.reserve.taken += n
		return true
	}
	s.spent.mu.Lock()
	defer s.spent.mu.Unlock()
	if !s.spent.changes[k].fits(totalChanges[k], now, n) {
		return false
	}
	s.spent.changes[k].taken += n
	return true
}

// allowanceOf returns the allowance of an exporter, nil if the store has no entry of it.
// The shard's lock must be held.
func (sh *shard) allowanceOf(address [16]byte) *allowance {
	if e := sh.exporters[address]; e != nil {
		return &e.allowance
	}
	return nil
}

// mayPublish reports whether a further record of an exporter may go to the topic now, and
// whether the total of its kind forbids it. A record may exceed the octets left, since its
// size is not known before it is made; publishing charges it. The shard's lock must be
// held.
func (s *Store) mayPublish(a *allowance, k kind, now int64) (may, total bool) {
	if a == nil { // the exporter was forgotten meanwhile
		return true, false
	}
	if !a.records.has(exporterRecords, now) {
		return false, false
	}
	if a.first.has(exporterFirst, now) {
		return true, false
	}
	s.spent.mu.Lock()
	defer s.spent.mu.Unlock()
	may = s.spent.records[k].has(totalRecords[k], now)
	return may, !may
}

// publishing charges a record of n octets. The shard's lock must be held.
func (s *Store) publishing(a *allowance, k kind, n int64) {
	if a == nil {
		return
	}
	a.records.taken += n
	if !a.beyondFirst() {
		a.first.taken += n
		return
	}
	s.spent.mu.Lock()
	s.spent.records[k].taken += n
	s.spent.mu.Unlock()
}

// beyondFirst reports whether the next record is charged to the total of its kind.
// The shard's lock must be held.
func (a *allowance) beyondFirst() bool { return a != nil && a.first.taken >= exporterFirst.burst }

// refund returns the octets of a record that did not reach the topic. ofTotal must be the
// result of beyondFirst before publishing. The shard's lock must be held.
func (s *Store) refund(a *allowance, k kind, n int64, ofTotal bool) {
	if a == nil {
		return
	}
	a.records.giveBack(n)
	if !ofTotal {
		a.first.giveBack(n)
		return
	}
	s.spent.mu.Lock()
	s.spent.records[k].giveBack(n)
	s.spent.mu.Unlock()
}

// totalLeft reports whether the publishing budget of all exporters, for definitions or for facts, permits
// another record.
func (s *Store) totalLeft(k kind, now int64) bool {
	s.spent.mu.Lock()
	defer s.spent.mu.Unlock()
	return s.spent.records[k].has(totalRecords[k], now)
}
