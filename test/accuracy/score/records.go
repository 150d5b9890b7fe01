package score

import (
	"cmp"
	"net/netip"
	"slices"

	"weir/test/accuracy/truth"
)

// A Record is one direction of an exported flow record.
type Record struct {
	Proto      uint8
	Src, Dst   netip.AddrPort
	Start, End int64 // ns since the epoch
	Resolution int64 // of the times, ns
	Datagram   uint64
	Packets    uint64
	Flags      uint8
}

// An Export is what an exporter sent of a capture. It tells what could be known of a
// conversation by a judge who sees the records alone.
type Export struct {
	sampled bool
	service func(proto uint8, port uint16) bool
	records map[pairKey][]Record
}

// NewExport returns the export of records. service reports whether a port below 32768
// is that of a registered service.
func NewExport(records []Record, sampled bool, service func(proto uint8, port uint16) bool) *Export {
	x := &Export{sampled: sampled, service: service, records: map[pairKey][]Record{}}
	for _, r := range records {
		k := keyOf(r.Proto, r.Src, r.Dst)
		x.records[k] = append(x.records[k], r)
	}
	for _, list := range x.records {
		slices.SortStableFunc(list, func(a, b Record) int { return cmp.Compare(a.Start, b.Start) })
	}
	return x
}

// Knowable reports whether the records have what is needed to get m right. all are the
// conversations of the capture that m.Conversation is one of.
//
// What cannot be known: a conversation whose packets the exporter put into one record
// with packets of another, and an initiator that no record hints at. A hint is a SYN, a
// SYN+ACK of one packet, an earlier start (unsampled), the only private address of the
// two (sampled), or the other side's port when it is more of a service's. A hint that is
// there counts even where another contradicts.
func (x *Export) Knowable(m *Match, all []*truth.Conversation) bool {
	if m.Outcome != One {
		return x.sampled || x.keptApart(m.Conversation, all)
	}
	return x.keptApart(m.Conversation, all) && x.hints(m.Conversation)
}

// keptApart reports whether the records of each direction of c end where c begins and
// where it ends. Records and packets are compared by counts, as times may be coarse.
// Counts of sampled packets say nothing: true.
func (x *Export) keptApart(c *truth.Conversation, all []*truth.Conversation) bool {
	if x.sampled {
		return true
	}
	k := keyOf(c.Proto, c.A, c.B)
	others := slices.DeleteFunc(slices.Clone(all), func(o *truth.Conversation) bool {
		return o == c || keyOf(o.Proto, o.A, o.B) != k
	})
	if len(others) == 0 {
		return true
	}
	for _, src := range []netip.AddrPort{c.A, c.B} {
		sum := uint64(0)
		ends := []uint64{0} // packets until the end of each record
		for _, r := range x.records[k] {
			if r.Src == src {
				sum += r.Packets
				ends = append(ends, sum)
			}
		}
		before, of := uint64(0), sentBy(c, src)
		for _, o := range others {
			if o.Start() <= c.Start() {
				before += sentBy(o, src)
			}
		}
		if !slices.Contains(ends, before) || !slices.Contains(ends, before+of) {
			return false
		}
	}
	return true
}

// sentBy returns the number of packets of c that src sent.
func sentBy(c *truth.Conversation, src netip.AddrPort) (n uint64) {
	for _, p := range c.Packets {
		if p.FromA == (src == c.A) {
			n++
		}
	}
	return n
}

// hints reports whether a record of c hints at its true initiator.
func (x *Export) hints(c *truth.Conversation) bool {
	opener, other := c.A, c.B
	if fromA, _ := c.Opener(); !fromA {
		opener, other = other, opener
	}
	if c.A.Port() != c.B.Port() && x.rank(c.Proto, other.Port()) > x.rank(c.Proto, opener.Port()) {
		return true
	}
	if x.sampled && isPrivate(opener.Addr()) && !isPrivate(other.Addr()) {
		return true
	}
	var there, back side
	start := c.Start()
	end := start
	for _, p := range c.Packets {
		end = max(end, p.Time)
	}
	for _, r := range x.records[keyOf(c.Proto, c.A, c.B)] {
		switch {
		case r.Start > end+int64(sameStart) || r.End < start-int64(sameStart):
		case r.Src == opener:
			there.add(r)
		default:
			back.add(r)
		}
	}
	return there.opens(&back) || !x.sampled && there.isEarlier(&back)
}

// carrierNAT has the addresses of hosts behind a provider's NAT (RFC 6598).
var carrierNAT = netip.MustParsePrefix("100.64.0.0/10")

// isPrivate reports whether a is an address of RFC 1918, RFC 4193 or RFC 6598.
func isPrivate(a netip.Addr) bool { return a.IsPrivate() || carrierNAT.Contains(a.Unmap()) }

// rank orders ports by how likely a server has them: registered services outweigh other
// ports, ports of RFC 6335's system range outweigh those, and ports from 32768, from
// which the usual systems choose those of clients, have the least weight.
func (x *Export) rank(proto uint8, port uint16) int {
	switch {
	case port < 1024:
		return 3
	case port >= 32768:
		return 0
	case x.service(proto, port):
		return 2
	}
	return 1
}

// A side is what the records of one direction of a conversation say.
type side struct {
	first    *Record
	flags    uint8
	answered bool // a record is one packet with SYN and ACK
}

func (s *side) add(r Record) {
	if s.first == nil {
		s.first = &r
	}
	s.flags |= r.Flags
	if r.Packets == 1 && r.Flags&(truth.FlagSYN|truth.FlagACK) == truth.FlagSYN|truth.FlagACK {
		s.answered = true
	}
}

// opens reports whether flags hint at s as the sender of the first SYN.
func (s *side) opens(back *side) bool {
	const handshake = truth.FlagSYN | truth.FlagACK
	return s.flags&handshake == truth.FlagSYN && back.flags&handshake != truth.FlagSYN ||
		back.answered || s.flags != 0 && s.flags&truth.FlagSYN == 0 && back.flags&truth.FlagSYN != 0
}

// isEarlier reports whether s starts before back, by the resolution of their times;
// those of one datagram have one clock, and ms between them.
func (s *side) isEarlier(back *side) bool {
	const fine = int64(1e6) // ns
	if s.first == nil || back.first == nil {
		return false
	}
	tolerance := max(s.first.Resolution, back.first.Resolution)
	if s.first.Datagram == back.first.Datagram {
		tolerance = min(tolerance, fine)
	}
	return back.first.Start-s.first.Start >= tolerance
}
