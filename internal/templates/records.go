package templates

import "slices"

// A recordKind tells the two records of a definition on the shared log apart.
type recordKind uint8

const (
	digestRecord recordKind = iota // its key has a digest of the layout; it is always written
	hashRecord                     // its key has a 64-bit hash, for replicas that know no other; see Options.HashKeys

	recordKinds
)

// A definitionRecord is where a definition stands with one of its two records on
// the shared log. It is guarded by the shard's lock.
//
// Layouts whose 64-bit hashes collide share the key of their hash records, and
// compaction keeps one of them. A replica writes the one of hashOwner only, so
// that a forged layout does not take an honest one's place there; replicas find
// the others by their digest records.
type definitionRecord struct {
	published
	def *definition
	by  recordKind

	written   bool  // this Store publishes records of the kind
	there     bool  // the topic has the record; it may say that the definition is removed
	confirmed bool  // the record says that the definition is confirmed
	replaced  bool  // the topic has another layout's record at the key
	latest    int64 // greatest receive time seen in such a record, ns; 0: none seen
}

// recordsOf makes the records of a new definition.
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

// needed reports whether the topic lacks something in the record: the definition
// itself, that it is in force for a port, or a sign that it is still received.
// What is known only from records of the other kind is no reason to write: the
// replica that received it writes both, and readers merge both.
func (r *definitionRecord) needed() bool {
	d := r.def
	switch {
	case !r.written, !d.known(), !d.inForce():
		return false // or gone since
	case !d.shared():
		return false
	case r.by == hashRecord && d.hashOwner() != d:
		return false
	case d.confirmed && !r.confirmed && d.say:
		return true
	case r.replaced: // by a replica that takes both layouts for one: no faster than a refresh
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

// hashOwner returns the definition whose hash record replicas write among those
// that share d's hash: confirmed before unconfirmed, then the one known first.
// Replicas that know the same records agree on it.
func (d *definition) hashOwner() *definition {
	owner := d
	for _, o := range d.domain.templates[d.id.template].defs {
		if o.id.hash == d.id.hash && o.inForce() && o.shared() && o.ownsBefore(owner) {
			owner = o
		}
	}
	return owner
}

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

// publishNeeded makes d's records due that the topic lacks.
func (s *Store) publishNeeded(d *definition) {
	for by := range d.records {
		if r := &d.records[by]; r.needed() {
			s.due.add(r)
		}
	}
}

// publishAgain makes d's records due if they are needed by then.
func (s *Store) publishAgain(d *definition) {
	for by := range d.records {
		s.due.add(&d.records[by])
	}
}

// quiet reports whether a reception at a time is no reason to refresh a record.
func (d *definition) quiet(at int64) bool {
	for by := range d.records {
		r := &d.records[by]
		if r.written && at >= r.refreshAt && (r.by != hashRecord || d.hashOwner() == d) {
			return false
		}
	}
	return true
}

// saidConfirmed reports whether the records that are written say that d is confirmed.
func (d *definition) saidConfirmed() bool {
	for by := range d.records {
		if r := &d.records[by]; r.written && !r.confirmed {
			return false
		}
	}
	return true
}

// record returns d's record at a key, nil when the key is another definition's.
func (d *definition) record(k *definitionRef) *definitionRecord {
	if !k.names(&d.id) {
		return nil
	}
	return &d.records[k.by]
}

// arrived notes that the topic has r's record now, and no other layout's at its key.
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

// forget notes that the topic says nothing that counts in r's record.
func (r *definitionRecord) forget() {
	r.onTopic = 0
	for i := range r.def.sources {
		r.def.sources[i].onTopic[r.by] = 0
	}
}

// lose notes that the topic does not have r's record.
func (r *definitionRecord) lose() {
	r.forget()
	r.there, r.replaced = false, false
}

// onTopic reports whether the topic has a record of d, of whichever kind.
func (d *definition) onTopic() bool {
	return d.records[digestRecord].there || d.records[hashRecord].there
}

// bequeath leaves the hash record of d, which goes, to another definition that
// shares its key: a tombstone would take away that one's record on the topic. The
// record goes with the last of them.
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

// onTopic returns the definition that a reader of one kind of records uses for port.
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

// heardFrom reports whether this replica received d from port itself, or knows it
// from a record of the kind.
func (d *definition) heardFrom(port uint16, by recordKind) bool {
	for _, s := range d.sources {
		if s.port == port {
			return s.local > 0 || s.recorded[by]
		}
	}
	return false
}
