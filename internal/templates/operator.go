package templates

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"google.golang.org/protobuf/proto"

	"weir/internal/decode"
	"weir/pkg/flowpb"
)

// Added returns the records with which an operator publishes a definition. Replicas treat
// it as received at the time at, from no port. The records are of both kinds, since older
// replicas read only records by hash. An error means that the template or the version is
// invalid.
func Added(
	operator string, at time.Time, exporter netip.Addr, version uint8, domainID uint32, t *decode.Template,
) ([]Record, error) {
	sc := scope{decode.Map16(exporter), domainID, version}
	if err := sc.check(); err != nil {
		return nil, err
	}
	plan, err := decode.Compile(version, t)
	if err != nil {
		return nil, err
	}
	d := &definition{
		id: definitionIDOf(t), domain: &domain{scope: sc}, plan: plan, first: at.UnixNano(), confirmed: true,
	}
	d.received.Store(at.UnixNano())
	value, err := d.value(operator)
	if err != nil {
		return nil, err
	}
	return bothRecords(sc, d.id, value), nil
}

// Removed returns the records with which an operator removes an entry at the time at. A
// later receipt of the entry revokes the removal. A definition needs records of both
// kinds, even if the topic has only a record of either.
func Removed(operator string, at time.Time, e *Entry) ([]Record, error) {
	st := proto.CloneOf(e.State)
	st.RemovedNs = max(at.UnixNano(), st.GetReceivedNs())
	st.Replica = operator
	value, err := proto.Marshal(st)
	if err != nil {
		return nil, err
	}
	if e.Template == nil {
		return []Record{{Key: e.Key, Value: value}}, nil
	}
	return bothRecords(e.scope, definitionIDOf(e.Template), value), nil
}

// bothRecords returns the records of a definition of both kinds.
func bothRecords(sc scope, id definitionID, value []byte) []Record {
	return []Record{{Key: definitionKey(sc, id), Value: value}, {Key: hashKey(sc, id), Value: value}}
}

// An Entry is a parsed record of the shared log.
type Entry struct {
	Key      []byte
	State    *flowpb.ExporterState
	Exporter netip.Addr
	Template *decode.Template // nil if the entry is a fact

	scope scope
}

// InForce reports whether an entry is in force: it was received after its removal.
func (e *Entry) InForce() bool { return e.State.GetReceivedNs() > e.State.GetRemovedNs() }

// Read parses a record of the shared log for display. ok is false for a barrier. It
// returns an error if the record is malformed or its layout differs from its key. The
// Entry keeps k.
func Read(k, value []byte) (e Entry, ok bool, err error) {
	id, err := parseKey(k)
	if err != nil || id.barrier {
		return e, false, err
	}
	exporter := netip.AddrFrom16(id.scope.exporter).Unmap()
	e = Entry{Key: k, State: &flowpb.ExporterState{}, Exporter: exporter, scope: id.scope}
	if err := proto.Unmarshal(value, e.State); err != nil {
		return e, false, fmt.Errorf("value: %w", err)
	}
	if id.definition == nil {
		if e.State.GetFact() == nil {
			return e, false, errors.New("value is of another kind than its key")
		}
		return e, true, nil
	}
	if e.Template, err = template(e.State.GetDefinition()); err != nil {
		return e, false, err
	}
	if is := definitionIDOf(e.Template); !id.definition.names(&is) {
		return e, false, fmt.Errorf("template %d with digest %x: the key says %v", is.template, is.digest, id.definition)
	}
	return e, true, nil
}

// Entries collects the records of the shared log for display. The zero value is ready to
// use. It must be used by one goroutine at a time.
type Entries struct{ records map[string]*Entry }

// Take adds a record, or deletes it if value is nil (a tombstone). It returns the error of
// Read; then the old record of the key stays. It keeps k.
func (l *Entries) Take(k, value []byte) error {
	if value == nil {
		delete(l.records, string(k))
		return nil
	}
	e, ok, err := Read(k, value)
	if err != nil || !ok {
		return err
	}
	if l.records == nil {
		l.records = map[string]*Entry{}
	}
	l.records[string(k)] = &e
	return nil
}

// All returns the entries in no particular order. It merges the two records of a
// definition.
func (l *Entries) All() []*Entry {
	byKey := make(map[string]*Entry, len(l.records))
	for k, e := range l.records {
		if e.Template != nil {
			k = string(definitionKey(e.scope, definitionIDOf(e.Template)))
		}
		if o := byKey[k]; o != nil {
			e = merged(o, e)
		}
		byKey[k] = e
	}
	all := make([]*Entry, 0, len(byKey))
	for k, e := range byKey {
		e.Key = []byte(k)
		all = append(all, e)
	}
	return all
}

// merged merges two records of a definition as Store.Merge does: the latest receipt, the
// earliest first receipt and the latest removal.
func merged(a, b *Entry) *Entry {
	if a.State.GetReceivedNs() < b.State.GetReceivedNs() {
		a, b = b, a
	}
	out := *a
	out.State = proto.CloneOf(a.State)
	out.State.FirstReceivedNs = min(firstOf(a.State), firstOf(b.State))
	out.State.RemovedNs = max(a.State.GetRemovedNs(), b.State.GetRemovedNs())
	out.State.Confirmed = a.State.GetConfirmed() || b.State.GetConfirmed()
	return &out
}
