// Package page serves the page of weir up, which shows the current traffic in a browser. A Board collects flows
// and connections; a Server shows a Board.
package page

import (
	"cmp"
	"math"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"weir/internal/bounded"
	"weir/internal/pair"
	"weir/internal/saturating"
	"weir/internal/services"
	"weir/pkg/flowpb"
)

// Bounds of the content of a Board.
const (
	newestShown    = 25
	topShown       = 10
	maxHosts       = 50_000  // and services; beyond it the smaller half is dropped
	maxConnections = 200_000 // connections whose later reports are recognised
)

// A Board holds the content of the page. It is safe for concurrent use.
type Board struct {
	// KernelDrops returns the number of datagrams that the kernel dropped before they were read; nil: unknown. It
	// must be set before the first call of Snapshot.
	KernelDrops func() uint64

	now func() time.Time

	mu            sync.Mutex // guards the fields below
	series        series
	traffic       recent // of all flows
	began         int64  // s since the epoch
	totals        Totals
	hosts         map[netip.Addr]*ranked
	services      map[serviceKey]*ranked
	conversations bounded.Map[conversationKey, *conversation]
	reported      bounded.Map[string, uint32] // connection ID: greatest version
	newest        []Connection                // in order of arrival, newest first
	exporters     []Exporter                  // nil: not known yet
}

// A ranked holds the traffic of a host, sent or received, or of a service.
type ranked struct {
	recent
	name    string // DNS name of the host
	dropped bool   // no longer in the map
}

// A serviceKey identifies a service: port 0 stands for all traffic of a protocol without ports.
type serviceKey struct {
	proto uint8
	port  uint16
}

// Totals are sums since the start.
type Totals struct {
	Flows       uint64 `json:"flows"`
	Octets      uint64 `json:"octets"` // as exported, multiplied by a known sampling rate
	Packets     uint64 `json:"packets"`
	Connections uint64 `json:"connections"`
	KernelDrops uint64 `json:"kernel_drops"` // datagrams dropped by the kernel
}

// A Share holds the traffic of a host or service within the window of the ranking.
type Share struct {
	Name   string  `json:"name"`           // address, or service
	Host   string  `json:"host,omitempty"` // DNS name
	Octets uint64  `json:"octets"`
	Rate   float64 `json:"rate"` // bit/s
}

// A Connection is a connection in a list of the page.
type Connection struct {
	ID            string  `json:"-"`
	Start         int64   `json:"start"` // ms since the epoch, 0: unknown
	Seconds       float64 `json:"seconds"`
	Service       string  `json:"service"`
	Initiator     string  `json:"initiator"`
	InitiatorName string  `json:"initiator_name,omitempty"`
	Responder     string  `json:"responder"`
	ResponderName string  `json:"responder_name,omitempty"`
	Octets        uint64  `json:"octets"`
	Packets       uint64  `json:"packets"`
	Rate          float64 `json:"rate"`          // bit/s within the window of the ranking; only in progress
	Via           string  `json:"via,omitempty"` // interfaces
	Answered      bool    `json:"answered"`
	Direction     string  `json:"direction"` // evidence for the initiator

	initiator, responder netip.Addr
}

// An Exporter is an export stream in the list of the page.
type Exporter struct {
	Exporter  string  `json:"exporter"`
	Name      string  `json:"name,omitempty"`
	Version   uint16  `json:"version"`
	Domain    uint32  `json:"domain"`
	Flows     uint64  `json:"flows"`
	PerSecond float64 `json:"flows_per_second"`
	Lost      string  `json:"lost"` // text: number and unit, since exporters count different units
	Templates string  `json:"templates"`
	LastSeen  string  `json:"last_seen"`
	Silent    bool    `json:"silent"`
}

// NewBoard returns an empty Board. now returns the current time.
func NewBoard(now func() time.Time) *Board {
	return &Board{
		now: now, began: now().Unix(), hosts: map[netip.Addr]*ranked{}, services: map[serviceKey]*ranked{},
		conversations: bounded.New[conversationKey, *conversation](maxConversations),
		reported:      bounded.New[string, uint32](maxConnections),
	}
}

