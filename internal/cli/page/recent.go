package page

import (
	"math/bits"

	"weir/internal/saturating"
)

// The windows of the rankings, in s, ascending.
var windows = [...]int64{60, 300, 900}

// recentSlots is the number of slots of each window. The newest slot is filled only in part, so a sum covers between
// (recentSlots-1)/recentSlots of a window and the whole window.
const recentSlots = 6

// recent holds the octets of the last minute, 5 minutes and 15 minutes. The zero value holds none.
//
// Octets count when their record arrives, since only then they are known. A record that covers more time than a window
// counts with the window's share of its octets. So a flow of constant rate that is reported once a minute has the same
// sum at any time, and one that is reported every half hour is not thirty times too large for a minute.
type recent struct {
	newest [len(windows)]int64 // number of the newest slot: seconds since the epoch ÷ length of a slot
	octets [len(windows)][recentSlots]uint64
}

// An instant is a time in the form that recent needs. It is computed once for many records.
type instant struct {
	second int64               // since the epoch
	slots  [len(windows)]int64 // numbers of the slots
}

func newInstant(second int64) (i instant) {
	i.second = second
	for w, window := range windows {
		i.slots[w] = second * recentSlots / window
	}
	return i
}

// add adds the octets of a record that arrived at now and covers the given duration, ms.
func (r *recent) add(now *instant, octets uint64, duration int64) {
	for w := range windows {
		r.advance(w, now.slots[w])
		share := octets
		if most := windows[w] * 1000; duration > most {
			share = portion(octets, most, duration)
		}
		slot := &r.octets[w][r.newest[w]%recentSlots]
		*slot = saturating.Add(*slot, share)
	}
}

// sum returns the octets of windows[w] at now.
func (r *recent) sum(w int, now *instant) (octets uint64) {
	r.advance(w, now.slots[w])
	for _, n := range r.octets[w] {
		octets = saturating.Add(octets, n)
	}
	return octets
}

// advance clears the slots between the newest of windows[w] and the given one.
func (r *recent) advance(w int, slot int64) {
	if slot <= r.newest[w] {
		return // also if the clock was set back
	}
	for at := max(r.newest[w]+1, slot-recentSlots+1); at <= slot; at++ {
		r.octets[w][at%recentSlots] = 0
	}
	r.newest[w] = slot
}

// covered returns the time that a sum of windows[w] covers at now, s; at most since began, s since the epoch.
func covered(w int, now, began int64) int64 {
	length := windows[w] / recentSlots
	return max(1, min(windows[w]-length+now%length+1, now-began+1))
}

// portion returns n × part ÷ whole, rounded down. part must not exceed whole, and whole must be positive.
func portion(n uint64, part, whole int64) uint64 {
	hi, lo := bits.Mul64(n, uint64(part))
	quotient, _ := bits.Div64(hi, lo, uint64(whole))
	return quotient
}
