package decode

import (
	"math"
	"math/bits"
	"time"

	"weir/internal/ipfix"
	"weir/pkg/flowpb"
)

// A timeRule selects the time elements of a template, by precedence: ms, µs, ns, s, delta µs,
// uptime, observation; otherwise the export time applies.
//
// If the template has a start but neither an end nor a duration, the flow ends at the observation
// time (IE 322 to 325): firewall events have the time of the event there.
type timeRule struct {
	source       flowpb.TimeSource
	unit         slot // unit of the values: tStartS, tStartMs, …
	start, end   slot // slots of the record; noSlot = absent
	duration     slot
	durationNs   int64 // ns per unit of duration
	observed     slot  // the end of the flow; noSlot = not used
	observedUnit slot
}

// noSlot stands for an absent slot. record.v has room for it and holds 0 there: no step may write
// it.
const noSlot = nSlots

// usesSlot reports whether the rule reads slot s.
func (r *timeRule) usesSlot(s slot) bool {
	return s == r.start || s == r.end || s == r.observed || s == r.duration && (r.start == noSlot || r.end == noSlot)
}

// clocks lists the time elements by precedence.
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

// ruleOf selects the rule for the times whose slots begin at base.
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

// second is a second in ns, the unit of all times of flows.
const second = int64(1e9)

// aheadMs bounds how far the time of a flow may be after the export time in its header, ms. A
// difference beyond it is an age. Some exporters stamp flows after the header (Cisco bug
// CSCei12353).
const aheadMs = 100_000

// age returns the time from uptime t to the header's uptime, ms; negative if t is up to aheadMs
// after it. Uptimes wrap after 2^32 ms, 49.7 days.
func age(uptime, t uint32) int64 {
	d := uptime - t
	if d > math.MaxUint32-aheadMs+1 {
		return -int64(-d)
	}
	return int64(d)
}

// Bounds of Decoder.MaxUptimeAge. Times up to aheadMs after the header are not old; no uptime
// is older than the maximum.
const (
	MinUptimeAge = 2 * time.Minute
	MaxUptimeAge = 1193 * time.Hour // 2^32 ms less aheadMs, in whole hours
)

// anyAgeMs is the age limit, ms, that accepts every uptime.
const anyAgeMs = 1 << 32

// tooOld reports whether uptime t is greater than the header's, so that it must be from before a
// wrap of the clock, and is older than MaxUptimeAge. Such a value is not an uptime of the header's
// clock.
func (c *context) tooOld(t uint32) bool {
	return t > c.header.Uptime && age(c.header.Uptime, t) > c.maxAgeMs
}

// byExport returns the export time for a record whose own times are impossible, and counts it.
func (c *context) byExport() (start, end int64, source flowpb.TimeSource, resolutionUs uint32) {
	c.oldUptimes++
	return c.header.Export, c.header.Export, flowpb.TimeSource_TIME_SOURCE_EXPORT_TIME, 1e6
}

// byHeader reads uptimes relative to the header's uptime and export time.
func (c *context) byHeader(first, last uint32) (start, end int64, source flowpb.TimeSource, resolutionUs uint32) {
	if c.tooOld(first) || c.tooOld(last) {
		return c.byExport()
	}
	h := &c.header
	source, resolutionUs = headerClock(h.Version)
	return h.Export - age(h.Uptime, first)*1e6, h.Export - age(h.Uptime, last)*1e6, source, resolutionUs
}

// headerClock returns source and resolution of times relative to the header. The export time of v9
// is in whole seconds.
func headerClock(version uint16) (source flowpb.TimeSource, resolutionUs uint32) {
	if version == ipfix.VersionNetFlow9 {
		return flowpb.TimeSource_TIME_SOURCE_UPTIME, 1e6
	}
	return flowpb.TimeSource_TIME_SOURCE_HEADER_UPTIME, 1000
}

