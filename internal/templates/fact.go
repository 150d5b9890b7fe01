package templates

import (
	"cmp"

	"weir/internal/decode"
	"weir/pkg/flowpb"
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
	topic    *factValue // what the topic's last record says; nil: not there
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
	if changed {
		f.domain.refreshFacts(f.id)
	}
	return changed
}

// needed reports whether the topic lacks f, says something else, or lacks a
// sign that it is still received.
func (f *fact) needed() bool {
	if f.domain.facts[f.id] != f {
		return false // gone since
	}
	if f.shard.holds(f.domain.scope.exporter) {
		return false
	}
	return f.topic == nil || *f.topic != f.is || f.received >= f.refreshAt
}

// refreshFacts makes what readers see follow what is known of id.
func (d *domain) refreshFacts(id factID) {
	was := d.read.Load()
	facts := &decode.Facts{Names: was.Names}
	if id.what != flowpb.Fact_WHAT_INIT_TIME && id.what != flowpb.Fact_WHAT_SAMPLER {
		name := ""
		if f := d.facts[id]; f != nil {
			name = f.is.text
		}
		if facts.Names != nil {
			facts.Names.Set(id.what, id.id, name)
			return
		}
		*facts = *was
		facts.Names = &decode.Names{}
		facts.Names.Set(id.what, id.id, name)
		d.read.Store(facts)
		return
	}
	var init *fact
	for id, f := range d.facts {
		switch id.what {
		case flowpb.Fact_WHAT_INIT_TIME:
			if init == nil || cmp.Or(cmp.Compare(f.received, init.received), cmp.Compare(id.id, init.id.id)) > 0 {
				init = f
			}
		case flowpb.Fact_WHAT_SAMPLER:
			if facts.Samplers == nil {
				facts.Samplers = map[uint64]uint64{}
			}
			facts.Samplers[id.id] = f.is.number
		}
	}
	if init != nil {
		facts.InitMs = init.is.number
	}
	d.read.Store(facts)
}
