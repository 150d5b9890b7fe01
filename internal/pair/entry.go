package pair

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"math"
	"slices"
	"time"

	"weir/internal/flowkey"
	"weir/pkg/flowpb"
)

// keptIdents is how many records' identities a connection remembers.
const keptIdents = 8

// An entry is one connection that is held: open, or emitted and in grace. lo
// and hi are its key's ends. No pointers: what it does not always have is in
// pools of its own, by number, 0 for none.
type entry struct {
	key      stateKey
	opener   opener
	icmpCode uint8
	quality  quality
	identN   uint8     // records seen, modulo 256
	in       queueName // not part of the value, nor are marks
	marks    mark
	deadline int64  // emitted iff deadline <= stream time
	seq      uint64 // order of the last change among all entries

	sides      int32  // the first of its sides
	link       int32  // its link, when there is one
	version    uint32 // of the next emission, or of the last when emitted
	told       uint32 // stream time of the last interim or reopening: ticks after first
	asLo, asHi uint32
	first      int64  // receive time of the first record
	origin     uint64 // identity of the record that opened it: with the key, the connection's id
	reported   uint64 // octets, estimated, as of the last emission
	idents     [keptIdents]uint64
}

// A mark is what is so of an entry, and not part of its value.
type mark uint8

const (
	isHeld     mark = 1 << iota
	isDirty         // changed since the last delta
	isLogged        // the log holds a value of it
	isExtended      // it has extensions that this version does not know
)

// tick is how exactly an entry knows when it was last told of: 8 years fit.
const tick = int64(time.Second) / 16

// tell notes that e is told of at the instant now; toldAt is when it last was, to
// a tick.
func (e *entry) tell(now int64) {
	e.told = uint32(min(max(now-e.first, 0)/tick, math.MaxUint32))
}

func (e *entry) toldAt() int64 { return e.first + int64(e.told)*tick }

// A link is what few connections have: the other side of a NAT, MAC addresses,
// VRFs, an application, what events of a firewall count.
type link struct {
	natLo, natHi endpoint
	macLo, macHi uint64
	toHi, toLo   vrfs // of the records of a direction
	app          application
	events       int32 // the first of its eventSums; not part of the link's value
}

// isEmpty reports whether the link's value says nothing.
func (l *link) isEmpty() bool {
	x := *l
	x.events = 0
	return x == link{}
}

// vrfs are the VRFs of a record's input and output interface; 0 = none.
type vrfs struct{ in, out uint32 }

// An application is an application id (IE 95) of up to 8 octets.
type application struct {
	id uint64
	n  uint8 // octets; 0 = none
}

// newID is the id of the connection that a record opened: equal on replay.
func newID(k *flowkey.Key, origin uint64) (id [16]byte) {
	var buf [64]byte
	b := binary.BigEndian.AppendUint64(k.Append(buf[:0]), origin)
	sum := sha256.Sum256(b)
	copy(id[:], sum[:])
	return id
}

func (e *entry) id() [16]byte { return newID(&e.key.Key, e.origin) }

// An extent is the time that an entry or a record spans, with what decides whether it
// belongs to another.
type extent struct {
	start, end int64
	flags      uint16
	syns       uint8 // the directions with a SYN: bit 0 lo to hi, bit 1 hi to lo
	closed     bool  // a hard end in one direction
}

// A summary is the extent of all sides of an entry.
type summary struct {
	extent
	clock bool // a record of the vantage's exporter and domain is in
}

// summary sums up e's sides, for a record of v.
func (m *Machine) summary(e *entry, v *vantage) (u summary) {
	for i := e.sides; i != 0; {
		s := m.sides.at(i)
		if i == e.sides || s.start < u.start {
			u.start = s.start
		}
		if i == e.sides || s.end > u.end {
			u.end = s.end
		}
		u.flags |= s.flags
		u.syns |= synOf(s.flags, s.toHi)
		u.closed = u.closed || s.state == endHard
		if !u.clock {
			x := &m.vantages.of.at(s.vantage).vantage
			u.clock = x.exporter == v.exporter && x.domain == v.domain
		}
		i = s.next
	}
	return u
}

// synOf returns the direction bit of flags with a SYN, else 0.
func synOf(flags uint16, toHi bool) uint8 {
	switch {
	case flags&syn == 0:
		return 0
	case toHi:
		return 1
	}
	return 2
}

