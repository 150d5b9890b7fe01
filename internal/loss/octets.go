package loss

import (
	"net/netip"
	"sync/atomic"

	"weir/internal/atomicmap"
)

// MaxOctets is the memory that the accounting of a replica takes at most, as counted
// by the constants below: its tallies together, its Book, the reports of one Gather,
// and its Cluster.
const MaxOctets = tallyMax + bookMax + reportsMax + clusterMax

// Bounds of the parts, octets.
const (
	tallyMax   = 16 << 20 // all tallies of a Book together
	bookMax    = 20 << 20
	reportsMax = 8 << 20 // of one Gather; what is beyond is reported by the next one
	clusterMax = 20 << 20
)

// Heap octets, with what maps and slices keep free.
const (
	accountOctets  = 288 // an account and its map entry
	slotOctets     = 128
	runOctets      = 112
	placeOctets    = 96 // an established stream's entry in a room
	historyOctets  = 664
	lifeOctets     = 128
	gatheredOctets = 48
	partOctets     = 72
	notedOctets    = 72
)

// Streams. A source address can be forged, and so can a datagram that decodes: a
// stream is a newcomer until it was active in provenTurns gatherings, or its exporter
// is listed. Newcomers share a part of each bound and make room for each other;
// established streams make room only after a silence.
const (
	// maxStreams bounds the streams that are told apart; the rest is one.
	maxStreams = 10_000
	// maxNewcomers bounds the newcomers among them.
	maxNewcomers = 2_500
	// maxUnproven bounds those of which nothing was decoded yet.
	maxUnproven = 1_000
	// provenTurns is the number of gatherings, of 10 s each, in which a newcomer has
	// to be active to become established.
	provenTurns = 6
	// idleTurns is the silence after which an established stream makes room for one
	// that becomes established.
	idleTurns = 60
)

// A room is the memory that the tallies of a Book share. It is safe for use by
// several goroutines.
type room struct {
	established atomicmap.Map[Stream, struct{}] // changed by the Book, under its lock
	used        atomic.Int64                    // octets
	newcomers   atomic.Int64                    // of these, octets
}

// A need is the kind of thing that memory of a room is for.
type need int

const (
	needNewcomer need = iota // anything of a newcomer
	needBase                 // the first slots of an established stream
	needExtra                // more slots and runs of one
)

// most is the use of the room up to which a need is met.
func (n need) most() int64 {
	if n == needBase {
		return tallyMax
	}
	return tallyMax / 2
}

// take takes octets for a need; false when there is no room for it.
func (r *room) take(octets int64, n need) bool {
	if r.used.Add(octets) > n.most() {
		r.used.Add(-octets)
		return false
	}
	if n != needNewcomer {
		return true
	}
	if r.newcomers.Add(octets) > tallyMax/4 {
		r.newcomers.Add(-octets)
		r.used.Add(-octets)
		return false
	}
	return true
}

// give returns octets, of these newcomers' ones.
func (r *room) give(octets, newcomers int64) {
	r.used.Add(-octets)
	r.newcomers.Add(-newcomers)
}

// lists reports whether an address is one of those that a function lists; a nil
// function lists none.
func lists(f func(netip.Addr) bool, a netip.Addr) bool { return f != nil && a.IsValid() && f(a) }
