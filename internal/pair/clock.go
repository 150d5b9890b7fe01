package pair

import (
	"cmp"
	"encoding/binary"
	"slices"
	"time"

	"weir/pkg/flowpb"
)

const qualityCorrected = quality(1) << flowpb.Quality_QUALITY_TIME_CORRECTED

// A clock identifies the clock of an exporter's observation domain, from which flow times were read.
type clock struct {
	exporter [16]byte
	domain   uint32
}

// maxClocks bounds the stored decisions about clocks. Exporter addresses can be forged: at the bound, the oldest
// decision is removed.
const maxClocks = 1024

// tagClocks is the tag of shared values with decisions about clocks. The key has the exporter (16 octets) and the
// domain (4); the value has 1 if times are corrected, else 0 (1 octet), and the sequence number of the decision
// (varint). The tag is odd, hence optional: a version that does not know it decides again.
const tagClocks = 1

// clocks stores, for clocks with an offset near PAIR_MAX_CLOCK_SKEW, whether their times are corrected. The export
// time has whole seconds (RFC 7011 section 3.1), so that such a clock is beyond the limit in one datagram and within
// it in the next. A decision by datagram would move the two directions of a connection apart by the whole offset. A
// decision holds until a record of the clock is outside the band around the limit. Clocks outside the band are not
// stored; mostly there are none inside.
type clocks struct {
	at    map[clock]decision
	order []ordered // oldest first; an element is stale if its seq differs from that in at
	seq   uint64    // of the newest decision

	unlogged    bool               // a piece of format 2, which has no decisions, was applied
	before      map[clock]decision // inferred from entries restored from format 2; see restoreClocks
	beforeUntil int64              // stream time until which before is used
}

// A decision records whether the times of a clock are corrected.
type decision struct {
	corrected bool
	seq       uint64
}

// An ordered is a clock in the order of decisions.
type ordered struct {
	of  clock
	seq uint64
}

// clockBand returns half the width of the band around MaxClockSkew, ns: a second for the resolution of the export time
// and a second for delay. It is at most half of MaxClockSkew, so that an exact clock is never in the band.
func (c *Config) clockBand() int64 { return min(int64(2*time.Second), int64(c.MaxClockSkew)/2) }

// offLimit returns the excess of an offset over MaxClockSkew, ns; it is negative within the limit. Example: with a
// limit of 10 s, an offset of -12.5 s gives 2.5 s, and an offset of 9 s gives -1 s.
func (c *Config) offLimit(offset int64) int64 { return max(offset, -offset) - int64(c.MaxClockSkew) }

// nearLimit reports whether an offset is in the band around MaxClockSkew. An offset of 0 is never near the limit: it
// means that the offset is unknown.
func (c *Config) nearLimit(offset int64) bool {
	if offset == 0 {
		return false
	}
	d := c.offLimit(offset)
	if d < -int64(2*time.Second) { // the common case, decided without clockBand
		return false
	}
	band := c.clockBand()
	return -band <= d && d <= band
}

// correct shifts the times of f by its offset, to the receiver's clock. Example: the exporter is 1 h slow, Offset is 1
// h, and all times move 1 h ahead. The durations are kept.
func (f *Flow) correct() {
	f.Start, f.End, f.Export = shifted(f.Start, f.Offset), shifted(f.End, f.Offset), f.Export+f.Offset
	if f.Back.End != 0 {
		f.Back.Start, f.Back.End = shifted(f.Back.Start, f.Offset), shifted(f.Back.End, f.Offset)
	}
	// Export times have whole seconds: the offset of the next datagram may differ by up to a second.
	f.Resolution = max(f.Resolution, int64(time.Second))
	f.quality |= qualityCorrected
}

// onClock returns f, or a copy with corrected times, which is valid until the next call. It decides about records in
// the band only: FromMessage has corrected records beyond it. The result must not be kept: entries copy the parts that
// they need.
func (m *Machine) onClock(f *Flow) *Flow {
	of := clock{f.exporter, f.domain}
	d, known := m.clocks.at[of]
	if !m.c.nearLimit(f.Offset) {
		if known {
			delete(m.clocks.at, of)
			m.shared.set(tagClocks, of.key(), nil)
		}
		return f
	}
	if !known {
		d.corrected = m.c.offLimit(f.Offset) > 0
		if b, ok := m.clocks.before[of]; ok {
			if m.now < m.clocks.beforeUntil {
				d.corrected = b.corrected
			}
			delete(m.clocks.before, of)
		}
		m.decide(of, d.corrected)
	}
	if !d.corrected {
		return f
	}
	m.corrected = *f
	m.corrected.correct()
	return &m.corrected
}

