package pair

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"weir/internal/flowkey"
	"weir/pkg/flowpb"
)

// The reference implements the pairing rules of docs/connections.md over plain lists: it has no table, no
// queue, no stored deadlines and no running sums. It implements neither evictions nor interim reports.
type reference struct {
	c     Config
	now   int64
	conns []*refConn
	out   []refReport
	near  map[string]bool // clocks in the band around MaxClockSkew: corrected?

	merged int // connections that became a part of another
}

// A refConn is the records of a connection in the order of their arrival.
type refConn struct {
	flows   []Flow
	idents  []uint64 // that it remembers, the newest last
	origin  uint64   // identity of its first record
	first   int64    // receive time of its first record
	last    int64    // stream time of the arrival of its last record
	final   bool     // its last report is final and stands
	late    bool     // a record came after a final report
	version int      // of the last report
	gone    bool
}

// A refPart is a direction of a record.
type refPart struct {
	f          *Flow
	n          counts
	start, end int64
	toHi       bool
	state      int // 0 unknown, 1 open, 2 soft, 3 hard
}

// onReceiversClock is docs/connections.md's rule on clocks: by the offset alone beyond
// 2 s around MaxClockSkew, nearer as it was decided first, until the offset is beyond.
func (r *reference) onReceiversClock(f Flow) Flow {
	off := time.Duration(f.Offset).Abs()
	name := fmt.Sprint(f.exporter, f.domain)
	if off == 0 || off < r.c.MaxClockSkew-2*time.Second || off > r.c.MaxClockSkew+2*time.Second {
		delete(r.near, name)
		return f // corrected when it was made, if beyond
	}
	corrected, known := r.near[name]
	if !known {
		corrected = off > r.c.MaxClockSkew
		if r.near == nil {
			r.near = map[string]bool{}
		}
		r.near[name] = corrected
	}
	if corrected {
		f.Start, f.End, f.Export = f.Start+f.Offset, f.End+f.Offset, f.Export+f.Offset
		f.Resolution = max(f.Resolution, 1_000_000_000)
	}
	return f
}

func (r *reference) stateOf(f *Flow, flags uint16) int {
	tcp := f.Key.Proto == 6
	switch {
	case tcp && flags&0x05 != 0, f.Reason == 3, f.Reason == 4: // FIN 1, RST 4
		return 3
	case f.Reason == 1:
		return 2
	case f.Reason == 2:
		return 1
	case f.Reason == 0 && f.Export != 0 && f.Export-f.End >= int64(r.c.InactiveTimeout)-int64(time.Second):
		return 2
	case float64(f.End-f.Start) >= 0.95*float64(r.c.ActiveTimeout):
		return 1
	}
	return 0
}

func (r *reference) parts(c *refConn) (all []refPart) {
	for i := range c.flows {
		f := &c.flows[i]
		all = append(all, refPart{f, f.There, f.Start, f.End, f.SrcIsLo, r.stateOf(f, f.There.Flags)})
		if f.Biflow && (f.Back.Octets > 0 || f.Back.Packets > 0) {
			p := refPart{f, f.Back, f.Start, f.End, !f.SrcIsLo, r.stateOf(f, f.Back.Flags)}
			if f.Back.End != 0 {
				p.start, p.end = f.Back.Start, f.Back.End
			}
			all = append(all, p)
		}
	}
	return all
}

// refState returns the state of a direction: a hard end is kept, else the state of the record that ended last.
func refState(parts []refPart, toHi bool) (state int, seen bool) {
	last := int64(0)
	for _, p := range parts {
		if p.toHi != toHi {
			continue
		}
		if p.state == 3 {
			return 3, true
		}
		if !seen || p.end > last || p.end == last && p.state > state {
			state, last = p.state, p.end
		}
		seen = true
	}
	return state, seen
}

