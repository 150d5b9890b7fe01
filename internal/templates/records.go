package templates

import "slices"

// A recordKind distinguishes the two records of a definition on the shared log.
type recordKind uint8

const (
	digestRecord recordKind = iota // by digest of the layout; always written
	hashRecord                     // by 64-bit hash, for replicas of older versions; see Options.HashKeys

	recordKinds
)

// A definitionRecord holds the publishing state of a record of a definition. The shard's
// lock guards it.
//
// Layouts with the same 64-bit hash share the key of their hash records, and compaction
// keeps a single record. Replicas therefore write the hash record of hashOwner only, so
// that a forged layout cannot replace an honest layout on the topic. The other layouts
// have their digest records.
type definitionRecord struct {
	published
	def *definition
	by  recordKind

	written   bool  // this Store publishes records of the kind
	there     bool  // the topic has the record, possibly with a removal
	confirmed bool  // the record on the topic has the confirmation
	replaced  bool  // the topic has the record of another layout under the key
	latest    int64 // greatest receive time in a record of the kind, ns; 0: none read
}

// recordsOf returns the records of a new definition.
func (s *Store) recordsOf(d *definition) (all [recordKinds]definitionRecord) {
	for by := range recordKinds {
		all[by] = definitionRecord{
			published: published{key: recordKey(d.domain.scope, d.id, by), shard: d.shard},
			def:       d, by: by,
			written: by == digestRecord || s.o.HashKeys,
		}
	}
	return all
}

func (r *definitionRecord) kind() kind         { return ofDefinitions }
func (r *definitionRecord) exporter() [16]byte { return r.def.domain.scope.exporter }

// known implements publishable.
func (r *definitionRecord) known() bool { return r.def.known() }

// value implements publishable.
func (r *definitionRecord) value(replica string) ([]byte, error) { return r.def.value(replica) }

// needed reports whether the record must be published: the topic lacks the definition, its
// source for a port, its confirmation, or a refresh. Knowledge from records of the other
// kind is no reason: the replica that received the template writes both kinds, and readers
// merge them.
func (r *definitionRecord) needed() bool {
	d := r.def
	switch {
	case !r.written, !d.known(), !d.inForce():
		return false // not written, evicted or removed
	case !d.shared():
		return false
	case r.by == hashRecord && d.hashOwner() != d:
		return false
	case d.confirmed && !r.confirmed && d.say:
		return true
	case r.replaced: // an older replica wrote another layout: at the refresh interval only, not in turn with it
		return d.local > 0 && d.local >= r.refreshAt
	case r.onTopic == 0:
		return max(d.local, r.latest) > 0
	case max(d.local, r.latest) >= r.refreshAt:
		return true
	}
	l, c := d.domain.templates[d.id.template], d.domain.choice(d.id.template)
	for _, p := range c.ports {
		if p.def == d && !d.spares(p.port) && d.heardFrom(p.port, r.by) && l.onTopic(r.by, p.port) != d {
			return true
		}
	}
	return false
}

// shared reports whether replicas publish d.
func (d *definition) shared() bool {
	return (!d.static || d.local > 0) && !d.shard.holds(d.domain.scope.exporter)
}

// hashOwner returns the definition with d's hash whose hash record replicas write: a
// confirmed definition before an unconfirmed, then the definition received first. Replicas
// with the same records agree on it.
func (d *definition) hashOwner() *definition {
	owner := d
	for _, o := range d.domain.templates[d.id.template].defs {
		if o.id.hash == d.id.hash && o.inForce() && o.shared() && o.ownsBefore(owner) {
			owner = o
		}
	}
	return owner
}

// ownsBefore orders definitions with the same hash for hashOwner.
func (d *definition) ownsBefore(o *definition) bool {
	switch {
	case d == o:
		return false
	case d.confirmed != o.confirmed:
		return d.confirmed
	case d.first != o.first:
		return d.first < o.first
	}
	return slices.Compare(d.id.digest[:], o.id.digest[:]) < 0
}

