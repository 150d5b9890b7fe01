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

// AddStatic takes a definition that an operator states for an exporter whose
// templates never arrive. It counts until one of the same id is received, is not
// shared, and does not go. The error is Compile's, or that the store is full.
func (s *Store) AddStatic(exporter netip.Addr, version uint8, domain uint32, t *decode.Template) error {
	sc := scope{decode.Map16(exporter), domain, version}
	if err := sc.check(); err != nil {
		return err
	}
	sh := s.shardOf(&sc.exporter)
	sh.mu.Lock()
	d, err := s.definition(sh, sc, t.ID, t)
	if err == nil {
		d.static = true
		d.first = max(d.first, 1)
		d.received.CompareAndSwap(0, 1) // older than anything
		s.confirm(d)
		d.domain.choose(t.ID)
	}
	sh.mu.Unlock()
	s.changed(sc.exporter, err == nil)
	return err
}

// Added is the record by which an operator publishes a definition: as if it had
// been received, from no port, at a time. The error says what of it cannot be.
func Added(operator string, at time.Time, exporter netip.Addr, version uint8, number uint32, t *decode.Template) (Record, error) {
	sc := scope{decode.Map16(exporter), number, version}
	if err := sc.check(); err != nil {
		return Record{}, err
	}
	plan, err := decode.Compile(version, t)
	if err != nil {
		return Record{}, err
	}
	d := &definition{id: definitionIDOf(t), domain: &domain{scope: sc}, plan: plan, first: at.UnixNano(), confirmed: true}
	d.received.Store(at.UnixNano())
	value, err := d.value(operator)
	return Record{Key: definitionKey(sc, d.id), Value: value}, err
}

// Removed is the record by which an operator takes back what the topic says at
// key: it does not count any more unless it is received later than that.
func Removed(operator string, at time.Time, key []byte, st *flowpb.ExporterState) (Record, error) {
	st = proto.CloneOf(st)
	st.RemovedNs = max(at.UnixNano(), st.GetReceivedNs())
	st.Replica = operator
	value, err := proto.Marshal(st)
	return Record{Key: key, Value: value}, err
}

// An Entry is a record of the shared log, read.
type Entry struct {
	Key      []byte
	State    *flowpb.ExporterState
	Exporter netip.Addr
	Template *decode.Template // nil: a fact
}

// InForce reports whether an entry counts: it was received after its removal.
func (e *Entry) InForce() bool { return e.State.GetReceivedNs() > e.State.GetRemovedNs() }

// Read reads a record of the shared log for people; ok is false for a barrier.
func Read(k, value []byte) (e Entry, ok bool, err error) {
	id, err := parseKey(k)
	if err != nil || id.barrier {
		return e, false, err
	}
	e = Entry{Key: k, State: &flowpb.ExporterState{}, Exporter: netip.AddrFrom16(id.scope.exporter).Unmap()}
	if err := proto.Unmarshal(value, e.State); err != nil {
		return e, false, fmt.Errorf("value: %w", err)
	}
	if id.definition != nil {
		if e.Template, err = template(e.State.GetDefinition()); err != nil {
			return e, false, err
		}
	} else if e.State.GetFact() == nil {
		return e, false, errors.New("value is of another kind than its key")
	}
	return e, true, nil
}
