package templates

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"

	"google.golang.org/protobuf/proto"

	"weir/internal/decode"
	"weir/pkg/flowpb"
)

// maxValue bounds the values that are read, in octets. A template with as many fields as a
// datagram can hold is smaller.
const maxValue = 64 << 10

// Merge adds a record of the shared log; a nil value is a tombstone. It ignores barriers.
// It returns an error for a poison record, which changes nothing. It keeps neither k nor
// value.
//
// Merge is idempotent, and its result does not depend on the order of records with different
// keys: a record may be read again, and every replica that has read the same topic knows the
// same. Records with the same key must come in the order of the topic, since compaction keeps
// the last of them.
func (s *Store) Merge(k, value []byte) error {
	id, err := parseKey(k)
	if err != nil || id.barrier {
		return err
	}
	var st *flowpb.ExporterState
	if value != nil {
		if st, err = s.parse(id, value); err != nil {
			return fmt.Errorf("record of %v version %d domain %d: %w",
				netip.AddrFrom16(id.scope.exporter).Unmap(), id.scope.version, id.scope.domain, err)
		}
	}
	sh := s.shardOf(&id.scope.exporter)
	sh.mu.Lock()
	var changed bool
	var keep *place
	switch {
	case st == nil:
		s.bury(sh, id)
	case id.definition != nil:
		changed, keep, err = s.mergeDefinition(sh, id, st)
	default:
		changed, err = s.mergeFact(sh, id, st)
	}
	sh.mu.Unlock()
	s.changed(id.scope.exporter, changed, keep)
	return err
}

// parse parses a value and checks that it belongs to its key and is within range. The merge
// functions depend on these checks.
func (s *Store) parse(id key, value []byte) (*flowpb.ExporterState, error) {
	if len(value) > maxValue {
		return nil, fmt.Errorf("value of %d octets: at most %d are read", len(value), maxValue)
	}
	st := &flowpb.ExporterState{}
	if err := proto.Unmarshal(value, st); err != nil {
		return nil, fmt.Errorf("value: %w", err)
	}
	addr, ok := netip.AddrFromSlice(st.GetExporter())
	limit := s.o.Now().Add(maxAhead).UnixNano()
	switch {
	case st.GetSchema() != schema:
		return nil, fmt.Errorf("schema %d: this version reads %d", st.GetSchema(), schema)
	case !ok || addr.As16() != id.scope.exporter,
		st.GetVersion() != uint32(id.scope.version), st.GetDomain() != id.scope.domain:
		return nil, errors.New("exporter, version or domain differs from the key's")
	case st.GetReceivedNs() <= 0 || st.GetReceivedNs() > limit:
		return nil, fmt.Errorf("receive time %d: want a time up to now", st.GetReceivedNs())
	case st.GetRemovedNs() < 0 || st.GetRemovedNs() > limit:
		return nil, fmt.Errorf("time of removal %d: want a time up to now", st.GetRemovedNs())
	case id.definition != nil && st.GetDefinition() == nil, id.fact != nil && st.GetFact() == nil:
		return nil, errors.New("value is of another kind than its key")
	}
	var err error
	if id.fact != nil {
		err = checkFact(id.fact, st)
	} else {
		err = checkSources(st.GetDefinition().GetSources(), st, "template")
	}
	if err != nil {
		return nil, err
	}
	return st, nil
}

// checkFact returns an error unless st holds the options fact of the key, with possible numbers.
func checkFact(key *factID, st *flowpb.ExporterState) error {
	f := st.GetFact()
	if !known(f.GetWhat()) || f.GetWhat() != key.what || f.GetId() != key.id {
		return fmt.Errorf("fact %v %d: unknown, or differs from the key's", f.GetWhat(), f.GetId())
	}
	if !possible(f.GetWhat(), f.GetNumber()) {
		return impossible(f.GetWhat(), f.GetNumber())
	}
	if n := len(f.GetSources()); n > maxSources {
		return fmt.Errorf("fact %v %d: %d sources: want at most %d", f.GetWhat(), f.GetId(), n, maxSources)
	}
	for _, src := range f.GetSources() {
		if !possible(f.GetWhat(), src.GetNumber()) {
			return fmt.Errorf("value from port %d: %w", src.GetPort(), impossible(f.GetWhat(), src.GetNumber()))
		}
	}
	return checkSources(f.GetSources(), st, "fact")
}

