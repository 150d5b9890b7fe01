// Package pairmodel is a slow reference model of pairing, written from docs/connections.md and not from
// internal/pair: it keeps every record in plain lists and computes each connection from them. It knows
// neither evictions nor interim reports, and says nothing of names or qualities.
package pairmodel

import (
	"bytes"
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"weir/pkg/flowpb"
)

// A Config has the settings of pairing that the model depends on, by the names of their variables.
type Config struct {
	Idle, Linger, LateGrace        time.Duration
	TCPPause                       time.Duration
	ClockSkew, MaxClockSkew        time.Duration
	ActiveTimeout, InactiveTimeout time.Duration
	// Registered reports whether IANA names a service of the port. Nil: of none.
	Registered func(proto uint8, port uint16) bool
}

// An End is one end of a conversation: a 16-octet address (IPv4 v4-mapped) and a port, or the ICMP type.
type End struct {
	Addr [16]byte
	Port uint16
}

func (e End) compare(o End) int {
	return cmp.Or(bytes.Compare(e.Addr[:], o.Addr[:]), cmp.Compare(e.Port, o.Port))
}

// String returns address:port.
func (e End) String() string {
	return netip.AddrPortFrom(netip.AddrFrom16(e.Addr).Unmap(), e.Port).String()
}

// A Conversation has the two ends in order. One-way ICMP keeps the sender first.
type Conversation struct {
	Proto  uint8
	Lo, Hi End
}

// A Direction is what is reported of one direction of a connection. Times are ns since the epoch.
type Direction struct {
	Octets, Packets, OctetsEst, PacketsEst uint64
	Records, ObservationPoints             uint32
	Flags                                  uint32
	Start, End                             int64

	sampled          bool   // one packet of several in any record that counts
	exporter         string // of the strongest observation point
	datagram         uint64 // of the record that began first
	resolution, fine int64  // of the clock; between records of one datagram
}

// A Connection is what its last report says; a direction that was not seen is nil.
type Connection struct {
	Conversation
	FirstReceived int64
	ToHi, ToLo    *Direction
	LoInitiates   bool
	Method        flowpb.DirectionMethod
	State         flowpb.ConnState
}

// String describes all of c in one line.
func (c *Connection) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "proto %d %v %v first %s", c.Proto, c.Lo, c.Hi, time.Unix(0, c.FirstReceived).UTC().Format("15:04:05.000"))
	fmt.Fprintf(&b, " lo initiates %v by %v state %v", c.LoInitiates, c.Method, c.State)
	for i, d := range []*Direction{c.ToHi, c.ToLo} {
		if d != nil {
			fmt.Fprintf(&b, " %s{octets=%d packets=%d octets_est=%d packets_est=%d records=%d points=%d flags=%#x from %s for %v}", []string{">", "<"}[i],
				d.Octets, d.Packets, d.OctetsEst, d.PacketsEst, d.Records, d.ObservationPoints, d.Flags,
				time.Unix(0, d.Start).UTC().Format("15:04:05.000"), time.Duration(d.End-d.Start))
		}
	}
	return b.String()
}

// A Model pairs the records of one partition.
type Model struct {
	c     Config
	now   int64 // stream time: the greatest receive time
	conns []*connection
}

// New returns a Model without records.
func New(c Config) *Model { return &Model{c: c, now: -1 << 63} }

// A connection is the records of one connection.
type connection struct {
	Conversation
	flow     string // the firewall's flow that it is; "" for others
	records  []*record
	parts    []part // of all records
	first    int64  // receive time of the record that arrived first
	deadline int64
}

// A record is one flow record in the model's terms.
type record struct {
	conversation Conversation
	flow         string // of a firewall's event with a flow id: the firewall and the id
	identity     string
	exporter     string // with its observation domain: whose clock it is
	point        string
	received     int64
	start, end   int64
	resolution   int64
	flags        uint32 // of both directions
	biflow       bool
	hasTeardown  bool                   // of a flow that a firewall's teardown ends and counts once more
	word         flowpb.BiflowDirection // the exporter's: who initiates, lo being the source
	parts        []part
}

