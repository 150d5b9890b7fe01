package decode

import "weir/pkg/flowpb"

// A fastSet holds the values that the records of a set share.
type fastSet struct {
	octets   outWindow // space of head
	head     []byte    // the common beginning of each message; aliases octets
	linear   bool      // times are linear, see fastPlan.linear
	ruleTime bool      // times require the rules of the appending path
	sampling bool      // the sampling rate may differ from record to record
	reverse  bool      // the reverse direction has times
	rules    bool      // fastRules has something to write: one of these, or an Ethernet type
	uptime   uint32
	maxAge   int64 // ms; see Decoder.MaxUptimeAge
	export   int64
}

// beginSets prepares for the data records of p. It returns the maximum number of octets of a
// record's message and key, and false if that is more than a window holds.
func (d *Decoder) beginSets(p *Plan) (room int, ok bool) {
	room = d.beginSet(p, p.fast, &d.fast[0])
	if p.fast6 != nil {
		room = max(room, d.beginSet(p, p.fast6, &d.fast[1]))
	}
	return room, room <= maxFastOut
}

// beginSet prepares s for records of p that are decoded by f: it writes the fields that all of them
// share into the head. It returns the maximum number of octets of a record's message and key.
func (d *Decoder) beginSet(p *Plan, f *fastPlan, s *fastSet) (room int) {
	c, o := &d.ctx, &d.out
	s.uptime, s.export, s.maxAge = c.header.Uptime, c.header.Export, c.maxAgeMs
	s.linear = f.linear && (p.times.unit != tStartUp || c.initMs == 0)
	s.ruleTime = !s.linear && !f.exportTime
	s.reverse = p.reverse.source != flowpb.TimeSource_TIME_SOURCE_UNSPECIFIED
	s.sampling = c.exporter.SamplingOverride == 0 &&
		(p.sampled || p.picks.sampler != noSlot && c.facts.nSamplers.Load() > 0)
	s.rules = s.sampling || s.reverse || f.etherType.mask != 0
	h := append(s.octets[:0], d.head...)
	if f.etherType.mask == 0 {
		h = number(h, fEtherType, f.familyType())
	}
	if p.biflow {
		h = number(h, fBiflow, 1)
	}
	if !s.ruleTime {
		switch {
		case f.exportTime:
			o.start, o.end, o.source, o.resolutionUs = c.times(&p.times, &d.rec)
		case p.times.unit == tStartUp:
			o.source, o.resolutionUs = headerClock(c.header.Version)
		default:
			o.source, o.resolutionUs = p.times.source, resolution(p.times.unit)
		}
		h = number(number(h, fTimeSource, uint64(o.source)), fResolution, uint64(o.resolutionUs))
		if f.exportTime {
			h = number(number(h, fStart, uint64(o.start)), fEnd, uint64(o.end))
		}
	}
	if !s.sampling {
		c.sampling(&d.rec, o)
		h = number(number(h, fRate, o.rate), fRateSource, uint64(o.rateSource))
	}
	s.head = h
	return len(h) + f.maxOut
}

// familyType returns the Ethernet type of the address family, IEEE 802 numbers of IANA.
func (f *fastPlan) familyType() uint64 {
	if f.v6 {
		return 0x86dd
	}
	return 0x0800
}

// arrangementOf returns the arrangement of p, a template of both families, that decodes the record of
// in. It decides as record.pair does: the IPv6 addresses count if the IPv4 addresses are zero. It
// returns nil for a record with addresses of both families, which only the appending path can handle:
// it keeps the IPv6 addresses as elements.
func (d *Decoder) arrangementOf(p *Plan, in *window) (*fastPlan, *fastSet) {
	x, y := (p.fast.src+8)&inMask, (p.fast.dst+8)&inMask
	if be.Uint32(in[x:])|be.Uint32(in[y:]) == 0 {
		return p.fast6, &d.fast[1]
	}
	x, y = (p.fast6.src+8)&inMask, (p.fast6.dst+8)&inMask
	if be.Uint64(in[x:])|be.Uint64(in[x+8:])|be.Uint64(in[y:])|be.Uint64(in[y+8:]) != 0 {
		return nil, nil
	}
	return p.fast, &d.fast[0]
}
