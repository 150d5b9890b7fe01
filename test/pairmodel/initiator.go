package pairmodel

import (
	"net/netip"
	"slices"

	"weir/pkg/flowpb"
)

// initiator goes down the list of docs/connections.md, "The initiator". toHi and toLo are nil where not seen.
func (m *Model) initiator(c *connection, toHi, toLo *Direction) (method flowpb.DirectionMethod, lo bool) {
	there, back := toHi, toLo
	if there == nil {
		there = &Direction{}
	}
	if back == nil {
		back = &Direction{}
	}
	// Evidence: addresses, the exporter's word, ICMP types, single packets.
	toGroup, fromGroup := isGroup(c.Hi) && toLo == nil, isGroup(c.Lo) && toHi == nil
	if toGroup != fromGroup {
		return flowpb.DirectionMethod_DIRECTION_METHOD_MULTICAST, toGroup
	}
	for _, r := range c.records {
		if r.word != 0 {
			return flowpb.DirectionMethod_DIRECTION_METHOD_EXPORTER, r.word == flowpb.BiflowDirection_BIFLOW_DIRECTION_INITIATOR
		}
	}
	if c.Proto == 1 || c.Proto == 58 {
		if c.oneWay() {
			return flowpb.DirectionMethod_DIRECTION_METHOD_ICMP, true
		}
		if a, b := asks(c.Proto, c.Lo.Port), asks(c.Proto, c.Hi.Port); a != b {
			return flowpb.DirectionMethod_DIRECTION_METHOD_ICMP, a
		}
	}
	sampled := there.sampled || back.sampled
	both := toHi != nil && toLo != nil
	if c.Proto == 6 {
		if opens, known := c.syn(there.Flags, back.Flags, both && !sampled); known {
			return flowpb.DirectionMethod_DIRECTION_METHOD_TCP_SYN, opens
		}
	}
	// Times: evidence of the first packet where it was counted, else a guess below.
	ahead := back.Start - there.Start // of lo
	isEarlier := both && max(ahead, -ahead) >= m.startTolerance(there, back)
	begins := c.Proto != 6 || (there.Flags|back.Flags)&syn != 0
	if isEarlier && begins && !sampled {
		return flowpb.DirectionMethod_DIRECTION_METHOD_FIRST_SEEN, ahead > 0
	}
	// Guesses.
	hasPorts := c.Proto == 6 || c.Proto == 17 || c.Proto == 132
	if a, b := m.weight(c.Proto, c.Lo.Port), m.weight(c.Proto, c.Hi.Port); hasPorts && a != b {
		return flowpb.DirectionMethod_DIRECTION_METHOD_SERVICE_PORT, a < b
	}
	differ := hasPorts && c.Lo.Port != c.Hi.Port
	inside, outside := ofPrivateNetwork(c.Lo), ofPrivateNetwork(c.Hi)
	switch {
	case sampled && hasPorts && inside != outside:
		return flowpb.DirectionMethod_DIRECTION_METHOD_PRIVATE_ADDRESS, inside
	case sampled && differ:
		return flowpb.DirectionMethod_DIRECTION_METHOD_LOWER_PORT, c.Lo.Port > c.Hi.Port
	case isEarlier:
		return flowpb.DirectionMethod_DIRECTION_METHOD_FIRST_SEEN, ahead > 0
	case !both && (!differ || c.Proto != 6 || there.Flags&syn+back.Flags&syn == 0 || there.Flags&ack+back.Flags&ack == 0):
		return flowpb.DirectionMethod_DIRECTION_METHOD_ONLY_SENDER, toHi != nil
	case differ:
		return flowpb.DirectionMethod_DIRECTION_METHOD_LOWER_PORT, c.Lo.Port > c.Hi.Port
	}
	return flowpb.DirectionMethod_DIRECTION_METHOD_ARBITRARY, ahead >= 0
}

// syn returns whether lo opened a TCP connection by its SYNs. counted says that both directions were seen and every
// packet of them.
func (c *connection) syn(there, back uint32, counted bool) (lo, known bool) {
	alone := func(flags uint32) bool { return flags&syn != 0 && flags&ack == 0 }
	if alone(there) != alone(back) {
		return alone(there), true
	}
	loAnswers, hiAnswers := false, false
	for _, p := range c.parts {
		if p.packets == 1 && p.flags&(fin|syn|rst|psh|ack) == syn|ack {
			loAnswers, hiAnswers = loAnswers || p.toHi, hiAnswers || !p.toHi
		}
	}
	if loAnswers != hiAnswers {
		return hiAnswers, true
	}
	flagged := there != 0 && back != 0
	if loHas, hiHas := there&syn != 0, back&syn != 0; counted && flagged && loHas != hiHas {
		return hiHas, true
	}
	return false, false
}

