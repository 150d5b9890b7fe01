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

// Added returns the records by which an operator publishes a definition: as if it
// had been received, from no port, at a time. They are of both kinds, since
// replicas may be running that read only one. The error says why the definition
// cannot be published.
func Added(operator string, at time.Time, exporter netip.Addr, version uint8, number uint32, t *decode.Template) ([]Record, error) {
	sc := scope{decode.Map16(exporter), number, version}
	if err := sc.check(); err != nil {
		return nil, err
	}
	plan, err := decode.Compile(version, t)
	if err != nil {
		return nil, err
	}
	d := &definition{id: definitionIDOf(t), domain: &domain{scope: sc}, plan: plan, first: at.UnixNano(), confirmed: true}
	d.received.Store(at.UnixNano())
	value, err := d.value(operator)
	if err != nil {
		return nil, err
	}
	return bothRecords(sc, d.id, value), nil
}

// Removed returns the records by which an operator takes back an entry: it does
// not count any more unless it is received later than that. A definition has two,
// whether the topic has both now or not.
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

func bothRecords(sc scope, id definitionID, value []byte) []Record {
	return []Record{{Key: definitionKey(sc, id), Value: value}, {Key: hashKey(sc, id), Value: value}}
}

// An Entry is a record of the shared log, read.
type Entry struct {
	Key      []byte
	State    *flowpb.ExporterState
	Exporter netip.Addr
	Template *decode.Template // nil: a fact

	scope scope
}

// InForce reports whether an entry counts: it was received after its removal.
func (e *Entry) InForce() bool { return e.State.GetReceivedNs() > e.State.GetRemovedNs() }

// Read reads a record of the shared log for people; ok is false for a barrier. The
// error says that the record cannot be read, or that its layout is not the key's.
func Read(k, value []byte) (e Entry, ok bool, err error) {
	id, err := parseKey(k)
	if err != nil || id.barrier {
		return e, false, err
	}
	e = Entry{Key: k, State: &flowpb.ExporterState{}, Exporter: netip.AddrFrom16(id.scope.exporter).Unmap(), scope: id.scope}
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

// Entries collects the records of the shared log for people. The zero value is
// ready. It is not safe for concurrent use.
type Entries struct{ records map[string]*Entry }

// Take takes one record; value nil is a tombstone. The error is Read's; the record
// that the key had before stays then.
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

// All returns the entries in no order: the two records of a definition are one.
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

// merged returns what two records of one definition say together, as Merge takes
// them: the later reception, with the earliest first one and the latest removal.
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
