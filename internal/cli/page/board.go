// Package page serves the page of weir up, which shows the current traffic in a browser. A Board collects flows
// and connections; a Server shows a Board.
package page

import (
	"cmp"
	"math"
	"net/netip"
	"slices"
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
	seriesSeconds  = 600
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

	mu          sync.Mutex // guards the fields below
	seconds     [seriesSeconds]second
	began       int64 // s since the epoch
	totals      Totals
	hosts       map[netip.Addr]*Share
	services    map[string]*Share
	connections bounded.Map[string, counted]
	newest      []Connection // in order of arrival, newest first
	exporters   []Exporter
}

// A second holds the traffic that arrived within a second.
type second struct {
	at            int64 // s since the epoch
	flows, octets uint64
}

// Totals are sums since the start.
type Totals struct {
	Flows       uint64 `json:"flows"`
	Octets      uint64 `json:"octets"` // as exported, multiplied by a known sampling rate
	Packets     uint64 `json:"packets"`
	Connections uint64 `json:"connections"`
	KernelDrops uint64 `json:"kernel_drops"` // datagrams dropped by the kernel
}

// A Share holds the traffic of a host or service in the connections.
type Share struct {
	Name        string `json:"name"`           // address, or service
	Host        string `json:"host,omitempty"` // DNS name
	Octets      uint64 `json:"octets"`
	Connections uint64 `json:"connections"`
}

// A Connection is a connection in the list of the page.
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
	Via           string  `json:"via,omitempty"` // interfaces
	Answered      bool    `json:"answered"`
	Final         bool    `json:"final"`
	Direction     string  `json:"direction"` // evidence for the initiator
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

// counted holds the part of the totals that a connection contributed.
type counted struct {
	version         uint32
	octets, packets uint64
}

// NewBoard returns an empty Board. now returns the current time.
func NewBoard(now func() time.Time) *Board {
	return &Board{
		now: now, began: now().Unix(),
		hosts: map[netip.Addr]*Share{}, services: map[string]*Share{},
		connections: bounded.New[string, counted](maxConnections),
	}
}

// Flows adds flows that arrived now. The octets and packets of a firewall's update records (NSEL) are skipped,
// since the teardown record repeats them.
func (b *Board) Flows(list []*flowpb.FlowMessage) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.second(b.now().Unix())
	for _, m := range list {
		octets := saturating.Estimate(saturating.Add(m.GetBytes(), m.GetReverseBytes()), m.GetSamplingRate())
		packets := saturating.Estimate(saturating.Add(m.GetPackets(), m.GetReversePackets()), m.GetSamplingRate())
		s.flows++
		b.totals.Flows++
		if pair.IsUpdate(m) {
			continue
		}
		s.octets = saturating.Add(s.octets, octets)
		b.totals.Octets = saturating.Add(b.totals.Octets, octets)
		b.totals.Packets = saturating.Add(b.totals.Packets, packets)
	}
}

// second returns the entry of the second at, in s since the epoch, and resets an entry of an earlier second. b.mu
// must be held.
func (b *Board) second(at int64) *second {
	s := &b.seconds[at%seriesSeconds]
	if s.at != at {
		*s = second{at: at}
	}
	return s
}

// Connections adds reports of connections. A report replaces an earlier report of the same connection; an older
// version is ignored.
func (b *Board) Connections(list []*flowpb.Connection) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range list {
		id := string(c.GetConnectionId())
		was, again := b.connections.Lookup(id)
		if again && was.version >= c.GetVersion() {
			continue
		}
		is := counted{
			version: c.GetVersion(),
			octets:  saturating.Add(estimated(c.GetForward()), estimated(c.GetReverse())),
			packets: saturating.Add(c.GetForward().GetPackets(), c.GetReverse().GetPackets()),
		}
		b.connections.PutOrForget(id, is) // a later report of a forgotten connection is counted again
		if !again {
			b.totals.Connections++
		}
		more := is.octets - min(was.octets, is.octets)
		for _, e := range []*flowpb.Endpoint{c.GetInitiator(), c.GetResponder()} {
			if a, ok := netip.AddrFromSlice(e.GetAddress()); ok {
				h := share(b.hosts, a, a.String())
				h.Host = cmp.Or(e.GetName(), h.Host)
				h.add(more, again)
			}
		}
		share(b.services, serviceOf(c), serviceOf(c)).add(more, again)
		b.list(row(c), again)
	}
}

func estimated(t *flowpb.Traffic) uint64 { return max(t.GetOctets(), t.GetOctetsEst()) }

// share returns the Share of key and creates it if needed. At maxHosts entries it drops the entries up to the
// median of octets.
func share[K comparable](m map[K]*Share, key K, name string) *Share {
	s, ok := m[key]
	if ok {
		return s
	}
	if len(m) >= maxHosts {
		all := make([]uint64, 0, len(m))
		for _, s := range m {
			all = append(all, s.Octets)
		}
		slices.Sort(all)
		middle := all[len(all)/2]
		for k, s := range m {
			if s.Octets <= middle {
				delete(m, k)
			}
		}
	}
	s = &Share{Name: name}
	m[key] = s
	return s
}

func (s *Share) add(octets uint64, again bool) {
	s.Octets = saturating.Add(s.Octets, octets)
	if !again {
		s.Connections++
	}
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
	s := services.Protocol(c.GetProtocol())
	switch port := c.GetResponder().GetPort(); {
	case c.GetService() != "":
		return s + "/" + c.GetService()
	case c.IcmpType != nil || port == 0:
		return s
	default:
		return s + "/" + number(port)
	}
}

// Exporters replaces the list of exporters. A rate that is infinite or not a number is shown as 0.
func (b *Board) Exporters(list []Exporter) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.exporters = slices.Clone(list)
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
	Now         int64        `json:"now"`    // s since the epoch
	Series      [][3]uint64  `json:"series"` // s since the epoch, flows, octets: whole seconds, in order
	Totals      Totals       `json:"totals"`
	Talkers     []Share      `json:"talkers"`
	Services    []Share      `json:"services"`
	Connections []Connection `json:"connections"`
	Exporters   []Exporter   `json:"exporters"`
}

// Snapshot returns the current content, with the series of at most the given number of complete seconds.
func (b *Board) Snapshot(seconds int) Snapshot {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now().Unix()
	s := Snapshot{
		Now: now, Series: [][3]uint64{}, Totals: b.totals, Talkers: top(b.hosts), Services: top(b.services),
		Connections: append([]Connection{}, b.newest...), Exporters: append([]Exporter{}, b.exporters...),
	}
	if b.KernelDrops != nil {
		s.Totals.KernelDrops = b.KernelDrops()
	}
	for at := max(now-int64(min(seconds, seriesSeconds-1)), b.began); at < now; at++ {
		p := [3]uint64{uint64(at)}
		if x := b.seconds[at%seriesSeconds]; x.at == at {
			p[1], p[2] = x.flows, x.octets
		}
		s.Series = append(s.Series, p)
	}
	return s
}

// top returns the topShown largest shares in descending order.
func top[K comparable](m map[K]*Share) []Share {
	best := make([]Share, 0, topShown+1)
	larger := func(a, b Share) int {
		return cmp.Or(cmp.Compare(b.Octets, a.Octets), cmp.Compare(b.Connections, a.Connections),
			cmp.Compare(a.Name, b.Name))
	}
	for _, s := range m {
		i, _ := slices.BinarySearchFunc(best, *s, larger)
		if i < topShown {
			best = slices.Insert(best, i, *s)
			best = best[:min(len(best), topShown)]
		}
	}
	return best
}