func (r *reference) complete(c *refConn) bool {
	parts := r.parts(c)
	a, aSeen := refState(parts, true)
	b, bSeen := refState(parts, false)
	reset, biflow := false, false
	for _, p := range parts {
		reset = reset || p.f.Key.Proto == 6 && p.n.Flags&4 != 0
		biflow = biflow || p.f.Biflow
	}
	k := c.flows[0].Key
	switch tcp := k.Proto == 6; {
	case aSeen && bSeen && reset:
		return true
	case tcp && a != 3 && b != 3 && (a == 2 || b == 2): // idle: no end of a TCP connection
		return false
	case aSeen && bSeen && a >= 2 && b >= 2:
		return true
	}
	noReply := biflow || !aSeen && k.Lo[12]>>4 == 14 || !bSeen && k.Hi[12]>>4 == 14 // 224.0.0.0/4 that does not send
	return noReply && a != 1 && b != 1
}

// deadline returns the stream time at which c must be reported.
func (r *reference) deadline(c *refConn) int64 {
	if r.complete(c) {
		return c.last + int64(r.c.Linger)
	}
	return c.last + int64(r.c.Idle)
}

// advance advances stream time, reports connections that are due and removes those with an expired grace.
func (r *reference) advance(now int64) {
	r.now = max(r.now, now)
	for _, c := range r.conns {
		at := r.deadline(c)
		if !c.final && at <= r.now {
			reason := "IDLE"
			switch {
			case c.late:
				reason = "LATE"
			case r.complete(c):
				reason = "COMPLETE"
			}
			r.report(c, reason, at)
			c.final = true
		}
		c.gone = c.gone || at+r.held(c) <= r.now
	}
	r.conns = slices.DeleteFunc(r.conns, func(c *refConn) bool { return c.gone })
}

// held returns the time for which c is held after its final report, ns: longer for a TCP connection that pauses,
// since neither end closed it. A scan does not pause.
func (r *reference) held(c *refConn) int64 {
	flags, points := uint16(0), map[any]uint64{}
	for _, p := range r.parts(c) {
		flags |= p.n.Flags
		points[struct {
			v    observationPoint
			toHi bool
		}{p.f.observationPoint, p.toHi}] += p.n.Packets
		if p.state == 3 {
			return int64(r.c.LateGrace)
		}
	}
	scan := len(points) == 1
	for _, packets := range points {
		scan = scan && packets <= 2
	}
	if c.flows[0].Key.Proto != 6 || flags == 0 || scan || r.c.TCPPause <= r.c.Idle {
		return int64(r.c.LateGrace)
	}
	return int64(max(r.c.LateGrace, r.c.TCPPause))
}

// A refSpan is the time span of a connection or a record, with its TCP flags.
type refSpan struct {
	start, end     int64
	flags          uint16
	loSyn, hiSyn   bool // a SYN from lo, from hi
	closed, shared bool // shared: the clock is also the record's
}

func (r *reference) span(parts []refPart, f *Flow) refSpan {
	s := refSpan{start: parts[0].start, end: parts[0].end}
	for _, p := range parts {
		s.start, s.end = min(s.start, p.start), max(s.end, p.end)
		s.flags |= p.n.Flags
		s.loSyn, s.hiSyn = s.loSyn || p.toHi && p.n.Flags&2 != 0, s.hiSyn || !p.toHi && p.n.Flags&2 != 0
		s.closed = s.closed || p.state == 3
		s.shared = s.shared || p.f.exporter == f.exporter && p.f.domain == f.domain
	}
	return s
}

// recordSpan is the span of a record: its own times, not those of its reverse direction.
func (r *reference) recordSpan(f *Flow) refSpan {
	s := refSpan{start: f.Start, end: f.End, flags: f.There.Flags | f.Back.Flags}
	from, to := &s.loSyn, &s.hiSyn
	if !f.SrcIsLo {
		from, to = to, from
	}
	*from, *to = f.There.Flags&2 != 0, f.Back.Flags&2 != 0
	s.closed = r.stateOf(f, s.flags) == 3
	return s
}

