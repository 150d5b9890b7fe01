package pair

import (
	"weir/internal/flowkey"
	"weir/pkg/flowpb"
)

// initiator returns the end that opened the connection and the first method that
// names one. Evidence comes first; a connection without evidence gets a guess.
func (m *Machine) initiator(e *entry, loHi, hiLo *direction) (method flowpb.DirectionMethod, lo bool) {
	if method, lo = stated(e, loHi, hiLo); method != flowpb.DirectionMethod_DIRECTION_METHOD_UNSPECIFIED {
		return method, lo
	}
	// Without a SYN the connection began before the first record. A sampled
	// direction starts with the first packet that was sampled, which can be any.
	midstream := e.key.Proto == flowkey.TCP && (loHi.flags|hiLo.flags)&syn == 0
	earlier, decided := m.earlier(loHi, hiLo)
	if decided && !midstream && !sampled(loHi, hiLo) {
		return flowpb.DirectionMethod_DIRECTION_METHOD_FIRST_SEEN, earlier
	}
	return m.guess(&e.key, loHi, hiLo)
}

// stated returns the initiator that addresses, exporters or single packets name,
// and UNSPECIFIED where none does.
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
			return flowpb.DirectionMethod_DIRECTION_METHOD_ICMP, true // not put in order: lo is the sender
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

// receives reports whether a is a multicast or broadcast address that sent nothing
// in from, its direction. Neither may be a source address (RFC 1122 section 3.2.1.3,
// RFC 4291 section 2.7): one that sends was forged or anonymised and names no group.
func receives(a *[16]byte, from *direction) bool { return from.best == nil && group(a) }

// handshake returns the sender of a TCP connection's first SYN. The strongest
// evidence is a SYN without ACK, then a SYN+ACK of one packet. Where both
// directions were seen with flags and every packet counted, a SYN of one side alone,
// with ACK, answers a SYN that was not seen. A direction without any flag has them
// unreported, as of biflows with flags of one direction: TCP packets have some.
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

