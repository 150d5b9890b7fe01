package pair

import (
	"bytes"
	"slices"

	"weir/internal/flowkey"
	"weir/pkg/flowpb"
)

// A direction is what is reported of one direction: the sum over vantages that
// do not overlap, of those that do the strongest.
type direction struct {
	toHi         bool
	t            *flowpb.Traffic
	best         *side // the strongest vantage; nil: not seen
	start, end   int64
	flags        uint16
	resolution   int64
	datagram     uint64 // in which the first record came
	fine         int64  // for ordering inside it
	sampled      bool
	rateUnknown  bool
	multiVantage bool
}

// direction sums e's sides of one direction.
func (m *Machine) direction(e *entry, toHi bool) direction {
	d := direction{toHi: toHi}
	var sides []*side
	for i := range e.sides {
		if e.sides[i].toHi == toHi {
			sides = append(sides, &e.sides[i])
		}
	}
	if len(sides) == 0 {
		return d
	}
	slices.SortFunc(sides, stronger)
	d.multiVantage = len(sides) > 1
	d.best = sides[0]
	var in []*side
	skew := int64(m.c.ClockSkew)
	for _, s := range sides {
		d.flags |= s.flags
		if slices.ContainsFunc(in, func(o *side) bool { return max(s.start-o.end, o.start-s.end) <= skew }) {
			continue // sees the same packets
		}
		in = append(in, s)
	}
	b := d.best
	d.t = &flowpb.Traffic{
		SamplingRateMin: b.rateMin, InputIf: b.inIf, OutputIf: b.outIf, Tos: uint32(b.tos), Vlan: uint32(b.vlan),
		Exporter: octets(&b.exporter), Domain: b.domain, Vantages: uint32(len(sides)),
	}
	last := b
	d.start, d.end = b.start, b.end
	for _, s := range in {
		d.t.Octets += s.octets
		d.t.Packets += s.packets
		d.t.OctetsEst += s.octetsE
		d.t.PacketsEst += s.packsE
		d.t.Records += s.records
		d.t.SamplingRateMin = min(d.t.SamplingRateMin, s.rateMin)
		d.t.SamplingRateMax = max(d.t.SamplingRateMax, s.rateMax)
		if s.start <= d.start {
			d.start, d.datagram, d.fine = s.start, s.datagram, s.fine
		}
		d.end = max(d.end, s.end)
		d.resolution = max(d.resolution, s.resolution)
		d.sampled = d.sampled || s.rateMax > 1
		d.rateUnknown = d.rateUnknown || s.rateMin == 0
		if s.end > last.end {
			last = s
		}
	}
	d.t.TcpFlags = uint32(d.flags)
	d.t.StartUnixNs, d.t.EndUnixNs, d.t.EndReason = d.start, d.end, uint32(last.reason)
	return d
}

// stronger puts the vantage with the most packets first; then by octets, start
// and name, so that arrival order does not matter.
func stronger(a, b *side) int {
	switch {
	case a.packsE != b.packsE:
		return -cmpU(a.packsE, b.packsE)
	case a.octetsE != b.octetsE:
		return -cmpU(a.octetsE, b.octetsE)
	case a.start != b.start:
		return cmpInt(a.start, b.start)
	}
	if c := bytes.Compare(a.exporter[:], b.exporter[:]); c != 0 {
		return c
	}
	if a.domain != b.domain {
		return cmpU(uint64(a.domain), uint64(b.domain))
	}
	return cmpU(uint64(a.iface), uint64(b.iface))
}

