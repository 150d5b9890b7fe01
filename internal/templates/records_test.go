package templates

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"weir/internal/decode"
	"weir/pkg/flowpb"
)

// newBoth returns a Store that publishes records of both kinds.
func newBoth(replica string) (*Store, *clock) {
	c := &clock{t0}
	return New(Options{Replica: replica, Now: c.now, HashKeys: true}), c
}

// A compactedTopic keeps the last record of each key.
type compactedTopic struct {
	last   map[string][]byte
	writes int
}

func newTopic() *compactedTopic { return &compactedTopic{last: map[string][]byte{}} }

func (c *compactedTopic) write(t testing.TB, r Record, readers ...*Store) {
	t.Helper()
	c.writes++
	if r.Value == nil {
		delete(c.last, string(r.Key))
	} else {
		c.last[string(r.Key)] = r.Value
	}
	for _, s := range readers {
		if err := s.Merge(r.Key, r.Value); err != nil {
			t.Fatal(err)
		}
	}
}

// settle publishes what is due in all until nothing is.
func (c *compactedTopic) settle(t testing.TB, all ...*Store) {
	t.Helper()
	for range 10 {
		quiet := true
		for _, s := range all {
			for _, r := range s.Due() {
				quiet = false
				s.Published(r, nil)
				c.write(t, r, all...)
			}
		}
		if quiet {
			return
		}
	}
	t.Fatalf("replicas answer each other without end: %d records written", c.writes)
}