// startTolerance is how much two starts must differ to be in order.
func (m *Model) startTolerance(a, b *Direction) int64 {
	t := max(a.resolution, b.resolution)
	if a.datagram == b.datagram && a.datagram != 0 {
		t = max(a.fine, b.fine)
	}
	if a.exporter != b.exporter {
		t += int64(m.c.ClockSkew)
	}
	return t
}

// privateNetworks are those of RFC 1918, RFC 6598 and RFC 4193.
var privateNetworks = []netip.Prefix{
	netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("192.168.0.0/16"),
	netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("fc00::/7"),
}

func ofPrivateNetwork(e End) bool {
	a := netip.AddrFrom16(e.Addr).Unmap()
	return slices.ContainsFunc(privateNetworks, func(p netip.Prefix) bool { return p.Contains(a) })
}

// weight orders ports by how likely a server has them: the list of SERVICE_PORT from its end.
func (m *Model) weight(proto uint8, port uint16) int {
	hasName := m.c.Registered == nil || m.c.Registered(proto, port)
	lists := []bool{
		proto != 6 || port != 20, // the FTP server's end of a data connection that it opens
		port >= 512 && port <= 1023,
		port >= 1024 && port <= 32767 && m.c.Registered != nil && hasName,
		port >= 512 && port <= 1023 && hasName,
		port == 2049,
		port >= 1 && port <= 511,
	}
	if !lists[0] {
		return -1
	}
	for w := len(lists) - 1; w > 0; w-- {
		if lists[w] {
			return w
		}
	}
	return 0
}

// asks is true for ICMP types that ask for an answer.
func asks(proto uint8, icmpType uint16) bool {
	if proto == 1 {
		return icmpType == 8 || icmpType == 13
	}
	return icmpType == 128 || icmpType == 135
}

// state is the state of a TCP connection; o is the initiator's direction, r the responder's.
func state(o, r *Direction) flowpb.ConnState {
	sampled := o != nil && o.sampled || r != nil && r.sampled
	s := stateOfAll(o, r)
	certain := s == flowpb.ConnState_CONN_STATE_SF || s == flowpb.ConnState_CONN_STATE_OTH ||
		s == flowpb.ConnState_CONN_STATE_RSTO || s == flowpb.ConnState_CONN_STATE_RSTR
	if sampled && !certain {
		return flowpb.ConnState_CONN_STATE_UNKNOWN
	}
	return s
}

// stateOfAll is the state where every packet was counted: the table of docs/connections.md.
func stateOfAll(o, r *Direction) flowpb.ConnState {
	var of, rf uint32
	if o != nil {
		of = o.Flags
	}
	if r != nil {
		rf = r.Flags
	}
	has := func(flags, bit uint32) bool { return flags&bit != 0 }
	shookHands := has(of, syn) || has(of, ack) && has(rf, syn)
	table := []struct {
		when bool
		is   flowpb.ConnState
	}{
		{of == 0 && rf == 0, flowpb.ConnState_CONN_STATE_UNKNOWN},
		{r != nil && rf == 0, flowpb.ConnState_CONN_STATE_UNKNOWN},
		{has(of, fin) && has(rf, fin), flowpb.ConnState_CONN_STATE_SF},
		{has(of, rst) && has(rf, rst) && !has(of|rf, psh), flowpb.ConnState_CONN_STATE_REJ},
		{has(of, rst) && has(rf, rst), flowpb.ConnState_CONN_STATE_RSTR},
		{has(rf, rst) && has(of, fin), flowpb.ConnState_CONN_STATE_RSTR},
		{has(rf, rst) && has(of, syn) && !has(rf, syn), flowpb.ConnState_CONN_STATE_REJ},
		{has(rf, rst) && !shookHands, flowpb.ConnState_CONN_STATE_RSTRH},
		{has(rf, rst), flowpb.ConnState_CONN_STATE_RSTR},
		{has(of, rst) && has(of, syn) && !has(of, ack|fin) && !has(rf, syn) && !has(rf, fin), flowpb.ConnState_CONN_STATE_RSTOS0},
		{has(of, rst) && !has(rf, syn) && !has(rf, fin), flowpb.ConnState_CONN_STATE_OTH},
		{has(of, rst), flowpb.ConnState_CONN_STATE_RSTO},
		{has(of, fin) && !has(rf, syn), flowpb.ConnState_CONN_STATE_SH},
		{has(of, fin), flowpb.ConnState_CONN_STATE_S2},
		{has(rf, fin) && !shookHands, flowpb.ConnState_CONN_STATE_SHR},
		{has(rf, fin), flowpb.ConnState_CONN_STATE_S3},
		{has(rf, syn) && shookHands, flowpb.ConnState_CONN_STATE_S1},
		{has(of, syn) && r == nil, flowpb.ConnState_CONN_STATE_S0},
	}
	for _, row := range table {
		if row.when {
			return row.is
		}
	}
	return flowpb.ConnState_CONN_STATE_OTH
}
