package decode

import (
	"math"
	"net/netip"

	"weir/internal/flowkey"
	"weir/internal/ipfix"
	"weir/pkg/flowpb"
)

// A context holds the values that all records of a datagram share.
type context struct {
	meta     Meta
	header   Header
	hash     uint64
	flowType flowpb.FlowMessage_FlowType
	facts    *Facts
	initMs   uint64 // from facts, for the whole datagram; 0: unknown or implausible
	exporter *Exporter
	maxAgeMs int64 // Decoder.MaxUptimeAge

	codeFirst bool     // from facts, for the whole datagram: see portForm
	formsSeen portForm // in the current data set
	counts
}

// counts counts malformed values: those read in spite of their form, and those dropped.
type counts struct{ misencoded, badRates, oldUptimes int }

// A record holds the values of a data record that rules read. A value is valid only if the plan
// has it (Plan.has, Plan.addrs): otherwise it may be that of an earlier record.
type record struct {
	plan *Plan
	v    [nSlots + 1]uint64
	addr [nAddrs + aPostSrc4][16]byte // IPv4 as v4-mapped; addresses of the inner tuple last
	once uint64                       // bit n is set once a step with once = n has written its field

	decoder        *Decoder   // owner of the record
	relay          bool       // the exporter that the record names becomes the flow's
	exporter       netip.Addr // the exporter that the record names; invalid if none
	exporterByAddr func(netip.Addr) *Exporter
	drop           bool           // Decoder.DropElements
	named          [nNames]uint64 // values that may have names
	nameable       uint16         // a bit per entry of named that the record has

	defined     *[MaxDefined + 1]ElementDefinition // by step.undefined; nil: no element of the set is defined
	definitions *[MaxDefined + 1]ElementDefinition // space for defined; nil until first needed
}

// An outcome holds the values that the rules derive from a record.
type outcome struct {
	src, dst, postSrc, postDst     address
	octets, packets                uint64
	totalOctets, totalPackets      uint64
	biflow                         bool
	revOctets, revPackets          uint64
	proto, srcPort, dstPort, flags uint32
	icmpType, icmpCode, etherType  uint32
	postSrcPort, postDstPort       uint32
	srcNet, dstNet                 uint32
	start, end                     int64
	source                         flowpb.TimeSource
	resolutionUs                   uint32
	revStart, revEnd               int64
	rate, sampler                  uint64
	rateSource                     flowpb.SamplingSource

	revFlags             uint32 // of the elements that the rules join
	repeats              bool   // the template has two tuples: the rules set tos and label
	tos, label           uint32
	tunnelSrc, tunnelDst address // of the outer packet
	tunnelProto          uint32  // 0: the record has no inner tuple
	hidden               bool    // the exporter did not look into the tunnel
	client               bool    // the source opened the connection, by its element
}

// An address is an address of a record. Without octets it is absent.
type address struct {
	octets *[16]byte
	v6     bool
}

// bytes returns the 4 or 16 octets, nil if a is absent.
func (a address) bytes() []byte {
	switch {
	case a.octets == nil:
		return nil
	case a.v6:
		return a.octets[:]
	}
	return a.octets[12:]
}

// hasSlot reports whether the record's template has slot s.
func (r *record) hasSlot(s slot) bool { return r.plan.has[s] }

// pair returns two addresses. a and b are the indices of their IPv4 forms; the IPv6 forms have the
// next higher index. With both families present the pair that is not zero counts.
func (r *record) pair(a, b int) (x, y address) {
	p := r.plan.addrs
	v4, v6 := p>>a&1 == 1 || p>>b&1 == 1, p>>(a+1)&1 == 1 || p>>(b+1)&1 == 1
	useV6 := v6 && (!v4 || zero4(&r.addr[a]) && zero4(&r.addr[b]))
	if useV6 {
		a, b = a+1, b+1
	}
	if p>>a&1 == 1 {
		x = address{&r.addr[a], useV6}
	}
	if p>>b&1 == 1 {
		y = address{&r.addr[b], useV6}
	}
	return x, y
}

// zero4 reports whether the IPv4 address in a v4-mapped address is 0.0.0.0.
func zero4(a *[16]byte) bool { return a[12]|a[13]|a[14]|a[15] == 0 }

