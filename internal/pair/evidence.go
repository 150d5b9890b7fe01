package pair

import (
	"weir/internal/flowkey"
	"weir/pkg/flowpb"
)

// initiator returns the end that opened the connection, and the method that determined it: the first that applies, in
// the order of docs/connections.md. Evidence precedes guesses. lo is true if the initiator is the end lo of the key.
// loHi and hiLo are the results of direction for e.
func (m *Machine) initiator(e *entry, loHi, hiLo *direction) (method flowpb.DirectionMethod, lo bool) {
	if method, lo = stated(e, loHi, hiLo); method != flowpb.DirectionMethod_DIRECTION_METHOD_UNSPECIFIED {
		return method, lo
	}
	// Without a SYN the connection began before the first record. A sampled direction starts with its first sampled
	// packet, at a random time. In both cases the order of the starts is no evidence.
	midstream := e.key.Proto == flowkey.TCP && (loHi.flags|hiLo.flags)&syn == 0
	earlier, decided := m.earlier(loHi, hiLo)
	if decided && !midstream && !sampled(loHi, hiLo) {
		return flowpb.DirectionMethod_DIRECTION_METHOD_FIRST_SEEN, earlier
	}
	return m.guess(&e.key, loHi, hiLo)
}

// stated returns the initiator by evidence of addresses, exporters or single packets, or UNSPECIFIED without such
// evidence.
func stated(e *entry, loHi, hiLo *direction) (method flowpb.DirectionMethod, lo bool) {
	k := &e.key
	loGroup, hiGroup := receives(&k.Lo, loHi), receives(&k.Hi, hiLo)
	if loGroup != hiGroup {
		return flowpb.DirectionMethod_DIRECTION_METHOD_MULTICAST, hiGroup
	}
	if word := e.opener.exporter(); word != 0 {
		return flowpb.DirectionMethod_DIRECTION_METHOD_EXPORTER, word > 0
	}
	if k.Proto == flowkey.ICMP || k.Proto == flowkey.ICMPv6 {
		if k.OneWay() {
			return flowpb.DirectionMethod_DIRECTION_METHOD_ICMP, true // keys of one-way ICMP are not sorted: lo sent it
		}
		if a, b := request(k.Proto, k.LoPort), request(k.Proto, k.HiPort); a != b {
			return flowpb.DirectionMethod_DIRECTION_METHOD_ICMP, a
		}
	}
	if k.Proto == flowkey.TCP {
		return handshake(e.opener.answered(), loHi, hiLo)
	}
	return flowpb.DirectionMethod_DIRECTION_METHOD_UNSPECIFIED, false
}

// receives reports whether a is a multicast or broadcast address without packets in from, the direction in which it
// would send. Such an address must not be a source (RFC 1122 section 3.2.1.3, RFC 4291 section 2.7): an address that
// sends was forged or anonymised and does not identify a group.
func receives(a *[16]byte, from *direction) bool { return from.best == nil && group(a) }

// handshake returns the sender of a TCP connection's first SYN (RFC 9293 section 3.5). The strongest evidence is a
// SYN without ACK, then a record of a single packet with SYN and ACK. If both directions have flags and every packet
// was counted, a SYN in one direction only, with ACK, answers a SYN before the first record. A direction without
// flags was reported without them, as in biflows with the flags of one direction: every TCP packet of a connection
// has a flag.
func handshake(answered int8, loHi, hiLo *direction) (method flowpb.DirectionMethod, lo bool) {
	if a, b := loHi.flags&(syn|ack) == syn, hiLo.flags&(syn|ack) == syn; a != b {
		return flowpb.DirectionMethod_DIRECTION_METHOD_TCP_SYN, a
	}
	if answered == loAnswered || answered == hiAnswered {
		return flowpb.DirectionMethod_DIRECTION_METHOD_TCP_SYN, answered == hiAnswered
	}
	if loHi.flags != 0 && hiLo.flags != 0 && !sampled(loHi, hiLo) && (loHi.flags^hiLo.flags)&syn != 0 {
		return flowpb.DirectionMethod_DIRECTION_METHOD_TCP_SYN, hiLo.flags&syn != 0
	}
	return flowpb.DirectionMethod_DIRECTION_METHOD_UNSPECIFIED, false
}

