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
	if e.initiator != 0 {
		return flowpb.DirectionMethod_DIRECTION_METHOD_EXPORTER, e.initiator > 0
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
	}
	// Without a SYN the connection began before what is seen of it, and the
	// first record says little.
	midstream := k.Proto == flowkey.TCP && (loHi.flags|hiLo.flags)&syn == 0
	earlier, decided := m.earlier(loHi, hiLo)
	if decided && !midstream {
		return flowpb.DirectionMethod_DIRECTION_METHOD_FIRST_SEEN, earlier
	}
	if flowkey.HasPorts(k.Proto) {
		if a, b := m.service(k.Proto, k.LoPort), m.service(k.Proto, k.HiPort); a != b {
			return flowpb.DirectionMethod_DIRECTION_METHOD_SERVICE_PORT, b
		}
	}
	if decided {
		return flowpb.DirectionMethod_DIRECTION_METHOD_FIRST_SEEN, earlier
	}
	if flowkey.HasPorts(k.Proto) && k.LoPort != k.HiPort {
		return flowpb.DirectionMethod_DIRECTION_METHOD_LOWER_PORT, k.LoPort > k.HiPort
	}
	if (loHi.best == nil) != (hiLo.best == nil) {
		return flowpb.DirectionMethod_DIRECTION_METHOD_ONLY_SENDER, loHi.best != nil
	}
	return flowpb.DirectionMethod_DIRECTION_METHOD_ARBITRARY, true
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
// initiator's direction.
func connState(e *entry, o, r *direction) flowpb.ConnState {
	if e.quality&bit(flowpb.Quality_QUALITY_DENIED) != 0 && o.packets|r.packets|o.octets|r.octets == 0 {
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