// derive applies the rules over several elements. It resets o first.
func (c *context) derive(r *record, o *outcome) {
	*o = outcome{}
	if r.plan.tunnels() {
		r.unwrap(o)
	} else {
		o.src, o.dst = r.pair(aSrc4, aDst4)
	}
	if r.plan.station {
		r.stationEnds(o)
	}
	o.client = r.plan.client
	if r.plan.addrs>>aPostSrc4 != 0 {
		o.postSrc, o.postDst = r.pair(aPostSrc4, aPostDst4)
	}
	r.counters(o)
	c.transport(r, o)
	o.start, o.end, o.source, o.resolutionUs = c.times(&r.plan.times, r)
	if r.plan.reverse.source != flowpb.TimeSource_TIME_SOURCE_UNSPECIFIED {
		o.revStart, o.revEnd, _, _ = c.times(&r.plan.reverse, r)
	}
	c.sampling(r, o)
}

// picks are the slots from which a plan's records take a value; noSlot, which always holds 0, if
// the template has none.
type picks struct {
	octets, packets, totalOctets, totalPackets, revOctets, revPackets slot
	srcPort, dstPort, flags, postSrcPort, postDstPort, sampler        slot
	src4Net, dst4Net, src6Net, dst6Net                                slot
	initialFlags, unionFlags, revInitialFlags, revUnionFlags          slot
	icmp4, icmp6                                                      slot // type * 256 + code
}

// pick selects the slots: delta counters, else total counters, else those of initiator and
// responder.
//
// Total counters (IE 85, 86) do not start again with each record, so they exceed the octets of one
// record when the exporter reports a long flow several times; they serve as the octets only where the
// template has no delta counter. initiatorOctets and responderOctets (IE 231, 232) are the two
// directions of a biflow (RFC 5103) in the elements of Cisco's firewalls.
func (p *Plan) pick() picks {
	first := func(slots ...slot) slot {
		for _, s := range slots {
			if p.has[s] {
				return s
			}
		}
		return noSlot
	}
	return picks{
		octets: first(sOctets, sTotalOctets, sInitOctets), packets: first(sPackets, sTotalPackets, sInitPackets),
		totalOctets: first(sTotalOctets), totalPackets: first(sTotalPackets),
		revOctets: first(sRevOctets, sRevTotOctets, sRespOctets), revPackets: first(sRevPackets, sRevTotPkts, sRespPackets),
		srcPort: first(sSrcPort), dstPort: first(sDstPort), flags: first(sFlags),
		postSrcPort: first(sPostSrcPort), postDstPort: first(sPostDstPort), sampler: first(sSelector, sSampler),
		initialFlags: first(sInitialFlags), unionFlags: first(sUnionFlags),
		revInitialFlags: first(sRevInitialFlags), revUnionFlags: first(sRevUnionFlags),
		src4Net: first(sSrcNet4, sSrcNet6), dst4Net: first(sDstNet4, sDstNet6),
		src6Net: first(sSrcNet6, sSrcNet4), dst6Net: first(sDstNet6, sDstNet4),
		icmp4: first(sICMPv4, sDstPort), icmp6: first(sICMPv6, sICMPv4, sDstPort),
	}
}

// counters sets octets and packets of both directions.
func (r *record) counters(o *outcome) {
	p := &r.plan.picks
	o.octets, o.packets = r.v[p.octets], r.v[p.packets]
	o.totalOctets, o.totalPackets = r.v[p.totalOctets], r.v[p.totalPackets]
	if o.biflow = r.plan.biflow; o.biflow {
		o.revOctets, o.revPackets = r.v[p.revOctets], r.v[p.revPackets]
	}
}