// A part is one direction of a record.
type part struct {
	toHi                       bool
	total                      bool // counts the whole flow, not what came since the record before
	octets, packets, rate      uint64
	flags                      uint32
	start, end                 int64
	ended                      ended
	point, exporter            string
	exporterAddr               []byte
	domain, interfaceDirection uint32
	datagram                   uint64
	resolution, fine           int64
}

// ended says how a direction stands.
type ended int

const (
	unknown ended = iota
	goesOn
	wentIdle
	closed
)

// TCP control bits, RFC 9293.
const (
	fin = 0x01
	syn = 0x02
	rst = 0x04
	psh = 0x08
	ack = 0x10
)

// Add takes the next record of the partition. It returns false for a record that cannot be paired and for
// a duplicate.
func (m *Model) Add(f *flowpb.FlowMessage) bool {
	r, ok := m.record(f)
	if !ok {
		return false
	}
	m.now = max(m.now, r.received)
	var near []*connection // those that r belongs to
	for _, c := range m.conns {
		if c.Conversation != r.conversation || c.flow != r.flow || c.deadline+m.holds(c) <= m.now {
			continue
		}
		if slices.ContainsFunc(c.records, func(o *record) bool { return o.identity == r.identity }) {
			return false
		}
		if _, is := m.belong(span(c.parts, r), ofRecord(r), r); is {
			near = append(near, c)
		}
	}
	best := m.nearest(near, ofRecord(r), r)
	for best != nil { // what r bridges becomes one
		near = slices.DeleteFunc(near, func(c *connection) bool { return c == best })
		one := span(best.parts, r)
		candidates := slices.DeleteFunc(slices.Clone(near), func(c *connection) bool {
			return m.distinct(one, span(c.parts, r), ofRecord(r), r) || m.portUsedAgain(best, c) || m.portUsedAgain(c, best)
		})
		other := m.nearest(candidates, one.and(ofRecord(r)), r)
		if other == nil {
			break
		}
		near = slices.DeleteFunc(near, func(c *connection) bool { return c == other })
		m.conns = slices.DeleteFunc(m.conns, func(c *connection) bool { return c == other })
		best.take(other.records...)
		best.first = min(best.first, other.first)
	}
	if best == nil {
		best = &connection{Conversation: r.conversation, flow: r.flow, first: r.received}
		m.conns = append(m.conns, best)
	}
	best.take(r)
	best.deadline = m.now + int64(m.c.Idle)
	if best.complete() {
		best.deadline = m.now + int64(m.c.Linger)
	}
	return true
}

// Connections returns what is reported of every connection after a long silence.
func (m *Model) Connections() []*Connection {
	var out []*Connection
	for _, c := range m.conns {
		x := &Connection{
			Conversation: c.Conversation, FirstReceived: c.first,
			ToHi: m.direction(c, true), ToLo: m.direction(c, false),
		}
		x.Method, x.LoInitiates = m.initiator(c, x.ToHi, x.ToLo)
		if x.Proto == 6 {
			if x.LoInitiates {
				x.State = state(x.ToHi, x.ToLo)
			} else {
				x.State = state(x.ToLo, x.ToHi)
			}
		}
		out = append(out, x)
	}
	return out
}

// take adds records.
func (c *connection) take(records ...*record) {
	c.records = append(c.records, records...)
	for _, r := range records {
		c.parts = append(c.parts, r.parts...)
	}
}

