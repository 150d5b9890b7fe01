package pair

import (
	"testing"

	"weir/pkg/flowpb"
)

// A zeekEnd is Zeek's state of an end of a TCP connection, and the state before it.
type zeekEnd struct{ now, before zeekState }

type zeekState int

const (
	silent zeekState = iota
	synSent
	synAckSent
	partial // began without a SYN
	established
	closedByFIN
	reset
)

func (e *zeekEnd) become(s zeekState) { e.before, e.now = e.now, s }

// A zeekConn follows a connection packet by packet as Zeek does: the states of both ends by its TCP analyzer, the
// conn_state by its script base/protocols/conn/main.zeek.
type zeekConn struct {
	end [2]zeekEnd // [0] is the originator
	// The originator's history: a SYN first, a RST before any ACK or FIN.
	began, went, resetEarly bool
}

// packet adds a packet of an end; data is true if it has a payload.
func (c *zeekConn) packet(from int, flags uint16, data bool) {
	me, peer := &c.end[from], &c.end[1-from]
	if from == 0 {
		c.history(flags)
	}
	isFIN, isSYN, isRST, isACK := flags&fin != 0, flags&syn != 0, flags&rst != 0, flags&ack != 0
	switch me.now {
	case silent:
		c.first(from, flags, data)
	case synSent, synAckSent:
		if isFIN {
			me.become(closedByFIN)
		}
		if isRST {
			me.become(reset)
		}
	case partial, established:
		if isSYN && me.now == partial && peer.now == silent && !isACK {
			me.become(synSent)
		}
		if isFIN && !isRST {
			me.become(closedByFIN)
			if peer.now == reset && peer.before == closedByFIN {
				peer.become(closedByFIN)
			}
		}
		if isRST {
			me.become(reset)
		}
	case closedByFIN:
		if isRST && peer.now != closedByFIN {
			me.become(reset)
		}
	case reset:
	}
}

// history updates the fields that distinguish RSTOS0 from the reset of an established connection.
func (c *zeekConn) history(flags uint16) {
	switch {
	case flags&rst != 0:
		c.resetEarly = c.resetEarly || c.began && !c.went
	case flags&(syn|ack|fin) == syn && !c.went:
		c.began = true
	default:
		c.went = true
	}
}

// first takes an end's first packet.
func (c *zeekConn) first(from int, flags uint16, data bool) {
	me, peer := &c.end[from], &c.end[1-from]
	switch {
	case flags&syn != 0 && from == 0:
		me.become(synSent)
		if flags&ack != 0 {
			me.now = synAckSent
		}
	case flags&syn != 0:
		if peer.now == synSent || peer.now == synAckSent {
			peer.become(established)
		}
		me.become(established)
	}
	if flags&fin != 0 {
		me.become(closedByFIN)
	}
	if flags&rst != 0 {
		me.become(reset)
	}
	switch {
	case me.now != silent:
	case from == 1 && !data && peer.now == synSent: // no answer to the SYN
	case flags&ack != 0 && peer.now == established:
		me.become(established)
	default:
		me.become(partial)
	}
}

// state returns Zeek's conn_state; data is true if any packet had a payload.
func (c *zeekConn) state(data bool) flowpb.ConnState {
	o, r := c.end[0].now, c.end[1].now
	unopened := func(s zeekState) bool { return s == silent || s == partial }
	pick := func(when bool, a, b flowpb.ConnState) flowpb.ConnState {
		if when {
			return a
		}
		return b
	}
	switch {
	case r == reset && (o == synSent || o == synAckSent || o == reset && !data):
		return flowpb.ConnState_CONN_STATE_REJ
	case r == reset:
		return pick(unopened(o), flowpb.ConnState_CONN_STATE_RSTRH, flowpb.ConnState_CONN_STATE_RSTR)
	case o == reset && unopened(r):
		return pick(c.resetEarly, flowpb.ConnState_CONN_STATE_RSTOS0, flowpb.ConnState_CONN_STATE_OTH)
	case o == reset:
		return flowpb.ConnState_CONN_STATE_RSTO
	case r == closedByFIN && o == closedByFIN:
		return flowpb.ConnState_CONN_STATE_SF
	case o == closedByFIN:
		return pick(unopened(r), flowpb.ConnState_CONN_STATE_SH, flowpb.ConnState_CONN_STATE_S2)
	case r == closedByFIN:
		return pick(unopened(o), flowpb.ConnState_CONN_STATE_SHR, flowpb.ConnState_CONN_STATE_S3)
	case o == synSent && r == silent:
		return flowpb.ConnState_CONN_STATE_S0
	case o == established && r == established:
		return flowpb.ConnState_CONN_STATE_S1
	}
	return flowpb.ConnState_CONN_STATE_OTH
}

// A seenPacket is a packet of the originator (from 0) or the responder.
type seenPacket struct {
	from  int
	flags uint16
	data  bool
}

// stateOfPackets returns the connection state by the flags' ORs, and Zeek's.
func stateOfPackets(packets []seenPacket) (byFlags, byZeek flowpb.ConnState) {
	var z zeekConn
	var d [2]direction
	var seen side
	data := false
	for _, p := range packets {
		z.packet(p.from, p.flags, p.data)
		d[p.from].flags |= p.flags
		d[p.from].best = &seen
		data = data || p.data
	}
	return tcpState(&d[0], &d[1]), z.state(data)
}

