package decode

import (
	"math"
	"math/bits"
	"time"

	"weir/pkg/flowpb"
)

// A timeRule says which time elements of a template are used. They are taken in
// this order: ms, µs, ns, s, delta µs, uptime, observation; else export time.
//
// A start whose template has neither an end nor a duration ends when the record was
// observed (322 to 325): events of firewalls have the time of the event there.
type timeRule struct {
	source       flowpb.TimeSource
	unit         slot // tStartS, tStartMs, …: how the values read
	start, end   slot // slots of the record; noSlot = absent
	duration     slot
	durationNs   int64 // ns a unit of duration
	observed     slot  // instead of the end; noSlot = not used
	observedUnit slot
}

const noSlot = nSlots

// uses tells whether the rule takes slot s.
func (r *timeRule) usesSlot(s slot) bool {
	return s == r.start || s == r.end || s == r.observed || s == r.duration && (r.start == noSlot || r.end == noSlot)
}

// clocks are the time elements by precedence.
var clocks = []struct {
	start, end, unit slot
	source           flowpb.TimeSource
}{
	{tStartMs, tEndMs, tStartMs, flowpb.TimeSource_TIME_SOURCE_MILLISECONDS},
	{tStartUs, tEndUs, tStartUs, flowpb.TimeSource_TIME_SOURCE_MICROSECONDS},
	{tStartNs, tEndNs, tStartNs, flowpb.TimeSource_TIME_SOURCE_NANOSECONDS},
	{tStartS, tEndS, tStartS, flowpb.TimeSource_TIME_SOURCE_SECONDS},
	{tStartDelta, tEndDelta, tStartDelta, flowpb.TimeSource_TIME_SOURCE_DELTA_MICROSECONDS},
	{tStartUp, tEndUp, tStartUp, flowpb.TimeSource_TIME_SOURCE_UPTIME},
	{tObservedMs, tObservedMs, tStartMs, flowpb.TimeSource_TIME_SOURCE_OBSERVATION},
	{tObservedUs, tObservedUs, tStartUs, flowpb.TimeSource_TIME_SOURCE_OBSERVATION},
	{tObservedNs, tObservedNs, tStartNs, flowpb.TimeSource_TIME_SOURCE_OBSERVATION},
	{tObservedS, tObservedS, tStartS, flowpb.TimeSource_TIME_SOURCE_OBSERVATION},
}

// ruleOf chooses the rule for the times whose slots begin at base.
func ruleOf(p *Plan, base slot) timeRule {
	r := timeRule{start: noSlot, end: noSlot, duration: noSlot, observed: noSlot}
	at := func(t slot) slot {
		if p.has[base+t] {
			return base + t
		}
		return noSlot
	}
	if r.duration = at(tDurationMs); r.duration != noSlot {
		r.durationNs = 1e6
	} else if r.duration = at(tDurationUs); r.duration != noSlot {
		r.durationNs = 1e3
	}
	for _, f := range clocks {
		start, end := at(f.start), at(f.end)
		if start == noSlot && end == noSlot {
			continue
		}
		r.start, r.end, r.unit, r.source = start, end, f.unit, f.source
		break
	}
	if r.start != noSlot && r.end == noSlot && r.duration == noSlot {
		for _, f := range clocks {
			if f.source == flowpb.TimeSource_TIME_SOURCE_OBSERVATION && at(f.end) != noSlot {
				r.observed, r.observedUnit = at(f.end), f.unit
				break
			}
		}
	}
	return r
}

// aheadMs bounds how far an exporter may stamp a flow after the datagram's
// header: a difference beyond it is an age (Cisco bug CSCei12353).
const aheadMs = 100_000

// age is how long before the header's uptime the uptime t was, ms; negative
// when t is a little after it. Uptimes wrap after 49.7 days.
func age(uptime, t uint32) int64 {
	d := uptime - t
	if d > math.MaxUint32-aheadMs+1 {
		return -int64(-d)
	}
	return int64(d)
}

// Bounds of Decoder.MaxUptimeAge: times up to aheadMs after the header are not old, and
// beyond the maximum no uptime is.
const (
	MinUptimeAge = 2 * time.Minute
	MaxUptimeAge = 1193 * time.Hour // 2^32 ms less aheadMs, in whole hours
)

