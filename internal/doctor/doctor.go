// Package doctor finds faults of configuration in what exporters send: a missing sampling
// rate, clocks that are off, templates that come too rarely, flows that are metered twice.
package doctor

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"weir/internal/ie"
	"weir/pkg/flowpb"
)

// A Stream is one export stream: the flows of one exporter, version and observation
// domain.
type Stream struct {
	Exporter netip.Addr
	Version  uint16 // 1, 5, 7, 9 or 10 (IPFIX)
	Domain   uint32
}

// Bounds of what a Checkup keeps, so that no input can make it grow.
const (
	maxStreams       = 1000
	maxTemplates     = 256  // of a stream
	maxUnnamed       = 64   // elements of a stream
	maxConversations = 4096 // of a stream
	maxRecords       = 4096 // of a stream, to find those that are metered twice
	maxFlowIDs       = 4096 // of a stream, of firewall events

	maxHeld = 1 << 18 // conversations, records and flow ids of all streams
	fewHeld = 64      // of each of these a stream may have beyond maxHeld
)

// A Checkup observes export streams and judges them. The zero value is not usable; call
// New or NewOfSample. A Checkup must not be used by several goroutines at a time.
type Checkup struct {
	streams map[Stream]*chart
	sampled bool
	beyond  int // records of streams beyond maxStreams
	held    int // conversations, records and flow ids of all streams
}

// New returns a Checkup that has observed nothing and is to observe everything that its
// streams send.
func New() *Checkup { return &Checkup{streams: map[Stream]*chart{}} }

// NewOfSample returns a Checkup that is to observe only some of the datagrams. Rules that
// need all of them do not apply.
func NewOfSample() *Checkup { return &Checkup{streams: map[Stream]*chart{}, sampled: true} }

// A chart is what was observed of one stream.
type chart struct {
	held        *int // of the Checkup
	messages    int
	malformed   int   // messages with octets that could not be decoded
	first, last int64 // receive times, ns since the epoch; 0: not known
	least, most int64 // receive time less export time, ns
	timed       bool  // least and most are set

	templates map[uint16]*refresh
	undecoded map[uint16]int // sets, by template id
	lost, of  uint64
	unit      string

	flows, withoutRate, withoutInterface, ofExport, zero, events, long, old int
	longest                                                                 time.Duration
	unnamed                                                                 map[element]int
	unnamedMore                                                             int

	records              map[record]place
	twice, twiceDirected int
	conversations        map[conversation]uint8 // bits: 1 one direction, 2 the other
	flowIDs              map[uint64]uint8       // bits: 1 an update, 2 a teardown
}

type refresh struct {
	first, last, gap int64 // ns; gap is the longest between two receipts
	times            int
}

type element struct {
	pen uint32
	id  uint16
}

// A record is what two records say that count the same packets.
type record struct {
	src, dst               [16]byte
	ports                  uint64
	start, end, octets, ps uint64
}

// A place is where a record was metered.
type place struct {
	in, out   uint32
	direction flowpb.FlowDirection
	datagram  uint64
}

type conversation struct {
	lo, hi [16]byte
	ports  uint64
}

// chart returns what was observed of a stream, nil beyond maxStreams.
func (c *Checkup) chart(s Stream) *chart {
	h := c.streams[s]
	if h == nil {
		if len(c.streams) >= maxStreams {
			c.beyond++
			return nil
		}
		h = &chart{
			held: &c.held, templates: map[uint16]*refresh{}, undecoded: map[uint16]int{}, unnamed: map[element]int{}, records: map[record]place{},
			conversations: map[conversation]uint8{}, flowIDs: map[uint64]uint8{},
		}
		c.streams[s] = h
	}
	return h
}

// Message observes an export datagram. Times are ns since the epoch, 0 for unknown.
func (c *Checkup) Message(s Stream, received, export int64) {
	h := c.chart(s)
	if h == nil {
		return
	}
	h.messages++
	if received == 0 {
		return
	}
	if h.first == 0 {
		h.first = received
	}
	h.last = max(h.last, received)
	if off := received - export; export != 0 {
		if !h.timed {
			h.least, h.most, h.timed = off, off, true
		}
		h.least, h.most = min(h.least, off), max(h.most, off)
	}
}

