// Package doctor finds faults of an exporter's configuration in its messages: a missing
// sampling rate, a wrong clock, rare templates, flows metered twice.
package doctor

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"weir/internal/bounded"
	"weir/internal/ie"
	"weir/pkg/flowpb"
)

// A Stream identifies an export stream: the messages of an exporter, version and
// Observation Domain.
type Stream struct {
	Exporter netip.Addr
	Version  uint16 // 1, 5, 7, 9 or 10 (IPFIX)
	Domain   uint32
}

// Bounds of the state of a Checkup. No input may make it grow beyond them.
const (
	maxStreams       = 1000
	maxTemplates     = 256  // per stream
	maxUnnamed       = 64   // elements per stream
	maxConversations = 4096 // per stream
	maxRecords       = 4096 // per stream, to find flows metered twice
	maxFlowIDs       = 4096 // per stream, of firewall events

	maxHeld = 1 << 18 // conversations, records and flow ids of all streams
	fewHeld = 64      // entries of a map that every stream may hold, even when maxHeld is reached
)

// A Checkup observes export streams and judges them. The zero value is not usable; call
// New or NewOfSample. A Checkup must be used by one goroutine at a time.
type Checkup struct {
	streams bounded.Map[Stream, *chart]
	sampled bool
	beyond  int // observations of streams beyond maxStreams
	held    int // conversations, records and flow ids of all streams
}

// New returns an empty Checkup. All messages of its streams must be passed to it.
func New() *Checkup { return &Checkup{streams: bounded.New[Stream, *chart](maxStreams)} }

// NewOfSample returns an empty Checkup of a sample of the messages. Rules that need all
// messages do not apply.
func NewOfSample() *Checkup {
	c := New()
	c.sampled = true
	return c
}

// A chart holds the observations of a stream.
type chart struct {
	held        *int // Checkup.held
	messages    int
	malformed   int   // messages with octets that could not be decoded
	first, last int64 // receive times, ns since the epoch; 0: unknown
	least, most int64 // receive time minus export time, ns
	timed       bool  // least and most are set

	templates bounded.Map[uint16, *refresh]
	undecoded bounded.Map[uint16, int] // number of sets by template id
	lost, of  uint64                   // from Lost
	unit      string                   // unit of lost and of

	flows, withoutRate, withoutInterface, ofExport, zero, events, long, old int
	longest                                                                 time.Duration
	unnamed                                                                 bounded.Map[element, int]
	unnamedMore                                                             int

	records              map[record]place
	twice, twiceDirected int
	conversations        map[conversation]uint8 // bits: 1 one direction, 2 the other
	flowIDs              map[uint64]uint8       // bits: 1 an update, 2 a teardown
}

// A refresh holds the receipts of a template. Times are ns.
type refresh struct {
	first, last int64
	gap         int64 // longest time between two receipts
	times       int
}

// An element identifies an Information Element.
type element struct {
	pen uint32 // 0: IANA
	id  uint16
}

// A record identifies the packets of a flow record: two records of the same packets agree in these fields, whichever
// interface metered them.
type record struct {
	src, dst               [16]byte
	ports                  uint64
	start, end, octets, ps uint64
}

// A place is an Observation Point: the interfaces and the direction of metering.
type place struct {
	in, out   uint32
	direction flowpb.FlowDirection
	datagram  uint64
}

// A conversation identifies a TCP connection independent of the direction.
type conversation struct {
	lo, hi [16]byte
	ports  uint64
}

// chart returns the chart of a stream, nil beyond maxStreams.
func (c *Checkup) chart(s Stream) *chart {
	if h := c.streams.Get(s); h != nil {
		return h
	}
	h := &chart{
		held:          &c.held,
		templates:     bounded.New[uint16, *refresh](maxTemplates),
		undecoded:     bounded.New[uint16, int](maxTemplates),
		unnamed:       bounded.New[element, int](maxUnnamed),
		records:       map[record]place{},
		conversations: map[conversation]uint8{},
		flowIDs:       map[uint64]uint8{},
	}
	if !c.streams.PutOrRefuse(s, h) {
		c.beyond++
		return nil
	}
	return h
}

// Message observes an export message. Times are ns since the epoch, 0: unknown.
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

// Malformed observes that octets of a message could not be decoded. Message must have
// been called for it before.
func (c *Checkup) Malformed(s Stream) {
	if h := c.chart(s); h != nil {
		h.malformed++
	}
}

// Template observes the receipt of a Template Record. received is in ns since the epoch.
func (c *Checkup) Template(s Stream, id uint16, received int64) {
	h := c.chart(s)
	if h == nil {
		return
	}
	r := h.templates.Get(id)
	if r == nil {
		h.templates.PutOrRefuse(id, &refresh{first: received, last: received, times: 1})
		return
	}
	r.gap = max(r.gap, received-r.last)
	r.last = max(r.last, received)
	r.times++
}

