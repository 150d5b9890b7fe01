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

// keptIdents is the number of record identities that a connection keeps to recognise duplicates.
const keptIdents = 8

// An entry is a connection in the table: open, or emitted and in grace. lo and hi are the ends of its key. It must
// not contain pointers, which the garbage collector would follow: optional parts are in pools, referred to by number,
// 0 for none.
//
// The pools of a Machine own all parts of an entry; releaseParts must return them. Sides are a singly linked list, the
// newest first, of at most 2*maxSides.
type entry struct {
	key      stateKey
	opener   opener
	icmpCode uint8
	quality  quality
	identN   uint8     // identities added; once the ring idents is full, counts on between keptIdents and 2*keptIdents
	in       queueName // like marks, not part of the logged value
	marks    mark
	deadline int64  // emitted iff deadline <= stream time
	seq      uint64 // order of the last change among all entries

	sides       int32  // first side
	link        int32  // its link
	version     uint32 // of the next emission; of the last emission while in grace
	reportTicks uint32 // stream time of the last interim report or reopening, ticks after first
	asLo, asHi  uint32
	first       int64  // receive time of the first record
	origin      uint64 // identity of the record that opened it: with the key, the connection's id
	reported    uint64 // estimated octets in the last emission
	idents      [keptIdents]uint64
}

// A mark is a flag of an entry that is not part of its logged value.
type mark uint8

const (
	isHeld     mark = 1 << iota // in the table: a freed entry has no marks
	isDirty                     // changed since the last delta
	isLogged                    // the log holds a value of it
	isExtended                  // has unknown extensions, in Machine.kept
)

// tick is the unit of reportTicks, ns. A uint32 of ticks covers 8 years.
const tick = int64(time.Second) / 16

// noteReport sets the stream time of the last interim report or reopening to now, rounded down to a tick. A tick is
// coarse enough for PAIR_UPDATE_INTERVAL, and saves 4 octets of each entry.
func (e *entry) noteReport(now int64) {
	e.reportTicks = uint32(min(max(now-e.first, 0)/tick, math.MaxUint32))
}

// lastReport returns the stream time that noteReport set; that of the first record before its first call.
func (e *entry) lastReport() int64 { return e.first + int64(e.reportTicks)*tick }

// A link holds the parts that few connections have: endpoints on the other side of a NAT, MAC addresses, VRFs, an
// application, and sums of firewall events. Most connections have none. A link takes as much memory as a side.
type link struct {
	natLo, natHi endpoint
	macLo, macHi uint64
	toHi, toLo   vrfs // of the records in each direction
	app          application
	events       int32 // first eventSum; not part of the link's logged value
}

// isEmpty reports whether the link has an empty logged value.
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

// newID returns the id of the connection that the record with identity origin opened: the first 16 octets of a
// SHA-256 of key and origin. It is equal on replay. Consumers upsert by it: its computation must not change.
func newID(k *flowkey.Key, origin uint64) (id [16]byte) {
	var buf [64]byte
	b := binary.BigEndian.AppendUint64(k.Append(buf[:0]), origin)
	sum := sha256.Sum256(b)
	copy(id[:], sum[:])
	return id
}

// id returns the connection_id. It costs a SHA-256 and is computed for reports and ties only.
func (e *entry) id() [16]byte { return newID(&e.key.Key, e.origin) }

// An extent is the time span of an entry or a record, with the TCP flags that decide whether two extents belong to
// the same connection. Times are ns since the epoch.
//
// TCP flags are the OR over the packets of a record or connection (IE 6), so that their order is unknown: SYN and FIN
// in one extent mean that it has the beginning and the end, not which came first.
type extent struct {
	start, end int64
	flags      uint16
	syns       uint8 // the directions with a SYN: bit 0 lo to hi, bit 1 hi to lo
	closed     bool  // endHard in a direction
}

// A summary is the extent of all sides of an entry.
type summary struct {
	extent
	clock bool // a side is of the exporter and observation domain of the compared record: same clock
}