func (s refSpan) with(o refSpan) refSpan {
	return refSpan{
		min(s.start, o.start), max(s.end, o.end), s.flags | o.flags, s.loSyn || o.loSyn, s.hiSyn || o.hiSyn,
		s.closed || o.closed, s.shared || o.shared,
	}
}

// oneConnection implements the rule of time of docs/connections.md: records of a connection are at most PAIR_IDLE
// apart, PAIR_LINGER after an end. For TCP, a SYN after an end begins a new connection, unless it answers a SYN that
// was reset before any data. A record without SYN continues the connection, within PAIR_IDLE after an end, else
// within PAIR_TCP_PAUSE.
func (r *reference) oneConnection(a, b refSpan, f *Flow, tol int64) (gap int64, ok bool) {
	before, after := a, b
	if b.start < a.start {
		before, after = b, a
	}
	if gap = after.start - before.end; gap <= 0 {
		return 0, true
	}
	tcp, begins := f.Key.Proto == 6, after.flags&2 != 0
	most := r.c.Idle
	switch {
	case r.beginsAnew(before, after, tol) && tcp:
		return gap, false
	case tcp && begins:
	case tcp && after.flags != 0 && !before.closed:
		most = max(r.c.Idle, r.c.TCPPause)
	case tcp && after.flags != 0:
	case before.closed:
		most = r.c.Linger
	}
	return gap, gap <= int64(most)+tol
}

// reset: a RST and no FIN, no PSH.
func (s refSpan) reset() bool { return s.flags&4 != 0 && s.flags&(1|8) == 0 }

// beginsAnew is true for a SYN after an end, and for anything that comes more than
// PAIR_LINGER after a reset before any data. Within that time a SYN may answer the other
// side's.
func (r *reference) beginsAnew(before, after refSpan, tol int64) bool {
	gap, begins := after.start-before.end, after.flags&2 != 0
	if !before.closed || after.flags == 0 || gap <= tol {
		return false
	}
	if before.reset() {
		opposite := after.loSyn && !after.hiSyn && before.hiSyn && !before.loSyn || after.hiSyn && !after.loSyn && before.loSyn && !before.hiSyn
		return gap > int64(r.c.Linger)+tol || begins && !opposite
	}
	return begins
}

// twoForSure is true for two connections of which the later began anew. The SYN of a
// record that both belong to is that of the connection that it began in.
func (r *reference) twoForSure(a, b, record refSpan, tol int64) bool {
	before, after := a, b
	if b.start < a.start {
		before, after = b, a
	}
	in := &after
	if record.start <= before.end {
		in = &before
	}
	in.loSyn, in.hiSyn = in.loSyn || record.loSyn, in.hiSyn || record.hiSyn
	return r.beginsAnew(before, after, tol)
}

// seenTwice reports whether an observation point reported the end of a direction in a and a later beginning of the same
// direction in b.
func (r *reference) seenTwice(a, b *refConn) bool {
	type one struct {
		v    observationPoint
		toHi bool
	}
	type seen struct {
		start, end, resolution int64
		flags                  uint16
		ended                  bool
	}
	views := func(c *refConn) map[one]seen {
		all := map[one]seen{}
		for _, p := range r.parts(c) {
			k := one{p.f.observationPoint, p.toHi}
			s, known := all[k]
			if !known {
				s = seen{start: p.start, end: p.end}
			}
			all[k] = seen{
				min(s.start, p.start), max(s.end, p.end), max(s.resolution, p.f.Resolution), s.flags | p.n.Flags, s.ended || p.state == 3,
			}
		}
		return all
	}
	later := views(b)
	for k, x := range views(a) {
		y, known := later[k]
		if !known || !x.ended || y.flags == 0 {
			continue
		}
		pause, again := y.start-x.end-max(x.resolution, y.resolution), y.flags&2 != 0
		resetAtOnce := x.flags&4 != 0 && x.flags&(1|8) == 0
		switch {
		case resetAtOnce && pause > int64(r.c.Linger), again && pause > 0 && (!resetAtOnce || x.flags&2 != 0):
			return true
		}
	}
	return false
}