// transport sets protocol, ports, ICMP type and code, Ethernet type and prefix lengths.
func (c *context) transport(r *record, o *outcome) {
	p, pick := r.plan, &r.plan.picks
	v6 := o.src.v6 || o.dst.v6
	o.srcPort, o.dstPort, o.flags = uint32(r.v[pick.srcPort]), uint32(r.v[pick.dstPort]), uint32(r.v[pick.flags])
	o.flags |= uint32(r.v[pick.initialFlags] | r.v[pick.unionFlags])
	o.revFlags = uint32(r.v[pick.revInitialFlags] | r.v[pick.revUnionFlags])
	o.postSrcPort, o.postDstPort = uint32(r.v[pick.postSrcPort]), uint32(r.v[pick.postDstPort])
	o.srcNet, o.dstNet = uint32(r.v[pick.src4Net]), uint32(r.v[pick.dst4Net])
	if v6 {
		o.srcNet, o.dstNet = uint32(r.v[pick.src6Net]), uint32(r.v[pick.dst6Net])
	}
	if o.tunnelProto != 0 {
		o.srcNet, o.dstNet = r.innerNet(o, sSrcNet4, sSrcNet6), r.innerNet(o, sDstNet4, sDstNet6)
	}
	switch {
	case p.has[sProto]:
		o.proto = uint32(r.v[sProto])
	case p.icmp4() && (!p.icmp6() || !v6):
		o.proto = flowkey.ICMP
	case p.icmp6():
		o.proto = flowkey.ICMPv6
	}
	switch {
	case p.has[sEtherType] && r.v[sEtherType] != 0 && o.tunnelProto == 0:
		o.etherType = uint32(r.v[sEtherType])
	case v6:
		o.etherType = 0x86dd
	case o.src.octets != nil || o.dst.octets != nil || p.has[sIPVersion] && r.v[sIPVersion] == 4:
		o.etherType = 0x0800
	case p.has[sIPVersion] && r.v[sIPVersion] == 6:
		o.etherType = 0x86dd
	}
	switch o.proto {
	case flowkey.ICMP:
		c.icmp(r, o, pick.icmp4, sTypeV4, sCodeV4)
	case flowkey.ICMPv6:
		c.icmp(r, o, pick.icmp6, sTypeV6, sCodeV6)
	}
}

// icmp sets type and code from elements of their own, else from the element that holds both.
func (c *context) icmp(r *record, o *outcome, both, typ, code slot) {
	if r.hasSlot(typ) || r.hasSlot(code) {
		if r.hasSlot(typ) {
			o.icmpType = uint32(r.v[typ])
		}
		if r.hasSlot(code) {
			o.icmpCode = uint32(r.v[code])
		}
		return
	}
	v := r.v[both]
	if both == sDstPort {
		src := uint64(0)
		if r.plan.version < ipfix.VersionNetFlow9 {
			src = r.v[r.plan.picks.srcPort]
		}
		v = c.portICMP(uint8(o.proto), src, v)
	}
	o.icmpType, o.icmpCode = uint32(v>>8&0xff), uint32(v&0xff)
}

// icmp4 reports whether the template has an element of ICMP for IPv4.
func (p *Plan) icmp4() bool { return p.has[sICMPv4] || p.has[sTypeV4] || p.has[sCodeV4] }

// icmp6 reports whether the template has an element of ICMPv6.
func (p *Plan) icmp6() bool { return p.has[sICMPv6] || p.has[sTypeV6] || p.has[sCodeV6] }

// sampling sets the sampling rate, 1 in N, and its source.
func (c *context) sampling(r *record, o *outcome) {
	o.sampler = r.v[r.plan.picks.sampler]
	o.rate, o.rateSource = c.rate(r, o.sampler)
}

// rate returns the sampling rate from the first source that has a rate: the operator's override, the
// record, options data, the v5 header, the operator's default. 0 means unknown.
//
// The statements of the exporter follow from the most specific to the least specific. The field of
// the v5 header has 2 bits of mode above 14 bits of interval, which the mask 0x3fff selects; some
// exporters set the interval without a mode, so the mode is not read.
func (c *context) rate(r *record, sampler uint64) (uint64, flowpb.SamplingSource) {
	if n := c.exporter.SamplingOverride; n != 0 {
		return n, flowpb.SamplingSource_SAMPLING_SOURCE_OVERRIDE
	}
	if r.plan.sampled {
		if n := r.rate(); n != 0 {
			return n, flowpb.SamplingSource_SAMPLING_SOURCE_RECORD
		}
		c.badRates++
	}
	if c.facts.nSamplers.Load() > 0 {
		var n uint64
		var ok bool
		if r.plan.picks.sampler == noSlot {
			n, ok = c.facts.OnlyRate(c.meta.Port)
		} else if n, ok = c.facts.Rate(c.meta.Port, sampler); !ok {
			n, ok = c.facts.Rate(c.meta.Port, 0)
		}
		if ok {
			return n, flowpb.SamplingSource_SAMPLING_SOURCE_OPTIONS
		}
	}
	if n := uint64(c.header.Sampling & 0x3fff); n != 0 {
		return n, flowpb.SamplingSource_SAMPLING_SOURCE_HEADER
	}
	if n := c.exporter.SamplingDefault; n != 0 {
		return n, flowpb.SamplingSource_SAMPLING_SOURCE_DEFAULT
	}
	return 0, flowpb.SamplingSource_SAMPLING_SOURCE_UNSPECIFIED
}