// holds returns how long a connection is held after its final report: PAIR_TCP_PAUSE when it is of TCP
// and pauses, as nobody closed it and it is no scan, or a firewall's flow without its teardown; else
// PAIR_LATE_GRACE.
func (m *Model) holds(c *connection) int64 {
	flags, packets, onePoint, closes := uint32(0), uint64(0), true, false
	for _, p := range c.parts {
		flags, packets = flags|p.flags, packets+p.packets
		onePoint = onePoint && p.toHi == c.parts[0].toHi && p.point == c.parts[0].point
		closes = closes || p.ended == closed
	}
	scan := onePoint && packets <= 2
	awaitsTeardown := slices.ContainsFunc(c.records, func(r *record) bool { return r.hasTeardown })
	pauses := awaitsTeardown || c.Proto == 6 && flags != 0 && !scan
	if pauses && !closes && m.c.TCPPause > m.c.Idle {
		return int64(max(m.c.TCPPause, m.c.LateGrace))
	}
	return int64(m.c.LateGrace)
}

// An interval is the time of a connection or a record and what its flags say of that time.
type interval struct {
	start, end   int64
	flags        uint32
	fromLo       bool // lo sent a SYN
	fromHi       bool // hi sent a SYN
	ended        bool // by a FIN, a RST or the exporter's word
	sameExporter bool // some part is of the exporter of the record at hand
}

// span returns the interval of parts, for the record r.
func span(parts []part, r *record) interval {
	out := interval{start: parts[0].start, end: parts[0].end}
	for _, p := range parts {
		out = out.and(interval{
			start: p.start, end: p.end, flags: p.flags, fromLo: p.toHi && p.flags&syn != 0, fromHi: !p.toHi && p.flags&syn != 0,
			ended: p.ended == closed, sameExporter: p.exporter == r.exporter,
		})
	}
	return out
}

// ofRecord returns the interval of a record, by the times of its own direction.
func ofRecord(r *record) interval {
	out := span(r.parts, r)
	out.start, out.end = r.start, r.end
	return out
}

func (i interval) and(o interval) interval {
	i.start, i.end, i.flags = min(i.start, o.start), max(i.end, o.end), i.flags|o.flags
	i.fromLo, i.fromHi, i.ended, i.sameExporter = i.fromLo || o.fromLo, i.fromHi || o.fromHi, i.ended || o.ended, i.sameExporter || o.sameExporter
	return i
}

// belong returns the silence between two intervals, and whether they are of one connection: PAIR_IDLE apart at
// most, PAIR_LINGER after an end. Of TCP a SYN after an end opens another connection, unless it answers the SYN
// of one that was reset before any data; without SYN one goes on within PAIR_IDLE after an end, and within
// PAIR_TCP_PAUSE when nobody ended it. Two clocks have a tolerance, one clock its resolution.
func (m *Model) belong(c, x interval, r *record) (silence int64, is bool) {
	tolerance := m.tolerance(c, r)
	first, second := c, x
	if x.start < c.start {
		first, second = x, c
	}
	silence = second.start - first.end
	if silence <= 0 {
		return 0, true
	}
	allowed := m.c.Idle
	switch {
	case r.conversation.Proto != 6 || second.flags == 0:
		if first.ended {
			allowed = m.c.Linger
		}
	case m.another(first, second, tolerance):
		return silence, false
	case second.flags&syn == 0 && !first.ended:
		allowed = max(m.c.Idle, m.c.TCPPause)
	}
	return silence, silence <= int64(allowed)+tolerance
}

func (m *Model) tolerance(c interval, r *record) int64 {
	if c.sameExporter {
		return r.resolution
	}
	return int64(m.c.ClockSkew)
}

// another is true when the second of two intervals is of another connection than the first, which ended: it has
// a SYN. Where the first was reset before any data, all that comes after PAIR_LINGER is, and a SYN that
// answers the first's is not.
func (m *Model) another(first, second interval, tolerance int64) bool {
	silence := second.start - first.end
	if !first.ended || second.flags == 0 || silence <= tolerance {
		return false
	}
	isSyn := second.flags&syn != 0
	if first.flags&rst == 0 || first.flags&(fin|psh) != 0 {
		return isSyn
	}
	replies := first.fromLo != first.fromHi && second.fromLo != second.fromHi && first.fromLo != second.fromLo
	return silence > int64(m.c.Linger)+tolerance || isSyn && !replies
}