// guess returns the likelier initiator of a connection without evidence. A side
// that alone was seen is likelier than the owner of the higher port. That is not so of
// a TCP handshake, in which both sides send, nor where packets are sampled: which
// directions have a sampled packet is chance.
func (m *Machine) guess(k *stateKey, loHi, hiLo *direction) (method flowpb.DirectionMethod, lo bool) {
	ports := flowkey.HasPorts(k.Proto)
	if ports {
		if a, b := m.service(k.Proto, k.LoPort), m.service(k.Proto, k.HiPort); a != b {
			return flowpb.DirectionMethod_DIRECTION_METHOD_SERVICE_PORT, b > a
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

// shookHands reports whether a direction that alone was seen has the flags of a whole
// handshake: either a SYN and later ACKs, or the SYN+ACK that answers. A SYN alone and a
// record of one SYN+ACK are evidence.
func shookHands(proto uint8, loHi, hiLo *direction) bool {
	return proto == flowkey.TCP && (loHi.flags|hiLo.flags)&(syn|ack) == syn|ack
}

// sampled reports whether a record of either direction counts one packet of several.
func sampled(a, b *direction) bool { return a.rateMax > 1 || b.rateMax > 1 }

// An opener is the evidence of single records of who opened a connection. Its sign
// is that of the initiator, positive for lo: of the exporter's word, else of the
// answer. Bit 0 of the magnitude is set where an exporter says so, bits 1 and 2 are
// the sides that answered. Zero: no evidence. Versions that know no answers read
// every opener as the exporter's word.
type opener int8

// The sides that sent a SYN+ACK in a record of one packet: of more packets the OR of
// the flags is the same for both sides.
const (
	loAnswered = 1 << iota
	hiAnswered
)

// exporter returns the initiator that an exporter names: 1 lo, -1 hi, 0 none.
func (o opener) exporter() int8 {
	switch {
	case o > 0:
		return int8(o & 1)
	default:
		return -int8(-o & 1)
	}
}

// answered returns the sides that sent a SYN+ACK in a record of one packet.
func (o opener) answered() int8 { return int8(max(o, -o) >> 1) }

// with returns o with one more record's evidence. The first exporter's word stays.
func (o opener) with(exporter, answered int8) opener {
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

// answer reports whether n is one packet with SYN and ACK, without data.
func (n *counts) answer() bool { return n.Packets == 1 && n.Flags&(fin|syn|rst|psh|ack) == syn|ack }

// evidence returns f's evidence of who opened the connection: the exporter's word,
// and the sides that answered.
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

// earlier tells whether the lo to hi direction started first, and whether that
// is certain: by more than the clocks' tolerance.
func (m *Machine) earlier(loHi, hiLo *direction) (lo, decided bool) {
	if loHi.best == nil || hiLo.best == nil {
		return false, false
	}
	tol := max(loHi.resolution, hiLo.resolution)
	if loHi.datagram != 0 && loHi.datagram == hiLo.datagram {
		tol = max(loHi.fine, hiLo.fine) // one header clock for both
	}
	a, b := m.vantages.of.at(loHi.best.vantage), m.vantages.of.at(hiLo.best.vantage)
	if a.exporter != b.exporter || a.domain != b.domain {
		tol += int64(m.c.ClockSkew)
	}
	d := hiLo.start - loHi.start
	return d > 0, d >= tol || -d >= tol
}

// The ranks of a port as a service's. Hosts that are trusted by their port send from
// 512 to 1023 (rresvport(3)), most of all clients of NFS.
const (
	opens      = iota - 1 // FTP servers open data connections from it, RFC 959 section 3.2
	noService             // also an ephemeral port
	unnamed               // 512 to 1023 without a name
	registered            // may be an ephemeral port, too
	named                 // 512 to 1023
	nfs
	system // below 512; RFC 6335 section 6 has those up to 1023
)

// service returns the rank of port.
func (m *Machine) service(proto uint8, port uint16) int {
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
	case port < 1024 && m.c.Service != nil && !m.c.Service(proto, port):
		return unnamed
	case port < 1024:
		return named
	case port < 32768 && m.c.Service != nil && m.c.Service(proto, port):
		return registered
	}
	return noService
}

// request tells whether an ICMP type asks: echo, timestamp, information, address
// mask, router and neighbour solicitation, and their like.
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

// connState returns the TCP state in Zeek's words, from the OR of each direction's
// flags; o is the initiator's direction. A state that rests on a packet that was not
// seen is UNKNOWN where packets are sampled.
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

// denied reports whether a firewall denied the connection: no packet passed.
func denied(e *entry, o, r *direction) bool {
	return e.quality&bit(flowpb.Quality_QUALITY_DENIED) != 0 && o.packets|r.packets|o.octets|r.octets == 0
}

// tcpState returns the state of a connection of which every packet is counted. The
// OR of flags has no order: a FIN counts as sent before a RST, the last packet of
// most connections. A missing SYN makes a difference only in what no FIN of both
// sides closed: metering may have begun after it.
func tcpState(o, r *direction) flowpb.ConnState {
	of, rf := o.flags, r.flags
	opened := of&syn != 0 || of&ack != 0 && rf&syn != 0 // the initiator's part of the handshake
	switch {
	case of|rf == 0, r.best != nil && rf == 0: // unreported
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

// resetByResponder returns the state of a connection that the responder reset; of
// and rf are both directions' flags. Both sides reset an attempt that never carried
// data; PSH stands for data, which flags do not show.
func resetByResponder(of, rf uint16, opened bool) flowpb.ConnState {
	switch {
	case of&rst != 0 && (of|rf)&psh == 0, of&syn != 0 && of&(fin|rst) == 0 && rf&syn == 0:
		return flowpb.ConnState_CONN_STATE_REJ
	case of&(fin|rst) == 0 && !opened:
		return flowpb.ConnState_CONN_STATE_RSTRH
	}
	return flowpb.ConnState_CONN_STATE_RSTR
}
