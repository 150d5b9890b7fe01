package pair

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"slices"

	"weir/internal/flowkey"
	"weir/pkg/flowpb"
)

// keptIdents is how many records' identities a connection remembers.
const keptIdents = 8

// An entry is one connection that is held: open, or emitted and in grace. lo
// and hi are its key's ends; a side is one direction as one vantage saw it.
type entry struct {
	key      flowkey.Key
	id       [16]byte
	deadline int64  // emitted iff deadline <= stream time
	seq      uint64 // order of the last change among all entries
	version  uint32 // of the next emission, or of the last when emitted
	first    int64  // receive time of the first record
	told     int64  // stream time of the last interim, else first
	quality  quality

	initiator int8 // the exporter says: 1 lo, -1 hi, 0 nothing
	icmpCode  uint8
	natLo     endpoint
	natHi     endpoint
	macLo     uint64
	macHi     uint64
	asLo      uint32
	asHi      uint32
	idents    [keptIdents]uint64
	identN    uint8 // records seen, modulo 256
	sides     []side

	// Not part of the value:
	next   int32 // entry of the same key, -1 none
	gen    uint32
	held   bool
	dirty  bool
	logged bool  // the log holds a value of it
	delta  int32 // which delta, as long as it is counted there; -1 none
}

// A side is one direction as one vantage saw it.
type side struct {
	toHi             bool // lo to hi
	exporter         [16]byte
	domain           uint32
	iface            uint8
	octets, packets  uint64
	octetsE, packsE  uint64 // times the sampling rate
	records          uint32
	rateMin, rateMax uint64
	flags            uint16
	start, end       int64
	resolution, fine int64
	datagram         uint64 // of the record that began first
	reason           uint8
	state            end // of the record that ended last
	inIf, outIf      uint32
	tos              uint8
	vlan             uint16
}

// newID is the connection's id: equal on replay.
func newID(k *flowkey.Key, ident uint64) (id [16]byte) {
	b := k.Append(make([]byte, 0, 64))
	b = binary.BigEndian.AppendUint64(b, ident)
	sum := sha256.Sum256(b)
	copy(id[:], sum[:])
	return id
}

// span is the interval of all that the entry holds.
func (e *entry) span() (start, end int64) {
	for i := range e.sides {
		s := &e.sides[i]
		if i == 0 || s.start < start {
			start = s.start
		}
		if i == 0 || s.end > end {
			end = s.end
		}
	}
	return start, end
}

// flags is the OR over both directions; closed tells of a hard end in one.
func (e *entry) flags() (flags uint16, closed bool) {
	for i := range e.sides {
		flags |= e.sides[i].flags
		closed = closed || e.sides[i].state == endHard
	}
	return flags, closed
}

func (e *entry) knows(ident uint64) bool {
	return slices.Contains(e.idents[:min(int(e.identN), keptIdents)], ident)
}

func (e *entry) remember(ident uint64) {
	e.idents[int(e.identN)%keptIdents] = ident
	if e.identN++; e.identN == 2*keptIdents {
		e.identN = keptIdents // stays above it: the ring is full
	}
}

// knowsClock tells whether a record of the same exporter and domain is in.
func (e *entry) knowsClock(f *Flow) bool {
	for i := range e.sides {
		if s := &e.sides[i]; s.exporter == f.Exporter && s.domain == f.Domain {
			return true
		}
	}
	return false
}

// distance returns how far f is from e in time, ns; ok is false when it is of
// another connection.
func (e *entry) distance(f *Flow, c *Config) (gap int64, ok bool) {
	start, end := e.span()
	gap = max(0, f.Start-end, start-f.End)
	tol := int64(c.ClockSkew)
	if e.knowsClock(f) {
		tol = f.Resolution
	}
	flags, closed := e.flags()
	limit := int64(c.Idle)
	if closed && f.Start > end {
		limit = int64(c.Linger)
	}
	if gap > limit+tol {
		return 0, false
	}
	if f.Key.Proto == flowkey.TCP {
		all := f.There.Flags | f.Back.Flags
		fClosed := f.endOf(c, all) == endHard
		if closed && all&syn != 0 && f.Start > end+tol || fClosed && flags&syn != 0 && start > f.End+tol {
			return 0, false
		}
	}
	return gap, true
}