// distinct is true for two TCP connections of which one opened after the other's end, though a record x is
// of the time of both. The SYN of x belongs to the connection in which x begins.
func (m *Model) distinct(one, other, x interval, r *record) bool {
	first, second := one, other
	if other.start < one.start {
		first, second = other, one
	}
	if x.start <= first.end {
		first.fromLo, first.fromHi = first.fromLo || x.fromLo, first.fromHi || x.fromHi
	} else {
		second.fromLo, second.fromHi = second.fromLo || x.fromLo, second.fromHi || x.fromHi
	}
	return r.conversation.Proto == 6 && m.another(first, second, m.tolerance(other, r))
}

// portUsedAgain is true for two TCP connections when an observation point reports that a direction ended in the
// first, and that the same direction begins in the second after it: with a SYN, or more than PAIR_LINGER after a
// reset before any data. Within PAIR_LINGER the SYN of a side that sent nothing but a RST may answer the other
// side's.
func (m *Model) portUsedAgain(first, second *connection) bool {
	if first.Proto != 6 {
		return false
	}
	for _, p := range first.parts {
		old, ended := viewOf(first, &p)
		next, _ := viewOf(second, &p)
		if !ended || next == nil || next.flags == 0 {
			continue
		}
		silence := next.start - old.end - max(old.resolution, next.resolution)
		begins, reset := next.flags&syn != 0, old.flags&rst != 0 && old.flags&(fin|psh) == 0
		if begins && silence > 0 && (!reset || old.flags&syn != 0) || reset && silence > int64(m.c.Linger) {
			return true
		}
	}
	return false
}

// viewOf sums up what p's observation point saw of p's direction in c: nil when nothing. ended says that it saw the
// end.
func viewOf(c *connection, p *part) (sum *part, ended bool) {
	for _, o := range c.parts {
		if o.point != p.point || o.toHi != p.toHi {
			continue
		}
		if sum == nil {
			sum = &part{start: o.start, end: o.end}
		}
		sum.start, sum.end, sum.flags = min(sum.start, o.start), max(sum.end, o.end), sum.flags|o.flags
		sum.resolution = max(sum.resolution, o.resolution)
		ended = ended || o.ended == closed
	}
	return sum, ended
}

// nearest returns which of conns has the least silence to x, then the later start; nil when none belongs to it.
func (m *Model) nearest(conns []*connection, x interval, r *record) (best *connection) {
	var least, start int64
	for _, c := range conns {
		i := span(c.parts, r)
		silence, is := m.belong(i, x, r)
		if is && (best == nil || silence < least || silence == least && i.start > start) {
			best, least, start = c, silence, i.start
		}
	}
	return best
}

// complete is true when both directions ended, or no reply is possible.
func (c *connection) complete() bool {
	there, thereSeen := c.standing(true)
	back, backSeen := c.standing(false)
	reset, noReply := false, c.oneWay() || isGroup(c.Lo) && !thereSeen || isGroup(c.Hi) && !backSeen
	for _, r := range c.records {
		reset = reset || c.Proto == 6 && r.flags&rst != 0
		noReply = noReply || r.biflow
	}
	if thereSeen && backSeen && (reset || there >= wentIdle && back >= wentIdle) {
		return true
	}
	return noReply && there != goesOn && back != goesOn
}

// standing is how a direction stands: a close stays, else the record that ended last decides.
func (c *connection) standing(toHi bool) (state ended, seen bool) {
	last := int64(0)
	for _, p := range c.parts {
		if p.toHi != toHi {
			continue
		}
		if p.ended == closed {
			return closed, true
		}
		if !seen || p.end > last || p.end == last && p.ended > state {
			state, last = p.ended, p.end
		}
		seen = true
	}
	return state, seen
}