// closest returns the connection but not that is closest to s and belongs to it.
func (r *reference) closest(f *Flow, s refSpan, but *refConn) (best *refConn) {
	var bestGap, bestStart int64
	for _, c := range r.conns {
		if c == but || c.gone || c.flows[0].Key != f.Key {
			continue
		}
		of := r.span(r.parts(c), f)
		tol := int64(r.c.ClockSkew)
		if of.shared {
			tol = f.Resolution
		}
		_, own := r.oneConnection(of, r.recordSpan(f), f, tol)
		gap, ok := r.oneConnection(of, s, f, tol)
		if !own || !ok || but != nil && f.Key.Proto == 6 && (r.twoForSure(r.span(r.parts(but), f), of, r.recordSpan(f), tol) || r.seenTwice(but, c) || r.seenTwice(c, but)) {
			continue
		}
		better := best == nil || gap < bestGap || gap == bestGap && of.start > bestStart
		if best != nil && gap == bestGap && of.start == bestStart {
			a, b := newID(&f.Key, c.origin), newID(&f.Key, best.origin)
			better = bytes.Compare(a[:], b[:]) < 0
		}
		if better {
			best, bestGap, bestStart = c, gap, of.start
		}
	}
	return best
}

// observe returns false for a duplicate.
func (r *reference) observe(f Flow) bool {
	r.advance(f.Received)
	f = r.onReceiversClock(f)
	for _, c := range r.conns {
		if c.flows[0].Key == f.Key && (c.origin == f.Ident || slices.Contains(c.idents, f.Ident)) {
			return false
		}
	}
	best := r.closest(&f, r.recordSpan(&f), nil)
	if best == nil {
		best = &refConn{origin: f.Ident, first: f.Received}
		r.conns = append(r.conns, best)
	} else {
		for {
			other := r.closest(&f, r.span(r.parts(best), &f).with(r.recordSpan(&f)), best)
			if other == nil {
				break
			}
			best = r.merge(best, other)
		}
	}
	if best.final {
		best.final, best.late = false, true
	}
	best.flows, best.last = append(best.flows, f), r.now
	best.idents = append(best.idents, f.Ident)
	best.idents = best.idents[max(0, len(best.idents)-8):]
	return true
}

// merge merges two connections that a record bridges, into the connection that began first.
func (r *reference) merge(a, b *refConn) *refConn {
	if b.first < a.first || b.first == a.first && b.origin < a.origin {
		a, b = b, a
	}
	if b.version > 0 {
		r.report(b, "MERGED", r.now)
	}
	b.gone = true
	r.merged++
	r.conns = slices.DeleteFunc(r.conns, func(c *refConn) bool { return c == b })
	a.flows = append(a.flows, b.flows...)
	of := max(min(len(b.idents), 4), 8-len(a.idents))
	of = min(of, len(b.idents))
	a.idents = slices.Concat(b.idents[len(b.idents)-of:], a.idents[max(0, len(a.idents)-(8-of)):])
	return a
}

// refDirection is the report of a direction.
type refDirection struct {
	Seen                               bool
	Octets, Packets, OctetsE, PacketsE uint64
	Records, ObservationPoints         uint32
	Flags                              uint16
	Start, End                         int64
}