// decide stores the first decision about a clock and adds it to the delta log. At maxClocks it evicts the oldest
// decision.
func (m *Machine) decide(of clock, corrected bool) {
	c := &m.clocks
	for len(c.at) >= maxClocks {
		o := c.order[0]
		c.order = c.order[1:]
		// A stale element belongs to a decision that was removed or made again; dropping it frees nothing.
		if c.at[o.of].seq == o.seq {
			delete(c.at, o.of)
			m.shared.set(tagClocks, o.of.key(), nil)
		}
	}
	c.seq++
	c.put(of, decision{corrected, c.seq})
	value := binary.AppendUvarint([]byte{0}, c.seq)
	if corrected {
		value[0] = 1
	}
	m.shared.set(tagClocks, of.key(), value)
}

// put stores a decision. The caller must keep the number of decisions at maxClocks or below.
func (c *clocks) put(of clock, d decision) {
	if c.at == nil {
		c.at = map[clock]decision{}
	}
	c.at[of] = d
	if len(c.order) >= 2*maxClocks { // at least half of the elements are stale
		kept := make([]ordered, 0, 2*maxClocks)
		for _, o := range c.order {
			if c.at[o.of].seq == o.seq {
				kept = append(kept, o)
			}
		}
		c.order = kept
	}
	c.order = append(c.order, ordered{of, d.seq})
}

// key returns the key of the clock's shared value.
func (of clock) key() []byte {
	return binary.BigEndian.AppendUint32(append(make([]byte, 0, 20), of.exporter[:]...), of.domain)
}

// restoreClocks reads the decisions from the restored shared values. Format 2 has none: a clock without a decision
// then starts with that of the newest connection that was reported by this clock alone.
func (m *Machine) restoreClocks() {
	type kept struct {
		of clock
		d  decision
	}
	var all []kept
	m.shared.forEach(tagClocks, func(key string, value []byte) {
		if len(key) != 20 || len(value) < 2 {
			return // written by another version
		}
		of := clock{[16]byte([]byte(key[:16])), binary.BigEndian.Uint32([]byte(key[16:]))}
		seq, _ := binary.Uvarint(value[1:])
		all = append(all, kept{of, decision{value[0] != 0, seq}})
	})
	slices.SortFunc(all, func(a, b kept) int { return cmp.Compare(a.d.seq, b.d.seq) })
	// A version with a greater maxClocks may have written more: the oldest decisions beyond the bound are removed.
	beyond := max(0, len(all)-maxClocks)
	for _, k := range all[:beyond] {
		m.shared.set(tagClocks, k.of.key(), nil)
	}
	for _, k := range all[beyond:] {
		m.clocks.put(k.of, k.d)
		m.clocks.seq = max(m.clocks.seq, k.d.seq)
	}
	if !m.clocks.unlogged {
		return
	}
	// Until beforeUntil, connections from before the restore may be open or in grace: a record must meet their times.
	m.clocks.before, m.clocks.beforeUntil = map[clock]decision{}, m.now+int64(m.c.Idle)+int64(m.c.LateGrace)
	for i := int32(1); i <= m.table.entries.n; i++ {
		if e := m.table.entries.ref(i); e.marks&isHeld != 0 {
			m.noteClock(e)
		}
	}
}

// noteClock infers a decision from an entry, if all of its sides are of the same clock: its quality shows whether the
// times were corrected.
func (m *Machine) noteClock(e *entry) {
	var of clock
	for i := e.sides; i != 0; i = m.sides.ref(i).next {
		v := &m.points.pool.ref(m.sides.ref(i).point).observationPoint
		x := clock{v.exporter, v.domain}
		if i != e.sides && x != of {
			return
		}
		of = x
	}
	if b, ok := m.clocks.before[of]; !ok && len(m.clocks.before) >= maxShared || b.seq > e.seq {
		return
	}
	m.clocks.before[of] = decision{e.quality&qualityCorrected != 0, e.seq}
}