// guess returns the more probable initiator of a connection without evidence. If only one direction has records, its
// sender is more probable than the owner of the higher port. There are two exceptions: a TCP handshake, in which both
// ends send, and sampling, since it is random which directions have a sampled packet. The order of the guesses was
// chosen by measurement (make accuracy); docs/connections.md has the figures.
func (m *Machine) guess(k *stateKey, loHi, hiLo *direction) (method flowpb.DirectionMethod, lo bool) {
	ports := flowkey.HasPorts(k.Proto)
	if ports {
		if port, ok := ServicePort(k.Proto, k.LoPort, k.HiPort, m.c.Service); ok {
			return flowpb.DirectionMethod_DIRECTION_METHOD_SERVICE_PORT, port == k.HiPort
		}
	}
	if a, b := flowkey.Private(&k.Lo), flowkey.Private(&k.Hi); a != b && ports && sampled(loHi, hiLo) {
		return flowpb.DirectionMethod_DIRECTION_METHOD_PRIVATE_ADDRESS, a
	}
	if sampled(loHi, hiLo) && ports && k.LoPort != k.HiPort {
		return flowpb.DirectionMethod_DIRECTION_METHOD_LOWER_PORT, k.LoPort > k.HiPort
	}
	if earlier, decided := m.earlier(loHi, hiLo); decided {
		return flowpb.DirectionMethod_DIRECTION_METHOD_FIRST_SEEN, earlier
	}
	if (loHi.best == nil) != (hiLo.best == nil) &&
		(!ports || k.LoPort == k.HiPort || !shookHands(k.Proto, loHi, hiLo)) {
		return flowpb.DirectionMethod_DIRECTION_METHOD_ONLY_SENDER, loHi.best != nil
	}
	if ports && k.LoPort != k.HiPort {
		return flowpb.DirectionMethod_DIRECTION_METHOD_LOWER_PORT, k.LoPort > k.HiPort
	}
	return flowpb.DirectionMethod_DIRECTION_METHOD_ARBITRARY, loHi.start <= hiLo.start
}

// shookHands reports whether the only direction with records has the flags of a whole handshake, either of its
// initiator (SYN, later ACK) or of its responder (SYN+ACK): the OR of the flags is the same for both. A SYN alone and
// a record of a single SYN+ACK are evidence, which handshake has used.
func shookHands(proto uint8, loHi, hiLo *direction) bool {
	return proto == flowkey.TCP && (loHi.flags|hiLo.flags)&(syn|ack) == syn|ack
}

// sampled reports whether a record of either direction was sampled.
func sampled(a, b *direction) bool { return a.rateMax > 1 || b.rateMax > 1 }

// An opener holds the evidence of single records for the initiator of a connection. Its sign names the initiator,
// positive for lo: as an exporter reported it, else by an answer. Bit 0 of the magnitude is set if an exporter
// reported it; bits 1 and 2 are the sides that answered. Zero is no evidence. The value is logged: older versions,
// without answers, read each opener as reported by an exporter.
//
// Examples: 1: an exporter reported lo. -1: an exporter reported hi. 5: an exporter reported lo, and hi answered. -2:
// lo answered, so that hi is the initiator. 6: both answered, which contradicts itself and which handshake ignores.
type opener int8

// Bits of opener for the ends that sent a SYN+ACK in a record of a single packet. In a record of several packets the OR
// of the flags is the same for both ends of a handshake.
const (
	loAnswered = 1 << iota
	hiAnswered
)

// exporter returns the initiator that an exporter reported: 1 for lo, -1 for hi, 0 for none.
func (o opener) exporter() int8 {
	switch {
	case o > 0:
		return int8(o & 1)
	default:
		return -int8(-o & 1)
	}
}

// answered returns the set of sides that sent a SYN+ACK in a record of a single packet.
func (o opener) answered() int8 { return int8(max(o, -o) >> 1) }

// combine returns o with the evidence of another record. The initiator that the first exporter reported is kept. The
// result does not depend on the order of records, unless two exporters contradict each other.
func (o opener) combine(exporter, answered int8) opener {
	if word := o.exporter(); word != 0 {
		exporter = word
	}
	answered |= o.answered()
	sign := exporter
	if sign == 0 {
		if sign = 1; answered == loAnswered {
			sign = -1
		}
	}
	return opener(sign) * opener(exporter*exporter|answered<<1)
}

