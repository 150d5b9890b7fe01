package decode

import (
	"cmp"
	"math"
	"math/bits"
	"slices"

	"weir/internal/flowkey"
	"weir/internal/ipfix"
)

// fastRecords decodes the data records of b, all of fixed length, on the fast path; records that
// fastRecord rejects take the appending path. off is the offset of b in the datagram.
func (d *Decoder) fastRecords(b []byte, off int, p *Plan, r *Result) {
	room, ok := d.beginSets(p)
	if !ok {
		d.appendRecords(b, off, p, r)
		return
	}
	most := room
	if p.names && d.ctx.named() {
		most += p.fast.nameRoom
	}
	for len(b) >= p.min {
		count := d.fit(len(b)/p.min, most, r)
		if count <= 0 {
			d.countUndecoded(b, off, p, r)
			return
		}
		d.fastRun(b, off, count, room, p, r)
		b, off = b[count*p.min:], off+count*p.min
	}
}

// fit returns how many of count records may be decoded next; 0 if a limit is reached. room is the
// maximum number of octets that a record makes.
func (d *Decoder) fit(count, room int, r *Result) int {
	n := len(r.Buf)
	if n+count*room > d.limit {
		count = (d.limit - n) / room
		if count == 0 && n < d.limit {
			count = 1
		}
	}
	return min(count, d.last-len(r.Flows))
}

// fastRun decodes the first count records of b. It reserves the space of all of them before the
// first write: fastRecord writes through arrays, without growing r.Buf.
//
//	r.Buf   | earlier flows | record 0 | record 1 | ...      | outWindow |
//	        0               n                       n + count*room
//
// Each record is written through an outWindow that begins at its first octet and reaches beyond its
// last: the octets after a record are scratch until the next record overwrites them. r.Buf is cut to
// n at the end.
func (d *Decoder) fastRun(b []byte, off, count, room int, p *Plan, r *Result) {
	in := d.withSlack(b[:count*p.min])
	n := len(r.Buf)
	named := p.names && d.ctx.named()
	r.Buf = slices.Grow(r.Buf, count*room+len(outWindow{}))
	for i := range count {
		at := i * p.min
		before := d.ctx.counts
		w := (*outWindow)(r.Buf[n : n+len(outWindow{})])
		key, end := d.fastRecord(p, (*window)(in[at:]), w, uint64(off+at))
		if end == 0 {
			d.ctx.counts = before
			r.Buf = r.Buf[:n]
			d.appendRecords(b[at:at+p.min], off+at, p, r)
			n = len(r.Buf)
			r.Buf = slices.Grow(r.Buf, (count-i)*room+len(outWindow{}))
			continue
		}
		if named {
			more := d.insert(p, r, n+int(key), n+int(end), b[at:], true)
			r.Buf = slices.Grow(r.Buf, (count-i)*room+len(outWindow{}))
			key, end = key+more, end+more
		}
		r.Flows = append(r.Flows, Span{n, n + int(key), n + int(end)})
		n += int(end)
	}
	r.Buf = r.Buf[:n]
}

// variableRecords decodes records with variable-length fields: it packs the fixed-length fields of
// each record into a window for fastRecord, and appends the others afterwards.
func (d *Decoder) variableRecords(b []byte, off int, p *Plan, r *Result) {
	room, ok := d.beginSets(p)
	if !ok {
		d.appendRecords(b, off, p, r)
		return
	}
	named := p.names && d.ctx.named()
	for end := off + len(b); len(b) >= p.min; {
		at, before := end-len(b), d.ctx.counts
		if len(r.Buf) >= d.limit || len(r.Flows) >= d.last {
			d.countUndecoded(b, at, p, r)
			return
		}
		size, ok := d.pack(p.fast, p.min-len(p.fast.segments), b)
		if !ok {
			r.Errors = append(r.Errors, recordError(at))
			return
		}
		n := len(r.Buf)
		r.Buf = slices.Grow(r.Buf, room+len(outWindow{}))
		w := (*outWindow)(r.Buf[n : n+len(outWindow{})])
		key, to := d.fastRecord(p, &d.packed, w, uint64(at))
		if to == 0 {
			d.ctx.counts = before
			d.appendRecords(b[:size], at, p, r)
		} else {
			r.Buf = r.Buf[:n+int(to)]
			more := d.insert(p, r, n+int(key), n+int(to), d.packed[8:], named)
			r.Flows = append(r.Flows, Span{n, n + int(key+more), n + int(to+more)})
		}
		b = b[size:]
	}
}