// anyAgeMs is the age, ms, at which every uptime is believed.
const anyAgeMs = 1 << 32

// tooOld reports whether the uptime t lies after the header's, so that it can only be of
// before a wrap of the clock, and is then older than MaxUptimeAge: it is not an uptime
// of that clock.
func (c *context) tooOld(t uint32) bool {
	return t > c.header.Uptime && age(c.header.Uptime, t) > c.maxAgeMs
}

// byExport are the times of a record whose own cannot be.
func (c *context) byExport() (start, end int64, source flowpb.TimeSource, resolutionUs uint32) {
	c.oldUptimes++
	return c.header.Export, c.header.Export, flowpb.TimeSource_TIME_SOURCE_EXPORT_TIME, 1e6
}

// byHeader reads uptimes against the header's.
func (c *context) byHeader(first, last uint32) (start, end int64, source flowpb.TimeSource, resolutionUs uint32) {
	if c.tooOld(first) || c.tooOld(last) {
		return c.byExport()
	}
	h := &c.header
	source, resolutionUs = headerClock(h.Version)
	return h.Export - age(h.Uptime, first)*1e6, h.Export - age(h.Uptime, last)*1e6, source, resolutionUs
}

// headerClock is what times by the header's uptime are: v9 has whole seconds there.
func headerClock(version uint16) (source flowpb.TimeSource, resolutionUs uint32) {
	if version == VersionNetFlow9 {
		return flowpb.TimeSource_TIME_SOURCE_UPTIME, 1e6
	}
	return flowpb.TimeSource_TIME_SOURCE_HEADER_UPTIME, 1000
}

// times returns start and end of a record, ns since the epoch.
func (c *context) times(r *timeRule, rec *record) (start, end int64, source flowpb.TimeSource, resolutionUs uint32) {
	export := c.header.Export
	source, resolutionUs = r.source, resolution(r.unit)
	if r.source == flowpb.TimeSource_TIME_SOURCE_UNSPECIFIED {
		end = export
		if r.duration != noSlot {
			return max(end-int64(rec.v[r.duration])*r.durationNs, 0), end, flowpb.TimeSource_TIME_SOURCE_EXPORT_TIME, 1e6
		}
		return export, export, flowpb.TimeSource_TIME_SOURCE_EXPORT_TIME, 1e6
	}
	hasStart, hasEnd := r.start != noSlot, r.end != noSlot
	var sv, ev uint64
	if hasStart {
		sv = rec.v[r.start]
	}
	if hasEnd {
		ev = rec.v[r.end]
	}
	if r.unit == tStartUp {
		start, end, source, resolutionUs = c.uptimes(sv, ev, hasStart, hasEnd, rec)
	} else {
		start, end = c.instant(r.unit, sv), c.instant(r.unit, ev)
	}
	switch {
	case hasStart && hasEnd:
	case r.duration != noSlot && hasStart:
		end = start + min(int64(rec.v[r.duration])*r.durationNs, math.MaxInt64-start)
	case r.duration != noSlot:
		start = end - int64(rec.v[r.duration])*r.durationNs
	case hasStart && r.observed != noSlot:
		end = max(start, c.instant(r.observedUnit, rec.v[r.observed]))
	case hasStart:
		end = start
	default:
		start = end
	}
	start, end = max(start, 0), max(end, 0) // before 1970 nothing can be said
	if start > end {
		start, end = end, start
	}
	return start, end, source, resolutionUs
}

// resolution is how exactly times of a unit can be put in order, µs.
func resolution(unit slot) uint32 {
	switch unit {
	case tStartMs:
		return 1000
	case tStartUs, tStartNs:
		return 1
	}
	return 1e6 // whole seconds, or relative to a header of whole seconds
}

// instant reads a time of the given unit as ns since the epoch.
func (c *context) instant(unit slot, v uint64) int64 {
	switch unit {
	case tStartMs:
		if v > math.MaxInt64/1_000_000 {
			return math.MaxInt64
		}
		return int64(v) * 1e6
	case tStartUs:
		return c.ntp(v, 1e3)
	case tStartNs:
		return c.ntp(v, 1)
	case tStartDelta:
		return c.header.Export - int64(v)*1e3
	}
	return int64(v) * second
}

// ntpEpoch is the Unix time of NTP's era 0, 1900-01-01, in seconds.
const ntpEpoch = -2_208_988_800