// answer reports whether n counts a single packet with SYN and ACK, without PSH, FIN or RST. A retransmitted SYN+ACK
// makes two packets and is not recognised.
func (n *counts) answer() bool { return n.Packets == 1 && n.Flags&(fin|syn|rst|psh|ack) == syn|ack }

// evidence returns the evidence of f for the initiator: as the exporter reports it, and the sides that answered.
func (f *Flow) evidence() (exporter, answered int8) {
	exporter = f.Initiator
	src, dst := int8(loAnswered), int8(hiAnswered)
	if !f.SrcIsLo {
		exporter, src, dst = -exporter, dst, src
	}
	if f.Key.Proto == flowkey.TCP {
		if f.There.answer() {
			answered |= src
		}
		if f.Biflow && f.Back.answer() {
			answered |= dst
		}
	}
	return exporter, answered
}

// earlier reports whether the direction lo to hi started first. decided is true if the difference is at least the
// tolerance of the clocks. Directions in the same datagram share a header clock: their tolerance is finer. Examples:
// NetFlow v9 has a header clock in seconds, so that directions from two datagrams need a difference of 1 s, and those
// from one datagram 1 ms. Two exporters add ClockSkew.
func (m *Machine) earlier(loHi, hiLo *direction) (lo, decided bool) {
	if loHi.best == nil || hiLo.best == nil {
		return false, false
	}
	tol := max(loHi.resolution, hiLo.resolution)
	if loHi.datagram != 0 && loHi.datagram == hiLo.datagram {
		tol = max(loHi.fine, hiLo.fine) // one header clock for both
	}
	a, b := m.points.pool.ref(loHi.best.point), m.points.pool.ref(hiLo.best.point)
	if a.exporter != b.exporter || a.domain != b.domain {
		tol += int64(m.c.ClockSkew)
	}
	d := hiLo.start - loHi.start
	return d > 0, d >= tol || -d >= tol
}

// The ranks of a port as the port of a service, ascending. Clients that authenticate by a reserved port, mostly of
// NFS, send from ports 512 to 1023 (rresvport(3)): those rank below named services.
const (
	opens      = iota - 1 // FTP servers open data connections from it, RFC 959 section 3.2
	noService             // no known service, such as an ephemeral port
	unnamed               // 512 to 1023, without a service name
	registered            // 1024 to 32767, with a service name; may be an ephemeral port
	named                 // 512 to 1023, with a service name
	nfs                   // 2049
	system                // below 512; system ports of RFC 6335 section 6 reach to 1023
)

// ServicePort returns the port of a and b that is more likely the port of a service. ok is false if their ranks are
// equal. hasName reports whether a port has a service name; nil: no port has one. docs/connections.md has the order of
// ranks under SERVICE_PORT.
func ServicePort(proto uint8, a, b uint16, hasName func(proto uint8, port uint16) bool) (port uint16, ok bool) {
	switch rankA, rankB := portRank(proto, a, hasName), portRank(proto, b, hasName); {
	case rankA > rankB:
		return a, true
	case rankB > rankA:
		return b, true
	}
	return 0, false
}

// LikelyPort returns ServicePort, or the lower port if the ranks are equal.
func LikelyPort(proto uint8, a, b uint16, hasName func(proto uint8, port uint16) bool) uint16 {
	if port, ok := ServicePort(proto, a, b, hasName); ok {
		return port
	}
	return min(a, b)
}

// portRank returns the rank of port. Port 20 of TCP ranks lowest: FTP servers open data connections from it.
func portRank(proto uint8, port uint16, hasName func(proto uint8, port uint16) bool) int {
	const ftpData, nfsPort, firstReserved = 20, 2049, 512
	switch {
	case port == 0:
		return noService
	case port == ftpData && proto == flowkey.TCP:
		return opens
	case port == nfsPort:
		return nfs
	case port < firstReserved:
		return system
	case port < 1024 && hasName != nil && !hasName(proto, port):
		return unnamed
	case port < 1024:
		return named
	case port < 32768 && hasName != nil && hasName(proto, port):
		return registered
	}
	return noService
}