// Sessions as they are seen, whole and in part. The reference is Zeek's state machine,
// which follows each packet.
func TestTheStateOfASessionIsZeeks(t *testing.T) {
	o := func(flags uint16) seenPacket { return seenPacket{0, flags, flags&psh != 0} }
	r := func(flags uint16) seenPacket { return seenPacket{1, flags, flags&psh != 0} }
	open := []seenPacket{o(syn), r(syn | ack), o(ack), o(psh | ack), r(psh | ack)}
	unopened := []seenPacket{o(psh | ack), r(psh | ack), o(ack)} // seen from the middle
	late := []seenPacket{r(syn | ack), o(ack), o(psh | ack), r(psh | ack)}
	ends := map[string][]seenPacket{
		"goes on":                          nil,
		"closed by both":                   {o(fin | ack), r(fin | ack), o(ack)},
		"closed by both, responder first":  {r(fin | ack), o(fin | ack), r(ack)},
		"closed by both, then a RST":       {o(fin | ack), r(fin | ack), o(rst)},
		"closed by both, then a RST of r":  {r(fin | ack), o(fin | ack), r(rst)},
		"closed by the initiator":          {o(fin | ack), r(ack)},
		"closed by the responder":          {r(fin | ack), o(ack)},
		"reset by the initiator":           {o(rst | ack)},
		"reset by the responder":           {r(rst | ack)},
		"closed by o, reset by r":          {o(fin | ack), r(rst)},
		"closed by r, reset by o":          {r(fin | ack), o(rst | ack)},
		"reset by both":                    {o(rst | ack), r(rst)},
		"reset by both, o closed it":       {o(fin | ack), r(rst | ack), o(rst)},
		"closed by r, then reset by both":  {r(fin | ack), o(rst), r(rst)},
		"closed by o, a RST before r's":    {o(fin | ack), o(rst | ack), r(fin | ack)},
		"closed by o and reset by o alone": {o(fin | ack), o(rst | ack)},
	}
	check := func(name string, packets []seenPacket) {
		t.Helper()
		if got, want := stateOfPackets(packets); got != want {
			t.Errorf("%s: want %v, got %v", name, want, got)
		}
	}
	one := func(packets []seenPacket, from int) (out []seenPacket) {
		for _, p := range packets {
			if p.from == from {
				out = append(out, p)
			}
		}
		return out
	}
	for end, last := range ends {
		for begin, first := range map[string][]seenPacket{"whole": open, "from the middle": unopened, "from the SYN+ACK": late} {
			all := append(append([]seenPacket{}, first...), last...)
			check(begin+", "+end, all)
			check(begin+", "+end+", o alone", one(all, 0))
			if begin != "from the middle" {
				check(begin+", "+end+", r alone", one(all, 1))
			}
		}
	}
	check("a SYN", []seenPacket{o(syn)})
	check("SYNs and a RST", []seenPacket{o(syn), o(syn), o(rst)})
	check("refused", []seenPacket{o(syn), r(rst | ack)})
	check("refused twice", []seenPacket{o(syn), r(rst | ack), o(syn), r(rst | ack)})
	check("a half-open scan", []seenPacket{o(syn), r(syn | ack), o(rst)})
	check("an answer that is not taken", []seenPacket{o(syn), r(syn | ack), r(syn | ack)})
	check("an answer and a RST of the same side", []seenPacket{o(syn), r(syn | ack), r(rst)})
	check("backscatter", []seenPacket{r(syn | ack), r(syn | ack), r(rst | ack)})
}

// The OR of flags has no order: its state must be a state that Zeek gives to some order of packets with this OR. All
// sequences of up to five packets are tried.
func TestTheStateOfAnORIsZeeksOfSomeOrder(t *testing.T) {
	type class struct {
		flags [2]uint16
		seen  [2]bool
	}
	zeek := map[class]map[flowpb.ConnState]bool{}
	ours := map[class]flowpb.ConnState{}
	kinds := []uint16{syn, syn | ack, ack, psh | ack, fin | ack, rst, rst | ack}
	var extend func(packets []seenPacket)
	extend = func(packets []seenPacket) {
		if len(packets) > 0 {
			var c class
			for _, p := range packets {
				c.flags[p.from] |= p.flags
				c.seen[p.from] = true
			}
			byFlags, byZeek := stateOfPackets(packets)
			if zeek[c] == nil {
				zeek[c] = map[flowpb.ConnState]bool{}
			}
			zeek[c][byZeek], ours[c] = true, byFlags
		}
		if len(packets) == 5 {
			return
		}
		for from := range 2 {
			for _, flags := range kinds {
				extend(append(packets, seenPacket{from, flags, flags&psh != 0}))
			}
		}
	}
	extend(make([]seenPacket, 0, 5))
	for c, states := range zeek {
		if !states[ours[c]] {
			t.Errorf("flags %#x seen %v: got %v, Zeek gives %v", c.flags, c.seen, ours[c], states)
		}
	}
	t.Logf("%d ORs of flags", len(zeek))
}
