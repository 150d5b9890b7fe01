package pair

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"slices"

	"weir/internal/flowkey"
	"weir/internal/saturating"
	"weir/pkg/flowpb"
)

// An Emission is a report of a connection. Its Community ID is not set: CommunityID computes it.
type Emission struct {
	*flowpb.Connection
	// More is the increase in estimated octets since the previous version, or since 0 for the first.
	More uint64
}

// A report holds the buffers of a report. The next report overwrites them, so that reports do not allocate. A report
// points into these buffers: it must be encoded or copied before the next.
type report struct {
	e                    Emission
	c                    flowpb.Connection
	initiator, responder flowpb.Endpoint
	forward, reverse     flowpb.Traffic
	icmpType, icmpCode   uint32
	id                   [16]byte
	app                  [8]byte
	octets               []byte  // backs the addresses of the report
	sides, in            []*side // of the last call of direction: all sides, strongest first; those counted
	quality              []flowpb.Quality
}

// A direction holds the totals of a connection in one direction, summed over the counted sides. Of observation points
// that overlap in time only the strongest is counted, since they observed the same packets.
//
// Example: A observed 12:00 to 12:01 with 100 packets, B the same minute with 80, C 12:05 to 12:06 with 50. A and C are
// counted, 150 packets; B is not, since it overlaps A, which is stronger. points is 3.
type direction struct {
	toHi             bool
	octets, packets  uint64
	octetsE, packsE  uint64
	records          uint32
	rateMin, rateMax uint32
	points           uint32
	best             *side // the strongest observation point; nil: not seen
	start, end       int64
	reason           uint8
	flags            uint16
	resolution       int64
	datagram         uint64 // hash of the datagram with the first record
	fine             int64  // resolution inside this datagram, ns
}

// direction sums the sides of e in a direction. It leaves the sides in m.report.sides, the strongest first, and the
// counted sides in m.report.in, where merge reads them. Octets and packets are those of the counted sides. Flags are
// those of all sides: a weaker observation point may have metered a packet that the counted side missed. It compares
// each side with all counted ones, at most maxSides times maxSides.
func (m *Machine) direction(e *entry, toHi bool) direction {
	d := direction{toHi: toHi}
	sides, in := m.report.sides[:0], m.report.in[:0]
	for i := e.sides; i != 0; i = m.sides.ref(i).next {
		if s := m.sides.ref(i); s.toHi == toHi {
			sides = append(sides, s)
		}
	}
	m.report.sides = sides
	if len(sides) == 0 {
		return d
	}
	if len(sides) > 1 {
		slices.SortFunc(sides, m.stronger)
	}
	skew := int64(m.c.ClockSkew)
	b := sides[0]
	last := b
	d.best, d.points = b, uint32(len(sides))
	d.start, d.end, d.rateMin = b.start, b.end, b.rateMin
	for _, s := range sides {
		d.flags |= s.flags
		if slices.ContainsFunc(in, func(o *side) bool { return max(s.start-o.end, o.start-s.end) <= skew }) {
			continue // overlaps a stronger observation point, which observed the same packets
		}
		in = append(in, s)
		d.octets = saturating.Add(d.octets, s.octets)
		d.packets = saturating.Add(d.packets, s.packets)
		d.octetsE = saturating.Add(d.octetsE, s.octetsE)
		d.packsE = saturating.Add(d.packsE, s.packsE)
		d.records += s.records
		d.rateMin = min(d.rateMin, s.rateMin)
		d.rateMax = max(d.rateMax, s.rateMax)
		if s.start <= d.start {
			d.start, d.datagram, d.fine = s.start, s.datagram, s.fine.ns()
		}
		d.end = max(d.end, s.end)
		d.resolution = max(d.resolution, s.resolution.ns())
		if s.end > last.end {
			last = s
		}
	}
	d.reason = last.reason
	m.report.in = in
	return d
}

// traffic sets t to the report of d and returns t, or nil if the direction has no record. Interfaces, type of service
// and VLAN are those of the strongest observation point; sums are those of all counted observation points.
func (m *Machine) traffic(t *flowpb.Traffic, d *direction) *flowpb.Traffic {
	b := d.best
	if b == nil {
		return nil
	}
	v := &m.points.pool.ref(b.point).observationPoint
	t.Reset()
	t.Octets, t.Packets, t.OctetsEst, t.PacketsEst, t.Records = d.octets, d.packets, d.octetsE, d.packsE, d.records
	t.SamplingRateMin, t.SamplingRateMax, t.TcpFlags = uint64(d.rateMin), uint64(d.rateMax), uint32(d.flags)
	t.StartUnixNs, t.EndUnixNs, t.EndReason = d.start, d.end, uint32(d.reason)
	t.InputIf, t.OutputIf, t.Tos, t.Vlan = b.inIf, b.outIf, uint32(b.tos), uint32(b.vlan)
	t.Domain, t.Vantages = v.domain, d.points
	if v.exporter != [16]byte{} {
		t.Exporter = m.report.address(&v.exporter)
	}
	return t
}

