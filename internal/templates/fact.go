package templates

import (
	"cmp"
	"sync/atomic"

	"weir/internal/decode"
)

// A fact is one thing that options data says of an exporter. It is guarded by
// its shard's lock.
type fact struct {
	published
	id     factID
	domain *domain

	is       factValue
	received int64 // ns; 0: nothing known yet
	first    int64 // ns
	local    int64 // own reception, ns; 0: none
	origin   origin
	topic    *factValue   // what the topic's last record says; nil: not there
	place    place        // in the order of eviction
	octets   int64        // accounted
	active   atomic.Int64 // received, read without lock
}

type factValue struct {
	number uint64
	text   string
}

// receive takes v received at a time by any replica: the greatest receive time
// wins, and of equal ones the greatest value. It reports whether what is known
// is another now.
func (f *fact) receive(v factValue, at, first int64, o origin) bool {
	if f.first == 0 || first < f.first {
		f.first = first
	}
	if cmp.Or(cmp.Compare(at, f.received), cmp.Compare(v.number, f.is.number), cmp.Compare(v.text, f.is.text)) < 0 {
		return false
	}
	changed := f.received == 0 || v != f.is
	f.is, f.received, f.origin = v, at, o
	f.active.Store(at)
	if changed {
		f.domain.said.Set(&decode.Fact{What: f.id.what, ID: f.id.id, Number: v.number, Text: v.text})
	}
	return changed
}

// says reports whether v is what is known of a fact.
func (sh *shard) says(sc scope, id factID, v factValue) bool {
	dom := sh.domain(sc)
	if dom == nil {
		return false
	}
	f := dom.facts[id]
	return f != nil && f.is == v
}

// known implements publishable and evictable.
func (f *fact) known() bool { return f.domain.facts[f.id] == f }

// activeAt implements evictable.
func (f *fact) activeAt() int64 { return f.active.Load() }

// home implements evictable.
func (f *fact) home() *shard { return f.shard }

// needed reports whether the topic lacks f, says something else, or lacks a
// sign that it is still received.
func (f *fact) needed() bool {
	if !f.known() {
		return false // gone since
	}
	if f.shard.holds(f.domain.scope.exporter) {
		return false
	}
	return f.topic == nil || *f.topic != f.is || f.received >= f.refreshAt
}