// add accumulates a record.
func (e *entry) add(f *Flow, c *Config) {
	e.remember(f.Ident)
	e.quality |= f.quality
	if e.initiator == 0 && f.Initiator != 0 {
		if e.initiator = f.Initiator; !f.SrcIsLo {
			e.initiator = -e.initiator
		}
	}
	lo, hi := &e.natLo, &e.natHi
	macLo, macHi, asLo, asHi := &e.macLo, &e.macHi, &e.asLo, &e.asHi
	if !f.SrcIsLo {
		lo, hi, macLo, macHi, asLo, asHi = hi, lo, macHi, macLo, asHi, asLo
	}
	keep(lo, f.NATSrc)
	keep(hi, f.NATDst)
	keep(macLo, f.SrcMAC)
	keep(macHi, f.DstMAC)
	keep(asLo, f.SrcAS)
	keep(asHi, f.DstAS)
	keep(&e.icmpCode, f.ICMPCode)
	e.side(f, f.SrcIsLo).add(f, &f.There, c)
	if f.Biflow && f.Back.Octets|f.Back.Packets != 0 {
		e.side(f, !f.SrcIsLo).add(f, &f.Back, c)
	}
}

// keep sets *to unless it is set.
func keep[T comparable](to *T, v T) {
	var zero T
	if *to == zero {
		*to = v
	}
}

// side returns f's vantage of a direction.
func (e *entry) side(f *Flow, toHi bool) *side {
	for i := range e.sides {
		if s := &e.sides[i]; s.toHi == toHi && s.exporter == f.Exporter && s.domain == f.Domain && s.iface == f.Interface {
			return s
		}
	}
	e.sides = append(e.sides, side{
		toHi: toHi, exporter: f.Exporter, domain: f.Domain, iface: f.Interface,
		inIf: f.InIf, outIf: f.OutIf, tos: f.ToS, vlan: f.VLAN,
	})
	return &e.sides[len(e.sides)-1]
}

func (s *side) add(f *Flow, n *counts, c *Config) {
	start, stop := f.Start, f.End
	if n.End != 0 {
		start, stop = n.Start, n.End
	}
	rate := max(f.Rate, 1)
	s.octets += n.Octets
	s.packets += n.Packets
	s.octetsE += n.Octets * rate
	s.packsE += n.Packets * rate
	if s.records == 0 || f.Rate < s.rateMin {
		s.rateMin = f.Rate
	}
	s.rateMax = max(s.rateMax, f.Rate)
	s.flags |= n.Flags
	state := f.endOf(c, n.Flags)
	switch {
	case s.records == 0 || stop > s.end:
		s.reason = f.Reason
		if s.state != endHard { // that stays
			s.state = state
		}
	case stop == s.end || state == endHard:
		s.state = max(s.state, state)
	}
	if s.records == 0 || start < s.start {
		s.start, s.datagram, s.fine = start, f.Datagram, f.Fine
	}
	if s.records == 0 || stop > s.end {
		s.end = stop
	}
	s.resolution = max(s.resolution, f.Resolution)
	s.records++
}

// ended tells whether a direction is seen and has ended (in every vantage's
// best knowledge), and whether it goes on by its newest record.
func (e *entry) ended(toHi bool) (seen, ended, open bool) {
	best, latest := endUnknown, int64(0)
	for i := range e.sides {
		s := &e.sides[i]
		if s.toHi != toHi {
			continue
		}
		if !seen || s.state == endHard || best != endHard && (s.end > latest || s.end == latest && s.state > best) {
			best = s.state
		}
		latest = max(latest, s.end)
		seen = true
	}
	return seen, best >= endSoft, best == endOpen
}

// complete tells whether nothing more is expected: both directions ended, or no
// reply is possible.
func (e *entry) complete() bool {
	flags, _ := e.flags()
	reset := e.key.Proto == flowkey.TCP && flags&rst != 0 // anywhere closes both
	loSeen, loEnded, loOpen := e.ended(true)
	hiSeen, hiEnded, hiOpen := e.ended(false)
	if loSeen && hiSeen && (reset || loEnded && hiEnded) {
		return true
	}
	return e.noReply() && !loOpen && !hiOpen
}

// noReply tells whether no further record is to be waited for: multicast and
// broadcast, one-way ICMP, a biflow.
func (e *entry) noReply() bool {
	return e.key.OneWay() || group(&e.key.Lo) || group(&e.key.Hi) || e.quality&bit(flowpb.Quality_QUALITY_BIFLOW) != 0
}

// group tells whether a is a multicast address or the limited broadcast.
func group(a *[16]byte) bool {
	if flowkey.IsV4(a) {
		return a[12]&0xf0 == 224 || bytes.Equal(a[12:], []byte{255, 255, 255, 255})
	}
	return a[0] == 0xff
}

// oneSidedAndSmall marks what is given up first at capacity: scans.
func (e *entry) oneSidedAndSmall() bool {
	return len(e.sides) == 1 && e.sides[0].packets <= 2
}
