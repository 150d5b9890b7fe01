package truth

// An endpointState is the TCP state of one endpoint. Zeek's documentation of
// init-bare.zeek lists them as TCP_INACTIVE … TCP_RESET.
type endpointState uint8

const (
	inactive    endpointState = iota
	synSent                   // sent a SYN
	synAckSent                // sent a SYN with ACK
	partial                   // sends, but its handshake was not captured
	established               // the handshake is complete
	closed                    // sent a FIN
	reset                     // sent a RST
)

// An endpoint is one side of a TCP connection.
type endpoint struct {
	state, before endpointState
	payload       int
}

func (e *endpoint) enter(s endpointState) { e.before, e.state = e.state, s }

// A zeekTracker follows both endpoints of a TCP connection, packet by packet.
type zeekTracker struct {
	orig, resp endpoint
	// synThenReset: the originator sent a SYN, then a RST, and neither ACK nor
	// FIN between them.
	sawSYN, sawMore, synThenReset bool
}

// ConnState returns the conn_state that Zeek's documentation of conn.log gives
// the packets when A (or B, if !fromA) is the originator.
func ConnState(packets []Packet, fromA bool) string {
	var z zeekTracker
	for _, p := range packets {
		z.packet(p, p.FromA == fromA)
	}
	return z.connState()
}

// packet moves the sender's state, and the state of the other side where the
// packet proves something about it.
func (z *zeekTracker) packet(p Packet, fromOrig bool) {
	from, to := &z.orig, &z.resp
	if !fromOrig {
		from, to = to, from
	}
	from.payload += p.Payload
	if fromOrig {
		z.history(p.Flags)
	}
	switch from.state {
	case inactive:
		z.firstPacket(from, to, p, fromOrig)
	case synSent, synAckSent:
		from.end(p.Flags)
	case established, partial:
		if p.Flags&(FlagSYN|FlagACK) == FlagSYN && from.state == partial && to.state == inactive {
			from.enter(synSent)
		}
		if p.Flags&FlagFIN != 0 && p.Flags&FlagRST == 0 {
			from.enter(closed)
			if to.state == reset && to.before == closed {
				to.enter(closed) // the RST answered data after its own FIN
			}
		}
		if p.Flags&FlagRST != 0 {
			from.enter(reset)
		}
	case closed:
		if p.Flags&FlagRST != 0 && to.state != closed {
			from.enter(reset)
		}
	case reset:
	}
}

// history keeps what separates RSTOS0 from a reset in midstream.
func (z *zeekTracker) history(flags uint8) {
	switch {
	case flags&FlagRST != 0:
		z.synThenReset = z.synThenReset || z.sawSYN && !z.sawMore
	case flags&(FlagSYN|FlagACK) == FlagSYN && flags&FlagFIN == 0:
		z.sawSYN = true
	default:
		z.sawMore = true
	}
}

// end enters the state that a FIN or RST asks for.
func (e *endpoint) end(flags uint8) {
	if flags&FlagFIN != 0 {
		e.enter(closed)
	}
	if flags&FlagRST != 0 {
		e.enter(reset)
	}
}

// firstPacket moves an endpoint that sent nothing before.
func (z *zeekTracker) firstPacket(from, to *endpoint, p Packet, fromOrig bool) {
	if p.Flags&FlagSYN != 0 {
		switch {
		case fromOrig && p.Flags&FlagACK != 0:
			from.enter(synAckSent)
		case fromOrig:
			from.enter(synSent)
		default: // an answer to a SYN, or a simultaneous open
			if to.state == synSent || to.state == synAckSent {
				to.enter(established)
			}
			from.enter(established)
		}
	}
	from.end(p.Flags)
	if from.state != inactive {
		return
	}
	switch {
	case !fromOrig && p.Payload == 0 && z.orig.state == synSent: // a bare ACK is no answer to a SYN
	case p.Flags&FlagACK != 0 && to.state == established:
		from.enter(established)
	default:
		from.enter(partial)
	}
}

// connState reads the table of conn.log from the states of both endpoints.
func (z *zeekTracker) connState() string {
	o, r := z.orig.state, z.resp.state
	origUnopened := o == inactive || o == partial
	respUnopened := r == inactive || r == partial
	switch {
	case r == reset && (o == synSent || o == synAckSent || o == reset && z.orig.payload+z.resp.payload == 0):
		return "REJ"
	case r == reset && origUnopened:
		return "RSTRH"
	case r == reset:
		return "RSTR"
	case o == reset && !respUnopened:
		return "RSTO"
	case o == reset && z.synThenReset:
		return "RSTOS0"
	case o == reset:
		return "OTH"
	case o == closed && r == closed:
		return "SF"
	case o == closed && respUnopened:
		return "SH"
	case o == closed:
		return "S2"
	case r == closed && origUnopened:
		return "SHR"
	case r == closed:
		return "S3"
	case o == synSent && r == inactive:
		return "S0"
	case o == established && r == established:
		return "S1"
	}
	return "OTH"
}