// address returns the 4 or 16 octets of a, valid until the next report.
func (r *report) address(a *[16]byte) []byte {
	n := len(r.octets)
	if flowkey.IsV4(a) {
		r.octets = append(r.octets, a[12:]...)
	} else {
		r.octets = append(r.octets, a[:]...)
	}
	return r.octets[n:len(r.octets):len(r.octets)]
}

// stronger compares sides for slices.SortFunc: an observation point that counts every packet precedes sampling
// observation points, since a greater estimate is not a better one. Then the greater number of packets, the greater
// number of octets, the earlier start and the identity of the observation point decide, so that the order of arrival
// does not matter.
func (m *Machine) stronger(a, b *side) int {
	if exact := a.rateMin == 1 && a.rateMax == 1; exact != (b.rateMin == 1 && b.rateMax == 1) {
		if exact {
			return -1
		}
		return 1
	}
	if c := cmp.Or(
		cmp.Compare(b.packsE, a.packsE), cmp.Compare(b.octetsE, a.octetsE), cmp.Compare(a.start, b.start),
	); c != 0 {
		return c
	}
	x, y := &m.points.pool.ref(a.point).observationPoint, &m.points.pool.ref(b.point).observationPoint
	return cmp.Or(
		bytes.Compare(x.exporter[:], y.exporter[:]), cmp.Compare(x.domain, y.domain), cmp.Compare(x.iface, y.iface),
	)
}

// connection returns the report of e at stream time at. It is valid until the next call. The initiator is determined
// anew for each report, from all records up to then: a later version may turn the direction.
func (m *Machine) connection(e *entry, at int64, final bool) *flowpb.Connection {
	r := &m.report
	if r.octets == nil {
		r.octets = make([]byte, 0, 8*16) // large enough for a report: growth would leave slices into the old array
	}
	r.octets = r.octets[:0]
	loHi, hiLo := m.direction(e, true), m.direction(e, false)
	method, loInitiates := m.initiator(e, &loHi, &hiLo)
	there, back := &loHi, &hiLo
	if !loInitiates {
		there, back = back, there
	}
	c := &r.c
	c.Reset()
	r.id = e.id()
	c.ConnectionId, c.Version, c.Final = r.id[:], e.version, final
	c.FirstReceivedUnixNs, c.EmittedUnixNs, c.Protocol, c.IpVersion = e.first, at, uint32(e.key.Proto), 4
	if e.key.V6 {
		c.IpVersion = 6
	}
	c.DirectionMethod, c.ConnState = method, connState(e, there, back)
	switch {
	case !final:
		c.EmitReason = flowpb.EmitReason_EMIT_REASON_INTERIM
	case e.quality&bit(flowpb.Quality_QUALITY_LATE) != 0:
		c.EmitReason = flowpb.EmitReason_EMIT_REASON_LATE
	case m.complete(e):
		c.EmitReason = flowpb.EmitReason_EMIT_REASON_COMPLETE
	default:
		c.EmitReason = flowpb.EmitReason_EMIT_REASON_IDLE
	}
	c.StartUnixNs, c.EndUnixNs = interval(there, back)
	c.Forward, c.Reverse = m.traffic(&r.forward, there), m.traffic(&r.reverse, back)
	var l link
	if e.link != 0 {
		l = *m.links.ref(e.link)
		for _, d := range []struct {
			t *flowpb.Traffic
			v vrfs
		}{{m.trafficOf(true, loInitiates), l.toHi}, {m.trafficOf(false, loInitiates), l.toLo}} {
			d.t.InputVrf, d.t.OutputVrf = d.v.in, d.v.out
		}
		if n := l.app.n; n != 0 {
			binary.BigEndian.PutUint64(r.app[:], l.app.id)
			c.ApplicationId = r.app[8-n:]
		}
	}
	c.Initiator, c.Responder = &r.initiator, &r.responder
	lo, hi := c.Initiator, c.Responder
	if !loInitiates {
		lo, hi = hi, lo
	}
	r.party(lo, &e.key.Lo, e.key.LoPort, &l.natLo, l.macLo, e.asLo)
	r.party(hi, &e.key.Hi, e.key.HiPort, &l.natHi, l.macHi, e.asHi)
	if e.key.Proto == flowkey.ICMP || e.key.Proto == flowkey.ICMPv6 {
		r.icmpType, r.icmpCode = c.Initiator.Port, uint32(e.icmpCode)
		c.IcmpType, c.IcmpCode = &r.icmpType, &r.icmpCode
		if e.key.OneWay() { // the key has the ICMP code in place of the port
			c.Responder.Port = 0
		}
	}
	c.Quality = e.qualities(r.quality[:0], there, back)
	r.quality = c.Quality
	return c
}