// Undecoded observes a Data Set without a known template.
func (c *Checkup) Undecoded(s Stream, id uint16) {
	if h := c.chart(s); h != nil {
		h.undecoded.PutOrRefuse(id, h.undecoded.Get(id)+1)
	}
}

// Lost sets the loss of a stream, computed from sequence numbers: lost units out of total. unit is a
// plural noun: datagrams, flows, records.
func (c *Checkup) Lost(s Stream, lost, total uint64, unit string) {
	if h := c.chart(s); h != nil {
		h.lost, h.of, h.unit = lost, total, unit
	}
}

// versions maps the type of a flow to the version of its export protocol.
var versions = map[flowpb.FlowMessage_FlowType]uint16{
	flowpb.FlowMessage_NETFLOW_V1: 1, flowpb.FlowMessage_NETFLOW_V5: 5, flowpb.FlowMessage_NETFLOW_V7: 7,
	flowpb.FlowMessage_NETFLOW_V9: 9, flowpb.FlowMessage_IPFIX: 10,
}

// StreamOf returns the stream of a flow.
func StreamOf(m *flowpb.FlowMessage) Stream {
	a, _ := netip.AddrFromSlice(m.SamplerAddress)
	return Stream{Exporter: a, Version: versions[m.Type], Domain: m.ObservationDomainId}
}

// longFlow is the duration from which a flow shows that the active timeout of its exporter is long. Such a flow is
// reported late by up to its duration; the default of PAIR_ACTIVE_TIMEOUT is 60 s.
const longFlow = 2 * time.Minute

// oldFlow is the greatest plausible time between the end of a flow and its export.
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

// elements counts elements without a name.
func (h *chart) elements(m *flowpb.FlowMessage, version uint16) {
	for _, e := range m.Elements {
		if e.Name != "" { // the exporter sent a name (RFC 5610)
			continue
		}
		if _, named := ie.LookupField(version, e.Pen, uint16(e.Id)); named {
			continue
		}
		k := element{e.Pen, uint16(e.Id)}
		if !h.unnamed.PutOrRefuse(k, h.unnamed.Get(k)+1) {
			h.unnamedMore++
		}
	}
}

// metering counts records of packets that an earlier record counted at another interface
// or in another direction of metering.
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

// room reports whether a map of the stream with n entries may grow by an entry. If so, it
// counts the entry.
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

// portsOf packs two ports and a protocol into an integer.
func portsOf(src, dst, proto uint32) uint64 {
	return uint64(src&0xffff)<<32 | uint64(dst&0xffff)<<16 | uint64(proto&0xff)
}

// conversation records the direction in which a TCP conversation was observed.
func (h *chart) conversation(m *flowpb.FlowMessage) {
	const tcp = 6
	if m.Proto != tcp || len(m.SrcAddr) == 0 || m.SamplingRate > 1 { // sampling may miss a direction
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

// firewall records whether updates and teardowns of a firewall flow carry counters.
func (h *chart) firewall(m *flowpb.FlowMessage) {
	const deleted, updated = 2, 5 // firewallEvent, element 233
	if m.FlowId == 0 || m.Bytes|m.ReverseBytes == 0 {
		return
	}
	bit := map[uint32]uint8{updated: 1, deleted: 2}[m.FirewallEvent]
	if was, seen := h.flowIDs[m.FlowId]; bit != 0 && (seen || h.room(len(h.flowIDs), maxFlowIDs)) {
		h.flowIDs[m.FlowId] = was | bit
	}
}

// A Summary counts the observations of a stream.
type Summary struct {
	Stream
	Messages, Flows int
	Period          time.Duration // from the first message to the last; 0: unknown
}

// Streams returns the summaries of all streams in order of exporter, version and domain.
func (c *Checkup) Streams() (out []Summary) {
	for s, h := range c.streams.All() {
		out = append(out, Summary{Stream: s, Messages: h.messages, Flows: h.flows, Period: time.Duration(h.last - h.first)})
	}
	slices.SortFunc(out, func(a, b Summary) int { return a.compare(b.Stream) })
	return out
}

// Beyond returns the number of observations that were dropped because their streams were
// beyond the bound of 1 000 streams.
func (c *Checkup) Beyond() int { return c.beyond }

func (s Stream) compare(o Stream) int {
	return cmp.Or(s.Exporter.Compare(o.Exporter), cmp.Compare(s.Version, o.Version), cmp.Compare(s.Domain, o.Domain))
}
