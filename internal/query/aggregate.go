package query

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"weir/internal/pair"
	"weir/internal/saturating"
)

// MaxGroups is the default of the number of groups of an Aggregation.
const MaxGroups = 1_000_000

// A Sum holds sums over messages.
type Sum struct {
	Flows       uint64 // records
	Connections uint64 // messages, of connections
	Packets     uint64 // times the sampling rate
	Octets      uint64 // times the sampling rate
	Estimated   bool   // a message is from sampled packets
	First, Last uint64 // earliest start and latest end, ns since the epoch; 0: unknown
}

// A Group is the sum of the messages with the same values of the keys.
type Group struct {
	Sum
	Key string // see Aggregation.Values
}

// An Aggregation sums messages by keys. It is used by one goroutine at a time.
type Aggregation struct {
	Total   Sum    // of all messages that match
	Beyond  Sum    // of messages whose groups exceeded the limit
	Refused uint64 // messages that could not be read

	schema *Schema
	keys   []Key
	reader *Reader
	match  Match
	groups map[string]*Group
	limit  int

	slots    [2][]Slot // of the keys, from the side of the source and of the destination
	sided    bool
	counters counters
	scratch  []byte
	before   []byte
}

// counters are the slots of the fields that are summed.
type counters struct {
	flows, packets, octets, rate, start, end, update []Slot
}

// NewAggregation returns an Aggregation of the messages of schema that match a filter, with at most limit groups.
// filter may be nil. raw: counters are not multiplied by sampling rates.
func NewAggregation(schema *Schema, keys []Key, filter *Filter, limit int, raw bool) (*Aggregation, error) {
	a := &Aggregation{schema: schema, keys: keys, reader: NewReader(schema), groups: map[string]*Group{}, limit: limit}
	if filter != nil {
		var err error
		if a.match, err = filter.Compile(a.reader); err != nil {
			return nil, err
		}
	}
	for i := range keys {
		k := &keys[i]
		a.sided = a.sided || k.IsSided()
		a.slots[0] = append(a.slots[0], a.reader.Slot(k.source))
		a.slots[1] = append(a.slots[1], a.reader.Slot(cmp.Or(k.destination, k.source)))
	}
	slots := func(names ...string) (list []Slot) {
		for _, name := range names {
			list = append(list, a.reader.Slot(schema.fields[name]))
		}
		return list
	}
	c := &a.counters
	if schema == Flows() {
		c.packets, c.octets = slots("packets", "reverse_packets"), slots("bytes", "reverse_bytes")
		c.start = slots("time_flow_start_ns", "reverse_time_flow_start_ns")
		c.end = slots("time_flow_end_ns", "reverse_time_flow_end_ns")
		c.update = slots("firewall_event", "biflow")
		if !raw {
			c.rate = slots("sampling_rate")
		}
		return a, nil
	}
	c.flows = slots("forward.records", "reverse.records")
	c.packets, c.octets = slots("forward.packets", "reverse.packets"), slots("forward.octets", "reverse.octets")
	if !raw {
		c.packets = append(c.packets, slots("forward.packets_est", "reverse.packets_est")...)
		c.octets = append(c.octets, slots("forward.octets_est", "reverse.octets_est")...)
		c.rate = slots("sampling_rate")
	}
	c.start, c.end = slots("start_unix_ns"), slots("end_unix_ns")
	return a, nil
}

// Add adds a message, as protobuf octets. It allocates for new groups only.
func (a *Aggregation) Add(wire []byte) {
	row, err := a.reader.Read(wire)
	if err != nil {
		a.Refused++
		return
	}
	if a.match != nil && !a.match(row) {
		return
	}
	s := a.sum(row)
	a.Total.add(&s)
	a.scratch = a.key(a.scratch[:0], row, 0)
	a.addTo(a.scratch, &s)
	if a.sided {
		a.before = a.key(a.before[:0], row, 1)
		a.addTo(a.before, &s)
	}
}

// sum returns the counters of a message.
func (a *Aggregation) sum(r *Row) (s Sum) {
	c := &a.counters
	s.Flows = 1
	for i, slot := range c.start {
		if n := r.Uint(slot); n != 0 && (s.First == 0 || n < s.First) {
			s.First = n
		}
		s.Last = max(s.Last, r.Uint(c.end[i]))
	}
	rate := uint64(1)
	if len(c.rate) > 0 {
		rate = max(r.Uint(c.rate[0]), 1)
		s.Estimated = rate > 1
	}
	if a.schema == Flows() {
		if pair.IsUpdateEvent(uint32(r.Uint(c.update[0])), r.Uint(c.update[1]) != 0) {
			return s // the teardown counts its octets, too
		}
		s.Packets = saturating.Mul(sum2(r, c.packets, 0), rate)
		s.Octets = saturating.Mul(sum2(r, c.octets, 0), rate)
		return s
	}
	s.Connections, s.Flows = 1, sum2(r, c.flows, 0)
	s.Packets, s.Octets = sum2(r, c.packets, 0), sum2(r, c.octets, 0)
	if len(c.packets) > 2 { // estimates, where there are any
		s.Packets = max(s.Packets, sum2(r, c.packets, 2))
		s.Octets = max(s.Octets, sum2(r, c.octets, 2))
	}
	return s
}

