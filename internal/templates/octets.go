package templates

import "unsafe"

// The Store estimates the heap octets of its entries, in total and per exporter. A plan
// that several definitions share counts once in the total, and in full for each exporter
// that uses it, since that exporter may become its last user.
//
// The constants are the octets of an entry beside its own structure. The groups of Go's
// maps are two thirds full on average, and a small map has a group of eight slots.
const (
	perDefinition = 32 + 48 + 26 + 24 + 16 + 48 + 8 + 24 + 8 + 2*24  // keys, maps, choice, layouts and queue
	perSource     = int(unsafe.Sizeof(source{})) + 16                // with its port in the choice
	perFact       = 32 + 40 + 72 + 24                                // key, map, decode.Facts, and queue
	perTopicValue = int(unsafe.Sizeof(factOnTopic{})) + 8            // the value on the topic
	perFactSource = int(unsafe.Sizeof(factSource{})) + 8             // source of a further port
	perOwnValue   = 64 + 8 + 8                                       // value of a single port in decode.Facts
	perPlan       = 16 + (24+8+1)*3/2                                // a sharedPlan and its entry in plans
	perText       = 8                                                // mean slack of a text
	emptyDomain   = int64(unsafe.Sizeof(domain{})) + 2*184 + 64 + 16 // with its maps and its entries in other maps
	emptyExporter = int64(unsafe.Sizeof(exporter{})) + 120 + 128     // with its map and its entry in the shard
)

// footprint returns the octets of d without its plan. The shard's lock must be held.
func (d *definition) footprint() int64 {
	n := int(unsafe.Sizeof(*d)) + perDefinition + cap(d.sources)*perSource
	if l := d.lives.Load(); l != nil {
		n += int(unsafe.Sizeof(*l)) + cap(*l)*int(unsafe.Sizeof(life{}))
	}
	if p := d.pins.Load(); p != nil {
		n += int(unsafe.Sizeof(*p)) + len(*p)*int(unsafe.Sizeof(&pin{})+unsafe.Sizeof(pin{}))
	}
	return int64(n)
}

// footprint returns the octets of f. The shard's lock must be held.
func (f *fact) footprint() int64 {
	n := int(unsafe.Sizeof(*f)) + perFact + perText + len(f.is.text)
	if f.shown {
		n += perOwnValue
	}
	n += cap(f.others) * perFactSource
	for i := range f.others {
		n += len(f.others[i].is.text)
		if f.others[i].shown {
			n += perOwnValue
		}
	}
	if f.topic != nil {
		n += perTopicValue + len(f.topic.is.text) + cap(f.topic.differs)*perFactSource
		for i := range f.topic.differs {
			n += len(f.topic.differs[i].is.text)
		}
	}
	return int64(n)
}

// accountDefinition updates the accounted octets of d. It must be called after each change
// of d. The shard's lock must be held.
func (s *Store) accountDefinition(d *definition) {
	change := d.footprint() - d.octets
	if change == 0 {
		return
	}
	d.octets += change
	s.charge(d.shard.exporters[d.domain.scope.exporter], change)
	if !d.confirmed {
		s.held.unconfirmedOctets.Add(change)
	}
}

// accountFact updates the accounted octets of f. It must be called after each change of f.
// The shard's lock must be held.
func (s *Store) accountFact(f *fact) {
	change := f.footprint() - f.octets
	if change == 0 {
		return
	}
	f.octets += change
	e := f.shard.exporters[f.domain.scope.exporter]
	e.factOctets += change
	s.held.factOctets.Add(change)
	s.charge(e, change)
}

// charge adds octets, which may be negative, to the counts of e and of the Store.
func (s *Store) charge(e *exporter, octets int64) {
	e.octets += octets
	s.held.octets.Add(octets)
}

// doubtedOctets returns the octets of d while it is unconfirmed. A shared plan
// counts for the definition it was compiled for.
func (d *definition) doubtedOctets() int64 {
	if d.compiled {
		return d.octets + d.planOctets
	}
	return d.octets
}

// octets returns the accounted octets of the Store, with plans.
func (s *Store) octets() int64 { return s.held.octets.Load() + s.plans.octets.Load() }
