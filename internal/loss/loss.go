package loss

import (
	"math"
	"slices"
)

// A Loss is what sequence numbers say of datagrams that no replica received.
type Loss struct {
	// Usable: the sequence numbers count something that is known. Else nothing
	// else is told.
	Usable   bool
	Unit     Unit   // what they count
	Lost     uint64 // of Unit
	Received uint64 // of Unit, over the same datagrams
	Restarts int    // times the exporter began to count anew
}

const (
	// proof is in how many slots nothing may be missing by a unit until it is
	// taken for what sequence numbers count.
	proof = 3
	// doubt is how many such slots outweigh one, after the first, in which more came
	// than was sent: networks repeat a datagram now and then.
	doubt = 10
)

// A loss is an account of one stream, from slot to slot, by all units: which one
// its sequence numbers count is found as it goes.
type loss struct {
	has      bool
	tail     run // the last run, not in what follows
	doubts   bool
	doubt    run // a datagram alone and far from the tail, until the next slot confirms it
	restarts int

	missing  [unitsCount]int64
	received Units
	whole    [unitsCount]int // slots in which nothing was missing
	excess   [unitsCount]int // slots of which more was received than sent
}

// add takes the runs of the next slot.
func (l *loss) add(rs runs) {
	l.resolve(rs)
	next := l.nearest(rs)
	if next >= 0 && !l.doubtful(&rs[next]) {
		l.enter(&rs[next])
	}
	for i := range rs {
		switch r := &rs[i]; {
		case l.doubtful(r):
			l.doubts, l.doubt = true, *r
		case i != next && crossesZero(l.tail.least, r.least) && l.follows(r):
			l.enter(r) // a run ends at 2^32
		case i != next:
			l.restart(r)
		}
	}
}

// nearest returns the run that follows the tail first, -1 when none does.
func (l *loss) nearest(rs runs) int {
	next := -1
	for i := range rs {
		if l.has && l.follows(&rs[i]) && (next < 0 || int32(rs[i].least-rs[next].least) < 0) {
			next = i
		}
	}
	return next
}

// doubtful reports whether r is a single datagram that may be forged: something is
// missing between it and the tail, or it is behind the tail.
func (l *loss) doubtful(r *run) bool {
	if !l.has || !r.single() || !l.tail.of(r.boot) {
		return false
	}
	ahead := r.least - l.tail.greatest
	return !slices.ContainsFunc(l.tail.last[:], func(sent uint64) bool { return sent == uint64(ahead) })
}

// resolve confirms the doubt if the next slot's runs go on from it. If they go on from
// the tail below it, it is dropped.
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
		continues := after > 0 && after < maxGap && d.of(r.boot)
		if l.follows(r) && (!ahead || !continues) {
			return
		}
		confirmed = confirmed || continues
	}
	switch {
	case !confirmed:
	case ahead:
		l.enter(&d)
	default:
		l.restart(&d)
	}
}

// enter takes the run that follows the tail. The datagrams up to its first were sent
// in the tail's slot.
func (l *loss) enter(r *run) {
	l.account(int64(r.least-l.tail.least), nil)
	l.tail = *r
}

// restart takes a run that does not follow the tail.
func (l *loss) restart(r *run) {
	if l.has {
		l.end()
		l.restarts++
	}
	l.has, l.tail = true, *r
}

// follows reports whether a run may be what the exporter of the tail sent next: it
// is ahead of the tail's begin, and no restart lies between.
func (l *loss) follows(r *run) bool {
	ahead := int32(r.least - l.tail.least)
	return ahead > 0 && ahead < maxGap && l.tail.of(r.boot) && !l.restartedAtZero(r)
}

// restartedAtZero reports whether a run behind the tail, across sequence number 2^32,
// is that of a restarted exporter, which counts from 0, rather than the tail's after
// a loss. IPFIX states no uptime that would tell. A loss across 2^32 ends anywhere
// behind it. A restart begins at it, with a gap before it that is long by comparison.
func (l *loss) restartedAtZero(r *run) bool {
	if l.tail.boot != 0 || !crossesZero(l.tail.greatest, r.least) {
		return false
	}
	datagram := slices.Max(l.tail.last[:])
	before := uint64(-l.tail.greatest) // numbers from the tail's last datagram to 2^32
	return before > restartGap*max(datagram, 1) && before > restartGap*uint64(r.least)
}

// restartGap is how many times longer than a datagram, and than what is missing
// after 2^32, the gap before 2^32 is of an exporter that was restarted.
const restartGap = 8

// crossesZero reports whether sequence numbers pass 2^32 on the way from a to b.
func crossesZero(a, b uint32) bool { return b < a && int32(b-a) > 0 }

// end takes what is known of the tail, without what was lost after it. A doubt that
// nothing has confirmed is dropped.
func (l *loss) end() {
	l.doubts = false
	if !l.has {
		return
	}
	l.account(int64(l.tail.greatest-l.tail.least), &l.tail.last)
	l.has = false
}

// account takes the tail, in which so much was sent, and last more at its end; with
// last nothing is learnt of what numbers count, a single datagram is always whole.
func (l *loss) account(sent int64, last *Units) {
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

// late takes what belongs to a slot that is in the account already.
func (l *loss) late(u *Units) {
	l.received.add(u)
	for i := range u {
		l.missing[i] = signedSum(l.missing[i], -int64(u[i]))
	}
}

// signedSum returns a+b, or the nearest int64 where the sum overflows.
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

// own is what a version's sequence numbers ought to count.
func own(version uint16) (u Unit, ok bool) {
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

// told is the account by the unit that fits: one that is proven, else the one that
// leaves the smallest share missing.
func (l *loss) told(version uint16) Loss {
	unit, ok := own(version)
	if !ok || l.received == (Units{}) {
		return Loss{}
	}
	if u, ok := l.proven(unit); ok {
		unit = u
	} else if unit, ok = l.likeliest(unit); !ok {
		return Loss{}
	}
	return Loss{
		Usable: true, Unit: unit, Lost: uint64(max(l.missing[unit], 0)), Received: l.received[unit], Restarts: l.restarts,
	}
}

// usable reports whether a unit can be what the numbers count: more was received than
// sent in few slots only.
func (l *loss) usable(u Unit) bool { return (l.excess[u]-1)*doubt <= l.whole[u] }

// proven returns the usable unit by which most slots are whole, at least proof of
// them; among equals the version's own.
func (l *loss) proven(own Unit) (best Unit, ok bool) {
	for u := range unitsCount {
		more := !ok || l.whole[u] > l.whole[best] || l.whole[u] == l.whole[best] && u == own
		if l.whole[u] >= proof && l.usable(u) && more {
			best, ok = u, true
		}
	}
	return best, ok
}

// likeliest returns the usable unit of which the smallest share is missing, at least
// none; among equals the version's own. An exporter that loses a datagram in every
// slot proves no unit: by a wrong one either more came than was sent, or nearly
// everything is missing. Of the version's own unit more may have come than was sent:
// networks repeat a datagram now and then.
func (l *loss) likeliest(own Unit) (best Unit, ok bool) {
	if l.usable(own) && l.missing[own] <= 0 {
		return own, true
	}
	least := math.Inf(1)
	for u := range unitsCount {
		if l.missing[u] < 0 || !l.usable(u) {
			continue
		}
		share := float64(l.missing[u]) / (float64(l.missing[u]) + float64(l.received[u]))
		if share < least || share == least && u == own {
			best, least, ok = u, share, true
		}
	}
	return best, ok
}