// restart returns a Store that has read the topic.
func (c *compactedTopic) restart(t testing.TB, replica string, now int64) *Store {
	t.Helper()
	s, clock := newBoth(replica)
	clock.ns = now
	for _, k := range slices.Sorted(maps.Keys(c.last)) {
		if err := s.Merge([]byte(k), c.last[k]); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// keysOf lists the keys on the topic that are of a kind.
func (c *compactedTopic) keysOf(kind byte) (keys []string) {
	for k := range c.last {
		if k[0] == kind {
			keys = append(keys, k)
		}
	}
	return keys
}

func TestTheKeyOfARecordByHashIsThatOfTheVersionBefore(t *testing.T) {
	// kind 1, 192.0.2.1, version 9, domain 7, template 300, and the 64-bit xxHash of
	// 000000 00000000 0001 0004 (computed from its specification).
	want := []byte("\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xc0\x00\x02\x01\x09\x00\x00\x00\x07\x01\x2c\x51\x1a\x01\x6e\xdf\x42\x0a\x16")
	if d := cmp.Diff(want, hashKey(scopeOf(key300), definitionIDOf(layout(4)))); d != "" {
		t.Errorf("key (-want +got):\n%s", d)
	}
}

func TestADefinitionIsPublishedWhenBothRecordsAre(t *testing.T) {
	s, c := newBoth("r1")
	learn(t, s, t0, 1, 4)
	both := s.Due()
	if len(both) != 2 || both[0].Key[0] != kindDefinitionDigest || both[1].Key[0] != kindDefinitionHash || !bytes.Equal(both[0].Value, both[1].Value) {
		t.Fatalf("due: want one value under both keys, got %x", both)
	}
	if got := s.Stats(); got.Pending != 2 || got.Definitions != 1 {
		t.Errorf("want 2 records of 1 definition pending, got %+v", got)
	}
	s.Published(both[0], nil)
	s.Published(both[1], errors.New("kafka is away"))
	again := s.Due()
	if len(again) != 1 || !bytes.Equal(again[0].Key, both[1].Key) {
		t.Fatalf("due after one failed: want that one alone, got %x", again)
	}
	s.Published(again[0], nil)
	learn(t, s, t0+minute, 1, 4)
	if got := len(s.Due()) + s.Stats().Pending; got != 0 {
		t.Errorf("due or pending when both are published: want 0, got %d", got)
	}
	c.ns = t0 + 13*minute
	learn(t, s, c.ns, 1, 4)
	if got := len(publish(t, s)); got != 2 {
		t.Errorf("refreshed: want both records, got %d", got)
	}
	// Each answers its own tombstone.
	merge(t, s, Record{Key: both[1].Key})
	if got := publish(t, s); len(got) != 1 || !bytes.Equal(got[0].Key, both[1].Key) {
		t.Errorf("after a tombstone of one: want that one, got %x", got)
	}
}

func TestARecordOfTheVersionBeforeIsRead(t *testing.T) {
	old, _ := newBoth("old")
	learn(t, old, t0, 1, 4)
	byHash := publish(t, old)[1]
	s, c := newBoth("new")
	merge(t, s, byHash)
	wantLayout(t, s, 1, 4)
	if got := len(s.Due()); got != 0 {
		t.Errorf("known from a record by hash only: want nothing due until it is received, got %d", got)
	}
	c.ns = t0 + minute
	learn(t, s, c.ns, 1, 4)
	if got := publish(t, s); len(got) != 1 || got[0].Key[0] != kindDefinitionDigest {
		t.Errorf("received: want the record by digest, got %x", got)
	}
	// The replica of the version before refreshes; there is nothing to add.
	c.ns = t0 + 20*minute
	learn(t, old, c.ns, 1, 4)
	merge(t, s, publish(t, old)[1])
	if got := len(s.Due()); got != 0 {
		t.Errorf("refreshed by hash: want nothing due, got %d", got)
	}
}

func TestBothRecordsOfADefinitionGetATombstone(t *testing.T) {
	a, ac := newBoth("a")
	b, bc := newBoth("b")
	topic := newTopic()
	learn(t, a, t0, 1, 4)
	topic.settle(t, a, b)
	learn(t, a, t0+1, 1, 8)
	topic.settle(t, a, b)
	key := topic.keysOf(kindDefinitionDigest)[0]
	removed, _, err := Read([]byte(key), topic.last[key])
	if err != nil {
		t.Fatal(err)
	}
	takeBack, err := Removed("operator", time.Unix(0, t0+minute), &removed)
	if err != nil || len(takeBack) != 2 {
		t.Fatalf("removed: want both records, got %x, %v", takeBack, err)
	}
	for _, r := range takeBack {
		topic.write(t, r, a, b)
	}
	topic.settle(t, a, b)
	ac.ns = t0 + day + int64(expirySpread) + minute
	bc.ns = ac.ns
	topic.settle(t, a, b)
	if len(topic.last) != 0 {
		t.Errorf("after a day: want nothing on the topic, got %d records", len(topic.last))
	}
	for name, s := range map[string]*Store{"a": a, "b": b} {
		if got := s.Stats(); got.Definitions != 0 || got.Pending != 0 {
			t.Errorf("%s: want nothing left, got %+v", name, got)
		}
	}
}

func TestRecordsByHashGoOnceNobodyWritesThem(t *testing.T) {
	old, _ := newBoth("old")
	s, c := newStore("new") // TEMPLATES_KEYS=new
	topic := newTopic()
	learn(t, old, t0, 1, 4)
	topic.settle(t, old)
	for k, v := range topic.last {
		merge(t, s, Record{[]byte(k), v})
	}
	for at := t0; at < t0+day+10*minute; at += 5 * minute {
		c.ns = at
		learn(t, s, at, 1, 4)
		topic.settle(t, s)
	}
	if got := topic.keysOf(kindDefinitionHash); len(got) != 0 {
		t.Errorf("a day after the last refresh: want no record by hash, got %x", got)
	}
	wantLayout(t, topic.restart(t, "r", c.ns), 1, 4)
	wantLayout(t, s, 1, 4)
}

func TestTheRecordsOfADefinitionAreOneEntry(t *testing.T) {
	s, c := newBoth("r1")
	learn(t, s, t0, 1, 4)
	var all Entries
	take := func(rs ...Record) {
		t.Helper()
		for _, r := range rs {
			if err := all.Take(r.Key, r.Value); err != nil {
				t.Fatal(err)
			}
		}
	}
	first := publish(t, s)
	learnFact(s, t0, sampler(0, 100))
	take(first...)
	take(publish(t, s)...)
	take(Barrier("r1", []byte("0123456789abcdef")))
	if got := all.All(); len(got) != 2 {
		t.Fatalf("want a definition and a fact, got %d entries", len(got))
	}
	c.ns = t0 + 13*minute
	learn(t, s, c.ns, 2, 4)
	later := publish(t, s)
	take(later[1]) // by hash: as a replica of the version before refreshes
	definition := func() *Entry {
		t.Helper()
		var d []*Entry
		for _, e := range all.All() {
			if e.Template != nil {
				d = append(d, e)
			}
		}
		if len(d) != 1 {
			t.Fatalf("want 1 definition, got %d", len(d))
		}
		return d[0]
	}
	if got := definition(); got.State.GetReceivedNs() != c.ns || got.State.GetFirstReceivedNs() != t0 || !got.InForce() {
		t.Errorf("want received at the later and first at the earlier, got %v", got.State)
	}
	removed, err := Removed("operator", time.Unix(0, c.ns+1), definition())
	if err != nil {
		t.Fatal(err)
	}
	take(removed[1]) // by weir templates of the version before
	if definition().InForce() {
		t.Error("one record says that it is removed: want it not in force")
	}
	if err := all.Take(first[0].Key, later[1].Value[:5]); err == nil {
		t.Error("a value that is cut off: want an error")
	}
	for _, r := range first {
		take(Record{Key: r.Key})
	}
	if got := all.All(); len(got) != 1 {
		t.Errorf("after tombstones of both: want the fact alone, got %d entries", len(got))
	}
}

func TestAnOperatorsDefinitionHasBothRecords(t *testing.T) {
	rs, err := Added("operator", time.Unix(0, t0), exporterA, 9, 7, layout(4))
	if err != nil {
		t.Fatal(err)
	}
	if len(rs) != 2 || rs[0].Key[0] != kindDefinitionDigest || rs[1].Key[0] != kindDefinitionHash {
		t.Fatalf("want both records, got %x", rs)
	}
	for i := range rs {
		s, _ := newBoth("r1")
		merge(t, s, rs[i])
		wantLayout(t, s, 1, 4)
	}
}

// collision is an honest exporter on port 2055 and a forger on port 7777 whose
// layout has the hash of the honest one.
type collision struct {
	honest, forged *decode.Template
	topic          *compactedTopic
	a, b           *Store
	ac, bc         *clock
}

func newCollision(t testing.TB) *collision {
	c := &collision{honest: &decode.Template{ID: 300, Fields: honestFields()}, topic: newTopic()}
	c.forged = secondPreimage(t, c.honest)
	c.a, c.ac = newBoth("a")
	c.b, c.bc = newBoth("b")
	return c
}

func (c *collision) at(ns int64) { c.ac.ns, c.bc.ns = ns, ns }

// junk fills the template id with other layouts, so that the oldest one goes.
func (c *collision) junk(t testing.TB, s *Store, at int64) {
	for i := range uint16(maxLayouts) {
		learnLayout(t, s, at+int64(i), 7777, &decode.Template{ID: 300, Fields: []decode.Field{{ID: 210, Length: 100 + i}}})
	}
}

func (c *collision) want(t testing.TB, what string, stores ...*Store) {
	t.Helper()
	for i, s := range stores {
		what := fmt.Sprintf("%s, replica %d", what, i)
		wantPlan(t, s, what, 2055, c.honest)
		wantPlan(t, s, what, 7777, c.forged)
	}
}

func TestAForgedLayoutWithTheHonestOnesHashDoesNotDisplaceItOnAnyReplica(t *testing.T) {
	for _, forgedAt := range []string{"the same replica", "another replica"} {
		t.Run(forgedAt, func(t *testing.T) {
			c := newCollision(t)
			other := c.a
			if forgedAt == "another replica" {
				other = c.b
			}
			learnLayout(t, c.a, t0, 2055, c.honest)
			c.topic.settle(t, c.a, c.b)
			c.a.Plan(ipfix300, &decode.Meta{Port: 2055, Received: t0}, &decode.Header{Version: 10})
			c.at(t0 + minute)
			c.topic.settle(t, c.a, c.b) // confirmed
			c.at(t0 + 2*minute)
			c.junk(t, other, c.ac.ns)
			learnLayout(t, other, c.ac.ns+100, 7777, c.forged)
			c.topic.settle(t, c.a, c.b)

			// Honest and forged refreshes go on for an hour.
			for at := t0 + 3*minute; at < t0+60*minute; at += minute {
				c.at(at)
				learnLayout(t, c.a, at, 2055, c.honest)
				c.a.Plan(ipfix300, &decode.Meta{Port: 2055, Received: at}, &decode.Header{Version: 10})
				learnLayout(t, other, at+1, 7777, c.forged)
				c.topic.settle(t, c.a, c.b)
				c.want(t, "while both are refreshed", c.a, c.b)
			}
			c.want(t, "after a restart", c.topic.restart(t, "c", c.ac.ns))
			if got := c.topic.keysOf(kindDefinitionHash); len(got) == 0 {
				t.Error("want records by hash for replicas of the version before")
			}
			key := string(hashKey(scopeOf(ipfix300), definitionIDOf(c.honest)))
			e, ok, err := Read([]byte(key), c.topic.last[key])
			if err != nil || !ok || !e.Template.SameLayout(c.honest) {
				t.Errorf("the record at the hash that both have: want the honest layout, got %v, %v", e.Template, err)
			}
		})
	}
}

// A replica of the version before takes both layouts for the one that it knew
// first, and writes that one again and again. The others must not answer each of
// its records with one of theirs.
func TestRecordsByHashAreNotFoughtOver(t *testing.T) {
	c := newCollision(t)
	old, _ := newBoth("old")
	learnLayout(t, old, t0, 7777, c.forged)
	learnLayout(t, c.a, t0-minute, 2055, c.honest)
	c.topic.settle(t, c.a, c.b)
	forged := publish(t, old)[1]
	c.topic.writes = 0
	const steps = 600 // one hour
	for step := range int64(steps) {
		at := t0 + step*int64(6*time.Second)
		c.at(at)
		learnLayout(t, c.a, at, 2055, c.honest)
		c.topic.write(t, withReceived(t, forged, at), c.a, c.b)
		c.topic.settle(t, c.a, c.b)
		wantPlan(t, c.a, "where it is received", 2055, c.honest)
		wantPlan(t, c.b, "elsewhere", 2055, c.honest)
	}
	if ours := c.topic.writes - steps; ours > 2*8+2 { // two records per refresh of at least 8 min, and the first answer
		t.Errorf("an hour of an old replica's forged records: want a refresh every 8 to 12 min, got %d records", ours)
	}
	wantPlan(t, c.topic.restart(t, "c", c.ac.ns), "after a restart", 2055, c.honest)
}

func withReceived(t testing.TB, r Record, at int64) Record {
	t.Helper()
	st := &flowpb.ExporterState{}
	if err := proto.Unmarshal(r.Value, st); err != nil {
		t.Fatal(err)
	}
	st.ReceivedNs = at
	for _, src := range st.GetDefinition().GetSources() {
		src.ReceivedNs = at
	}
	v, err := proto.Marshal(st)
	if err != nil {
		t.Fatal(err)
	}
	return Record{r.Key, v}
}

// The forged layout came first and has the key; once the honest one is confirmed,
// it has, and the forged one's end does not take it away.
func TestTheHashsRecordIsOfTheConfirmedLayoutAndStaysWhenTheOtherGoes(t *testing.T) {
	c := newCollision(t)
	key := string(hashKey(scopeOf(ipfix300), definitionIDOf(c.honest)))
	wantAt := func(what string, l *decode.Template) {
		t.Helper()
		e, ok, err := Read([]byte(key), c.topic.last[key])
		if err != nil || !ok || !e.Template.SameLayout(l) {
			t.Errorf("%s: want %v at the hash, got %v, %v", what, l, e.Template, err)
		}
	}
	learnLayout(t, c.a, t0, 7777, c.forged)
	c.topic.settle(t, c.a, c.b)
	learnLayout(t, c.a, t0+1, 2055, c.honest)
	c.topic.settle(t, c.a, c.b)
	wantAt("the forged one is known first", c.forged)
	c.a.Plan(ipfix300, &decode.Meta{Port: 2055, Received: t0 + 2}, &decode.Header{Version: 10})
	for range 30 {
		c.at(c.ac.ns + int64(time.Second))
		c.topic.settle(t, c.a, c.b)
	}
	wantAt("the honest one is confirmed", c.honest)
	for at := t0; at < t0+day+20*minute; at += 5 * minute {
		c.at(at)
		learnLayout(t, c.a, at, 2055, c.honest)
		c.topic.settle(t, c.a, c.b)
	}
	for i, s := range []*Store{c.a, c.b} {
		if got := s.Stats().Definitions; got != 1 {
			t.Errorf("replica %d: want the honest layout alone after a day, got %d", i, got)
		}
	}
	wantAt("the forged one is gone", c.honest)
	wantPlan(t, c.topic.restart(t, "c", c.ac.ns), "after a restart", 2055, c.honest)
}

func FuzzKey(f *testing.F) {
	id := definitionIDOf(layout(4))
	f.Add(definitionKey(scopeOf(key300), id))
	f.Add(hashKey(scopeOf(key300), id))
	f.Add(factKey(scopeOf(key300), factID{flowpb.Fact_WHAT_SAMPLER, 7}))
	f.Add(BarrierKey("r1"))
	f.Add([]byte{})
	f.Add([]byte{kindDefinitionDigest})
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := parseKey(b)
		if err != nil {
			if !strings.Contains(err.Error(), "key") {
				t.Errorf("an error that does not say what is wrong: %v", err)
			}
			return
		}
		var again []byte
		switch {
		case k.barrier:
			again = BarrierKey(string(b[1:]))
		case k.definition != nil:
			again = recordKey(k.scope, definitionID{k.definition.template, k.definition.digest, k.definition.hash}, k.definition.by)
		default:
			again = factKey(k.scope, *k.fact)
		}
		if !bytes.Equal(b, again) {
			t.Errorf("a key of %x is written as %x", b, again)
		}
	})
}