// emission calls emit with a report of e, and updates e.reported. Emission.More of all versions of a connection sum up
// to the greatest total, so that metrics count no octet twice.
func (r *report) emission(e *entry, c *flowpb.Connection, emit func(*Emission)) {
	total := saturating.Add(c.GetForward().GetOctetsEst(), c.GetReverse().GetOctetsEst())
	r.e = Emission{Connection: c}
	if total > e.reported { // the total can decrease, when observation points prove to overlap
		r.e.More, e.reported = total-e.reported, total
	}
	emit(&r.e)
}

// octets returns the estimated octets that a report of e would have now; at least those of the last report.
func (m *Machine) octets(e *entry) uint64 {
	toHi, toLo := m.direction(e, true), m.direction(e, false)
	return max(e.reported, saturating.Add(toHi.octetsE, toLo.octetsE))
}

// trafficOf returns the Traffic of the report for a direction.
func (m *Machine) trafficOf(toHi, loInitiates bool) *flowpb.Traffic {
	if toHi == loInitiates {
		return &m.report.forward
	}
	return &m.report.reverse
}

// party fills the endpoint p: address, port and AS number, and its NAT address and MAC address if known.
func (r *report) party(p *flowpb.Endpoint, addr *[16]byte, port uint16, nat *endpoint, mac uint64, as uint32) {
	p.Reset()
	p.Address, p.Port, p.Asn = r.address(addr), uint32(port), as
	if *nat != (endpoint{}) {
		p.NatPort = uint32(nat.port)
		if nat.addr != [16]byte{} {
			p.NatAddress = r.address(&nat.addr)
		}
	}
	if mac != 0 {
		n := len(r.octets)
		r.octets = append(r.octets, byte(mac>>40), byte(mac>>32), byte(mac>>24), byte(mac>>16), byte(mac>>8), byte(mac))
		p.Mac = r.octets[n:len(r.octets):len(r.octets)]
	}
}

// CommunityID returns the Community ID v1 of a connection, with seed 0. It is a function of its own because it costs a
// SHA-1: enrich computes it outside of the pairing, after anonymisation.
func CommunityID(c *flowpb.Connection) string { return string(AppendCommunityID(nil, c)) }

// AppendCommunityID appends the text that CommunityID returns to text.
func AppendCommunityID(text []byte, c *flowpb.Connection) []byte {
	a, b := c.GetInitiator(), c.GetResponder()
	t := flowkey.Tuple{
		SrcPort: uint16(a.GetPort()), DstPort: uint16(b.GetPort()), Proto: uint8(c.GetProtocol()),
		ICMPType: uint8(c.GetIcmpType()), ICMPCode: uint8(c.GetIcmpCode()),
	}
	t.Src, _ = flowkey.Address(a.GetAddress())
	t.Dst, _ = flowkey.Address(b.GetAddress())
	k, _ := t.Canon()
	return k.AppendCommunityID(text, 0)
}

// interval returns the time span of both directions; a direction without records does not count. It must not be called
// without any record: an entry has at least one side.
func interval(a, b *direction) (start, end int64) {
	switch {
	case a.best == nil:
		return b.start, b.end
	case b.best == nil:
		return a.start, a.end
	}
	return min(a.start, b.start), max(a.end, b.end)
}

// qualities appends to list the qualities of e, in the order of their numbers. Qualities of records are stored in
// e.quality; those that depend on all records are computed here.
func (e *entry) qualities(list []flowpb.Quality, there, back *direction) []flowpb.Quality {
	q := e.quality
	set := func(is bool, x flowpb.Quality) {
		if is {
			q |= bit(x)
		}
	}
	set(e.oneSided(there, back), flowpb.Quality_QUALITY_ONE_SIDED)
	flags := there.flags | back.flags
	set(e.key.Proto == flowkey.TCP && flags != 0 && flags&syn == 0, flowpb.Quality_QUALITY_MIDSTREAM)
	set(there.rateMax > 1 || back.rateMax > 1, flowpb.Quality_QUALITY_SAMPLED)
	set(there.best != nil && there.rateMin == 0 || back.best != nil && back.rateMin == 0,
		flowpb.Quality_QUALITY_SAMPLING_UNKNOWN)
	set(there.points > 1 || back.points > 1, flowpb.Quality_QUALITY_MULTI_VANTAGE)
	for i := flowpb.Quality(1); i < 16; i++ {
		if q&bit(i) != 0 {
			list = append(list, i)
		}
	}
	return list
}

// oneSided reports whether a direction without records could have been observed. From a multicast or broadcast address
// and for one-way ICMP there is no reply. A scan is one-sided, and so is a connection whose other direction takes a
// path without an exporter.
func (e *entry) oneSided(there, back *direction) bool {
	seen := there
	switch {
	case e.key.OneWay() || there.best != nil && back.best != nil:
		return false
	case there.best == nil:
		seen = back
	}
	if seen.toHi {
		return !group(&e.key.Hi)
	}
	return !group(&e.key.Lo)
}