// rate returns the sampling rate that the record itself states, 1 in N; 0 if none or impossible.
func (r *record) rate() uint64 {
	p := r.plan
	switch {
	case p.has[sInterval] && r.v[sInterval] != 0:
		return possible(r.v[sInterval])
	case p.has[sRandom] && r.v[sRandom] != 0:
		return possible(r.v[sRandom])
	case p.has[sInterval305] && p.has[sSpace306]:
		return ratio(sum(r.v[sInterval305], r.v[sSpace306]), r.v[sInterval305])
	case p.has[sSize309] && p.has[sPopulation310]:
		return ratio(r.v[sPopulation310], r.v[sSize309])
	case p.has[sProbability]:
		return inverse(math.Float64frombits(r.v[sProbability]))
	}
	return 0
}

// MaxSamplingRate is the greatest plausible N of a sampling rate of 1 in N. A greater N counts as
// unknown.
const MaxSamplingRate = math.MaxUint32

// possible returns n, or 0 if it exceeds MaxSamplingRate.
func possible(n uint64) uint64 {
	if n > MaxSamplingRate {
		return 0
	}
	return n
}

// ratio returns a/b rounded to the nearest integer, at least 1; 0 for a = 0, b = 0 and rates beyond
// MaxSamplingRate.
func ratio(a, b uint64) uint64 {
	if a == 0 || b == 0 {
		return 0
	}
	n := a / b
	if rest := a % b; rest >= b-rest {
		n++
	}
	return possible(max(1, n))
}

// sum returns a+b, or 0 on overflow: an absurd operand.
func sum(a, b uint64) uint64 {
	if a > math.MaxUint64-b {
		return 0
	}
	return a + b
}

// inverse returns 1/p rounded to the nearest integer; 0 if p is no probability.
func inverse(p float64) uint64 {
	if !(p > 1e-12 && p <= 1) {
		return 0
	}
	return possible(uint64(math.Round(1 / p)))
}

// key returns the key of the conversation. ok is false without an address pair. Under NAT it is the
// key of the inside, see flowkey.Inside.
func (o *outcome) key() (k flowkey.Key, ok bool) {
	if o.src.octets == nil || o.dst.octets == nil {
		return k, false
	}
	t := flowkey.Tuple{
		Src: *o.src.octets, Dst: *o.dst.octets, SrcPort: uint16(o.srcPort), DstPort: uint16(o.dstPort),
		Proto: uint8(o.proto), ICMPType: uint8(o.icmpType), ICMPCode: uint8(o.icmpCode),
	}
	if o.postSrc.octets == nil && o.postDst.octets == nil && o.postSrcPort|o.postDstPort == 0 {
		if o.biflow && o.octets|o.packets == 0 && o.revOctets|o.revPackets != 0 {
			// Only the reverse direction has packets: an ICMP type belongs to that direction.
			t.Src, t.Dst, t.SrcPort, t.DstPort = t.Dst, t.Src, t.DstPort, t.SrcPort
		}
		k, _ = t.Canon()
		return k, true
	}
	post := t
	if a := o.postSrc.octets; a != nil && !unset(a) {
		post.Src = *a
	}
	if a := o.postDst.octets; a != nil && !unset(a) {
		post.Dst = *a
	}
	if o.postSrcPort != 0 {
		post.SrcPort = uint16(o.postSrcPort)
	}
	if o.postDstPort != 0 {
		post.DstPort = uint16(o.postDstPort)
	}
	k, _, _ = flowkey.Inside(&t, &post)
	return k, true
}

// unset reports whether a is 0.0.0.0 or ::.
func unset(a *[16]byte) bool { return *a == [16]byte{} || flowkey.IsV4(a) && zero4(a) }
