package ingest

import (
	"net/netip"
	"time"

	"weir/internal/bounded"
	"weir/internal/decode"
)

const (
	// maxStreams bounds the export streams that a worker checks. Beyond it a new stream evicts the one that was
	// idle longest among streamVictims of them.
	maxStreams    = 10_000
	streamVictims = 16
	// nearSequence is the largest distance between two sequence numbers of the same sequence:
	// datagrams are received by other replicas, lost and reordered.
	nearSequence = 1 << 20
	// hiddenTurns is the number of changes between two sequences, within hiddenWithin, that proves two
	// exporters. An exporter that restarts changes its sequence only once.
	hiddenTurns  = 10
	hiddenWithin = time.Minute
)

// A streamKey identifies an export stream. If a balancer or NAT hides exporters, several share a key.
type streamKey struct {
	from    netip.AddrPort
	version uint16
	domain  uint32
}

// A stream tracks up to two interleaved sequences of numbers.
//
// Example: an exporter sends 100, 101, 102, another behind the same address 5000000, 5000001. The numbers
// alternate between two ranges that are more than nearSequence apart. An exporter that restarts moves to a
// new range once; a wrap of the 32-bit number is near in int32 arithmetic.
type stream struct {
	last     [2]uint32 // last number of each sequence
	known    int       // sequences in last
	at       int       // index in last of the sequence of the last datagram
	turns    int       // changes of at since since
	since    time.Time
	used     time.Time // receipt of the last datagram
	reported bool
}

// observe adds the sequence number of a datagram. It returns true, at most once for a stream, when the
// datagrams of its address and port alternate between two sequences, which means two exporters. A third
// range replaces the sequence that is not the last: an exporter that restarts again and again is not
// reported unless its old range returns.
func (s *stream) observe(sequence uint32, now time.Time) bool {
	is := -1
	for i := range s.known {
		if d := int32(sequence - s.last[i]); d < nearSequence && d > -nearSequence {
			is = i
			break
		}
	}
	// A number near to no known sequence begins a sequence, or replaces the one that was not used last.
	if is < 0 {
		if is = 1 - s.at; s.known < len(s.last) {
			is = s.known
			s.known++
		}
	}
	s.last[is] = sequence
	if is == s.at {
		return false
	}
	s.at = is
	// Old changes do not count: restarts of an exporter over a day are not two exporters.
	if now.Sub(s.since) > hiddenWithin {
		s.turns, s.since = 0, now
	}
	s.turns++
	if s.reported || s.turns < hiddenTurns {
		return false
	}
	s.reported = true
	return true
}

// hidden detects exporters behind a balancer or NAT that share an address and port. Each worker has its
// own: the kernel delivers all datagrams of an address and port to the same socket. Beyond maxStreams, a new
// stream evicts another, which is checked anew when it returns: forged sources must not cost memory.
type hidden struct {
	streams bounded.Map[streamKey, *stream]
	last    *stream // of lastKey: saves most look-ups
	lastKey streamKey
}

func newHidden() hidden { return hidden{streams: bounded.New[streamKey, *stream](maxStreams)} }

// observe adds the header of a datagram. It returns true, at most once for a stream, when more than one
// exporter seems to send from its address and port.
func (x *hidden) observe(from netip.AddrPort, h *decode.Header, now time.Time) bool {
	if h.Version == 1 || h.Version == 0 { // no sequence numbers
		return false
	}
	k := streamKey{from, h.Version, h.Domain}
	if x.last == nil || k != x.lastKey {
		s := x.streams.Get(k)
		if s == nil {
			s = &stream{used: now}
			x.streams.PutOrEvict(k, s, streamVictims, func(a, b *stream) int { return a.used.Compare(b.used) })
		}
		x.last, x.lastKey = s, k
	}
	x.last.used = now
	return x.last.observe(h.Sequence, now)
}

// hidden logs a warning that a balancer or NAT hides exporters.
func (w *watch) hidden(from netip.AddrPort, h *decode.Header) {
	w.log.Warn("more than one exporter seems to send from one address and port: a balancer or NAT in between "+
		"hides them, and their flows and templates cannot be distinguished. Preserve source addresses (IPVS, DSR, "+
		"externalTrafficPolicy: Local), or let it put a PROXY protocol header in front of datagrams and name it in "+
		"TRUSTED_PROXIES", "from", from, "version", h.Version, "domain", h.Domain)
}