func (r *reference) direction(parts []refPart, toHi bool) (d refDirection) {
	type seen struct {
		v       observationPoint
		d       refDirection
		sampled int // 0 when every record counted every packet, by its own word
	}
	var all []seen
	for _, p := range parts {
		if p.toHi != toHi {
			continue
		}
		i := slices.IndexFunc(all, func(s seen) bool { return s.v == p.f.observationPoint })
		if i < 0 {
			i = len(all)
			all = append(all, seen{v: p.f.observationPoint, d: refDirection{Start: p.start, End: p.end}})
		}
		if p.f.Rate != 1 {
			all[i].sampled = 1
		}
		s := &all[i].d
		rate := max(p.f.Rate, 1)
		s.Octets, s.Packets, s.OctetsE, s.PacketsE = s.Octets+p.n.Octets, s.Packets+p.n.Packets, s.OctetsE+p.n.Octets*rate, s.PacketsE+p.n.Packets*rate
		s.Records++
		s.Start, s.End = min(s.Start, p.start), max(s.End, p.end)
		d.Flags |= p.n.Flags
	}
	slices.SortFunc(all, func(a, b seen) int {
		return cmp.Or(cmp.Compare(a.sampled, b.sampled), cmp.Compare(b.d.PacketsE, a.d.PacketsE), cmp.Compare(b.d.OctetsE, a.d.OctetsE), cmp.Compare(a.d.Start, b.d.Start),
			bytes.Compare(a.v.exporter[:], b.v.exporter[:]), cmp.Compare(a.v.domain, b.v.domain), cmp.Compare(a.v.iface, b.v.iface))
	})
	var taken []refDirection
	for _, s := range all {
		skew := int64(r.c.ClockSkew)
		if slices.ContainsFunc(taken, func(o refDirection) bool { return s.d.Start <= o.End+skew && o.Start <= s.d.End+skew }) {
			continue
		}
		taken = append(taken, s.d)
		if len(taken) == 1 {
			d.Start, d.End = s.d.Start, s.d.End
		}
		d.Octets, d.Packets, d.OctetsE, d.PacketsE = d.Octets+s.d.Octets, d.Packets+s.d.Packets, d.OctetsE+s.d.OctetsE, d.PacketsE+s.d.PacketsE
		d.Records += s.d.Records
		d.Start, d.End = min(d.Start, s.d.Start), max(d.End, s.d.End)
	}
	d.Seen, d.ObservationPoints = len(all) > 0, uint32(len(all))
	return d
}

// A refReport has the fields of an emission that the machine and the reference can both give.
type refReport struct {
	ID, Reason string
	At         int64
	Version    int
	ToHi, ToLo refDirection
	First      int64
}

// report notes a report of c.
func (r *reference) report(c *refConn, reason string, at int64) {
	c.version++
	id := newID(&c.flows[0].Key, c.origin)
	x := refReport{ID: hex.EncodeToString(id[:]), Reason: reason, At: at, Version: c.version, First: c.first}
	if reason != "MERGED" {
		parts := r.parts(c)
		x.ToHi, x.ToLo = r.direction(parts, true), r.direction(parts, false)
	}
	r.out = append(r.out, x)
}

// reports are all emissions, after a long silence.
func (r *reference) reports() []refReport {
	r.advance(math.MaxInt64 - int64(time.Hour))
	slices.SortFunc(r.out, byIDAndVersion)
	return r.out
}

func byIDAndVersion(a, b refReport) int {
	return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.Version, b.Version), cmp.Compare(a.At, b.At)) // a record that comes again after the grace opens its connection again
}

// reported is a machine's emission as a refReport.
func reported(c *flowpb.Connection) refReport {
	r := refReport{
		ID: hex.EncodeToString(c.ConnectionId), Reason: c.EmitReason.String()[len("EMIT_REASON_"):],
		At: c.EmittedUnixNs, Version: int(c.Version), First: c.FirstReceivedUnixNs,
	}
	lo, hi := c.Forward, c.Reverse
	a, _ := flowkey.Address(c.Initiator.Address)
	b, _ := flowkey.Address(c.Responder.Address)
	if x := bytes.Compare(a[:], b[:]); x > 0 || x == 0 && c.Initiator.Port > c.Responder.Port {
		lo, hi = hi, lo
	}
	for to, t := range map[*refDirection]*flowpb.Traffic{&r.ToHi: lo, &r.ToLo: hi} {
		if t != nil {
			*to = refDirection{
				true, t.Octets, t.Packets, t.OctetsEst, t.PacketsEst, t.Records, t.Vantages, uint16(t.TcpFlags), t.StartUnixNs, t.EndUnixNs,
			}
		}
	}
	return r
}

