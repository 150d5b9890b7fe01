package loss

import (
	"math"
	"slices"
)

// A Loss is the loss of a stream, computed from sequence numbers across all replicas
// (RFC 7011 section 3.1).
type Loss struct {
	// Usable reports whether the unit of the sequence numbers is known. If it is
	// false, Unknown has the reason and all other fields are zero.
	Usable   bool
	Unknown  UnknownReason
	Unit     Unit   // unit of the sequence numbers
	Lost     uint64 // in Unit
	Received uint64 // in Unit, of the same datagrams
	Restarts int    // restarts of the exporter's sequence numbers
}

// An UnknownReason is the reason for which the loss of a stream is unknown, as text for people.
type UnknownReason string

// The reasons of an unknown loss.
const (
	// NoSequence: the export protocol has no sequence numbers.
	NoSequence UnknownReason = "no sequence numbers in this version"
	// NoRuns: the replicas count no sequence numbers of the stream, as for TCP.
	NoRuns UnknownReason = "not counted: TCP loses nothing"
	// NoSlots: the reports that were read hold no counts by time.
	NoSlots UnknownReason = "no counts in this period"
	// NoUnit: by every unit more was received than sent, or too few slots are complete.
	NoUnit UnknownReason = "sequence numbers fit no unit"
)

const (
	// proof is the number of slots without loss in a unit that prove the unit.
	proof = 3
	// doubt is the number of slots without loss that outweigh a slot with excess, that is, with more
	// received than sent. The first slot with excess is not counted: networks occasionally duplicate a
	// datagram.
	doubt = 10
)

// A loss computes the loss of a stream from slot to slot, in all units at once: the
// unit of its sequence numbers is not known at first. add must be called in ascending
// order of slots. A loss is a plain value: a copy can be ended without a change of the
// original.
type loss struct {
	has      bool
	tail     run // the last run; the counts below do not include it
	doubts   bool
	doubt    run // a single datagram far from the tail, until the next slot confirms it
	restarts int

	missing  [unitsCount]int64
	received Units
	whole    [unitsCount]int // slots without loss
	excess   [unitsCount]int // slots with more received than sent
}

// add adds the runs of the next slot.
func (l *loss) add(rs runs) {
	l.resolve(rs)
	next := l.nearest(rs)
	if next >= 0 && !l.doubtful(&rs[next]) {
		l.advance(&rs[next])
	}
	for i := range rs {
		switch r := &rs[i]; {
		case l.doubtful(r):
			l.doubts, l.doubt = true, *r
		case i != next && crossesZero(l.tail.least, r.least) && l.follows(r):
			l.advance(r) // without a boot time a run ends at 2^32
		case i != next:
			l.restart(r)
		}
	}
}

// nearest returns the index of the run closest behind the tail, -1 if no run follows
// the tail.
func (l *loss) nearest(rs runs) int {
	next := -1
	for i := range rs {
		if l.has && l.follows(&rs[i]) && (next < 0 || int32(rs[i].least-rs[next].least) < 0) {
			next = i
		}
	}
	return next
}

// doubtful reports whether r is a single datagram that may be forged: its sequence
// number is not the successor of the tail in any unit.
func (l *loss) doubtful(r *run) bool {
	if !l.has || !r.single() || !l.tail.sameLife(r.boot) {
		return false
	}
	ahead := r.least - l.tail.greatest
	return !slices.ContainsFunc(l.tail.last[:], func(sent uint64) bool { return sent == uint64(ahead) })
}

// resolve confirms the doubt if the runs of the next slot continue it. It drops the
// doubt if they continue the tail instead.
func (l *loss) resolve(rs runs) {
	if !l.doubts {
		return
	}
	d := l.doubt
	l.doubts = false
	ahead, confirmed := l.follows(&d), false
	for i := range rs {
		r := &rs[i]
		after := int32(r.least - d.least)
		continues := after > 0 && after < maxGap && d.sameLife(r.boot)
		if l.follows(r) && (!ahead || !continues) {
			return
		}
		confirmed = confirmed || continues
	}
	switch {
	case !confirmed:
	case ahead:
		l.advance(&d)
	default:
		l.restart(&d)
	}
}

// advance replaces the tail by r, which must follow it. The numbers from the tail's first
// datagram to the first of r were sent in the tail's slot.
func (l *loss) advance(r *run) {
	l.count(int64(r.least-l.tail.least), nil)
	l.tail = *r
}

// restart replaces the tail by r, which must not follow it. If there was a tail, it counts a restart.
func (l *loss) restart(r *run) {
	if l.has {
		l.end()
		l.restarts++
	}
	l.has, l.tail = true, *r
}

// follows reports whether r may continue the tail: it begins after the tail's begin,
// and no restart lies between them.
func (l *loss) follows(r *run) bool {
	ahead := int32(r.least - l.tail.least)
	return ahead > 0 && ahead < maxGap && l.tail.sameLife(r.boot) && !l.restartedAtZero(r)
}

