package page

import (
	"cmp"
	"net/netip"
	"slices"

	"weir/internal/flowkey"
	"weir/internal/pair"
	"weir/internal/saturating"
	"weir/internal/services"
	"weir/pkg/flowpb"
)

const (
	maxConversations = 50_000
	// conversationIdle is the time without a record after which a conversation is no longer in progress, s. enrich
	// reports the connection by then.
	conversationIdle = 300
	// observerIdle is the time without a record after which another observer counts, s.
	observerIdle = 120
)

// A conversationKey identifies a conversation. Its ends are in the order of their addresses and ports, so that both
// directions have the same key.
type conversationKey struct {
	low, high netip.AddrPort
	proto     uint8
}

// An observer is the place where records of a direction are made. A direction that several exporters report, or one
// exporter on two interfaces, counts by the records of one observer only.
type observer struct {
	exporter  netip.Addr
	domain    uint32
	direction flowpb.FlowDirection
}

// A conversation holds what the records of a connection in progress report.
type conversation struct {
	recent
	start, end      int64 // ms since the epoch
	seen            int64 // s since the epoch
	octets, packets uint64
	initiatorIsLow  bool
	direction       string // evidence for the initiator
	service         serviceKey

	low, high, services *ranked // entries of the Board; nil or dropped: to be looked up
	via                 string
	directions          [2]observed // from low to high, from high to low
}

// An observed holds the observer of a direction, and when it last sent a record, s since the epoch; 0: none did.
type observed struct {
	by   observer
	seen int64
}

// A record is a flow record in the form that the Board needs.
type record struct {
	key             conversationKey
	reversed        bool // source is key.high
	biflow          bool
	by              observer
	start, end      int64 // ms since the epoch, by the clock of this host
	octets, packets uint64
	via             string
}

// newRecord returns the record of a flow that arrived at now, ms since the epoch. ok is false if the flow has no
// addresses.
//
// The times of the flow are moved by the difference between the export time and now: exporters with a wrong clock are
// shown at the right time.
func newRecord(m *flowpb.FlowMessage, now int64) (r record, ok bool) {
	r.octets = saturating.Estimate(saturating.Add(m.GetBytes(), m.GetReverseBytes()), m.GetSamplingRate())
	r.packets = saturating.Estimate(saturating.Add(m.GetPackets(), m.GetReversePackets()), m.GetSamplingRate())
	r.start, r.end = now, now
	if start, end := m.GetTimeFlowStartNs(), m.GetTimeFlowEndNs(); start != 0 && end >= start {
		if reverse := m.GetReverseTimeFlowStartNs(); reverse != 0 {
			start = min(start, reverse)
		}
		end = max(end, m.GetReverseTimeFlowEndNs())
		exported := cmp.Or(m.GetTimeExportNs(), end)
		r.start = now - milliseconds(exported, start)
		r.end = now - milliseconds(exported, end)
	}
	src, ok1 := netip.AddrFromSlice(m.GetSrcAddr())
	dst, ok2 := netip.AddrFromSlice(m.GetDstAddr())
	if !ok1 || !ok2 {
		return r, false
	}
	r.key, r.reversed = newKey(uint8(m.GetProto()), src, dst, m.GetSrcPort(), m.GetDstPort())
	r.biflow = m.GetBiflow()
	exporter, _ := netip.AddrFromSlice(m.GetSamplerAddress())
	r.by = observer{exporter: exporter, domain: m.GetObservationDomainId(), direction: m.GetFlowDirection()}
	if in, out := m.GetInIfName(), m.GetOutIfName(); in != "" || out != "" {
		r.via = in + " → " + out
	}
	return r, true
}

// milliseconds returns the time from then to now, both ns since the epoch; 0 if then is later.
func milliseconds(now, then uint64) int64 { return int64((now - min(then, now)) / 1e6) }

// serviceKey returns the service of a conversation: its port that is more likely that of a service, else the lower.
func (k conversationKey) serviceKey() serviceKey {
	return serviceKey{k.proto, pair.LikelyPort(k.proto, k.low.Port(), k.high.Port(), services.HasName)}
}

// String returns the service in the form of weir connections: protocol and name, or protocol and port.
func (k serviceKey) String() string {
	return serviceName(uint32(k.proto), services.Name(k.proto, k.port), uint32(k.port))
}

// newConversation returns the conversation whose first record is r.
func newConversation(r *record) *conversation {
	c := &conversation{
		start: r.start, initiatorIsLow: !r.reversed, direction: "first seen", service: r.key.serviceKey(),
	}
	low, high := r.key.low.Port(), r.key.high.Port()
	if port, ok := pair.ServicePort(r.key.proto, low, high, services.HasName); ok {
		c.direction, c.initiatorIsLow = "service port", port == high
	}
	return c
}