// extent returns the extent of f.
func (f *Flow) extent(c *Config) extent {
	all := f.There.Flags | f.Back.Flags
	return extent{
		start: f.Start, end: f.End, flags: all, closed: f.endOf(c, all) == endHard,
		syns: synOf(f.There.Flags, f.SrcIsLo) | synOf(f.Back.Flags, !f.SrcIsLo),
	}
}

// union returns the extent of both.
func (x extent) union(o *extent) extent {
	return extent{
		start: min(x.start, o.start), end: max(x.end, o.end),
		flags: x.flags | o.flags, syns: x.syns | o.syns, closed: x.closed || o.closed,
	}
}

// together returns how far a and b are apart in time, ns; ok is false when they are of
// two connections. It is symmetric. tol is the tolerance of their clocks.
func (c *Config) together(proto uint8, a, b *extent, tol int64) (gap int64, ok bool) {
	if a.start > b.start {
		a, b = b, a
	}
	if gap = max(0, b.start-a.end); gap == 0 {
		return 0, true
	}
	limit := int64(c.Idle)
	switch {
	case proto == flowkey.TCP && b.flags != 0:
		if c.opens(b, a, tol) {
			return 0, false
		}
		if !a.closed && b.flags&syn == 0 {
			limit = c.pause()
		}
	case a.closed:
		limit = int64(c.Linger)
	}
	return gap, gap <= limit+tol
}

// opens reports whether b, which has flags, is of another TCP connection than a, which
// began before it: a was closed, and b has a SYN. Nothing follows a connection that was
// reset before any data, but for Linger: a SYN may answer that of a then, as a RST that
// was injected before the SYN+ACK comes ends no connection.
func (c *Config) opens(b, a *extent, tol int64) bool {
	gap := b.start - a.end
	switch {
	case !a.closed || b.flags == 0 || gap <= tol:
		return false
	case a.reset():
		opposite := a.syns != 0 && b.syns == 3-a.syns
		return gap > int64(c.Linger)+tol || b.syns != 0 && !opposite
	}
	return b.flags&syn != 0
}

// reset reports whether x was reset before any data, and without a FIN.
func (x *extent) reset() bool { return x.flags&(fin|rst|psh) == rst }

// reopened reports whether one of a and b opens another connection than the other, by
// what they say themselves. x is the record that bridges them; its SYN counts for the
// one that it began with.
func (c *Config) reopened(a, b, x extent, tol int64) bool {
	if a.start > b.start {
		a, b = b, a
	}
	if x.start <= a.end {
		a.syns |= x.syns
	} else {
		b.syns |= x.syns
	}
	return c.opens(&b, &a, tol)
}

// pause returns the longest pause of a TCP connection, ns.
func (c *Config) pause() int64 { return int64(max(c.Idle, c.TCPPause)) }

func (e *entry) knows(ident uint64) bool {
	return slices.Contains(e.idents[:min(int(e.identN), keptIdents)], ident)
}

func (e *entry) remember(ident uint64) {
	e.idents[int(e.identN)%keptIdents] = ident
	if e.identN++; e.identN == 2*keptIdents {
		e.identN = keptIdents // stays above it: the ring is full
	}
}

// add accumulates a record.
func (m *Machine) add(e *entry, f *Flow) {
	e.remember(f.Ident)
	e.quality |= f.quality
	if f.Initiator != 0 || f.There.answer() || f.Back.answer() {
		e.opener = e.opener.with(f.evidence())
	}
	asLo, asHi := &e.asLo, &e.asHi
	if !f.SrcIsLo {
		asLo, asHi = asHi, asLo
	}
	keep(asLo, f.SrcAS)
	keep(asHi, f.DstAS)
	keep(&e.icmpCode, f.ICMPCode)
	if f.SrcMAC|f.DstMAC != 0 || f.NATSrc != (endpoint{}) || f.NATDst != (endpoint{}) || f.vrfs != (vrfs{}) || f.app.n != 0 {
		m.addLink(e, f)
	}
	if f.counting != countsRecord {
		m.raised = amounts{}
	}
	m.addSide(e, f, &f.There, f.SrcIsLo)
	if f.Biflow && f.Back.Octets|f.Back.Packets != 0 {
		m.addSide(e, f, &f.Back, !f.SrcIsLo)
	}
}