// ntp reads an NTP timestamp (RFC 7011 sections 6.1.9, 6.1.10) as ns since the
// epoch, rounded to unit ns (1000: its low 11 bits are not counted). What gives
// a year before 1990 but reads as Unix time near export is taken as that: some
// exporters write Unix µs or ns there.
func ntp(v uint64, export, unit int64) (t int64, misencoded bool) {
	secs, frac := int64(v>>32), v&math.MaxUint32
	if unit == 1e3 {
		frac &^= 0x7ff
	}
	if secs < 1<<31 {
		secs += 1 << 32 // era 1, from 2036
	}
	hi, lo := bits.Mul64(frac, uint64(second/unit))
	sub := int64(hi<<32 | lo>>32)
	if lo>>31&1 == 1 {
		sub++
	}
	t = (secs+ntpEpoch)*second + sub*unit
	const year1990 = 631_152_000 * second
	if v < uint64(math.MaxInt64/unit) {
		if asUnix := int64(v) * unit; (t < year1990 || secs >= 1<<32) && withinDistance(asUnix, export, 86400*second) {
			return asUnix, true
		}
	}
	return t, false
}

// ntp is ntp for the datagram at hand; what is misencoded is counted.
func (c *context) ntp(v uint64, unit int64) int64 {
	t, misencoded := ntp(v, c.header.Export, unit)
	if misencoded {
		c.misencoded++
	}
	return t
}

func withinDistance(a, b, d int64) bool { return a-b <= d && b-a <= d }

// initTolerance is how far, ms, an init time may lie from what the header of v9
// says: 1 s, since the header's export time is in whole seconds, and 1 s more for
// exporters that round it or read their clocks one after the other. Drift does not
// add up: an exporter computes its init time from both clocks, and one that does
// not is better read by its header.
const initTolerance = 2000

// believable returns an init time, ms since the epoch, 0 when it cannot be. The
// header of v9 gives the init time to a second (export time less uptime): another
// one is of before a restart, or forged. Uptimes wrap after 2^32 ms.
func (h *Header) plausibleInit(initMs uint64) uint64 {
	if h.Version != VersionNetFlow9 {
		return initMs
	}
	off := int32(uint32(initMs) - (uint32(h.Export/1e6) - h.Uptime)) // modulo 2^32 ms
	if off < -initTolerance || off > initTolerance {
		return 0
	}
	return initMs
}

// uptimes reads start and end given as sysUptime ms: against the header (v1,
// v5, v7), with the system init time, or without a believable one (v9) against
// the header. What only a wrap of the clock long ago explains gives way to export time.
func (c *context) uptimes(sv, ev uint64, hasStart, hasEnd bool, rec *record) (start, end int64, source flowpb.TimeSource, resolutionUs uint32) {
	first, last := uint32(sv), uint32(ev)
	if !hasStart {
		first = last
	}
	if !hasEnd {
		last = first
	}
	h := &c.header
	switch h.Version {
	case 1, 5, 7:
		return c.byHeader(first, last)
	}
	lasted := int64(last-first) * 1e6
	reversed := first > last && lasted > c.maxAgeMs*1e6
	init := c.initMs
	if rec.plan.has[sInit] {
		init = h.plausibleInit(rec.v[sInit])
	}
	if known := init != 0 && init <= math.MaxInt64/1_000_000; !known && h.Version == VersionNetFlow9 {
		return c.byHeader(first, last)
	} else if reversed {
		return c.byExport()
	} else if !known {
		return h.Export - lasted, h.Export, flowpb.TimeSource_TIME_SOURCE_EXPORT_TIME, 1e6
	}
	// The uptime wraps: of all instants it can mean, the last one that is not
	// more than the tolerance after the export.
	const wrap = int64(1<<32) * 1e6
	end = int64(init)*1e6 + int64(last)*1e6
	limit := h.Export + aheadMs*1e6
	k := (limit - end) / wrap
	if (limit-end)%wrap < 0 {
		k--
	}
	if end += k * wrap; k != 0 && h.Export-end > c.maxAgeMs*1e6 {
		return c.byExport()
	}
	return end - lasted, end, flowpb.TimeSource_TIME_SOURCE_INIT_UPTIME, 1000
}
