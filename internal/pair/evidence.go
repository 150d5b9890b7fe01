package pair

import (
	"weir/internal/flowkey"
	"weir/pkg/flowpb"
)

// initiator decides who opened the connection: the first evidence that applies.
func (m *Machine) initiator(e *entry, loHi, hiLo *direction) (method flowpb.DirectionMethod, lo bool) {
	k := &e.key
	loGroup, hiGroup := group(&k.Lo), group(&k.Hi)
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
		if a, b := loHi.flags&(syn|ack) == syn, hiLo.flags&(syn|ack) == syn; a != b {
			return flowpb.DirectionMethod_DIRECTION_METHOD_TCP_SYN, a
		}
		if answered := e.opener.answered(); answered == loAnswered || answered == hiAnswered {
			return flowpb.DirectionMethod_DIRECTION_METHOD_TCP_SYN, answered == hiAnswered
		}
	}
	// Without a SYN the connection began before the first record. A sampled
	// direction starts with the first packet that was sampled, which can be any.
	midstream := k.Proto == flowkey.TCP && (loHi.flags|hiLo.flags)&syn == 0
	sampled := sampled(loHi, hiLo)
	earlier, decided := m.earlier(loHi, hiLo)
	if decided && !midstream && !sampled {
		return flowpb.DirectionMethod_DIRECTION_METHOD_FIRST_SEEN, earlier
	}
	if flowkey.HasPorts(k.Proto) {
		if a, b := m.service(k.Proto, k.LoPort), m.service(k.Proto, k.HiPort); a != b {
			return flowpb.DirectionMethod_DIRECTION_METHOD_SERVICE_PORT, b
		}
	}
	if decided && !sampled {
		return flowpb.DirectionMethod_DIRECTION_METHOD_FIRST_SEEN, earlier
	}
	if flowkey.HasPorts(k.Proto) && k.LoPort != k.HiPort {
		return flowpb.DirectionMethod_DIRECTION_METHOD_LOWER_PORT, k.LoPort > k.HiPort
	}
	if decided {
		return flowpb.DirectionMethod_DIRECTION_METHOD_FIRST_SEEN, earlier
	}
	if (loHi.best == nil) != (hiLo.best == nil) {
		return flowpb.DirectionMethod_DIRECTION_METHOD_ONLY_SENDER, loHi.best != nil
	}
	return flowpb.DirectionMethod_DIRECTION_METHOD_ARBITRARY, true
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
	if a, b := m.vantages.of.at(loHi.best.vantage), m.vantages.of.at(hiLo.best.vantage); a.exporter != b.exporter || a.domain != b.domain {
		tol += int64(m.c.ClockSkew)
	}
	d := hiLo.start - loHi.start
	return d > 0, d >= tol || -d >= tol
}

// service tells whether port is one that services listen on.
func (m *Machine) service(proto uint8, port uint16) bool {
	if port == 0 {
		return false
	}
	return port < 1024 || port < 32768 && m.c.Service != nil && m.c.Service(proto, port)
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

// connState is the TCP state by the OR of the flags, in Zeek's words; o is the
// initiator's direction. A state that rests on a packet that was not seen is unknown
// where packets are sampled.
func connState(e *entry, o, r *direction) flowpb.ConnState {
	state := connStateOfAll(e, o, r)
	if e.key.Proto != flowkey.TCP || !sampled(o, r) || denied(e, o, r) ||
		state == flowpb.ConnState_CONN_STATE_SF || state == flowpb.ConnState_CONN_STATE_RSTO ||
		state == flowpb.ConnState_CONN_STATE_RSTR || state == flowpb.ConnState_CONN_STATE_OTH {
		return state
	}
	return flowpb.ConnState_CONN_STATE_UNKNOWN
}

// denied reports whether a firewall denied the connection: no packet passed.
func denied(e *entry, o, r *direction) bool {
	return e.quality&bit(flowpb.Quality_QUALITY_DENIED) != 0 && o.packets|r.packets|o.octets|r.octets == 0
}

// connStateOfAll is connState where every packet is counted.
func connStateOfAll(e *entry, o, r *direction) flowpb.ConnState {
	if denied(e, o, r) {
		return flowpb.ConnState_CONN_STATE_REJ
	}
	if e.key.Proto != flowkey.TCP {
		return flowpb.ConnState_CONN_STATE_UNSPECIFIED
	}
	of, rf := o.flags, r.flags
	switch {
	case of|rf == 0:
		return flowpb.ConnState_CONN_STATE_UNKNOWN
	case (of|rf)&syn == 0:
		return flowpb.ConnState_CONN_STATE_OTH
	case r.best == nil:
		switch {
		case of&rst != 0:
			return flowpb.ConnState_CONN_STATE_RSTOS0
		case of&fin != 0:
			return flowpb.ConnState_CONN_STATE_SH
		case of&ack == 0:
			return flowpb.ConnState_CONN_STATE_S0
		}
		return flowpb.ConnState_CONN_STATE_OTH
	case o.best == nil:
		switch {
		case rf&rst != 0:
			return flowpb.ConnState_CONN_STATE_RSTRH
		case rf&fin != 0:
			return flowpb.ConnState_CONN_STATE_SHR
		}
		return flowpb.ConnState_CONN_STATE_OTH
	case rf&syn == 0 && rf&rst != 0:
		return flowpb.ConnState_CONN_STATE_REJ
	case of&syn == 0 || rf&syn == 0:
		return flowpb.ConnState_CONN_STATE_OTH
	case of&rst != 0:
		return flowpb.ConnState_CONN_STATE_RSTO
	case rf&rst != 0:
		return flowpb.ConnState_CONN_STATE_RSTR
	case of&rf&fin != 0:
		return flowpb.ConnState_CONN_STATE_SF
	case of&fin != 0:
		return flowpb.ConnState_CONN_STATE_S2
	case rf&fin != 0:
		return flowpb.ConnState_CONN_STATE_S3
	}
	return flowpb.ConnState_CONN_STATE_S1
}
