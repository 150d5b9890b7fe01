package templates

import (
	"cmp"
	"slices"
	"sync/atomic"

	"weir/internal/decode"
	"weir/pkg/flowpb"
)

// A fact is a value from options data, such as the rate of a sampler or the name of an
// interface. Its shard's lock guards it.
type fact struct {
	published
	id     factID
	domain *domain

	factSource              // the newest; received is 0 in an empty fact
	others     []factSource // last values from other ports, newest first; at most maxSources-1
	first      int64        // least receive time, ns
	local      int64        // last receive time of this replica, ns; 0: none
	origin     origin
	topic      *factOnTopic // nil: the topic has no record
	place      place        // in the order of eviction
	octets     int64        // accounted octets
	active     atomic.Int64 // copy of received, read without lock
}

// A factValue is the value of a fact. Its kind determines which field is used.
type factValue struct {
	number uint64
	text   string
}

// A factSource is the last value of a fact from a source port. Values are kept per port,
// since several exporters may share an address.
type factSource struct {
	is       factValue
	received int64 // ns
	port     int32 // noPort in a record of an older version
	shown    bool  // decode.Facts has a value for this port alone
}

// noPort is the port of a factSource without a known port.
const noPort = -1

// compare orders sources by time; equal times by value and port, so that all
// replicas agree.
func (s *factSource) compare(o *factSource) int {
	return cmp.Or(cmp.Compare(s.received, o.received), cmp.Compare(s.is.number, o.is.number),
		cmp.Compare(s.is.text, o.is.text), cmp.Compare(s.port, o.port))
}

// A factOnTopic holds the values in the topic's last record of a fact.
type factOnTopic struct {
	is      factValue
	differs []factSource // ports with other values
}

// valueFor returns the value for a port on a replica that has read only the topic.
func (t *factOnTopic) valueFor(port int32) factValue {
	for i := range t.differs {
		if t.differs[i].port == port {
			return t.differs[i].is
		}
	}
	return t.is
}

// sources appends all sources, newest first, to space. An empty fact has none.
func (f *fact) sources(space []factSource) []factSource {
	if f.received == 0 {
		return space
	}
	return append(append(space, f.factSource), f.others...)
}

// receive adds a value from a port, received by any replica. For each port the value with
// the greatest receive time wins, on a tie the greatest value. Ports without a value read
// the newest value of all. receive reports whether any port reads another value now.
func (f *fact) receive(src factSource, first int64, o origin) (changed bool) {
	if f.first == 0 || first < f.first {
		f.first = first
	}
	if src.port == f.port && len(f.others) == 0 && !f.shown && f.received > 0 { // the usual case: a single port
		if src.compare(&f.factSource) < 0 {
			return false
		}
		changed = src.is != f.is
		f.is, f.received, f.origin = src.is, src.received, o
		f.active.Store(f.received)
		if changed {
			f.domain.said.Set(f.decodeFact(src.is))
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

// decodeFact returns value v of f as a decode.OptionsFact.
func (f *fact) decodeFact(v factValue) *decode.OptionsFact {
	return &decode.OptionsFact{What: f.id.what, ID: f.id.id, Number: v.number, Text: v.text}
}

// show updates decode.Facts for a change of the sources from before to after, both newest
// first. Decoding reads without a lock meanwhile; the order of the updates ensures that no
// port reads the value of another port in between.
func (f *fact) show(before, after []factSource) (changed bool) {
	facts := &f.domain.said
	for i := range after {
		s := &after[i]
		k := slices.IndexFunc(before, func(b factSource) bool { return b.port == s.port })
		isNew := k < 0 || before[k].is != s.is
		if s.port != noPort && (s.shown && isNew || !s.shown && s.is != after[0].is) {
			facts.SetOwn(uint16(s.port), f.decodeFact(s.is)) // parse checks the range
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
		facts.Set(f.decodeFact(newest))
		changed = true
	}
	for i := range before {
		b := &before[i]
		if slices.ContainsFunc(after, func(s factSource) bool { return s.port == b.port }) {
			continue
		}
		f.countPort(b.port, false)
		if b.shown {
			facts.RemoveOwn(uint16(b.port), f.id.what, f.id.id) // shown implies a port
		}
	}
	return changed
}

// countPort records whether a port has stated the rate of a sampler. Other facts are
// ignored.
func (f *fact) countPort(port int32, says bool) {
	if f.id.what == flowpb.Fact_WHAT_SAMPLER && port != noPort {
		f.domain.said.AddPort(uint16(port), f.id.id, says) // parse checks the range
	}
}

// hide removes the fact from decode.Facts.
func (f *fact) hide() {
	var space [maxSources]factSource
	f.show(f.sources(space[:0]), nil)
}

// valueFrom returns the last value from a port. ok is false if there is none.
func (f *fact) valueFrom(port int32) (v factValue, ok bool) {
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

// A novelty classifies a received fact, which determines its cost.
type novelty int

const (
	factNew  novelty = iota // a new fact or value
	factTurn                // the newest value of the address, but not the last value from the port
	factSame                // the value that the port reads already
)

// noveltyOf classifies value v of a fact from a port. The shard's lock must be held.
func (sh *shard) noveltyOf(sc scope, id factID, port uint16, v factValue) novelty {
	dom := sh.domain(sc)
	if dom == nil {
		return factNew
	}
	f := dom.facts[id]
	if f == nil || f.received == 0 {
		return factNew
	}
	own, ok := f.valueFrom(int32(port))
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

// needed implements publishable. The record must be published if the topic lacks it, has
// another value for a port, or needs a refresh.
func (f *fact) needed() bool {
	if !f.known() {
		return false // evicted or expired
	}
	if f.shard.holds(f.domain.scope.exporter) {
		return false
	}
	if f.topic == nil || f.topic.valueFor(f.port) != f.is || f.received >= f.refreshAt {
		return true
	}
	return slices.ContainsFunc(f.others, func(s factSource) bool { return f.topic.valueFor(s.port) != s.is })
}