// restartedAtZero reports whether a run behind 2^32 belongs to a restarted exporter,
// which counts from 0, and does not continue the tail after a loss. IPFIX has no uptime
// that would distinguish them. A loss across 2^32 ends at any number behind it. A
// restart begins at 0, and the gap before 2^32 is long by comparison.
func (l *loss) restartedAtZero(r *run) bool {
	if l.tail.boot != 0 || !crossesZero(l.tail.greatest, r.least) {
		return false
	}
	datagram := slices.Max(l.tail.last[:])
	before := uint64(-l.tail.greatest) // sequence numbers from the tail's last datagram to 2^32
	return before > restartGap*max(datagram, 1) && before > restartGap*uint64(r.least)
}

// restartGap is the factor by which the gap before 2^32 must exceed both a datagram and
// the gap after 2^32 to be a restart.
const restartGap = 8

// crossesZero reports whether sequence numbers pass 2^32 on the way from a to b.
func crossesZero(a, b uint32) bool { return b < a && int32(b-a) > 0 }

// end counts the datagrams of the tail and drops an unconfirmed doubt. The loss after the
// tail is unknown and not counted.
func (l *loss) end() {
	l.doubts = false
	if !l.has {
		return
	}
	l.count(int64(l.tail.greatest-l.tail.least), &l.tail.last)
	l.has = false
}

// count adds the tail to the counts. sent is the distance of sequence numbers that the
// tail covers; last, if not nil, is added to it in each unit. A tail with last proves no
// unit: a single datagram is complete in every unit.
func (l *loss) count(sent int64, last *Units) {
	for u := range unitsCount {
		missing := signedSum(sent, -int64(l.tail.received[u]))
		if last != nil {
			missing = signedSum(missing, int64(last[u]))
		}
		l.missing[u] = signedSum(l.missing[u], missing)
		switch {
		case missing < 0:
			l.excess[u]++
		case missing == 0 && last == nil:
			l.whole[u]++
		}
	}
	l.received.add(&l.tail.received)
}

// addLate adds units received in a slot that add has seen already.
func (l *loss) addLate(u *Units) {
	l.received.add(u)
	for i := range u {
		l.missing[i] = signedSum(l.missing[i], -int64(u[i]))
	}
}

// signedSum returns a+b, saturated at the bounds of int64.
func signedSum(a, b int64) int64 {
	sum := a + b
	switch {
	case a > 0 && b > 0 && sum < 0:
		return math.MaxInt64
	case a < 0 && b < 0 && sum >= 0:
		return math.MinInt64
	}
	return sum
}

// definedUnit returns the unit that a protocol defines for its sequence numbers: flows
// in NetFlow v5 and v7, export packets in v9 (RFC 3954 section 5.1), data records in
// IPFIX (RFC 7011 section 3.1). NetFlow v1 has none.
func definedUnit(version uint16) (u Unit, ok bool) {
	switch version {
	case 5, 7:
		return Flows, true
	case 9:
		return Datagrams, true
	case 10:
		return Records, true
	}
	return 0, false
}

// result returns the Loss in the proven unit, else in the likeliest unit. The caller
// must call end before.
func (l *loss) result(version uint16) Loss {
	unit, ok := definedUnit(version)
	if !ok {
		return Loss{Unknown: NoSequence}
	}
	if l.received == (Units{}) {
		return Loss{Unknown: NoRuns}
	}
	if u, ok := l.proven(unit); ok {
		unit = u
	} else if unit, ok = l.likeliest(unit); !ok {
		return Loss{Unknown: NoUnit}
	}
	return Loss{
		Usable: true, Unit: unit, Restarts: l.restarts,
		Lost: uint64(max(l.missing[unit], 0)), Received: l.received[unit],
	}
}

// usable reports whether u can be the unit of the sequence numbers: only few slots have
// an excess.
func (l *loss) usable(u Unit) bool { return (l.excess[u]-1)*doubt <= l.whole[u] }

// proven returns the usable unit with the most slots without loss, if there are at least
// proof of them. The unit that the protocol defines wins a tie.
func (l *loss) proven(defined Unit) (best Unit, ok bool) {
	for u := range unitsCount {
		more := !ok || l.whole[u] > l.whole[best] || l.whole[u] == l.whole[best] && u == defined
		if l.whole[u] >= proof && l.usable(u) && more {
			best, ok = u, true
		}
	}
	return best, ok
}

// likeliest returns the usable unit with the smallest share of loss. It serves an exporter that loses
// datagrams in every slot, which proves no unit: a wrong unit shows either more received than sent, or
// nearly everything missing. A negative loss is accepted only in the unit that the protocol defines,
// because networks occasionally duplicate a datagram. That unit also wins a tie.
func (l *loss) likeliest(defined Unit) (best Unit, ok bool) {
	if l.usable(defined) && l.missing[defined] <= 0 {
		return defined, true
	}
	least := math.Inf(1)
	for u := range unitsCount {
		if l.missing[u] < 0 || !l.usable(u) {
			continue
		}
		share := float64(l.missing[u]) / (float64(l.missing[u]) + float64(l.received[u]))
		if share < least || share == least && u == defined {
			best, least, ok = u, share, true
		}
	}
	return best, ok
}
