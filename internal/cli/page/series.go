package page

import (
	"math/bits"

	"weir/internal/saturating"
)

const (
	seriesSeconds  = 600
	maxDelayShown  = 300 // s; bound of the time for which the newest seconds count as incomplete
	delaySlotWidth = 30  // s
	delayClasses   = 10  // by the number of bits of the delay in s; the last has all from 256 s on
)

// A series holds the traffic of the last seriesSeconds seconds. Flows count in the second of their arrival; their
// octets are spread evenly over the time in which they were sent.
type series struct {
	seconds [seriesSeconds]second
	delays  [maxDelayShown / delaySlotWidth]delaySlot
}

// A second holds the traffic of a second.
type second struct {
	at            int64 // s since the epoch
	flows, octets uint64
}

// A delaySlot holds the octets that arrived in delaySlotWidth seconds by the time between the start of their record and
// its arrival.
type delaySlot struct {
	at      int64 // s since the epoch ÷ delaySlotWidth
	octets  [delayClasses]uint64
	longest [delayClasses]int64 // s
}

// second returns the entry of the second at, in s since the epoch, and resets an entry of an earlier second.
func (s *series) second(at int64) *second {
	e := &s.seconds[at%seriesSeconds]
	if e.at != at {
		*e = second{at: at}
	}
	return e
}

// add adds a record that arrived at now, and whose octets were sent from start to end; all in ms since the epoch.
// Octets that were sent before the first second of the series are left out; those of the future count as sent now.
func (s *series) add(now, start, end int64, octets uint64) {
	s.second(now/1000).flows++
	if octets == 0 {
		return
	}
	end = min(end, now)
	start = min(start, end)
	if start/1000 == end/1000 {
		start, end = end/1000*1000, end/1000*1000+1 // whole in one second
	}
	oldest := max(now/1000-seriesSeconds+1, 0)
	if end/1000 < oldest {
		return
	}
	s.noteDelay(now/1000, (now-start)/1000, octets)
	whole, at := end-start, max(start/1000, oldest)
	counted := uint64(0)
	if begin := at * 1000; begin > start {
		counted = portion(octets, begin-start, whole)
	}
	for ; at*1000 < end; at++ {
		upTo := portion(octets, min(at*1000+1000, end)-start, whole)
		e := s.second(at)
		e.octets = saturating.Add(e.octets, upTo-counted)
		counted = upTo
	}
}

func (s *series) noteDelay(now, seconds int64, octets uint64) {
	d := &s.delays[now/delaySlotWidth%int64(len(s.delays))]
	if slot := now / delaySlotWidth; d.at != slot {
		*d = delaySlot{at: slot}
	}
	class := min(bits.Len64(uint64(seconds)), delayClasses-1)
	d.octets[class] = saturating.Add(d.octets[class], octets)
	d.longest[class] = max(d.longest[class], seconds)
}

// incomplete returns the number of newest seconds, at now in s since the epoch, for which octets may still arrive: the
// time between the start and the arrival of their record that 95 % of the octets of the last maxDelayShown seconds did
// not exceed, at most maxDelayShown.
func (s *series) incomplete(now int64) (seconds int64) {
	var octets [delayClasses]uint64
	var longest [delayClasses]int64
	total := uint64(0)
	for i := range s.delays {
		d := &s.delays[i]
		if now/delaySlotWidth-d.at >= int64(len(s.delays)) {
			continue
		}
		for c, n := range d.octets {
			octets[c] = saturating.Add(octets[c], n)
			total = saturating.Add(total, n)
			longest[c] = max(longest[c], d.longest[c])
		}
	}
	rest := total
	for c, n := range octets {
		if rest <= total/20 {
			break
		}
		rest -= min(rest, n)
		seconds = max(seconds, longest[c])
	}
	return min(seconds, maxDelayShown)
}

// points returns the seconds from first to now, without now: s since the epoch, flows, octets.
func (s *series) points(first, now int64) [][3]uint64 {
	list := make([][3]uint64, 0, max(now-first, 0))
	for at := first; at < now; at++ {
		p := [3]uint64{uint64(at)}
		if e := s.seconds[at%seriesSeconds]; e.at == at {
			p[1], p[2] = e.flows, e.octets
		}
		list = append(list, p)
	}
	return list
}

// flowRate returns the mean number of flows that arrived per second within the last minute, at now in s since the
// epoch; began is the time since when flows are counted.
func (s *series) flowRate(now, began int64) float64 {
	const minute = 60
	flows := uint64(0)
	for _, p := range s.points(max(now-minute, began), now) {
		flows += p[1]
	}
	return float64(flows) / float64(max(1, min(minute, now-began)))
}