// Malformed observes that octets of the datagram that Message was called for could not be
// decoded.
func (c *Checkup) Malformed(s Stream) {
	if h := c.chart(s); h != nil {
		h.malformed++
	}
}

// Template observes the definition of a template, received at the given time (ns since
// the epoch).
func (c *Checkup) Template(s Stream, id uint16, received int64) {
	h := c.chart(s)
	if h == nil {
		return
	}
	r := h.templates[id]
	switch {
	case r == nil && len(h.templates) < maxTemplates:
		h.templates[id] = &refresh{first: received, last: received, times: 1}
	case r != nil:
		r.gap = max(r.gap, received-r.last)
		r.last = max(r.last, received)
		r.times++
	}
}

// Undecoded observes a data set that nobody has a template for.
func (c *Checkup) Undecoded(s Stream, id uint16) {
	if h := c.chart(s); h != nil && (len(h.undecoded) < maxTemplates || h.undecoded[id] > 0) {
		h.undecoded[id]++
	}
}

// Lost observes that, by sequence numbers, lost of so many units did not arrive. The unit
// is a plural noun: datagrams, flows, records.
func (c *Checkup) Lost(s Stream, lost, of uint64, unit string) {
	if h := c.chart(s); h != nil {
		h.lost, h.of, h.unit = lost, of, unit
	}
}

// versions are the export versions of message types.
var versions = map[flowpb.FlowMessage_FlowType]uint16{
	flowpb.FlowMessage_NETFLOW_V1: 1, flowpb.FlowMessage_NETFLOW_V5: 5, flowpb.FlowMessage_NETFLOW_V7: 7,
	flowpb.FlowMessage_NETFLOW_V9: 9, flowpb.FlowMessage_IPFIX: 10,
}

// StreamOf returns the stream of a flow.
func StreamOf(m *flowpb.FlowMessage) Stream {
	a, _ := netip.AddrFromSlice(m.SamplerAddress)
	return Stream{Exporter: a, Version: versions[m.Type], Domain: m.ObservationDomainId}
}

// longFlow is the length from which a flow shows that the exporter's active timeout is
// long: a report is late by it, and the default PAIR_ACTIVE_TIMEOUT is 60 s.
const longFlow = 2 * time.Minute

// oldFlow is how long before its export a flow may have ended.
const oldFlow = 24 * time.Hour

// Flow observes a flow.
func (c *Checkup) Flow(m *flowpb.FlowMessage) {
	s := StreamOf(m)
	h := c.chart(s)
	if h == nil {
		return
	}
	h.flows++
	event := m.FirewallEvent != 0 || m.NatEvent != 0
	if event {
		h.events++
	}
	if m.SamplingRate == 0 && m.FirewallEvent == 0 { // firewalls count every packet
		h.withoutRate++
	}
	if m.InIf == 0 && m.OutIf == 0 {
		h.withoutInterface++
	}
	if m.TimeSource == flowpb.TimeSource_TIME_SOURCE_EXPORT_TIME {
		h.ofExport++
	}
	if m.Bytes|m.Packets|m.ReverseBytes|m.ReversePackets == 0 && !event {
		h.zero++
	}
	if d := time.Duration(m.TimeFlowEndNs - m.TimeFlowStartNs); m.TimeFlowEndNs > m.TimeFlowStartNs && d >= longFlow {
		h.long++
		h.longest = max(h.longest, d)
	}
	if m.TimeExportNs > m.TimeFlowEndNs && m.TimeExportNs-m.TimeFlowEndNs > uint64(oldFlow) {
		h.old++
	}
	h.elements(m, s.Version)
	h.metering(m)
	h.conversation(m)
	h.firewall(m)
}

// elements counts elements that have no name.
func (h *chart) elements(m *flowpb.FlowMessage, version uint16) {
	for _, e := range m.Elements {
		if e.Name != "" { // by the exporter itself
			continue
		}
		named := false
		if version == 9 {
			_, named = ie.LookupV9(uint16(e.Id))
		} else {
			_, named = ie.Lookup(e.Pen, uint16(e.Id))
		}
		if named {
			continue
		}
		k := element{e.Pen, uint16(e.Id)}
		if len(h.unnamed) < maxUnnamed || h.unnamed[k] > 0 {
			h.unnamed[k]++
		} else {
			h.unnamedMore++
		}
	}
}