// times returns start and end of a record, ns since the epoch, start <= end. The times of rec that
// r reads must be set.
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
	start, end = max(start, 0), max(end, 0) // clamp times before 1970
	if start > end {
		start, end = end, start
	}
	return start, end, source, resolutionUs
}

// resolution returns the precision to which times of a unit can be ordered, µs.
func resolution(unit slot) uint32 {
	switch unit {
	case tStartMs:
		return 1000
	case tStartUs, tStartNs:
		return 1
	}
	return 1e6 // whole seconds, or relative to a header of whole seconds
}

// instant converts a time of the given unit to ns since the epoch.
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

// ntpEpoch is the start of era 0 of NTP, 1900-01-01, as Unix time in seconds.
const ntpEpoch = -2_208_988_800

// ntp converts an NTP timestamp (RFC 7011 sections 6.1.9 and 6.1.10) to ns since the epoch, rounded
// to unit ns (unit 1000: the low 11 bits are ignored). Some exporters write Unix µs or ns there: a
// value that gives a year before 1990 or era 1, but is near export as Unix time, is read as Unix
// time and reported as misencoded.
//
//	63                      32 31                                   0
//	+-------------------------+-------------------------------------+
//	| seconds since 1900      | fraction of a second, in 2^-32 s    |
//	+-------------------------+-------------------------------------+
//
// Example: e1b65f80 80000000 is 2020-01-01T00:00:00.5Z. Era 0 ends on 2036-02-07; seconds
// without the top bit belong to era 1. The low 11 bits are less than 1 µs: they carry nothing in a
// dateTimeMicroseconds, and senders that leave them set must not change the time.
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

// ntp is ntp for the current datagram; it counts misencoded values.
func (c *context) ntp(v uint64, unit int64) int64 {
	t, misencoded := ntp(v, c.header.Export, unit)
	if misencoded {
		c.misencoded++
	}
	return t
}

// withinDistance reports whether a and b differ by at most d.
func withinDistance(a, b, d int64) bool { return a-b <= d && b-a <= d }

// initTolerance is the accepted difference, ms, between an init time and the header of v9: 1 s,
// since the header's export time is in whole seconds, plus 1 s for exporters that round it or read
// their clocks one after the other. Drift does not accumulate: an exporter computes the init time
// from both clocks, and if it does not, its header is the better source.
const initTolerance = 2000

// plausibleInit returns an init time, ms since the epoch, or 0 if it is implausible. The header of
// v9 gives the init time to a second (export time minus uptime): a different value is from before a
// restart, or forged. The comparison is modulo 2^32 ms, since uptimes wrap.
func plausibleInit(h *Header, initMs uint64) uint64 {
	if h.Version != ipfix.VersionNetFlow9 {
		return initMs
	}
	off := int32(uint32(initMs) - (uint32(h.Export/1e6) - h.Uptime)) // modulo 2^32 ms
	if off < -initTolerance || off > initTolerance {
		return 0
	}
	return initMs
}

// uptimes reads start and end given as sysUptime, ms: relative to the header in v1, v5 and v7; in
// v9 and IPFIX relative to the system init time. Without a plausible init time, v9 falls back to
// the header and IPFIX to the export time. Times that only an old wrap of the clock explains are
// replaced by the export time.
func (c *context) uptimes(
	sv, ev uint64, hasStart, hasEnd bool, rec *record,
) (start, end int64, source flowpb.TimeSource, resolutionUs uint32) {
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
		init = plausibleInit(h, rec.v[sInit])
	}
	if known := init != 0 && init <= math.MaxInt64/1_000_000; !known && h.Version == ipfix.VersionNetFlow9 {
		return c.byHeader(first, last)
	} else if reversed {
		return c.byExport()
	} else if !known {
		return h.Export - lasted, h.Export, flowpb.TimeSource_TIME_SOURCE_EXPORT_TIME, 1e6
	}
	// The uptime wraps: of all possible instants, take the last that is not
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