// isGroup is true for multicast and broadcast addresses.
func isGroup(e End) bool {
	a := netip.AddrFrom16(e.Addr).Unmap()
	return a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// oneWay is true for ICMP that nothing answers.
func (c *Conversation) oneWay() bool {
	if c.Proto != 1 && c.Proto != 58 {
		return false
	}
	_, answered := answer(c.Proto, c.Lo.Port)
	return !answered
}

// volume is octets and packets, as they are and times the sampling rate.
type volume struct{ octets, octetsEst, packets, packetsEst uint64 }

// direction sums up one direction: of observation points whose times overlap the one with the most packets counts,
// others are summed. Of what a firewall's updates and its teardown count, the greater is taken.
func (m *Model) direction(c *connection, toHi bool) *Direction {
	type sighting struct {
		part
		d       Direction
		since   volume // sum of the records that count since the one before
		total   volume // the greatest of those that count the whole flow
		sampled int    // 0: every record says that no packet was left out
	}
	var all []*sighting
	var out Direction
	for _, p := range c.parts {
		if p.toHi != toHi {
			continue
		}
		i := slices.IndexFunc(all, func(s *sighting) bool { return s.point == p.point })
		if i < 0 {
			i = len(all)
			all = append(all, &sighting{part: p, d: Direction{Start: p.start, End: p.end, datagram: p.datagram, fine: p.fine}})
		}
		s := all[i]
		if p.start < s.d.Start {
			s.d.datagram, s.d.fine = p.datagram, p.fine
		}
		s.d.sampled = s.d.sampled || p.rate > 1
		s.d.resolution = max(s.d.resolution, p.resolution)
		if p.rate != 1 {
			s.sampled = 1
		}
		rate := max(p.rate, 1)
		if t := &s.total; p.total {
			*t = volume{max(t.octets, p.octets), max(t.octetsEst, p.octets*rate), max(t.packets, p.packets), max(t.packetsEst, p.packets*rate)}
		} else {
			t := &s.since
			*t = volume{t.octets + p.octets, t.octetsEst + p.octets*rate, t.packets + p.packets, t.packetsEst + p.packets*rate}
		}
		s.d.Octets, s.d.OctetsEst = max(s.since.octets, s.total.octets), max(s.since.octetsEst, s.total.octetsEst)
		s.d.Packets, s.d.PacketsEst = max(s.since.packets, s.total.packets), max(s.since.packetsEst, s.total.packetsEst)
		s.d.Start, s.d.End = min(s.d.Start, p.start), max(s.d.End, p.end)
		s.d.Records++
		out.Flags |= p.flags
	}
	if len(all) == 0 {
		return nil
	}
	slices.SortFunc(all, func(a, b *sighting) int {
		return cmp.Or(cmp.Compare(a.sampled, b.sampled), cmp.Compare(b.d.PacketsEst, a.d.PacketsEst), cmp.Compare(b.d.OctetsEst, a.d.OctetsEst),
			cmp.Compare(a.d.Start, b.d.Start), bytes.Compare(a.exporterAddr, b.exporterAddr), cmp.Compare(a.domain, b.domain),
			cmp.Compare(a.interfaceDirection, b.interfaceDirection))
	})
	var counted []Direction
	for _, s := range all {
		skew := int64(m.c.ClockSkew)
		if slices.ContainsFunc(counted, func(o Direction) bool { return s.d.Start <= o.End+skew && o.Start <= s.d.End+skew }) {
			continue
		}
		if len(counted) == 0 {
			out.Start, out.End, out.exporter = s.d.Start, s.d.End, s.exporter
		}
		if s.d.Start <= out.Start {
			out.datagram, out.fine = s.d.datagram, s.d.fine
		}
		out.sampled = out.sampled || s.d.sampled
		out.resolution = max(out.resolution, s.d.resolution)
		counted = append(counted, s.d)
		out.Octets, out.OctetsEst = out.Octets+s.d.Octets, out.OctetsEst+s.d.OctetsEst
		out.Packets, out.PacketsEst = out.Packets+s.d.Packets, out.PacketsEst+s.d.PacketsEst
		out.Start, out.End = min(out.Start, s.d.Start), max(out.End, s.d.End)
		out.Records += s.d.Records
	}
	out.ObservationPoints = uint32(len(all))
	return &out
}
