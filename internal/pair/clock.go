package pair

import (
	"cmp"
	"encoding/binary"
	"slices"
	"time"

	"weir/pkg/flowpb"
)

const qualityCorrected = quality(1) << flowpb.Quality_QUALITY_TIME_CORRECTED

// A clock is one that flow times are read from: an exporter's, by observation domain.
type clock struct {
	exporter [16]byte
	domain   uint32
}

// maxClocks bounds the clocks whose correction is remembered. Anybody can forge an
// exporter: the oldest makes room.
const maxClocks = 1024

// tagClocks is the tag of the clocks' shared values: the key is the exporter (16) and
// the domain (4), the value whether it is corrected (1) and the order of the decision
// (varint). It is optional: a version without it decides anew.
const tagClocks = 1

// clocks remembers of the clocks near PAIR_MAX_CLOCK_SKEW whether their times are
// corrected. The export time has whole seconds, so that such a clock is beyond the
// limit in one datagram and within it in the next: a decision by the datagram alone
// would move the two directions of a connection apart by the whole offset. A decision
// holds until a record of the clock is outside the band around the limit; a clock that
// is outside is not kept, and the band is empty as a rule.
type clocks struct {
	at    map[clock]decision
	order []ordered // oldest first; those whose seq is not the decision's are gone
	seq   uint64

	unlogged    bool               // a piece of format 2 was applied
	before      map[clock]decision // by entries that were restored from format 2
	beforeUntil int64              // stream time until which before counts
}

type decision struct {
	corrected bool
	seq       uint64
}

type ordered struct {
	of  clock
	seq uint64
}

// clockBand returns half the width of the band around MaxClockSkew, ns: a second of
// the export time's resolution and one of delay.
func (c *Config) clockBand() int64 { return min(int64(2*time.Second), int64(c.MaxClockSkew)/2) }

// offLimit returns by how much an offset exceeds MaxClockSkew, ns; below it, negative.
func (c *Config) offLimit(offset int64) int64 { return max(offset, -offset) - int64(c.MaxClockSkew) }

// nearLimit reports whether an offset is in the band around MaxClockSkew.
func (c *Config) nearLimit(offset int64) bool {
	if offset == 0 {
		return false
	}
	d := c.offLimit(offset)
	if d < -int64(2*time.Second) { // as a rule
		return false
	}
	band := c.clockBand()
	return -band <= d && d <= band
}

// correct moves f's times by its offset, to the receiver's clock.
func (f *Flow) correct() {
	f.Start, f.End, f.Export = shifted(f.Start, f.Offset), shifted(f.End, f.Offset), f.Export+f.Offset
	if f.Back.End != 0 {
		f.Back.Start, f.Back.End = shifted(f.Back.Start, f.Offset), shifted(f.Back.End, f.Offset)
	}
	// Export times have whole seconds: the shift is another by up to one for
	// the next datagram.
	f.Resolution = max(f.Resolution, int64(time.Second))
	f.quality |= qualityCorrected
}

// onClock returns f, or a copy with its times corrected that is good until the next
// call. FromMessage corrects what is beyond the band.
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

// decide keeps and logs a decision.
func (m *Machine) decide(of clock, corrected bool) {
	c := &m.clocks
	for len(c.at) >= maxClocks {
		o := c.order[0]
		c.order = c.order[1:]
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

func (c *clocks) put(of clock, d decision) {
	if c.at == nil {
		c.at = map[clock]decision{}
	}
	c.at[of] = d
	if len(c.order) >= 2*maxClocks { // most are gone
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

func (of clock) key() []byte {
	return binary.BigEndian.AppendUint32(append(make([]byte, 0, 20), of.exporter[:]...), of.domain)
}

// restoreClocks takes the decisions from the restored state. Format 2 has none: an
// undecided clock then starts as the newest connection has it that it alone reported.
func (m *Machine) restoreClocks() {
	type kept struct {
		of clock
		d  decision
	}
	var all []kept
	m.shared.each(tagClocks, func(key string, value []byte) {
		if len(key) != 20 || len(value) < 2 {
			return // of another version
		}
		of := clock{[16]byte([]byte(key[:16])), binary.BigEndian.Uint32([]byte(key[16:]))}
		seq, _ := binary.Uvarint(value[1:])
		all = append(all, kept{of, decision{value[0] != 0, seq}})
	})
	slices.SortFunc(all, func(a, b kept) int { return cmp.Compare(a.d.seq, b.d.seq) })
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
	m.clocks.before, m.clocks.beforeUntil = map[clock]decision{}, m.now+int64(m.c.Idle)+int64(m.c.LateGrace)
	for i := int32(1); i <= m.table.entries.n; i++ {
		if e := m.table.entries.at(i); e.marks&isHeld != 0 {
			m.noteClock(e)
		}
	}
}

// noteClock notes how an entry has the clock that alone reported it.
func (m *Machine) noteClock(e *entry) {
	var of clock
	for i := e.sides; i != 0; i = m.sides.at(i).next {
		v := &m.vantages.of.at(m.sides.at(i).vantage).vantage
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
