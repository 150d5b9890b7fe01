package loss

import (
	"net/netip"
	"sync/atomic"

	"weir/internal/atomicmap"
)

// MaxOctets bounds the memory for loss accounting in a replica, as estimated by the
// constants below: its tallies together, its Book, the reports of one Gather, and its
// Cluster.
const MaxOctets = tallyMax + bookMax + reportsMax + clusterMax

// Bounds of the parts, octets.
const (
	tallyMax   = 16 << 20 // all tallies of a Book together
	bookMax    = 20 << 20
	reportsMax = 8 << 20 // of one Gather; the next Gather reports the rest
	clusterMax = 20 << 20
)

// Heap octets of each value, including the spare capacity of maps and slices.
const (
	accountOctets  = 288 // an account and its map entry
	slotOctets     = 128
	runOctets      = 112
	placeOctets    = 96 // an established stream's entry in a room
	historyOctets  = 664
	lifeOctets     = 160
	sampleOctets   = 16
	gatheredOctets = 48
	partOctets     = 72
	notedOctets    = 72
)

// Bounds of streams. Source addresses can be forged, and so can datagrams that decode. Therefore a stream
// is a newcomer until it has been active in provenTurns gatherings; a Book also requires a decoded record.
// A stream of a listed exporter is established at once. Newcomers share a part of each bound and evict
// each other; an established stream is evicted only after a silence.
const (
	// maxStreams bounds the streams with an account of their own. All others are
	// counted in the zero Stream.
	maxStreams = 10_000
	// maxNewcomers bounds the newcomers among them.
	maxNewcomers = 2_500
	// maxUnproven bounds the newcomers without a decoded record.
	maxUnproven = 1_000
	// provenTurns is the number of gatherings, 10 s apart, in which a newcomer must
	// be active to become established.
	provenTurns = 6
	// idleTurns is the number of gatherings without a datagram after which an
	// established stream may be evicted for a stream that becomes established.
	idleTurns = 60
)

// A room bounds the memory that the tallies of a Book share. It is safe for concurrent
// use.
type room struct {
	established atomicmap.Map[Stream, struct{}] // written by the Book, under its lock
	used        atomic.Int64                    // octets
	newcomers   atomic.Int64                    // octets of newcomers, part of used
}

// A need is the purpose of reserved memory.
type need int

// Needs, each with a limit of its own.
const (
	needNewcomer need = iota // any memory of a newcomer
	needBase                 // the first two slots of an established stream
	needExtra                // further slots and runs of an established stream
)

// limit returns the use of the room up to which the need is met. The upper half is for
// the base slots of established streams.
func (n need) limit() int64 {
	if n == needBase {
		return tallyMax
	}
	return tallyMax / 2
}

// reserve reserves octets for a need. It returns false, and reserves nothing, if there
// is no room.
func (r *room) reserve(octets int64, n need) bool {
	if r.used.Add(octets) > n.limit() {
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

// release returns reserved octets; newcomers is the part that needNewcomer reserved.
func (r *room) release(octets, newcomers int64) {
	r.used.Add(-octets)
	r.newcomers.Add(-newcomers)
}

// lists reports whether f lists the address. A nil f lists no address.
func lists(f func(netip.Addr) bool, a netip.Addr) bool { return f != nil && a.IsValid() && f(a) }