func cmpU(a, b uint64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// octets are the 4 or 16 octets of an address; nil for the zero value.
func octets(a *[16]byte) []byte {
	switch {
	case *a == [16]byte{}:
		return nil
	case flowkey.IsV4(a):
		return bytes.Clone(a[12:])
	}
	return bytes.Clone(a[:])
}

// connection is e as it is reported at the instant at.
func (m *Machine) connection(e *entry, at int64, final bool) *flowpb.Connection {
	loHi, hiLo := m.direction(e, true), m.direction(e, false)
	method, loInitiates := m.initiator(e, &loHi, &hiLo)
	there, back := &loHi, &hiLo
	if !loInitiates {
		there, back = back, there
	}
	c := &flowpb.Connection{
		ConnectionId: bytes.Clone(e.id[:]), Version: e.version, Final: final, CommunityId: e.key.CommunityID(0),
		FirstReceivedUnixNs: e.first, EmittedUnixNs: at, Protocol: uint32(e.key.Proto), IpVersion: 4,
		DirectionMethod: method, ConnState: connState(e, there, back),
	}
	if e.key.V6 {
		c.IpVersion = 6
	}
	switch {
	case !final:
		c.EmitReason = flowpb.EmitReason_EMIT_REASON_INTERIM
	case e.quality&bit(flowpb.Quality_QUALITY_LATE) != 0:
		c.EmitReason = flowpb.EmitReason_EMIT_REASON_LATE
	case e.complete():
		c.EmitReason = flowpb.EmitReason_EMIT_REASON_COMPLETE
	default:
		c.EmitReason = flowpb.EmitReason_EMIT_REASON_IDLE
	}
	c.StartUnixNs, c.EndUnixNs = interval(there, back)
	if there.best != nil {
		c.Forward = there.t
	}
	if back.best != nil {
		c.Reverse = back.t
	}
	lo := party{&e.key.Lo, e.key.LoPort, &e.natLo, e.macLo, e.asLo}.endpoint()
	hi := party{&e.key.Hi, e.key.HiPort, &e.natHi, e.macHi, e.asHi}.endpoint()
	c.Initiator, c.Responder = lo, hi
	if !loInitiates {
		c.Initiator, c.Responder = hi, lo
	}
	if e.key.Proto == flowkey.ICMP || e.key.Proto == flowkey.ICMPv6 {
		typ, code := c.Initiator.Port, uint32(e.icmpCode)
		c.IcmpType, c.IcmpCode = &typ, &code
		if e.key.OneWay() { // the key has the code in the port's place
			c.Responder.Port = 0
		}
	}
	c.Quality = e.qualities(there, back, c.ConnState)
	return c
}

// party is one end of a connection.
type party struct {
	addr *[16]byte
	port uint16
	nat  *endpoint
	mac  uint64
	as   uint32
}

func (x party) endpoint() *flowpb.Endpoint {
	p := &flowpb.Endpoint{Address: address(x.addr), Port: uint32(x.port), Asn: x.as}
	if *x.nat != (endpoint{}) {
		p.NatAddress, p.NatPort = octets(&x.nat.addr), uint32(x.nat.port)
	}
	if m := x.mac; m != 0 {
		p.Mac = []byte{byte(m >> 40), byte(m >> 32), byte(m >> 24), byte(m >> 16), byte(m >> 8), byte(m)}
	}
	return p
}

// address is octets, but :: is an address here.
func address(a *[16]byte) []byte {
	if flowkey.IsV4(a) {
		return bytes.Clone(a[12:])
	}
	return bytes.Clone(a[:])
}

func interval(a, b *direction) (start, end int64) {
	switch {
	case a.best == nil:
		return b.start, b.end
	case b.best == nil:
		return a.start, a.end
	}
	return min(a.start, b.start), max(a.end, b.end)
}

// qualities lists what to know before relying on the connection.
func (e *entry) qualities(there, back *direction, state flowpb.ConnState) (list []flowpb.Quality) {
	q := e.quality
	set := func(is bool, x flowpb.Quality) {
		if is {
			q |= bit(x)
		}
	}
	oneSided := there.best == nil || back.best == nil
	set(oneSided && !e.key.OneWay() && !group(&e.key.Lo) && !group(&e.key.Hi), flowpb.Quality_QUALITY_ONE_SIDED)
	set(e.key.Proto == flowkey.TCP && (there.flags|back.flags)&syn == 0 && state != flowpb.ConnState_CONN_STATE_UNKNOWN, flowpb.Quality_QUALITY_MIDSTREAM)
	set(there.sampled || back.sampled, flowpb.Quality_QUALITY_SAMPLED)
	set(there.rateUnknown || back.rateUnknown, flowpb.Quality_QUALITY_SAMPLING_UNKNOWN)
	set(there.multiVantage || back.multiVantage, flowpb.Quality_QUALITY_MULTI_VANTAGE)
	for i := flowpb.Quality(1); i < 16; i++ {
		if q&bit(i) != 0 {
			list = append(list, i)
		}
	}
	return list
}