// aSource is the part that sources of definitions and of facts share. Sources without a port
// do not exist: a record of an older version that knows none has no source.
type aSource interface {
	GetPort() uint32
	GetReceivedNs() int64
}

// checkSources returns an error unless each source is a port, and was received no later than st.
func checkSources[S aSource](sources []S, st *flowpb.ExporterState, kind string) error {
	for _, src := range sources {
		if src.GetPort() > math.MaxUint16 || src.GetReceivedNs() <= 0 || src.GetReceivedNs() > st.GetReceivedNs() {
			return fmt.Errorf("source port %d at %d: want a port, received at or before the %s",
				src.GetPort(), src.GetReceivedNs(), kind)
		}
	}
	return nil
}

// template returns the template in the value of a record. It checks the ranges that protobuf
// cannot express: template ids 0 to 255 are those of sets, not of templates (RFC 7011 section
// 3.4.1), and ids and lengths of elements have 16 bits. decode.Compile checks the rest.
func template(t *flowpb.TemplateDefinition) (*decode.Template, error) {
	out := &decode.Template{
		ID:      uint16(t.GetTemplateId()), // checked below
		Options: t.GetOptions(),
		Scopes:  int(t.GetScopeCount()),
		Fields:  make([]decode.Field, 0, len(t.GetFields())),
	}
	if t.GetTemplateId() < 256 || t.GetTemplateId() > math.MaxUint16 {
		return nil, fmt.Errorf("template id %d: want 256 to 65535", t.GetTemplateId())
	}
	for i, f := range t.GetFields() {
		if f.GetId() > math.MaxUint16 || f.GetLength() > math.MaxUint16 {
			return nil, fmt.Errorf("field %d of template %d: element %d of %d octets: want at most 65535",
				i, t.GetTemplateId(), f.GetId(), f.GetLength())
		}
		out.Fields = append(out.Fields, decode.Field{
			PEN: f.GetPen(), ID: uint16(f.GetId()), Length: uint16(f.GetLength()), // checked above
		})
	}
	return out, nil
}

// mergeDefinition merges the record of a definition. The last record of a key determines
// the state of the topic; receive times, the confirmation and the removal only grow, in any
// order of records. The shard's lock must be held.
func (s *Store) mergeDefinition(sh *shard, id key, st *flowpb.ExporterState) (changed bool, keep *place, err error) {
	t, err := template(st.GetDefinition())
	if err != nil {
		return false, nil, err
	}
	if is := definitionIDOf(t); !id.definition.names(&is) {
		return false, nil, fmt.Errorf("template %d with hash %016x, digest %x: the key says %v",
			is.template, is.hash, is.digest, id.definition)
	}
	d, err := s.definition(sh, id.scope, t.ID, t, portOf(st))
	if err != nil {
		return false, nil, fmt.Errorf("template %d: %w", t.ID, err)
	}
	if d.received.Load() == 0 && !d.static && st.GetReplica() != s.o.Replica { // definition made it
		s.count.foreign.Add(1)
	}
	by := id.definition.by
	r := &d.records[by]
	r.forget() // this record replaces the earlier record on the topic
	for _, is := range st.GetDefinition().GetSources() {
		if src := d.from(uint16(is.GetPort()), is.GetReceivedNs()); src != nil { // checked by parse
			src.onTopic[by], src.recorded[by] = is.GetReceivedNs(), true
		}
	}
	again := d.confirmed && st.GetConfirmed() && st.GetReceivedNs() > d.received.Load()
	d.receivedAt(st.GetReceivedNs(), firstOf(st), originOf(st))
	for _, is := range st.GetDefinition().GetSources() {
		if is.GetReceivedNs() == st.GetReceivedNs() { // the header in st came from this port
			d.lived(uint16(is.GetPort()), st.GetReceivedNs(), st.GetUptimeMs(), st.GetSequence()) // checked by parse
		}
	}
	d.removed = max(d.removed, st.GetRemovedNs())
	if st.GetConfirmed() && !d.confirmed {
		s.confirm(d)
	}
	s.arrived(r, st.GetReceivedNs(), st.GetConfirmed())
	if again {
		s.credit(d)
	}
	s.accountDefinition(d)
	if st.GetRemovedNs() >= st.GetReceivedNs() {
		r.forget() // the record on the topic is a removal
	}
	changed = d.domain.choose(id.definition.template)
	// The record may change the definition that readers of the topic use for the port of
	// another layout, which must then be published.
	for _, o := range d.domain.templates[id.definition.template].defs {
		s.publishNeeded(o)
	}
	return changed, &d.place, nil
}