// pack copies the fixed-length fields of the record at the beginning of b into the window d.packed,
// and stores the variable-length fields in d.variable. fixed is the sum of the fixed lengths. size
// is the number of octets of the record; ok is false if b ends before the record.
func (d *Decoder) pack(f *fastPlan, fixed int, b []byte) (size int, ok bool) {
	d.variable = d.variable[:0]
	rest, to := b, d.packed[8:8]
	for _, n := range f.segments {
		if len(rest) < int(n) {
			return 0, false
		}
		to = append(to, rest[:n]...)
		var field []byte
		if field, rest, ok = ipfix.NextField(rest[n:], ipfix.VarLen); !ok {
			return 0, false
		}
		d.variable = append(d.variable, field)
	}
	last := fixed - len(to)
	if len(rest) < last {
		return 0, false
	}
	_ = append(to, rest[:last]...) // into d.packed: there is room
	return len(b) - len(rest) + last, true
}

// insert inserts the fields that have no place in the window: the steps from the first
// variable-length field on, and names. They go between a record's message, which ends at offset key
// of r.Buf, and its key, which ends at end. rec holds the fixed-length fields. insert returns the
// number of octets that it inserted.
func (d *Decoder) insert(p *Plan, r *Result, key, end int, rec []byte, named bool) uint {
	var k [64]byte
	n := copy(k[:], r.Buf[key:end])
	b := r.Buf[:key]
	if len(p.fast.rest) == 0 {
		d.rec.once = 0
	}
	for i := range p.fast.tail {
		t := &p.fast.tail[i]
		if t.nth >= 0 {
			b = d.rec.step(b, t.step, d.variable[t.nth])
		} else {
			b = d.rec.step(b, t.step, rec[t.off:][:t.step.length])
		}
	}
	if named {
		d.rec.nameable = 0
		for i := range p.fast.names {
			t := &p.fast.names[i]
			d.rec.note(t.step.name, rec[t.off:][:t.step.length])
		}
		b = d.rec.appendNames(b, &d.ctx)
	}
	more := len(b) - key
	r.Buf = append(b, k[:n]...)
	return uint(more)
}

// withSlack returns a copy of b with 8 octets before it and a window after it, so that fastRecord
// can read every record through a window. The copy is valid until the next call.
func (d *Decoder) withSlack(b []byte) []byte {
	if need := 8 + len(b) + len(window{}); cap(d.slack) < need {
		d.slack = make([]byte, 2*need)
	}
	in := d.slack[:8+len(b)+len(window{})]
	copy(in[8:], b)
	return in
}