// request reports whether an ICMP type is a request. ICMP (RFC 792, 950, 1256): echo, router solicitation, timestamp,
// information, address mask. ICMPv6 (RFC 4443, 2710, 4861, 4620): echo, multicast listener query, router and neighbour
// solicitation, node information query, and 144 (home agent address discovery, RFC 6275). A key of ICMP has the types
// of the request and of its answer in place of the ports: the end whose type is a request is the initiator.
func request(proto uint8, typ uint16) bool {
	if proto == flowkey.ICMP {
		switch typ {
		case 8, 10, 13, 15, 17:
			return true
		}
		return false
	}
	switch typ {
	case 128, 130, 133, 135, 139, 144:
		return true
	}
	return false
}

// connState returns the TCP state in Zeek's vocabulary (conn_state), from the OR of the flags of each direction; o is
// the direction of the initiator, r of the responder. With sampled packets, a state that depends on the absence of a
// packet is UNKNOWN. docs/connections.md has the table, and the differences from Zeek, which sees every packet.
func connState(e *entry, o, r *direction) flowpb.ConnState {
	if denied(e, o, r) {
		return flowpb.ConnState_CONN_STATE_REJ
	}
	if e.key.Proto != flowkey.TCP {
		return flowpb.ConnState_CONN_STATE_UNSPECIFIED
	}
	state := tcpState(o, r)
	if !sampled(o, r) || state == flowpb.ConnState_CONN_STATE_SF || state == flowpb.ConnState_CONN_STATE_RSTO ||
		state == flowpb.ConnState_CONN_STATE_RSTR || state == flowpb.ConnState_CONN_STATE_OTH {
		return state
	}
	return flowpb.ConnState_CONN_STATE_UNKNOWN
}

// denied reports whether a firewall denied the connection and no packet passed.
func denied(e *entry, o, r *direction) bool {
	return e.quality&bit(flowpb.Quality_QUALITY_DENIED) != 0 && o.packets|r.packets|o.octets|r.octets == 0
}

// tcpState returns the state of a connection whose packets were all counted. The OR of flags has no order: a FIN
// counts as sent before a RST, which is the last packet of most connections that have it. A missing SYN matters only
// without FINs in both directions: metering may have begun after the SYN.
func tcpState(o, r *direction) flowpb.ConnState {
	of, rf := o.flags, r.flags
	opened := of&syn != 0 || of&ack != 0 && rf&syn != 0 // the initiator's part of the handshake
	switch {
	case of|rf == 0, r.best != nil && rf == 0: // the exporter reports no flags
		return flowpb.ConnState_CONN_STATE_UNKNOWN
	case of&rf&fin != 0:
		return flowpb.ConnState_CONN_STATE_SF
	case rf&rst != 0:
		return resetByResponder(of, rf, opened)
	case of&rst != 0 && rf&(syn|fin) != 0:
		return flowpb.ConnState_CONN_STATE_RSTO
	case of&(syn|rst|ack|fin) == syn|rst:
		return flowpb.ConnState_CONN_STATE_RSTOS0
	case of&rst != 0:
		return flowpb.ConnState_CONN_STATE_OTH
	case of&fin != 0 && rf&syn != 0:
		return flowpb.ConnState_CONN_STATE_S2
	case of&fin != 0:
		return flowpb.ConnState_CONN_STATE_SH
	case rf&fin != 0 && opened:
		return flowpb.ConnState_CONN_STATE_S3
	case rf&fin != 0:
		return flowpb.ConnState_CONN_STATE_SHR
	case rf&syn != 0 && opened:
		return flowpb.ConnState_CONN_STATE_S1
	case of&syn != 0 && r.best == nil:
		return flowpb.ConnState_CONN_STATE_S0
	}
	return flowpb.ConnState_CONN_STATE_OTH
}

// resetByResponder returns the state of a connection that the responder reset. of and rf are the flags of the
// initiator's and the responder's direction. If both ends reset without data, the attempt was rejected; PSH stands
// for data, which flags do not show.
func resetByResponder(of, rf uint16, opened bool) flowpb.ConnState {
	switch {
	case of&rst != 0 && (of|rf)&psh == 0, of&syn != 0 && of&(fin|rst) == 0 && rf&syn == 0:
		return flowpb.ConnState_CONN_STATE_REJ
	case of&(fin|rst) == 0 && !opened:
		return flowpb.ConnState_CONN_STATE_RSTRH
	}
	return flowpb.ConnState_CONN_STATE_RSTR
}