func (m *Machine) addLink(e *entry, f *Flow) {
	if e.link == 0 {
		e.link = m.links.alloc()
		*m.links.at(e.link) = link{}
	}
	l := m.links.at(e.link)
	lo, hi, macLo, macHi, of := &l.natLo, &l.natHi, &l.macLo, &l.macHi, &l.toHi
	if !f.SrcIsLo {
		lo, hi, macLo, macHi, of = hi, lo, macHi, macLo, &l.toLo
	}
	keep(of, f.vrfs)
	keep(&l.app, f.app)
	keep(lo, f.NATSrc)
	keep(hi, f.NATDst)
	keep(macLo, f.SrcMAC)
	keep(macHi, f.DstMAC)
}

// keep sets *to unless it is set.
func keep[T comparable](to *T, v T) {
	var zero T
	if *to == zero {
		*to = v
	}
}

// strip frees what e has in other pools.
func (m *Machine) strip(e *entry) {
	for i := e.sides; i != 0; {
		s := m.sides.at(i)
		next := s.next
		m.vantages.drop(s.vantage)
		m.sides.release(i)
		i = next
	}
	if e.link != 0 {
		m.dropEvents(e)
		m.links.release(e.link)
	}
	e.sides, e.link = 0, 0
}

// A course is how a direction stands, in every vantage's best knowledge.
type course struct {
	seen   bool
	state  end // of its newest record; a hard one stays
	latest int64
}

func (c *course) take(s *side) {
	if !c.seen || s.state == endHard || c.state != endHard && (s.end > c.latest || s.end == c.latest && s.state > c.state) {
		c.state = s.state
	}
	c.latest = max(c.latest, s.end)
	c.seen = true
}

func (c *course) ended() bool { return c.state >= endSoft }

// complete tells whether nothing more is expected: both directions ended, or no
// reply is possible. A TCP connection ends with a FIN, a RST or the exporter's word,
// not by being idle: it may go on within PAIR_IDLE.
func (m *Machine) complete(e *entry) bool {
	var toHi, toLo course
	flags := uint16(0)
	for i := e.sides; i != 0; {
		s := m.sides.at(i)
		flags |= s.flags
		if s.toHi {
			toHi.take(s)
		} else {
			toLo.take(s)
		}
		i = s.next
	}
	reset := e.key.Proto == flowkey.TCP && flags&rst != 0 // anywhere closes both
	if toHi.seen && toLo.seen && reset {
		return true
	}
	if e.key.Proto == flowkey.TCP && max(toHi.state, toLo.state) == endSoft {
		return false
	}
	if toHi.seen && toLo.seen && toHi.ended() && toLo.ended() {
		return true
	}
	return e.noReply(toHi.seen, toLo.seen) && toHi.state != endOpen && toLo.state != endOpen
}

// noReply reports whether no further record is expected: of traffic to a multicast or
// broadcast address that sent nothing itself, of one-way ICMP, of a biflow and of a
// connection that a firewall denied. loSent and hiSent are the ends that sent.
func (e *entry) noReply(loSent, hiSent bool) bool {
	return e.key.OneWay() || !loSent && group(&e.key.Lo) || !hiSent && group(&e.key.Hi) ||
		e.quality&(bit(flowpb.Quality_QUALITY_BIFLOW)|bit(flowpb.Quality_QUALITY_DENIED)) != 0
}

// group tells whether a is a multicast address or the limited broadcast.
func group(a *[16]byte) bool {
	if flowkey.IsV4(a) {
		return a[12]&0xf0 == 224 || bytes.Equal(a[12:], []byte{255, 255, 255, 255})
	}
	return a[0] == 0xff
}

// pauses reports whether e goes on when a record follows: a TCP connection that neither
// side closed and that is no scan, for a record without SYN; a firewall's flow that was
// not torn down, for its teardown, which counts the whole flow.
func (m *Machine) pauses(e *entry) bool {
	ofFirewall := e.quality&firewallFlow != 0
	if m.c.TCPPause <= m.c.Idle || !ofFirewall && (e.key.Proto != flowkey.TCP || m.oneSidedAndSmall(e)) {
		return false
	}
	flags := uint16(0)
	for i := e.sides; i != 0; {
		s := m.sides.at(i)
		if s.state == endHard {
			return false
		}
		flags |= s.flags
		i = s.next
	}
	return ofFirewall || flags != 0
}

// oneSidedAndSmall marks what is given up first at capacity: scans.
func (m *Machine) oneSidedAndSmall(e *entry) bool {
	s := m.sides.at(e.sides)
	return s.next == 0 && s.packets <= 2
}
