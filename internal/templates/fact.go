package templates

import (
	"cmp"
	"slices"
	"sync/atomic"

	"weir/internal/decode"
	"weir/pkg/flowpb"
)

// A fact is one thing that options data says of an exporter address. It is guarded
// by its shard's lock.
type fact struct {
	published
	id     factID
	domain *domain

	factSource              // the newest; received 0: nothing known yet
	others     []factSource // what other ports said last, newest first; at most maxSources-1
	first      int64        // ns
	local      int64        // own reception, ns; 0: none
	origin     origin
	topic      *factOnTopic // nil: not there
	place      place        // in the order of eviction
	octets     int64        // accounted
	active     atomic.Int64 // received, read without lock
}

type factValue struct {
	number uint64
	text   string
}

// A factSource is what one source port said of a fact: several exporters may be
// behind one address.
type factSource struct {
	is       factValue
	received int64 // ns
	port     int32 // noPort: not known, said by a replica of an older version
	shown    bool  // decode.Facts has it for the port alone
}

const noPort = -1

// compare orders sources by time; equal times by value and port, so that all
// replicas agree.
func (s *factSource) compare(o *factSource) int {
	return cmp.Or(cmp.Compare(s.received, o.received), cmp.Compare(s.is.number, o.is.number),
		cmp.Compare(s.is.text, o.is.text), cmp.Compare(s.port, o.port))
}

// A factOnTopic is what the topic's last record says of a fact.
type factOnTopic struct {
	is      factValue
	differs []factSource // what ports said that is not that
}

// of returns what a replica that knows no more than the topic reads for a port.
func (t *factOnTopic) of(port int32) factValue {
	for i := range t.differs {
		if t.differs[i].port == port {
			return t.differs[i].is
		}
	}
	return t.is
}

// sources appends the newest and the others to space.
func (f *fact) sources(space []factSource) []factSource {
	if f.received == 0 {
		return space
	}
	return append(append(space, f.factSource), f.others...)
}

// receive takes what a port said, received at a time by any replica. Of one port
// the greatest receive time wins, and of equal ones the greatest value; the newest
// port counts for all others. It reports whether what any port reads is another
// now.
func (f *fact) receive(src factSource, first int64, o origin) (changed bool) {
	if f.first == 0 || first < f.first {
		f.first = first
	}
	if src.port == f.port && len(f.others) == 0 && !f.shown && f.received > 0 { // as ever
		if src.compare(&f.factSource) < 0 {
			return false
		}
		changed = src.is != f.is
		f.is, f.received, f.origin = src.is, src.received, o
		f.active.Store(f.received)
		if changed {
			f.domain.said.Set(f.said(src.is))
		}
		return changed
	}
	var space, were [maxSources + 1]factSource
	before, after := f.sources(were[:0]), f.sources(space[:0])
	i := slices.IndexFunc(after, func(s factSource) bool { return s.port == src.port })
	switch {
	case i < 0:
		after = append(after, src)
	case src.compare(&after[i]) < 0:
		return false
	default:
		src.shown = after[i].shown
		after[i] = src
	}
	slices.SortFunc(after, func(a, b factSource) int { return b.compare(&a) })
	after = slices.DeleteFunc(after, func(s factSource) bool { return s.port == noPort && s != after[0] })
	after = after[:min(len(after), maxSources)]
	changed = f.show(before, after)
	if f.factSource = after[0]; f.port == src.port {
		f.origin = o
	}
	f.others = append(f.others[:0], after[1:]...)
	f.active.Store(f.received)
	return changed
}

// said is a value as decoding takes it.
func (f *fact) said(v factValue) *decode.Fact {
	return &decode.Fact{What: f.id.what, ID: f.id.id, Number: v.number, Text: v.text}
}

// show makes what decoding reads follow the sources, newest first. A port never
// reads another's value meanwhile.
func (f *fact) show(before, after []factSource) (changed bool) {
	facts := &f.domain.said
	for i := range after {
		s := &after[i]
		k := slices.IndexFunc(before, func(b factSource) bool { return b.port == s.port })
		isNew := k < 0 || before[k].is != s.is
		if s.port != noPort && (s.shown && isNew || !s.shown && s.is != after[0].is) {
			facts.SetOwn(uint16(s.port), f.said(s.is)) // checked where it came in
			s.shown = true
		}
		if k < 0 {
			f.countPort(s.port, true)
		}
		changed = changed || isNew
	}
	if len(before) == 0 || len(after) == 0 || before[0].is != after[0].is {
		newest := factValue{}
		if len(after) > 0 {
			newest = after[0].is
		}
		facts.Set(f.said(newest))
		changed = true
	}
	for i := range before {
		b := &before[i]
		if slices.ContainsFunc(after, func(s factSource) bool { return s.port == b.port }) {
			continue
		}
		f.countPort(b.port, false)
		if b.shown {
			facts.RemoveOwn(uint16(b.port), f.id.what, f.id.id) // shown: a port
		}
	}
	return changed
}

// countPort notes whether a port is among those that said a sampling rate.
func (f *fact) countPort(port int32, says bool) {
	if f.id.what == flowpb.Fact_WHAT_SAMPLER && port != noPort {
		f.domain.said.AddPort(uint16(port), f.id.id, says) // checked where it came in
	}
}

// hide takes the fact from what decoding reads.
func (f *fact) hide() {
	var space [maxSources]factSource
	f.show(f.sources(space[:0]), nil)
}

// by returns what a port said; ok is false when it said nothing.
func (f *fact) by(port int32) (v factValue, ok bool) {
	if f.port == port && f.received > 0 {
		return f.is, true
	}
	for i := range f.others {
		if f.others[i].port == port {
			return f.others[i].is, true
		}
	}
	return v, false
}

// A novelty is how much of a fact is new that a port says.
type novelty int

const (
	factNew  novelty = iota // the fact, or its value
	factTurn                // the port said otherwise, and the newest is so
	factSame                // what the port reads already
)

// knows reports how much is new of a fact when a port says v.
func (sh *shard) knows(sc scope, id factID, port uint16, v factValue) novelty {
	dom := sh.domain(sc)
	if dom == nil {
		return factNew
	}
	f := dom.facts[id]
	if f == nil || f.received == 0 {
		return factNew
	}
	own, ok := f.by(int32(port))
	switch {
	case !ok:
		own = f.is
	case own != v && f.is == v:
		return factTurn
	}
	if own == v {
		return factSame
	}
	return factNew
}

// known implements publishable and evictable.
func (f *fact) known() bool { return f.domain.facts[f.id] == f }

// activeAt implements evictable.
func (f *fact) activeAt() int64 { return f.active.Load() }

// home implements evictable.
func (f *fact) home() *shard { return f.shard }

// needed reports whether the topic lacks f, says something else for a port that
// said it, or lacks a sign that it is still received.
func (f *fact) needed() bool {
	if !f.known() {
		return false // gone since
	}
	if f.shard.holds(f.domain.scope.exporter) {
		return false
	}
	if f.topic == nil || f.topic.of(f.port) != f.is || f.received >= f.refreshAt {
		return true
	}
	return slices.ContainsFunc(f.others, func(s factSource) bool { return f.topic.of(s.port) != s.is })
}