// sum2 returns the sum of two slots.
func sum2(r *Row, slots []Slot, from int) uint64 {
	return saturating.Add(r.Uint(slots[from]), r.Uint(slots[from+1]))
}

// key appends the key of a message's group, from the given side.
func (a *Aggregation) key(b []byte, r *Row, side int) []byte {
	for i := range a.keys {
		b = a.keys[i].append(b, r, a.slots[side][i])
	}
	return b
}

func (a *Aggregation) addTo(key []byte, s *Sum) {
	g := a.groups[string(key)]
	if g == nil {
		if len(a.groups) >= a.limit {
			a.Beyond.add(s)
			return
		}
		g = &Group{Key: string(key)}
		a.groups[g.Key] = g
	}
	g.add(s)
}

func (s *Sum) add(o *Sum) {
	s.Flows, s.Connections = saturating.Add(s.Flows, o.Flows), saturating.Add(s.Connections, o.Connections)
	s.Packets, s.Octets = saturating.Add(s.Packets, o.Packets), saturating.Add(s.Octets, o.Octets)
	s.Estimated = s.Estimated || o.Estimated
	if o.First != 0 && (s.First == 0 || o.First < s.First) {
		s.First = o.First
	}
	s.Last = max(s.Last, o.Last)
}

// Duration returns the time from the first start to the last end, ms.
func (s *Sum) Duration() uint64 { return duration([]uint64{s.First, s.Last}) }

// BitRate returns the bit/s from the first start to the last end; 0 without a duration.
func (s *Sum) BitRate() uint64 { return perSecond(s.Octets, 8000, s.Duration()) }

// PacketRate returns the packets a second; 0 without a duration.
func (s *Sum) PacketRate() uint64 { return perSecond(s.Packets, 1000, s.Duration()) }

// OctetsPerPacket returns octets ÷ packets; 0 without packets.
func (s *Sum) OctetsPerPacket() uint64 { return octetsPerPacket([]uint64{s.Octets, s.Packets}) }

// An Order is a measure by which groups are sorted.
type Order struct {
	Name      string
	ascending bool
	of        func(*Sum) uint64
}

// orders are the measures by their names.
var orders = map[string]Order{
	"octets":      {"octets", false, func(s *Sum) uint64 { return s.Octets }},
	"packets":     {"packets", false, func(s *Sum) uint64 { return s.Packets }},
	"flows":       {"flows", false, func(s *Sum) uint64 { return s.Flows }},
	"connections": {"connections", false, func(s *Sum) uint64 { return s.Connections }},
	"duration":    {"duration", false, (*Sum).Duration},
	"bps":         {"bps", false, (*Sum).BitRate},
	"pps":         {"pps", false, (*Sum).PacketRate},
	"bpp":         {"bpp", false, (*Sum).OctetsPerPacket},
	"first":       {"first", true, func(s *Sum) uint64 { return s.First }},
	"last":        {"last", true, func(s *Sum) uint64 { return s.Last }},
}

// ParseOrder returns the Order of a name. first (tstart) and last (tend) sort upwards, all others downwards.
func ParseOrder(name string) (Order, error) {
	lower := strings.ToLower(name)
	for short, long := range map[string]string{"bytes": "octets", "rate": "bps", "tstart": "first", "tend": "last"} {
		if lower == short {
			lower = long
		}
	}
	o, ok := orders[lower]
	if !ok {
		return o, fmt.Errorf("%q: want octets, packets, flows, connections, duration, bps, pps, bpp, first or last", name)
	}
	return o, nil
}

// Groups returns the number of groups.
func (a *Aggregation) Groups() int { return len(a.groups) }

// Values returns the values of a group's keys.
func (a *Aggregation) Values(g *Group) []KeyValue { return split(a.keys, g.Key) }

// Top returns the first limit groups by order, all if limit is 0, and the sum of the others. Groups of equal measure
// are in the order of their keys. With the key time as the first, groups are in the order of time, and limit applies to
// each step.
func (a *Aggregation) Top(order Order, limit int) (top []*Group, others Sum) {
	all := make([]*Group, 0, len(a.groups))
	for _, g := range a.groups {
		all = append(all, g)
	}
	stepped := len(a.keys) > 0 && a.keys[0].Step > 0
	const timeOctets = 8 // at the start of a key
	slices.SortFunc(all, func(x, y *Group) int {
		if stepped && x.Key[:timeOctets] != y.Key[:timeOctets] {
			return strings.Compare(x.Key, y.Key)
		}
		m, n := order.of(&x.Sum), order.of(&y.Sum)
		if !order.ascending {
			m, n = n, m
		}
		return cmp.Or(cmp.Compare(m, n), strings.Compare(x.Key, y.Key))
	})
	if limit > 0 {
		inStep := 0
		for i, g := range all {
			if i == 0 || stepped && g.Key[:timeOctets] != all[i-1].Key[:timeOctets] {
				inStep = 0
			}
			if inStep++; inStep <= limit {
				top = append(top, g)
			} else {
				others.add(&g.Sum)
			}
		}
	} else {
		top = all
	}
	others.add(&a.Beyond)
	return top, others
}