// fastRecord writes the message of a record and its key: w[:key] and w[key:end]. It returns 0, 0
// for a record that only the appending path can handle; the caller must then discard w and restore
// d.ctx.counts.
//
// The fields have the order of these stages, not that of the record; protobuf allows any order:
//
//	head        fields that are equal in all records of the set (beginSet)
//	offset      record_offset
//	times       start and end, linear or by the rules
//	integers    by class: one loop per width (putInts), then those above four octets
//	addresses   next hop and the like; copied together with their tags
//	elements    fields without a typed field, with constant tags and lengths
//	rest        everything else, through record.step
//	rules       Ethernet type, sampling rate, times of the reverse direction; ICMP type and code
//	pair        source and destination; the key follows them
//
// n is the next free index of w. It never exceeds the room that beginSets returned.
func (d *Decoder) fastRecord(p *Plan, in *window, w *outWindow, at uint64) (key, end uint) {
	f, s := p.fast, &d.fast[0]
	if p.fast6 != nil {
		if f, s = d.arrangementOf(p, in); f == nil {
			return 0, 0
		}
	}
	for i := 0; i < len(s.head); i += 16 {
		*(*[16]byte)(w[i&outMask:]) = *(*[16]byte)(s.octets[i&outMask:])
	}
	n := putOctets2(w, uint(len(s.head)), recordOffsetTag, at)
	switch {
	case s.linear:
		start, stop, ok := f.times(s, in)
		if !ok {
			return 0, 0
		}
		n = putTimes(w, n, uint64(min(start, stop)), uint64(max(start, stop)))
	case s.ruleTime:
		n = d.putRuleTimes(p, f, in, w, n)
	}

	n = f.putInts(in, w, n)
	for i := range f.ints[eightOctets] {
		t := &f.ints[eightOctets][i]
		n = putLong(w, n, t, in.integer(t.end)&t.mask)
	}
	if f.direction >= 0 {
		v := in[(f.direction+8)&inMask]
		if v > 1 {
			return 0, 0
		}
		le.PutUint32(w[n&outMask:], uint32(directionTag)|(uint32(v)+1)<<16)
		n += 3
	}
	n = f.putAddrs(in, w, n)
	if !d.DropElements {
		for i := range f.elements {
			n = f.elements[i].put(in, w, n)
		}
	}
	if len(f.rest) > 0 {
		n = f.putRest(in, w, n, &d.rec)
	}
	if s.rules {
		n = d.fastRules(p, f, s, in, w, n)
	}

	proto := in[(f.proto+7)&inMask] & f.protoMask
	sport := in.integer(f.sport.end) & f.sport.mask & portMask[proto]
	dport := in.integer(f.dport.end) & f.dport.mask & portMask[proto]
	if len(f.stray) > 0 && f.strays(p, in, proto) {
		return 0, 0
	}
	answered := true
	if proto == flowkey.ICMP || proto == flowkey.ICMPv6 {
		if p.biflow {
			return 0, 0
		}
		n, sport, dport, answered = f.putICMP(&d.ctx, in, w, n, proto)
	}
	switch {
	case !answered || f.byTuple:
		return f.keyOf(in, w, n, sport, dport, proto)
	case f.v6:
		return f.keyV6(in, w, n, sport, dport, proto)
	}
	src, dst := be.Uint32(in[(f.src+8)&inMask:]), be.Uint32(in[(f.dst+8)&inMask:])
	k := keyOf4(src, dst, sport, dport)
	if f.nat != nil {
		k = f.nat.inside4(in, k, src, dst, sport, dport, portMask[proto])
	}
	q := (*[32]byte)(w[n&outMask:])
	q[0], q[1] = fSrcAddr<<3|2, 4
	be.PutUint32(q[2:], src)
	q[6], q[7] = fDstAddr<<3|2, 4
	be.PutUint32(q[8:], dst)
	q[12] = proto
	be.PutUint64(q[13:], k.addrs)
	be.PutUint32(q[21:], k.ports)
	return n + 12, n + 25
}

// putRuleTimes writes start and end, with their source and resolution, by the rules of the appending
// path.
func (d *Decoder) putRuleTimes(p *Plan, f *fastPlan, in *window, w *outWindow, n uint) uint {
	f.load(in, &d.rec)
	start, stop, source, resolution := d.ctx.times(&p.times, &d.rec)
	n = putTimes(w, n, uint64(start), uint64(stop))
	n = putShort(w, n, sourceTag, uint64(source))
	return putShort(w, n, resolutionTag, uint64(resolution))
}

// putInts writes the integers of up to four octets. It is a function of its own so that all its
// variables stay in registers.
func (f *fastPlan) putInts(in *window, w *outWindow, n uint) uint {
	steps := f.ints[oneOctet]
	for i := range steps {
		t := &steps[i]
		x := octetField[in[(t.end+7)&inMask]]
		le.PutUint64(w[n&outMask:], x|uint64(t.tag))
		n += uint(x >> 56)
	}
	steps = f.ints[twoOctets]
	for i := range steps {
		t := &steps[i]
		n = putOctets2(w, n, t.tag, in.integer(t.end)&0xffff)
	}
	steps = f.ints[fourOctets]
	for i := range steps {
		t := &steps[i]
		v := in.integer(t.end) & t.mask
		l := bits.Len64(v)
		le.PutUint64(w[n&outMask:], spread32(v)<<16|cont2[l]|uint64(t.tag))
		n += uint(size2[l])
	}
	steps = f.ints[shortTag]
	for i := range steps {
		t := &steps[i]
		v := in.integer(t.end) & t.mask
		l := bits.Len64(v)
		le.PutUint64(w[n&outMask:], spread32(v)<<8|cont1[l]|uint64(t.tag))
		n += uint(size1[l])
	}
	return n
}

