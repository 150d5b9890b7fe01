package ingest

import (
	"net/netip"
	"time"

	"weir/internal/decode"
)

const (
	// maxStreams bounds how many export streams are looked at.
	maxStreams = 10_000
	// nearSequence is how far apart two sequence numbers of one stream may be:
	// datagrams go to other replicas, are lost and come out of order.
	nearSequence = 1 << 20
	// hiddenTurns is how often two sequences have to take turns within
	// hiddenWithin: an exporter that restarts changes once.
	hiddenTurns  = 10
	hiddenWithin = time.Minute
)

// A streamKey is where one export stream ought to come from.
type streamKey struct {
	from    netip.AddrPort
	version uint16
	domain  uint32
}

// A stream is what is known of the sequence numbers of one.
type stream struct {
	last  [2]uint32 // of two sequences, if there are two
	known int       // of these
	at    int       // which the last datagram was of
	turns int
	since time.Time // of the first of turns
	told  bool
}

// hides takes the header of a datagram and reports whether its address and port
// stand for more than one exporter: sequences that cannot be one take turns. It
// does so once.
func (s *stream) hides(sequence uint32, now time.Time) bool {
	is := -1
	for i := range s.known {
		if d := int32(sequence - s.last[i]); d < nearSequence && d > -nearSequence {
			is = i
			break
		}
	}
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
	if now.Sub(s.since) > hiddenWithin {
		s.turns, s.since = 0, now
	}
	s.turns++
	if s.told || s.turns < hiddenTurns {
		return false
	}
	s.told = true
	return true
}

// hidden finds exporters that a balancer or NAT hides. The datagrams of one address
// and port all come to the same socket.
type hidden struct {
	streams map[streamKey]*stream // at most maxStreams
	last    *stream               // of lastOf
	lastOf  streamKey
}

// by takes the header of a datagram and reports whether more than one exporter
// seems to send from its address and port, once.
func (x *hidden) by(from netip.AddrPort, h *decode.Header, now time.Time) bool {
	if h.Version == 1 || h.Version == 0 { // no sequence numbers
		return false
	}
	k := streamKey{from, h.Version, h.Domain}
	if x.last == nil || k != x.lastOf {
		s := x.streams[k]
		if s == nil {
			if len(x.streams) >= maxStreams {
				return false
			}
			if x.streams == nil {
				x.streams = map[streamKey]*stream{}
			}
			s = &stream{}
			x.streams[k] = s
		}
		x.last, x.lastOf = s, k
	}
	return x.last.hides(h.Sequence, now)
}

// hidden tells of a balancer or NAT that hides exporters.
func (w *watch) hidden(from netip.AddrPort, h *decode.Header) {
	w.log.Warn("more than one exporter seems to send from one address and port: a balancer or NAT in between hides them, and their flows and templates "+
		"cannot be told apart. Preserve source addresses (IPVS, DSR, externalTrafficPolicy: Local), or let it put a PROXY protocol header in front "+
		"of datagrams and name it in TRUSTED_PROXIES", "from", from, "version", h.Version, "domain", h.Domain)
}