// add adds a record that arrived at now. It returns false and leaves out the octets if another
// observer reports this direction.
func (c *conversation) add(r *record, now *instant) bool {
	i := 0
	if r.reversed {
		i = 1
	}
	o := &c.directions[i]
	if o.seen != 0 && o.by != r.by && now.second-o.seen < observerIdle {
		return false
	}
	*o = observed{by: r.by, seen: now.second}
	if r.biflow {
		c.directions[1-i] = *o
	}
	c.seen = now.second
	c.start, c.end = min(c.start, r.start), max(c.end, r.end)
	c.octets, c.packets = saturating.Add(c.octets, r.octets), saturating.Add(c.packets, r.packets)
	c.recent.add(now, r.octets, r.end-r.start)
	c.via = cmp.Or(c.via, r.via)
	return true
}

// row returns the conversation in the form of the page. octets is its sum over the window that covers the given
// number of seconds.
func (c *conversation) row(k conversationKey, octets uint64, seconds int64) Connection {
	initiator, responder := k.low, k.high
	if !c.initiatorIsLow {
		initiator, responder = responder, initiator
	}
	return Connection{
		Start: c.start, Seconds: float64(c.end-c.start) / 1000, Service: c.service.String(),
		Initiator: endpoint(initiator), Responder: endpoint(responder), initiator: initiator.Addr(),
		responder: responder.Addr(), Octets: c.octets, Packets: c.packets, Rate: rate(octets, seconds), Via: c.via,
		Answered: c.directions[0].seen != 0 && c.directions[1].seen != 0, Direction: c.direction,
	}
}

// endpoint returns the address, and the port if it is not 0.
func endpoint(a netip.AddrPort) string {
	if a.Port() == 0 {
		return a.Addr().String()
	}
	return a.String()
}

// rate returns octets in seconds as bit/s.
func rate(octets uint64, seconds int64) float64 { return float64(octets) * 8 / float64(seconds) }

// inProgress returns the newestShown conversations with the most octets in windows[w], in descending order.
func (b *Board) inProgress(w int, now *instant) []Connection {
	type entry struct {
		key    conversationKey
		c      *conversation
		octets uint64
	}
	best := make([]entry, 0, newestShown+1)
	descending := func(x, y entry) int {
		return cmp.Or(cmp.Compare(y.octets, x.octets), cmp.Compare(y.c.seen, x.c.seen),
			x.key.low.Compare(y.key.low), x.key.high.Compare(y.key.high), cmp.Compare(x.key.proto, y.key.proto))
	}
	for k, c := range b.conversations.All() {
		if now.second-c.seen >= conversationIdle {
			b.conversations.Delete(k)
			continue
		}
		e := entry{k, c, c.sum(w, now)}
		if e.octets == 0 {
			continue // silent in this window
		}
		if i, _ := slices.BinarySearchFunc(best, e, descending); i < newestShown {
			best = slices.Insert(best, i, e)
			best = best[:min(len(best), newestShown)]
		}
	}
	list := make([]Connection, len(best))
	for i, e := range best {
		list[i] = e.c.row(e.key, e.octets, covered(w, now.second, b.began))
		list[i].InitiatorName = b.nameOf(list[i].initiator)
		list[i].ResponderName = b.nameOf(list[i].responder)
	}
	return list
}

// newKey returns the key of a conversation of two ends, and whether the first of them is high. Protocols without ports
// have the ports 0.
func newKey(proto uint8, a, b netip.Addr, portA, portB uint32) (k conversationKey, reversed bool) {
	if !flowkey.HasPorts(proto) {
		portA, portB = 0, 0
	}
	k = conversationKey{netip.AddrPortFrom(a, uint16(portA)), netip.AddrPortFrom(b, uint16(portB)), proto}
	if reversed = k.low.Compare(k.high) > 0; reversed {
		k.low, k.high = k.high, k.low
	}
	return k, reversed
}

// connectionKey returns the key of a connection, and whether its initiator is high; ok is false if it has no addresses.
func connectionKey(c *flowpb.Connection) (k conversationKey, reversed, ok bool) {
	initiator, ok1 := netip.AddrFromSlice(c.GetInitiator().GetAddress())
	responder, ok2 := netip.AddrFromSlice(c.GetResponder().GetAddress())
	if !ok1 || !ok2 {
		return k, false, false
	}
	k, reversed = newKey(uint8(c.GetProtocol()), initiator, responder,
		c.GetInitiator().GetPort(), c.GetResponder().GetPort())
	return k, reversed, true
}