// putAddrs writes the addresses except source and destination. One store writes an IPv4 address
// together with its tag and length.
func (f *fastPlan) putAddrs(in *window, w *outWindow, n uint) uint {
	for i := range f.addrs4 {
		a := &f.addrs4[i]
		x := uint64(le.Uint32(in[(a.off+8)&inMask:]))
		le.PutUint64(w[n&outMask:], a.head|x<<(8*(a.n&7)))
		n += uint(a.n) + 4
	}
	for i := range f.addrs6 {
		a := &f.addrs6[i]
		le.PutUint32(w[n&outMask:], uint32(a.head))
		n += uint(a.n)
		*(*[16]byte)(w[n&outMask:]) = *(*[16]byte)(in[(a.off+8)&inMask:])
		n += 16
	}
	return n
}

// times returns start and end of a record whose times are linear, ns since the epoch. ok is false
// for values that require the rules.
func (f *fastPlan) times(s *fastSet, in *window) (start, end int64, ok bool) {
	a, b := in.integer(f.start.end)&f.start.mask, in.integer(f.end.end)&f.end.mask
	if f.mul == 0 {
		began, ended := ageOf(s.uptime, uint32(a)), ageOf(s.uptime, uint32(b))
		if max(began, ended) > s.maxAge { // possibly too old: the rules decide
			return 0, 0, false
		}
		start, end = s.export-began*1e6, s.export-ended*1e6
	} else {
		if (a|b)>>43 != 0 && f.mul == 1e6 && (a > math.MaxInt64/1_000_000 || b > math.MaxInt64/1_000_000) {
			return 0, 0, false
		}
		start, end = int64(a*f.mul), int64(b*f.mul)
		if f.observed && end < start {
			return 0, 0, false
		}
	}
	return max(start, 0), max(end, 0), true
}

// ageOf is age without a branch.
func ageOf(uptime, t uint32) int64 {
	const ahead = aheadMs - 1
	return int64(uptime-t+ahead) - ahead
}

// putRest runs the steps that have no class in the fast path through record.step.
func (f *fastPlan) putRest(in *window, w *outWindow, n uint, rec *record) uint {
	dst := w[:n&outMask]
	rec.once = 0
	for i := range f.rest {
		t := &f.rest[i]
		dst = rec.step(dst, t.step, in[t.off+8:][:t.step.length])
	}
	return uint(len(dst))
}

// load loads the slots that the rules read.
func (f *fastPlan) load(in *window, rec *record) {
	for i := range f.loads {
		l := &f.loads[i]
		rec.v[l.slot] = in.integer(l.end) & l.mask
	}
}

// fastRules writes the Ethernet type, the sampling rate and the times of the reverse direction.
func (d *Decoder) fastRules(p *Plan, f *fastPlan, s *fastSet, in *window, w *outWindow, n uint) uint {
	if f.etherType.mask != 0 {
		v := cmp.Or(in.integer(f.etherType.end)&f.etherType.mask, f.familyType())
		n = putShort(w, n, etherTypeTag, v)
	}
	if !s.sampling && !s.reverse {
		return n
	}
	f.load(in, &d.rec)
	dst := w[:n&outMask]
	if s.sampling {
		o := &d.out
		d.ctx.sampling(&d.rec, o)
		dst = number(number(dst, fRate, o.rate), fRateSource, uint64(o.rateSource))
	}
	if s.reverse {
		start, end, _, _ := d.ctx.times(&p.reverse, &d.rec)
		dst = number(number(dst, fRevStart, uint64(start)), fRevEnd, uint64(end))
	}
	return uint(len(dst))
}

// strays reports whether a record has a value that does not apply to its protocol, and so requires
// the appending path.
func (f *fastPlan) strays(p *Plan, in *window, proto uint8) bool {
	for i := range f.stray {
		l := &f.stray[i]
		if in.integer(l.end)&l.mask != 0 && !p.slotApplies(l.slot, uint32(proto), f.v6) {
			return true
		}
	}
	return false
}