func TestTheMachineGivesWhatTheReferenceGives(t *testing.T) {
	c := testConfig
	c.UpdateInterval = 0
	total, versions, duplicates, merged, toldOf := 0, 0, 0, 0, 0
	for seed := range uint64(40) {
		c.TCPPause = []time.Duration{0, 200 * time.Second}[seed/2%2]
		flows := traffic(seed, 700)
		if seed >= 20 {
			flows = lateTraffic(seed, 700)
		}
		if seed%2 == 1 {
			flows = nearLimit(flows, &c, seed)
		}
		ref := &reference{c: c, now: flows[0].Received}
		var got []refReport
		m := New(c, 1, func(e *Emission) { got = append(got, reported(e.Connection)) })
		for i := range flows {
			fresh, outcome := ref.observe(flows[i]), m.Observe(&flows[i])
			if fresh == (outcome == Duplicate) {
				t.Fatalf("seed %d, record %d: a duplicate by one of the two alone", seed, i)
			}
			if !fresh {
				duplicates++
			}
		}
		m.Close()
		slices.SortFunc(got, byIDAndVersion)
		want := ref.reports()
		if d := gocmp.Diff(want, got); d != "" {
			t.Fatalf("seed %d: %d reports, want %d (-reference +machine):\n%.3000s", seed, len(got), len(want), d)
		}
		total += len(want)
		for _, r := range want {
			versions = max(versions, r.Version)
			if r.Reason == "MERGED" {
				toldOf++
			}
		}
		merged += ref.merged
	}
	if total < 5000 || versions < 3 || duplicates < 100 || merged < 100 || toldOf < 10 {
		t.Errorf("%d reports, up to version %d, %d duplicates, %d merged, %d of them reported before: too few for this test",
			total, versions, duplicates, merged, toldOf)
	}
	t.Logf("%d reports, up to version %d, %d duplicates, %d merged, %d of them reported before", total, versions, duplicates, merged, toldOf)
}

// sessions generates conversations that are far apart, each of records that are close together, so that the
// connection of each record is certain.
func sessions(rng *rand.Rand) (flows []Flow) {
	at := int64(1_700_000_000) * int64(time.Second)
	for s := range 3 {
		at += int64(10 * time.Minute)
		t := flowkey.Tuple{Src: [16]byte{10: 0xff, 11: 0xff, 12: 10, 15: 1}, Dst: [16]byte{10: 0xff, 11: 0xff, 12: 192, 15: 2}, SrcPort: 40000, DstPort: 443, Proto: []uint8{6, 17}[rng.IntN(2)]}
		for i := range 2 + rng.IntN(6) {
			x := t
			if rng.IntN(2) == 0 {
				x.Src, x.Dst, x.SrcPort, x.DstPort = x.Dst, x.Src, x.DstPort, x.SrcPort
			}
			f := Flow{
				Ident: uint64(s*100+i) + 1, observationPoint: observationPoint{exporter: [16]byte{15: byte(rng.IntN(2))}}, Resolution: ms, Rate: 1 + rng.Uint64N(2),
				Start: at + rng.Int64N(20_000)*ms, Reason: uint8(rng.IntN(3)), There: counts{Octets: rng.Uint64N(5000), Packets: 1 + rng.Uint64N(9), Flags: uint16(rng.IntN(32)) &^ 5},
			}
			f.End = f.Start + rng.Int64N(30_000)*ms
			f.Key, f.SrcIsLo = x.Canon()
			flows = append(flows, f)
		}
	}
	return flows
}