// Flows adds flows that arrived now. The octets and packets of a firewall's update records (NSEL) are skipped,
// since the teardown record repeats them.
func (b *Board) Flows(list []*flowpb.FlowMessage) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now().UnixMilli()
	at := newInstant(now / 1000)
	for _, m := range list {
		r, ok := newRecord(m, now)
		if pair.IsUpdate(m) {
			r.octets, r.packets = 0, 0
		}
		b.totals.Flows++
		b.totals.Octets = saturating.Add(b.totals.Octets, r.octets)
		b.totals.Packets = saturating.Add(b.totals.Packets, r.packets)
		b.series.add(now, r.start, r.end, r.octets)
		b.traffic.add(&at, r.octets, r.end-r.start)
		if ok && r.octets > 0 {
			b.rank(&r, &at)
		}
	}
}

// rank adds a record to its conversation, hosts and service. b.mu must be held.
func (b *Board) rank(r *record, now *instant) {
	c := b.conversations.Get(r.key)
	if c == nil {
		c = newConversation(r)
		b.conversations.PutOrFree(r.key, c, func(c *conversation) bool { return now.second-c.seen >= conversationIdle })
	}
	if !c.add(r, now) {
		return // a second exporter reports the same traffic
	}
	if c.low == nil || c.low.dropped {
		c.low = entryOf(b.hosts, r.key.low.Addr(), now)
	}
	if c.high == nil || c.high.dropped {
		c.high = entryOf(b.hosts, r.key.high.Addr(), now)
	}
	if c.services == nil || c.services.dropped {
		c.services = entryOf(b.services, c.service, now)
	}
	duration := r.end - r.start
	c.low.add(now, r.octets, duration)
	if c.high != c.low {
		c.high.add(now, r.octets, duration)
	}
	c.services.add(now, r.octets, duration)
}

// Connections adds reports of connections. An older version of a report is ignored.
func (b *Board) Connections(list []*flowpb.Connection) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range list {
		id := string(c.GetConnectionId())
		version, again := b.reported.Lookup(id)
		if again && version >= c.GetVersion() {
			continue
		}
		b.reported.PutOrForget(id, c.GetVersion()) // a later report of a forgotten connection is counted again
		if !again {
			b.totals.Connections++
		}
		b.name(c.GetInitiator())
		b.name(c.GetResponder())
		key, reversed, ok := connectionKey(c)
		if c.GetFinal() {
			b.list(row(c), again)
			if ok {
				b.conversations.Delete(key)
			}
		} else if inProgress := b.conversations.Get(key); ok && inProgress != nil {
			inProgress.initiatorIsLow = !reversed
			inProgress.direction = direction(c)
		}
	}
}

// name notes the DNS name of a host whose traffic is ranked. b.mu must be held.
func (b *Board) name(e *flowpb.Endpoint) {
	a, ok := netip.AddrFromSlice(e.GetAddress())
	if h := b.hosts[a]; ok && h != nil && e.GetName() != "" {
		h.name = e.GetName()
	}
}

// nameOf returns the DNS name of a host; empty: unknown. b.mu must be held.
func (b *Board) nameOf(a netip.Addr) string {
	if h := b.hosts[a]; h != nil {
		return h.name
	}
	return ""
}

// entryOf returns the traffic of key and creates it if needed. At maxHosts entries it drops the entries up to the
// median of the octets of the longest window.
func entryOf[K comparable](m map[K]*ranked, key K, now *instant) *ranked {
	s, ok := m[key]
	if ok {
		return s
	}
	if len(m) >= maxHosts {
		const longest = len(windows) - 1
		all := make([]uint64, 0, len(m))
		for _, s := range m {
			all = append(all, s.sum(longest, now))
		}
		slices.Sort(all)
		middle := all[len(all)/2]
		for k, s := range m {
			if s.sum(longest, now) <= middle {
				s.dropped = true
				delete(m, k)
			}
		}
	}
	s = &ranked{}
	m[key] = s
	return s
}

// list puts a connection at the head of the newest connections. b.mu must be held.
func (b *Board) list(c Connection, again bool) {
	if again {
		b.newest = slices.DeleteFunc(b.newest, func(o Connection) bool { return o.ID == c.ID })
	}
	b.newest = slices.Insert(b.newest, 0, c)
	b.newest = b.newest[:min(len(b.newest), newestShown)]
}

// serviceOf returns the service in the form of weir connections: protocol and name, or protocol and port.
func serviceOf(c *flowpb.Connection) string {
	port := c.GetResponder().GetPort()
	if c.IcmpType != nil {
		port = 0
	}
	return serviceName(c.GetProtocol(), c.GetService(), port)
}