// metering counts records that count the same packets as another one did, at another
// interface or in another direction of metering.
func (h *chart) metering(m *flowpb.FlowMessage) {
	if m.Packets == 0 || m.TimeFlowStartNs == 0 || len(m.SrcAddr) == 0 {
		return
	}
	k := record{
		src: as16(m.SrcAddr), dst: as16(m.DstAddr), ports: portsOf(m.SrcPort, m.DstPort, m.Proto),
		start: m.TimeFlowStartNs, end: m.TimeFlowEndNs, octets: m.Bytes, ps: m.Packets,
	}
	p := place{in: m.InIf, out: m.OutIf, direction: m.FlowDirection, datagram: m.DatagramHash}
	was, seen := h.records[k]
	switch {
	case !seen:
		if h.room(len(h.records), maxRecords) {
			h.records[k] = p
		}
	case was.direction != p.direction:
		h.twiceDirected++
	case was.in != p.in || was.out != p.out:
		h.twice++
	}
}

// room reports whether the stream may keep one more where it has n, and counts it if so.
func (h *chart) room(n, most int) bool {
	if n >= most || n >= fewHeld && *h.held >= maxHeld {
		return false
	}
	*h.held++
	return true
}

func as16(b []byte) (a [16]byte) {
	if addr, ok := netip.AddrFromSlice(b); ok {
		a = addr.As16()
	}
	return a
}

func portsOf(src, dst, proto uint32) uint64 {
	return uint64(src&0xffff)<<32 | uint64(dst&0xffff)<<16 | uint64(proto&0xff)
}

// conversation notes in which directions a TCP conversation was seen.
func (h *chart) conversation(m *flowpb.FlowMessage) {
	const tcp = 6
	if m.Proto != tcp || len(m.SrcAddr) == 0 || m.SamplingRate > 1 { // sampling misses directions
		return
	}
	src, dst := as16(m.SrcAddr), as16(m.DstAddr)
	k := conversation{lo: src, hi: dst, ports: portsOf(m.SrcPort, m.DstPort, 0)}
	bit := uint8(1)
	if n := cmp.Or(slices.Compare(src[:], dst[:]), cmp.Compare(m.SrcPort, m.DstPort)); n > 0 {
		k = conversation{lo: dst, hi: src, ports: portsOf(m.DstPort, m.SrcPort, 0)}
		bit = 2
	}
	if m.Biflow {
		bit = 3
	}
	if was, seen := h.conversations[k]; seen || h.room(len(h.conversations), maxConversations) {
		h.conversations[k] = was | bit
	}
}

// firewall notes which counters of one flow id firewall events carried.
func (h *chart) firewall(m *flowpb.FlowMessage) {
	const deleted, updated = 2, 5 // IE 233
	if m.FlowId == 0 || m.Bytes|m.ReverseBytes == 0 {
		return
	}
	bit := map[uint32]uint8{updated: 1, deleted: 2}[m.FirewallEvent]
	if was, seen := h.flowIDs[m.FlowId]; bit != 0 && (seen || h.room(len(h.flowIDs), maxFlowIDs)) {
		h.flowIDs[m.FlowId] = was | bit
	}
}

// A Summary is how much was observed of a stream.
type Summary struct {
	Stream
	Messages, Flows int
	Period          time.Duration // from the first message to the last; 0: not known
}

// Streams returns what was observed, by exporter, version and domain.
func (c *Checkup) Streams() (out []Summary) {
	for s, h := range c.streams {
		out = append(out, Summary{Stream: s, Messages: h.messages, Flows: h.flows, Period: time.Duration(h.last - h.first)})
	}
	slices.SortFunc(out, func(a, b Summary) int { return a.compare(b.Stream) })
	return out
}

// Beyond returns how many observations belonged to streams beyond the bound.
func (c *Checkup) Beyond() int { return c.beyond }

func (s Stream) compare(o Stream) int {
	return cmp.Or(s.Exporter.Compare(o.Exporter), cmp.Compare(s.Version, o.Version), cmp.Compare(s.Domain, o.Domain))
}