func TestScenario2TheOrderOfArrivalDoesNotMatter(t *testing.T) {
	c := testConfig
	c.UpdateInterval = 0
	outcome := func(flows []Flow) (out []string) {
		m := New(c, 1, func(e *Emission) {
			x := proto.CloneOf(e.Connection)
			x.ConnectionId, x.FirstReceivedUnixNs, x.EmittedUnixNs = nil, 0, 0 // follow arrival
			out = append(out, fmt.Sprint(reported(x), x.Initiator.Port, x.DirectionMethod, x.ConnState, x.Quality))
		})
		for i := range flows {
			flows[i].Received = 1_700_010_000*int64(time.Second) + int64(i)*ms
			m.Observe(&flows[i])
		}
		m.Close()
		slices.Sort(out)
		return out
	}
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 3))
		flows := sessions(rng)
		want := outcome(slices.Clone(flows))
		if len(want) != 3 {
			t.Fatalf("seed %d: %d connections of 3 conversations: %s", seed, len(want), want)
		}
		for range 20 {
			order := slices.Clone(flows)
			rng.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
			if d := gocmp.Diff(want, outcome(order)); d != "" {
				t.Fatalf("seed %d: another order (-as made +shuffled):\n%s", seed, d)
			}
		}
	}
}

// With a single observation point and without duplicates, reported octets must equal received octets, also with
// evictions, late records and interim reports.
func TestScenario3OctetsInAreOctetsOut(t *testing.T) {
	small := testConfig
	small.MaxOpen, small.UpdateInterval, small.TCPPause = 60, 10*time.Second, 300*time.Second
	for name, c := range map[string]Config{"as usual": testConfig, "with evictions and interim reports": small} {
		evicted, late, merged := 0, 0, 0
		for seed := range uint64(20) {
			var in, packets, more uint64
			last := map[string]*flowpb.Connection{}
			m := New(c, 1, func(e *Emission) {
				more += e.More
				if e.EmitReason == flowpb.EmitReason_EMIT_REASON_EVICTED {
					evicted++
				}
				if e.EmitReason == flowpb.EmitReason_EMIT_REASON_LATE {
					late++
				}
				if e.EmitReason == flowpb.EmitReason_EMIT_REASON_MERGED {
					merged++
				}
				if old := last[string(e.ConnectionId)]; old != nil && old.Version+1 != e.Version {
					t.Fatalf("version %d after %d", e.Version, old.Version)
				}
				last[string(e.ConnectionId)] = proto.CloneOf(e.Connection)
			})
			flows := traffic(seed, 900)
			if seed%2 == 1 {
				flows = lateTraffic(seed, 900)
			}
			for i, f := range flows {
				f.observationPoint, f.Ident, f.Rate = observationPoint{}, uint64(i)+1, 1
				in += f.There.Octets + f.Back.Octets
				packets += f.There.Packets + f.Back.Packets
				m.Observe(&f)
			}
			m.Close()
			var out, outPackets uint64
			for _, x := range last {
				out += x.GetForward().GetOctets() + x.GetReverse().GetOctets()
				outPackets += x.GetForward().GetPackets() + x.GetReverse().GetPackets()
			}
			if in != out || packets != outPackets || more != in {
				t.Fatalf("%s, seed %d: %d octets, %d packets in; %d, %d out; %d by what versions add", name, seed, in, packets, out, outPackets, more)
			}
		}
		if late == 0 || merged == 0 || evicted == 0 && c.MaxOpen == small.MaxOpen {
			t.Errorf("%s: %d evicted, %d late, %d merged: proves nothing", name, evicted, late, merged)
		}
	}
}

// However often the clock is moved on between records, the same comes out in the
// same order: only stream time counts.
func TestScenario4AReplayGivesTheSame(t *testing.T) {
	for seed := range uint64(5) {
		flows := traffic(seed, 900)
		want := undisturbed(testConfig, flows)
		rng := rand.New(rand.NewPCG(seed, 5))
		var got []string
		m := New(testConfig, 1, func(e *Emission) { got = append(got, printed(e)) })
		for i := range flows {
			if now := m.StreamTime(); i > 0 && flows[i].Received > now {
				m.Advance(now + rng.Int64N(flows[i].Received-now))
			}
			m.Observe(&flows[i])
		}
		m.Advance(m.StreamTime() + int64(time.Hour))
		if d := gocmp.Diff(want, got); d != "" {
			t.Fatalf("seed %d (-fast +slow):\n%.3000s", seed, d)
		}
	}
}