// summary returns the extent of all sides of e, for comparison with a record of observation point v. It reads all
// sides of e: at most 2*maxSides.
func (m *Machine) summary(e *entry, v *observationPoint) (u summary) {
	for i := e.sides; i != 0; {
		s := m.sides.ref(i)
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
			x := &m.points.pool.ref(s.point).observationPoint
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

// extent returns the extent of f over both of its directions. The TCP flags of both directions of a biflow count, since
// either may contain the beginning or the end.
func (f *Flow) extent(c *Config) extent {
	all := f.There.Flags | f.Back.Flags
	return extent{
		start: f.Start, end: f.End, flags: all, closed: f.endOf(c, all) == endHard,
		syns: synOf(f.There.Flags, f.SrcIsLo) | synOf(f.Back.Flags, !f.SrcIsLo),
	}
}

// union returns the extent that covers x and o.
func (x extent) union(o *extent) extent {
	return extent{
		start: min(x.start, o.start), end: max(x.end, o.end),
		flags: x.flags | o.flags, syns: x.syns | o.syns, closed: x.closed || o.closed,
	}
}

// timeGap returns the time between a and b, ns; 0 if they overlap. ok is false if they belong to two connections. It
// is symmetric in a and b. tol is the tolerance between their clocks, ns.
//
// The limit depends on the evidence that the gap separates two connections; docs/connections.md has the table. With the
// defaults and a gap of 100 s: TCP without SYN after an open extent is one connection (limit 300 s), TCP with SYN after
// an open extent is two (75 s), UDP is two (75 s).
func (c *Config) timeGap(proto uint8, a, b *extent, tol int64) (gap int64, ok bool) {
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

// opens reports whether b opens a new TCP connection after a, which must begin first: a was closed, and b has a SYN. A
// connection that was reset before any data has no later records, except within Linger: there, b may be the SYN+ACK
// that answers the SYN of a, since a RST that was injected before the SYN+ACK does not end the connection. A b without
// flags, unreported by its exporter, opens nothing. Each connection begins with a SYN (RFC 9293 section 3.5), but
// exporters that sample or began to meter later do not report it: without a SYN in b, timeGap decides by the time.
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

// reset reports whether x was reset without a FIN and before any data; a PSH indicates data.
func (x *extent) reset() bool { return x.flags&(fin|rst|psh) == rst }

// reopened reports whether the later of a and b opens a new connection, by their own flags. x is the extent of the
// record that bridges them. A SYN of x counts for the extent in which x begins. It is for two entries that one record
// connects: the SYN that separates them may be in either, or in that record.
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

// hasIdent reports whether the ring of identities contains ident. A duplicate is recognised if it is among the last
// keptIdents records of its connection, or equals the first record (entry.origin).
func (e *entry) hasIdent(ident uint64) bool {
	return slices.Contains(e.idents[:min(int(e.identN), keptIdents)], ident)
}

// addIdent adds an identity to the ring; a full ring loses its oldest.
func (e *entry) addIdent(ident uint64) {
	e.idents[int(e.identN)%keptIdents] = ident
	if e.identN++; e.identN == 2*keptIdents {
		e.identN = keptIdents // wraps to keptIdents, not to 0: the ring stays full
	}
}

// add adds a record to e. The caller must set the deadline (schedule) and log the change. Both directions of a biflow
// (RFC 5103) are added as two sides. An empty reverse direction adds none, since a side must stand for packets that
// were seen.
func (m *Machine) add(e *entry, f *Flow) {
	e.addIdent(f.Ident)
	e.quality |= f.quality
	if f.Initiator != 0 || f.There.answer() || f.Back.answer() {
		e.opener = e.opener.combine(f.evidence())
	}
	asLo, asHi := &e.asLo, &e.asHi
	if !f.SrcIsLo {
		asLo, asHi = asHi, asLo
	}
	setIfZero(asLo, f.SrcAS)
	setIfZero(asHi, f.DstAS)
	setIfZero(&e.icmpCode, f.ICMPCode)
	if f.SrcMAC|f.DstMAC != 0 || f.NATSrc != (endpoint{}) || f.NATDst != (endpoint{}) ||
		f.vrfs != (vrfs{}) || f.app.n != 0 {
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

// addLink sets the parts of e's link that are unset and that f has. It creates the link if e has none. A later record
// does not change a part that is set, so that the parts of a link may be of different records.
func (m *Machine) addLink(e *entry, f *Flow) {
	if e.link == 0 {
		e.link = m.links.alloc()
		*m.links.ref(e.link) = link{}
	}
	l := m.links.ref(e.link)
	lo, hi, macLo, macHi, of := &l.natLo, &l.natHi, &l.macLo, &l.macHi, &l.toHi
	if !f.SrcIsLo {
		lo, hi, macLo, macHi, of = hi, lo, macHi, macLo, &l.toLo
	}
	setIfZero(of, f.vrfs)
	setIfZero(&l.app, f.app)
	setIfZero(lo, f.NATSrc)
	setIfZero(hi, f.NATDst)
	setIfZero(macLo, f.SrcMAC)
	setIfZero(macHi, f.DstMAC)
}

// setIfZero sets *to to v if *to is zero: the first record that reports a value determines it.
func setIfZero[T comparable](to *T, v T) {
	var zero T
	if *to == zero {
		*to = v
	}
}

// releaseParts frees the sides, the link and the eventSums of e, and its references to observation points.
func (m *Machine) releaseParts(e *entry) {
	for i := e.sides; i != 0; {
		s := m.sides.ref(i)
		next := s.next
		m.points.drop(s.point)
		m.sides.release(i)
		i = next
	}
	if e.link != 0 {
		m.dropEvents(e)
		m.links.release(e.link)
	}
	e.sides, e.link = 0, 0
}

// A course is the state of a direction over all observation points. The state of the observation point whose record
// ends last counts: an exporter with a shorter timeout must not end a direction that another still observes. Only
// endHard counts from any observation point.
type course struct {
	seen   bool
	state  end   // of the newest record; endHard is kept
	latest int64 // end of the newest record, ns since the epoch
}

// update adds a side of the direction.
func (c *course) update(s *side) {
	if !c.seen || s.state == endHard ||
		c.state != endHard && (s.end > c.latest || s.end == c.latest && s.state > c.state) {
		c.state = s.state
	}
	c.latest = max(c.latest, s.end)
	c.seen = true
}

// ended reports whether the direction ended, by a close or by idleness.
func (c *course) ended() bool { return c.state >= endSoft }

// complete reports whether no further record of e is expected: both directions ended, or no reply is possible. A TCP
// connection ends with a FIN, a RST or a flow end reason (IE 136) of 3 or 4. Idleness does not end it: records may
// follow within PAIR_IDLE. A FIN closes the direction of its sender only (RFC 9293 section 3.6.1), a RST both (section
// 3.5.3).
func (m *Machine) complete(e *entry) bool {
	var toHi, toLo course
	flags := uint16(0)
	for i := e.sides; i != 0; {
		s := m.sides.ref(i)
		flags |= s.flags
		if s.toHi {
			toHi.update(s)
		} else {
			toLo.update(s)
		}
		i = s.next
	}
	reset := e.key.Proto == flowkey.TCP && flags&rst != 0 // a RST in either direction closes both
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

// noReply reports whether no record of a reply can follow. That is the case for traffic to a multicast or broadcast
// address that sent nothing itself, for one-way ICMP, for a biflow, which contains the reply, and for a connection that
// a firewall denied. loSent and hiSent report whether the end lo or hi has sent packets. Without this rule, such
// connections would wait for PAIR_IDLE instead of PAIR_LINGER.
func (e *entry) noReply(loSent, hiSent bool) bool {
	return e.key.OneWay() || !loSent && group(&e.key.Lo) || !hiSent && group(&e.key.Hi) ||
		e.quality&(bit(flowpb.Quality_QUALITY_BIFLOW)|bit(flowpb.Quality_QUALITY_DENIED)) != 0
}

// group reports whether a is a multicast address (RFC 5771, RFC 4291 section 2.7) or the limited broadcast address
// 255.255.255.255 (RFC 919). Directed broadcasts cannot be recognised without the prefix length.
func group(a *[16]byte) bool {
	if flowkey.IsV4(a) {
		return a[12]&0xf0 == 224 || bytes.Equal(a[12:], []byte{255, 255, 255, 255})
	}
	return a[0] == 0xff
}

// pauses reports whether a record can continue e after its final report: a TCP connection that neither side closed
// and that is not a scan, for a record without SYN; or a firewall's flow before its teardown, since the teardown
// counts the whole flow.
func (m *Machine) pauses(e *entry) bool {
	ofFirewall := e.quality&firewallFlow != 0
	if m.c.TCPPause <= m.c.Idle || !ofFirewall && (e.key.Proto != flowkey.TCP || m.oneSidedAndSmall(e)) {
		return false
	}
	flags := uint16(0)
	for i := e.sides; i != 0; {
		s := m.sides.ref(i)
		if s.state == endHard {
			return false
		}
		flags |= s.flags
		i = s.next
	}
	return ofFirewall || flags != 0
}

// oneSidedAndSmall reports whether e has a single side of at most two packets, like a scan. At capacity such entries
// are evicted before others that are open. A SYN scan leaves one such entry per probe: these must make room before
// connections that carry traffic.
func (m *Machine) oneSidedAndSmall(e *entry) bool {
	s := m.sides.ref(e.sides)
	return s.next == 0 && s.packets <= 2
}