// serviceName returns protocol and name, or protocol and port if the service has no name, or the protocol alone.
func serviceName(proto uint32, name string, port uint32) string {
	s := services.Protocol(proto)
	switch {
	case name != "":
		return s + "/" + name
	case port == 0:
		return s
	default:
		return s + "/" + number(port)
	}
}

// Exporters replaces the list of exporters. A rate that is infinite or not a number is shown as 0.
func (b *Board) Exporters(list []Exporter) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.exporters = append([]Exporter{}, list...) // not nil: known
	for i := range b.exporters {
		b.exporters[i].PerSecond = finite(b.exporters[i].PerSecond)
	}
}

// finite returns f, or 0 when f is infinite or not a number: encoding/json refuses a
// whole document for one such value.
func finite(f float64) float64 {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return 0
	}
	return f
}

// A Snapshot is the message of the server to the page.
type Snapshot struct {
	Now    int64       `json:"now"`    // s since the epoch
	Series [][3]uint64 `json:"series"` // s since the epoch, flows, octets: whole seconds, in order
	// Incomplete is the number of newest seconds for which exporters have not reported all octets yet.
	Incomplete int64        `json:"incomplete"`
	Window     int64        `json:"window"` // s over which talkers, services and rates are taken
	Rate       float64      `json:"rate"`   // bit/s, mean of the last minute
	FlowRate   float64      `json:"flow_rate"`
	Totals     Totals       `json:"totals"`
	Talkers    []Share      `json:"talkers"`
	Services   []Share      `json:"services"`
	InProgress []Connection `json:"in_progress"`
	Newest     []Connection `json:"connections"` // ended
	Exporters  []Exporter   `json:"exporters"`   // null: not known yet
}

// Snapshot returns the current content, with the series of at most the given number of complete seconds. Talkers and
// services are ranked over windows[w].
func (b *Board) Snapshot(seconds, w int) Snapshot {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now().Unix()
	at := newInstant(now)
	oldest := max(now-int64(min(seconds, seriesSeconds-1)), b.firstSecond(now))
	s := Snapshot{
		Now: now, Series: b.series.points(oldest, now), Incomplete: b.series.incomplete(now), Window: windows[w],
		Rate: rate(b.traffic.sum(0, &at), covered(0, now, b.began)), FlowRate: b.series.flowRate(now, b.began),
		Totals: b.totals, InProgress: b.inProgress(w, &at), Newest: append([]Connection{}, b.newest...),
		Exporters: slices.Clone(b.exporters),
	}
	if b.KernelDrops != nil {
		s.Totals.KernelDrops = b.KernelDrops()
	}
	over := covered(w, now, b.began)
	s.Talkers = top(b.hosts, w, &at, over, func(a netip.Addr) Share {
		return Share{Name: a.String(), Host: b.nameOf(a)}
	})
	s.Services = top(b.services, w, &at, over, func(k serviceKey) Share { return Share{Name: k.String()} })
	return s
}

// firstSecond returns the first second of the series, which is earlier than the start of the program if a flow began
// earlier.
func (b *Board) firstSecond(now int64) int64 {
	for at := now - seriesSeconds + 1; at < b.began; at++ {
		if b.series.seconds[at%seriesSeconds].at == at {
			return at
		}
	}
	return b.began
}

// top returns the topShown entries with the most octets in windows[w], in descending order. seconds is the time that
// the sums cover.
func top[K comparable](m map[K]*ranked, w int, now *instant, seconds int64, name func(K) Share) []Share {
	type entry struct {
		key    K
		octets uint64
	}
	best := make([]entry, 0, topShown+1)
	descending := func(a, b entry) int {
		if a.octets != b.octets {
			return cmp.Compare(b.octets, a.octets)
		}
		return strings.Compare(name(a.key).Name, name(b.key).Name)
	}
	for k, s := range m {
		e := entry{k, s.sum(w, now)}
		if e.octets == 0 || len(best) == topShown && e.octets < best[topShown-1].octets {
			continue
		}
		if i, _ := slices.BinarySearchFunc(best, e, descending); i < topShown {
			best = slices.Insert(best, i, e)
			best = best[:min(len(best), topShown)]
		}
	}
	list := make([]Share, len(best))
	for i, e := range best {
		list[i] = name(e.key)
		list[i].Octets, list[i].Rate = e.octets, rate(e.octets, seconds)
	}
	return list
}