// publishNeeded queues the records of d that must be published now.
func (s *Store) publishNeeded(d *definition) {
	for by := range d.records {
		if r := &d.records[by]; r.needed() {
			s.due.add(r)
		}
	}
}

// publishAgain queues all records of d. Due publishes those that are needed by then.
func (s *Store) publishAgain(d *definition) {
	for by := range d.records {
		s.due.add(&d.records[by])
	}
}

// quiet reports whether a receipt at the time at requires no refresh of a record.
func (d *definition) quiet(at int64) bool {
	for by := range d.records {
		r := &d.records[by]
		if r.written && at >= r.refreshAt && (r.by != hashRecord || d.hashOwner() == d) {
			return false
		}
	}
	return true
}

// saidConfirmed reports whether the records on the topic have the confirmation of d, in
// each kind that this Store writes.
func (d *definition) saidConfirmed() bool {
	for by := range d.records {
		if r := &d.records[by]; r.written && !r.confirmed {
			return false
		}
	}
	return true
}

// record returns the record of d with a key, nil if the key belongs to another definition.
func (d *definition) record(k *definitionRef) *definitionRecord {
	if !k.names(&d.id) {
		return nil
	}
	return &d.records[k.by]
}

// arrived records that the topic has the record r now. Under its key there is no record of
// another layout any more.
func (s *Store) arrived(r *definitionRecord, at int64, confirmed bool) {
	r.there, r.replaced, r.confirmed = true, false, confirmed
	r.latest = max(r.latest, at)
	r.seen(at, s.o.Replica)
	if r.by != hashRecord {
		return
	}
	for _, o := range r.def.domain.templates[r.def.id.template].defs {
		if o != r.def && o.id.hash == r.def.id.hash {
			lost := &o.records[hashRecord]
			lost.lose()
			lost.replaced = true
		}
	}
}

// forget clears the state of r that comes from the content of its record on the topic.
func (r *definitionRecord) forget() {
	r.onTopic = 0
	for i := range r.def.sources {
		r.def.sources[i].onTopic[r.by] = 0
	}
}

// lose notes that the topic no longer holds record r.
func (r *definitionRecord) lose() {
	r.forget()
	r.there, r.replaced = false, false
}

// onTopic reports whether the topic has a record of d of any kind.
func (d *definition) onTopic() bool {
	return d.records[digestRecord].there || d.records[hashRecord].there
}

// bequeath hands the hash record of d, which expires, to another definition with the same
// key, since a tombstone would delete the record of the other definition. The last of them
// writes the tombstone.
func (d *definition) bequeath() {
	r := &d.records[hashRecord]
	if !r.there {
		return
	}
	for _, o := range d.domain.templates[d.id.template].defs {
		if o != d && o.id.hash == d.id.hash {
			o.records[hashRecord].there = true
			r.lose()
			return
		}
	}
}

// onTopic returns the definition that a replica uses for a port if it has read only the
// records of a kind.
func (l *layouts) onTopic(by recordKind, port uint16) *definition {
	var own, last *definition
	var ownAt, lastAt int64
	for _, d := range l.defs {
		if at := d.records[by].onTopic; at > d.removed && (last == nil || newer(at, d, lastAt, last)) {
			last, lastAt = d, at
		}
		for _, s := range d.sources {
			if at := s.onTopic[by]; s.port == port && at > d.removed && (own == nil || newer(at, d, ownAt, own)) {
				own, ownAt = d, at
			}
		}
	}
	if own != nil {
		return own
	}
	return last
}

// heardFrom reports whether this replica received d from a port itself, or read that
// source in a record of the kind.
func (d *definition) heardFrom(port uint16, by recordKind) bool {
	for _, s := range d.sources {
		if s.port == port {
			return s.local > 0 || s.recorded[by]
		}
	}
	return false
}
