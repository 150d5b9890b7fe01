// Package reference is an exporter that does what RFC 5470 and RFC 7011 say and
// nothing else: it meters packets into flows with an active and an inactive
// timeout, and exports them as NetFlow v5, v9 or IPFIX.
package reference

import (
	"cmp"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"weir/test/accuracy/truth"
)

// Flow end reasons, IANA element 136.
const (
	idleTimeout   = 1
	activeTimeout = 2
	endOfFlow     = 3
)

// A Meter says how packets become flows.
type Meter struct {
	Active, Inactive time.Duration
	EndOnFIN         bool // a FIN or RST ends the flow of its direction
	Rate             int  // 1 packet in Rate is seen, at random; 1 = all
}

// A key is one direction of a conversation.
type key struct {
	proto    uint8
	src, dst netip.AddrPort
}

// A flow is what the meter holds of a key, and later a flow record.
type flow struct {
	key
	first, last int64 // ns since the epoch
	octets      uint64
	packets     uint64
	flags       uint8
	reason      uint8
	expired     int64 // when it ended in the meter, ns since the epoch
}

// A seenPacket is a packet at the observation point.
type seenPacket struct {
	key
	time   int64
	octets int
	flags  uint8
}

// flows returns the flow records of the conversations in the order in which the
// meter exports them. The same conversations give the same flows.
func (m Meter) flows(conversations []*truth.Conversation) []flow {
	random := rand.New(rand.NewPCG(1, 1))
	cache := map[key]*flow{}
	var records []flow
	end := func(f *flow, at int64, reason uint8) {
		f.expired, f.reason = at, reason
		records = append(records, *f)
		delete(cache, f.key)
	}
	endIdle := func(f *flow) { end(f, f.last+int64(m.Inactive), idleTimeout) }
	idle := func(f *flow, now int64) bool { return f.last+int64(m.Inactive) <= now }
	var nextScan int64
	for _, p := range arrivals(conversations) {
		if p.time >= nextScan { // idle flows are looked for every second
			for _, f := range cache {
				if idle(f, p.time) {
					endIdle(f)
				}
			}
			nextScan = p.time + int64(time.Second)
		}
		if m.Rate > 1 && random.IntN(m.Rate) != 0 {
			continue
		}
		f := cache[p.key]
		switch {
		case f != nil && idle(f, p.time):
			endIdle(f)
			f = nil
		case f != nil && f.first+int64(m.Active) <= p.time:
			end(f, p.time, activeTimeout)
			f = nil
		}
		if f == nil {
			f = &flow{key: p.key, first: p.time, last: p.time}
			cache[p.key] = f
		}
		f.last = max(f.last, p.time)
		f.octets += uint64(p.octets)
		f.packets++
		f.flags |= p.flags
		if m.EndOnFIN && p.flags&(truth.FlagFIN|truth.FlagRST) != 0 {
			end(f, p.time, endOfFlow)
		}
	}
	for _, f := range cache {
		endIdle(f)
	}
	slices.SortFunc(records, func(a, b flow) int {
		return cmp.Or(cmp.Compare(a.expired, b.expired), cmp.Compare(a.first, b.first),
			a.src.Compare(b.src), a.dst.Compare(b.dst), cmp.Compare(a.proto, b.proto))
	})
	return records
}

// arrivals returns the packets of all conversations by time.
func arrivals(conversations []*truth.Conversation) []seenPacket {
	var all []seenPacket
	for _, c := range conversations {
		for _, p := range c.Packets {
			k := key{c.Proto, c.A, c.B}
			if !p.FromA {
				k.src, k.dst = c.B, c.A
			}
			all = append(all, seenPacket{key: k, time: p.Time, octets: p.Octets, flags: p.Flags})
		}
	}
	slices.SortStableFunc(all, func(a, b seenPacket) int { return cmp.Compare(a.time, b.time) })
	return all
}
