package templates

import (
	"sync"

	"weir/internal/decode"
)

// Budgets bound what the definitions and facts of a sender can cost.
//
// Learning: what an exporter says that is new is charged to the exporter and to
// one total. Beyond the budget it is refused and counted; the exporter sends it
// again. Each exporter has a reserve that does not depend on the total, so that
// a flood from forged addresses does not keep out the first template and
// sampling rate of an honest exporter.
//
// Repeating: what is in force for a port already, and comes from it again, has a
// budget of its own, so that an exporter with templates in each datagram does not
// spend that of what is new. Beyond it, it stays in force, and is not noted.
//
// Publishing: each record is charged, before it goes to the topic, to the
// exporter and to a total of its kind. Beyond the budget it stays due.
//
// A router with 4 000 interfaces that sends a name and a description of 40
// octets each (8 000 facts of 104 octets, 830 KB) learns all of them from its
// burst. They are about 1.2 MB on the topic: 0.5 MB at once and the rest within
// 45 s.
var (
	// exporterChanges bounds the octets of new definitions and facts of one
	// exporter: see changeOctets. 16 KiB/s are 256 facts without a name a second.
	exporterChanges = limit{burst: 1 << 20, perSecond: 16 << 10}
	// exporterReserve is the part of them that the totals do not bound: 8 facts
	// or one template of 56 fields, and one fact in 4 s.
	exporterReserve = limit{burst: 512, perSecond: 16}
	// exporterRepeats bounds how many definitions and facts of one exporter are noted
	// when they come again: about a µs each. totalRepeats bounds those of all.
	exporterRepeats = limit{burst: 16_384, perSecond: 2048}
	totalRepeats    = limit{burst: 131_072, perSecond: 65_536}
	// sessionChanges bounds the octets of new definitions of one session over TCP. A
	// definition that is refused is not sent again there, so that it is more than any
	// exporter sends: 4 096 templates of 120 fields at once.
	sessionChanges = limit{burst: 4 << 20, perSecond: 64 << 10}
	// totalChanges bounds those of all exporters beyond their reserves: 16 384
	// facts without a name a second.
	totalChanges = [nKinds]limit{
		ofFacts:       {burst: 32 << 20, perSecond: 1 << 20},
		ofDefinitions: {burst: 64 << 20, perSecond: 4 << 20},
	}

	// exporterRecords bounds the octets of one exporter's records to the topic.
	exporterRecords = limit{burst: 512 << 10, perSecond: 16 << 10}
	// exporterFirst is the part of them that the totals do not bound.
	exporterFirst = limit{burst: 4 << 10, perSecond: 64}
	// totalRecords bounds those of all exporters beyond that.
	totalRecords = [nKinds]limit{
		ofFacts:       {burst: 32 << 20, perSecond: 512 << 10},
		ofDefinitions: {burst: 32 << 20, perSecond: 1 << 20},
	}
)

// A limit says how much a bucket holds and how fast it refills, octets; of repeats, number.
type limit struct{ burst, perSecond int64 }

// A bucket counts what was taken of a limit. The zero value is full.
type bucket struct {
	taken int64 // octets, as of at; above the burst: debt
	at    int64 // ns
}

// refill gives back what has flowed in until now, ns. A clock that is set back
// gives nothing.
func (b *bucket) refill(l limit, now int64) {
	const second = int64(1e9)
	passed := now - b.at
	switch {
	case passed < 0:
		b.at = now
	case b.taken == 0 || passed/second > b.taken/l.perSecond:
		b.taken, b.at = 0, now
	default:
		in := l.perSecond * passed / second // fits: passed is at most what taken takes, and a second
		b.taken = max(0, b.taken-in)
		b.at += in * second / l.perSecond // not now: what has not made an octet yet counts next time
	}
}

// has reports whether anything is left.
func (b *bucket) has(l limit, now int64) bool {
	b.refill(l, now)
	return b.taken < l.burst
}

// fits reports whether n octets are left.
func (b *bucket) fits(l limit, now, n int64) bool {
	b.refill(l, now)
	return b.taken+n <= l.burst
}

// giveBack returns n octets that were taken.
func (b *bucket) giveBack(n int64) { b.taken = max(0, b.taken-n) }

// A kind says whose totals an entry is charged to.
type kind uint8

const (
	ofFacts kind = iota
	ofDefinitions
	nKinds
)

// budgets are the totals of a Store.
type budgets struct {
	mu      sync.Mutex // guards what follows; taken inside a shard's lock
	changes [nKinds]bucket
	repeats bucket
	records [nKinds]bucket
}

// An allowance is what one exporter has taken. Its shard's lock guards it.
type allowance struct {
	changes, reserve bucket
	repeats          bucket
	records, first   bucket

	// Receive times of the datagrams that found nothing left, ns; 0: none.
	spent         [nKinds]int64
	spentOfRepeat int64
}

// turnOctets is what a definition or fact costs that is known, and is another than was in
// force for its port: what is in force is decided anew.
const turnOctets = 64

// factOctets and definitionOctets are what learning costs: about what is kept.
func factOctets(text string) int64 { return 64 + int64(len(text)) }

func definitionOctets(t *decode.Template) int64 { return 64 + 8*int64(len(t.Fields)) }

// mayChange charges an exporter for a definition or fact of n octets that a datagram
// received at a time brings. False means that it must be refused: the rest of that
// datagram is refused then, without a look at the clock. a is nil for an exporter that is
// not known yet: charge it once it is. The shard's lock is held.
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

// mayRepeat charges an exporter for a definition or fact that is in force for its port, and
// came from it again in a datagram received at a time. False means that it must not be
// noted. The shard's lock is held.
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

// takeChange takes n octets of an exporter's reserve, else of the total.
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

// allowanceOf returns the allowance of an exporter, nil if nothing is known of it.
// The shard's lock is held.
func (sh *shard) allowanceOf(address [16]byte) *allowance {
	if e := sh.exporters[address]; e != nil {
		return &e.allowance
	}
	return nil
}

// mayPublish reports whether a further record of an exporter may go to the topic
// now, and total whether it was the total of its kind that forbids it. A record
// may exceed what is left: its octets are known once it is made, see publishing.
// The shard's lock is held.
func (s *Store) mayPublish(a *allowance, k kind, now int64) (may, total bool) {
	if a == nil { // gone meanwhile
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

// publishing charges a record of n octets. The shard's lock is held.
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
// The shard's lock is held.
func (a *allowance) beyondFirst() bool { return a != nil && a.first.taken >= exporterFirst.burst }

// refund gives back what publishing took for a record of n octets that did not
// reach the topic; ofTotal is what beyondFirst returned then. The shard's lock is held.
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

// totalLeft reports whether the total of a kind lets any record through.
func (s *Store) totalLeft(k kind, now int64) bool {
	s.spent.mu.Lock()
	defer s.spent.mu.Unlock()
	return s.spent.records[k].has(totalRecords[k], now)
}
