// Package pairmodel is a slow reference model of pairing, written from docs/connections.md and not from
// internal/pair: it keeps every record in plain lists and computes each connection from them. It knows
// neither evictions nor interim reports, and says nothing of names, initiators or qualities.
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
	ClockSkew, MaxClockSkew        time.Duration
	ActiveTimeout, InactiveTimeout time.Duration
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
	Records, Vantages                      uint32
	Flags                                  uint32
	Start, End                             int64
}

// A Connection is what its last report says; a direction that was not seen is nil.
type Connection struct {
	Conversation
	FirstReceived int64
	ToHi, ToLo    *Direction
}

// String describes all of c in one line.
func (c *Connection) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "proto %d %v %v first %s", c.Proto, c.Lo, c.Hi, time.Unix(0, c.FirstReceived).UTC().Format("15:04:05.000"))
	for i, d := range []*Direction{c.ToHi, c.ToLo} {
		if d != nil {
			fmt.Fprintf(&b, " %s{octets=%d packets=%d octets_est=%d packets_est=%d records=%d vantages=%d flags=%#x from %s for %v}", []string{">", "<"}[i],
				d.Octets, d.Packets, d.OctetsEst, d.PacketsEst, d.Records, d.Vantages, d.Flags,
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

// A connection is the records of one connection, in the order of their arrival.
type connection struct {
	Conversation
	flow     string // the firewall's flow that it is; "" for others
	records  []*record
	deadline int64
}

// A record is one flow record in the model's terms.
type record struct {
	conversation Conversation
	flow         string // of a firewall's event with a flow id: the firewall and the id
	identity     string
	exporter     string // with its observation domain: whose clock it is
	vantage      string
	received     int64
	start, end   int64
	resolution   int64
	flags        uint32 // of both directions
	biflow       bool
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
	vantage, exporter          string
	exporterAddr               []byte
	domain, interfaceDirection uint32
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
)

// Add takes the next record of the partition. It returns false for a record that cannot be paired and for
// a duplicate.
func (m *Model) Add(f *flowpb.FlowMessage) bool {
	r, ok := m.record(f)
	if !ok {
		return false
	}
	m.now = max(m.now, r.received)
	var best *connection
	for _, c := range m.conns {
		if c.Conversation != r.conversation || c.flow != r.flow || c.deadline+int64(m.c.LateGrace) <= m.now {
			continue
		}
		if slices.ContainsFunc(c.records, func(o *record) bool { return o.identity == r.identity }) {
			return false
		}
		if m.belongs(c, r) && (best == nil || nearer(c, best, r)) {
			best = c
		}
	}
	if best == nil {
		best = &connection{Conversation: r.conversation, flow: r.flow}
		m.conns = append(m.conns, best)
	}
	best.records = append(best.records, r)
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
		out = append(out, &Connection{
			Conversation: c.Conversation, FirstReceived: c.records[0].received,
			ToHi: m.direction(c, true), ToLo: m.direction(c, false),
		})
	}
	return out
}

// span returns the first start and the last end of the connection's records.
func (c *connection) span() (start, end int64) {
	for i, p := range c.parts() {
		if i == 0 || p.start < start {
			start = p.start
		}
		if i == 0 || p.end > end {
			end = p.end
		}
	}
	return start, end
}

func (c *connection) parts() (all []part) {
	for _, r := range c.records {
		all = append(all, r.parts...)
	}
	return all
}

// gap returns how long after or before the connection a record is, 0 while they overlap.
func gap(c *connection, r *record) int64 {
	start, end := c.span()
	return max(0, r.start-end, start-r.end)
}

// belongs applies the rule of time: PAIR_IDLE apart at most, PAIR_LINGER after an end; a SYN after an end
// begins anew. Two clocks have a tolerance, one clock its resolution.
func (m *Model) belongs(c *connection, r *record) bool {
	start, end := c.span()
	hasEnded, hasSyn, sameClock := false, false, false
	for _, p := range c.parts() {
		hasEnded = hasEnded || p.ended == closed
		hasSyn = hasSyn || p.flags&syn != 0
		sameClock = sameClock || p.exporter == r.exporter
	}
	tolerance := int64(m.c.ClockSkew)
	if sameClock {
		tolerance = r.resolution
	}
	most := int64(m.c.Idle)
	if hasEnded && r.start > end {
		most = int64(m.c.Linger)
	}
	if gap(c, r) > most+tolerance {
		return false
	}
	if r.conversation.Proto != 6 {
		return true
	}
	ends := slices.ContainsFunc(r.parts, func(p part) bool { return p.ended == closed })
	beginsAfterTheEnd := hasEnded && r.flags&syn != 0 && r.start > end+tolerance
	endsBeforeTheBegin := ends && hasSyn && start > r.end+tolerance
	return !beginsAfterTheEnd && !endsBeforeTheBegin
}

// nearer prefers the smaller gap, then the later start.
func nearer(a, b *connection, r *record) bool {
	if x, y := gap(a, r), gap(b, r); x != y {
		return x < y
	}
	x, _ := a.span()
	y, _ := b.span()
	return x > y
}

// complete is true when both directions ended, or no reply is possible.
func (c *connection) complete() bool {
	there, thereSeen := c.standing(true)
	back, backSeen := c.standing(false)
	reset, noReply := false, c.oneWay()
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
	for _, p := range c.parts() {
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

// oneWay is true for multicast, broadcast and ICMP that nothing answers.
func (c *Conversation) oneWay() bool {
	for _, e := range []End{c.Lo, c.Hi} {
		a := netip.AddrFrom16(e.Addr).Unmap()
		if a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
			return true
		}
	}
	if c.Proto != 1 && c.Proto != 58 {
		return false
	}
	_, answered := answer(c.Proto, c.Lo.Port)
	return !answered
}

// volume is octets and packets, as they are and times the sampling rate.
type volume struct{ octets, octetsEst, packets, packetsEst uint64 }

// direction sums up one direction: of vantages whose times overlap the one with the most packets counts,
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
	for _, p := range c.parts() {
		if p.toHi != toHi {
			continue
		}
		i := slices.IndexFunc(all, func(s *sighting) bool { return s.vantage == p.vantage })
		if i < 0 {
			i = len(all)
			all = append(all, &sighting{part: p, d: Direction{Start: p.start, End: p.end}})
		}
		s := all[i]
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
			out.Start, out.End = s.d.Start, s.d.End
		}
		counted = append(counted, s.d)
		out.Octets, out.OctetsEst = out.Octets+s.d.Octets, out.OctetsEst+s.d.OctetsEst
		out.Packets, out.PacketsEst = out.Packets+s.d.Packets, out.PacketsEst+s.d.PacketsEst
		out.Start, out.End = min(out.Start, s.d.Start), max(out.End, s.d.End)
		out.Records += s.d.Records
	}
	out.Vantages = uint32(len(all))
	return &out
}