// portOf returns the port of the last receipt of a definition, 0 if there is none.
func portOf(st *flowpb.ExporterState) uint16 {
	for _, src := range st.GetDefinition().GetSources() {
		if src.GetReceivedNs() == st.GetReceivedNs() {
			return uint16(src.GetPort()) // checked by parse
		}
	}
	return 0
}

// mergeFact merges the record of a fact. The shard's lock must be held.
func (s *Store) mergeFact(sh *shard, id key, st *flowpb.ExporterState) (changed bool, err error) {
	f, err := s.fact(sh, id.scope, *id.fact, st.GetFact().GetText())
	if err != nil {
		return false, err
	}
	newest, others, topic := factSources(st)
	changed = f.receive(newest, firstOf(st), originOf(st))
	for _, src := range others {
		changed = f.receive(src, firstOf(st), originOf(st)) || changed
	}
	f.topic = topic
	s.accountFact(f)
	f.seen(st.GetReceivedNs(), s.o.Replica)
	if st.GetRemovedNs() >= f.received {
		s.removeFact(sh, f)
		return true, nil
	}
	if f.needed() {
		s.due.add(f)
	}
	return changed, nil
}

// factSources returns the newest source of a record, its other sources, and the values that
// the record gives to readers of the topic.
func factSources(st *flowpb.ExporterState) (newest factSource, others []factSource, topic *factOnTopic) {
	fact := st.GetFact()
	v := factValue{fact.GetNumber(), fact.GetText()}
	newest = factSource{is: v, received: st.GetReceivedNs(), port: noPort}
	topic = &factOnTopic{is: v}
	for _, src := range fact.GetSources() {
		is := factSource{is: v, received: src.GetReceivedNs(), port: int32(src.GetPort())} // checked by parse
		if src.GetNumber() != 0 || src.GetText() != "" {
			is.is = factValue{src.GetNumber(), src.GetText()}
		}
		switch {
		case is.is != v:
			topic.differs = append(topic.differs, is)
		case is.received == newest.received && newest.port == noPort:
			newest.port = is.port
			continue
		}
		others = append(others, is)
	}
	return newest, others, topic
}

// bury applies a tombstone. An entry that this replica received itself within its lifetime
// is published again; any other entry is removed. The shard's lock must be held.
func (s *Store) bury(sh *shard, id key) {
	dom := sh.domain(id.scope)
	if dom == nil {
		return
	}
	since := s.now() - int64(lifetime)
	if id.fact != nil {
		switch f := dom.facts[*id.fact]; {
		case f == nil:
		case f.local > since:
			f.onTopic, f.topic = 0, nil
			s.accountFact(f)
			s.due.add(f)
		default:
			s.removeFact(sh, f)
		}
		return
	}
	l := dom.templates[id.definition.template]
	if l == nil {
		return
	}
	for _, d := range slices.Clone(l.defs) {
		r := d.record(id.definition)
		if r == nil {
			continue
		}
		r.lose()
		switch {
		case d.local > since && d.inForce() && (d.confirmed || d.local > s.now()-int64(unconfirmedLife)):
			s.due.add(r)
		case d.static, d.onTopic(): // the other record is there: its tombstone may follow
		default:
			s.removeDefinition(sh, d)
		}
	}
}

// firstOf returns the first receive time of an entry. Records of older versions have only
// the last.
func firstOf(st *flowpb.ExporterState) int64 {
	if first := st.GetFirstReceivedNs(); first > 0 && first < st.GetReceivedNs() {
		return first
	}
	return st.GetReceivedNs()
}

// originOf returns the header of the datagram of the last receipt.
func originOf(st *flowpb.ExporterState) origin {
	return origin{st.GetExportNs(), st.GetUptimeMs(), st.GetSequence()}
}
