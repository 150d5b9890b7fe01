package templates

import (
	"bytes"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"weir/internal/decode"
	"weir/pkg/flowpb"
)

// soundRecords are a definition (layout(4)) and a fact as they are published.
func soundRecords(t testing.TB) (definition, fact Record) {
	t.Helper()
	s, _ := newStore("r1")
	if _, err := s.Learn(key300, &decode.Meta{Port: 1, Received: t0}, &decode.Header{}, layout(4)); err != nil {
		t.Fatal(err)
	}
	learnFact(s, t0, sampler(0, 100))
	rs := s.Due()
	if len(rs) != 2 {
		t.Fatalf("due: want 2, got %d", len(rs))
	}
	return rs[0], rs[1]
}

// Foreign counts the definitions that a Store has from another replica: not its own records, which it reads back from the
// topic, nor those of definitions that it received itself.
func TestOnlyDefinitionsThatAnotherReplicaPublishedFirstAreForeign(t *testing.T) {
	def, fact := soundRecords(t) // of r1
	for _, tt := range []struct {
		name, replica string
		received      bool // the template came in a datagram before
		want          uint64
	}{
		{"another replica's", "r2", false, 1},
		{"another replica's, received before", "r2", true, 0},
		{"its own, after a restart", "r1", false, 0},
	} {
		s, _ := newStore(tt.replica)
		if tt.received {
			if _, err := s.Learn(key300, &decode.Meta{Port: 1, Received: t0}, &decode.Header{}, layout(4)); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 { // a record may be read again
			for _, r := range []Record{def, fact} {
				if err := s.Merge(r.Key, r.Value); err != nil {
					t.Fatal(err)
				}
			}
		}
		if got, all := s.Foreign(), s.Stats().Definitions; got != tt.want || all != 1 {
			t.Errorf("%s: want %d foreign of 1 definition, got %d of %d", tt.name, tt.want, got, all)
		}
	}
}

func TestAPoisonRecordIsNamedAndChangesNothing(t *testing.T) {
	def, fact := soundRecords(t)
	edit := func(r Record, f func(*flowpb.ExporterState)) Record {
		st := &flowpb.ExporterState{}
		if err := proto.Unmarshal(r.Value, st); err != nil {
			t.Fatal(err)
		}
		f(st)
		v, err := proto.Marshal(st)
		if err != nil {
			t.Fatal(err)
		}
		return Record{r.Key, v}
	}
	tests := []struct {
		name string
		r    Record
		want string // in the error
	}{
		{"an empty key", Record{nil, def.Value}, "empty"},
		{"an unknown kind", Record{append([]byte{9}, def.Key[1:]...), def.Value}, "kind 9"},
		{"a short key", Record{def.Key[:31], def.Value}, "31 octets"},
		{"a version in the key that has no templates", Record{append(append(bytes.Clone(def.Key[:17]), 5), def.Key[18:]...), def.Value}, "version 5"},
		{"a value that is no protobuf", Record{def.Key, []byte{0xff}}, "value"},
		{"an empty value", Record{def.Key, []byte{}}, "schema 0"},
		{"a value beyond 64 KiB", Record{def.Key, append(bytes.Clone(def.Value), protowire.AppendBytes(protowire.AppendTag(nil, 10, protowire.BytesType), make([]byte, 64<<10))...)}, "octets"},
		{"a later schema", edit(def, func(s *flowpb.ExporterState) { s.Schema = 2 }), "schema 2"},
		{"another exporter", edit(def, func(s *flowpb.ExporterState) { s.Exporter = []byte{192, 0, 2, 9} }), "differs"},
		{"an exporter of 5 octets", edit(def, func(s *flowpb.ExporterState) { s.Exporter = make([]byte, 5) }), "differs"},
		{"another version", edit(def, func(s *flowpb.ExporterState) { s.Version = 10 }), "differs"},
		{"a version that looks like the key's modulo 256", edit(def, func(s *flowpb.ExporterState) { s.Version = 265 }), "differs"},
		{"another domain", edit(def, func(s *flowpb.ExporterState) { s.Domain = 8 }), "differs"},
		{"no receive time", edit(def, func(s *flowpb.ExporterState) { s.ReceivedNs = 0 }), "receive time"},
		{"a receive time two hours ahead", edit(def, func(s *flowpb.ExporterState) { s.ReceivedNs = t0 + 120*minute }), "receive time"},
		{"a removal two hours ahead", edit(def, func(s *flowpb.ExporterState) { s.RemovedNs = t0 + 120*minute }), "removal"},
		{"another template id", edit(def, func(s *flowpb.ExporterState) { s.GetDefinition().TemplateId = 301 }), "301"},
		{"a template id beyond 16 bits", edit(def, func(s *flowpb.ExporterState) { s.GetDefinition().TemplateId = 300 + 65536 }), "65836"},
		{"another layout than the key's hash", edit(def, func(s *flowpb.ExporterState) { s.GetDefinition().Fields[0].Length = 8 }), "hash"},
		{"an element id beyond 16 bits", edit(def, func(s *flowpb.ExporterState) { s.GetDefinition().Fields[0].Id = 65537 }), "65537"},
		{"a source port beyond 16 bits", edit(def, func(s *flowpb.ExporterState) { s.GetDefinition().Sources[0].Port = 65537 }), "65537"},
		{"a source later than the template", edit(def, func(s *flowpb.ExporterState) { s.GetDefinition().Sources[0].ReceivedNs = t0 + 1 }), "source"},
		{"a definition without one", edit(def, func(s *flowpb.ExporterState) { s.State = nil }), "kind"},
		{"a fact under a definition's key", Record{def.Key, fact.Value}, "kind"},
		{"a definition under a fact's key", Record{fact.Key, def.Value}, "kind"},
		{"a fact of another id", edit(fact, func(s *flowpb.ExporterState) { s.GetFact().Id = 3 }), "differs"},
		{"a fact of a kind not known yet", edit(Record{append(append(bytes.Clone(fact.Key[:22]), 200), fact.Key[23:]...), fact.Value},
			func(s *flowpb.ExporterState) { s.GetFact().What = 200 }), "200"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, _ := newStore("r1")
			learn(t, s, t0, 1, 16)
			want := s.Stats()
			err := s.Merge(tt.r.Key, tt.r.Value)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("want an error with %q, got %v", tt.want, err)
			}
			if d := cmp.Diff(want, s.Stats()); d != "" {
				t.Errorf("stats changed (-before +after):\n%s", d)
			}
			wantLayout(t, s, 1, 16)
		})
	}
}

func TestATemplateThatCannotBeCompiledIsPoison(t *testing.T) {
	empty := &decode.Template{ID: 300} // no fields: RFC 7011 section 3.4.1 knows it as a withdrawal only
	id := definitionIDOf(empty)
	v, err := proto.Marshal(&flowpb.ExporterState{
		Schema: 1, Exporter: []byte{192, 0, 2, 1}, Version: 9, Domain: 7, ReceivedNs: t0,
		State: &flowpb.ExporterState_Definition{Definition: &flowpb.TemplateDefinition{TemplateId: 300}},
	})
	if err != nil {
		t.Fatal(err)
	}
	s, _ := newStore("r1")
	if err := s.Merge(definitionKey(scopeOf(key300), id), v); err == nil {
		t.Error("an empty template was taken")
	}
	if got := s.Stats(); got != (Stats{}) {
		t.Errorf("stats: want nothing, got %+v", got)
	}
}

func TestABarrierIsNoNews(t *testing.T) {
	s, _ := newStore("r1")
	b := Barrier("r1", []byte("0123456789abcdef"))
	merge(t, s, b, Record{Key: b.Key})
	if got := s.Stats(); got != (Stats{}) {
		t.Errorf("stats: want nothing, got %+v", got)
	}
	if !IsBarrier(b.Key) || string(b.Key) != "\x00r1" {
		t.Errorf("key of a barrier: want 0|r1, got %q", b.Key)
	}
}

func TestATombstoneOfSomethingUnknownIsNothing(t *testing.T) {
	def, fact := soundRecords(t)
	s, _ := newStore("r1")
	merge(t, s, Record{Key: def.Key}, Record{Key: fact.Key})
	learn(t, s, t0, 1, 8)
	merge(t, s, Record{Key: def.Key}, Record{Key: fact.Key})
	wantLayout(t, s, 1, 8)
}

func TestReadersAndWritersWorkAtOnce(t *testing.T) {
	s, _ := newStore("r1")
	other, _ := newStore("r2")
	var recs []Record
	for i := range uint16(8) {
		learn(t, other, t0+int64(i), i, 1+i)
		recs = append(recs, publish(t, other)...)
	}
	stop := make(chan struct{})
	var readers, writers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					s.Known(key300, 1)
					s.Known(key300, 99)
					s.Facts(key300)
				}
			}
		})
	}
	for w := range int64(3) {
		writers.Go(func() {
			for i := range int64(300) {
				_, _ = s.Learn(key300, &decode.Meta{Port: uint16(w), Received: t0 + i}, &decode.Header{}, layout(uint16(1+i%4)))
				learnFact(s, t0+i, sampler(uint64(w), uint64(i)))
				r := recs[int(i)%len(recs)]
				_ = s.Merge(r.Key, r.Value)
				if i%50 == 7 {
					_ = s.Merge(r.Key, nil)
				}
				for _, d := range s.Due() {
					s.Published(d, nil)
				}
			}
		})
	}
	writers.Wait()
	close(stop)
	readers.Wait()
	if p := s.Known(key300, 0); p == nil {
		t.Error("nothing is known after all that")
	}
	for range 3 { // what was changed while under way
		publish(t, s)
	}
	if got := s.Stats().Pending; got != 0 {
		t.Errorf("pending: want 0, got %d", got)
	}
}

func FuzzMerge(f *testing.F) {
	def, fact := soundRecords(f)
	f.Add(def.Key, def.Value)
	f.Add(fact.Key, fact.Value)
	f.Add(def.Key, fact.Value)
	f.Add(def.Key, []byte{})
	f.Add([]byte("\x00r1"), []byte("nonce"))
	f.Add(hashKey(scopeOf(key300), definitionIDOf(layout(4))), def.Value)
	f.Fuzz(func(t *testing.T, k, v []byte) {
		s, c := newBoth("r1")
		if _, err := s.Learn(key300, &decode.Meta{Port: 1, Received: t0}, &decode.Header{}, layout(16)); err != nil {
			t.Fatal(err)
		}
		publish(t, s)
		before := s.Stats()
		if err := s.Merge(k, v); err != nil {
			if d := cmp.Diff(before, s.Stats()); d != "" {
				t.Fatalf("refused (%v), yet the store changed:\n%s", err, d)
			}
			return
		}
		// What was taken is read by another store in the same way, also when
		// this one writes it.
		s.Republish()
		c.ns += int64(time.Hour)
		id, err := parseKey(k)
		if err != nil {
			t.Fatalf("merged a key that cannot be parsed: %v", err)
		}
		s.Known(key300, 1)
		s.Due()
		if id.definition != nil {
			tk := &decode.TemplateKey{Exporter: id.scope.exporter, Domain: id.scope.domain, ID: id.definition.template, Version: id.scope.version}
			_, _ = s.Learn(tk, &decode.Meta{Port: 1, Received: c.ns}, &decode.Header{}, layout(16))
			for _, r := range s.Due() {
				again, ac := newStore("r2")
				ac.ns = c.ns
				if err := again.Merge(r.Key, r.Value); err != nil {
					t.Fatalf("a record of our own is refused: %v", err)
				}
			}
		}
		if err := s.Merge(k, nil); err != nil {
			t.Fatalf("tombstone of what was taken: %v", err)
		}
	})
}

func BenchmarkPlan(b *testing.B) {
	s, _ := newStore("r1")
	for i := range uint16(100) {
		if err := learnID(s, exporterA, t0+int64(i), 256+i); err != nil {
			b.Fatal(err)
		}
	}
	k := keyOf(exporterA, 7, 300)
	b.ReportAllocs()
	for b.Loop() {
		if s.Known(k, 1) == nil {
			b.Fatal("no plan")
		}
	}
}

// Port 2 sends the layout that is the newest on the topic: that needs no record,
// until another layout is newer there. Then whoever knows the topic alone would
// take that one for port 2, and the replica that knows better says so.
func TestAPortThatNeededNoRecordGetsOneWhenAnotherLayoutIsNewer(t *testing.T) {
	a, _ := newStore("a")
	b, _ := newStore("b")
	c, _ := newStore("c")
	share := func(from *Store) (n int) {
		t.Helper()
		for _, r := range publish(t, from) {
			n++
			for _, s := range []*Store{a, b, c} {
				if err := s.Merge(r.Key, r.Value); err != nil {
					t.Fatal(err)
				}
			}
		}
		return n
	}
	learn(t, a, t0, 1, 4)
	share(a)
	learn(t, a, t0+1, 2, 4)
	if n := share(a); n != 0 {
		t.Errorf("the same layout from another port: want no record, got %d", n)
	}
	wantLayout(t, c, 2, 4)
	learn(t, b, t0+2, 3, 8)
	share(b)
	if n := share(a); n != 1 {
		t.Errorf("another layout is newer: want one record for port 2, got %d", n)
	}
	for _, s := range []*Store{a, b, c} {
		wantLayout(t, s, 1, 4)
		wantLayout(t, s, 2, 4)
		wantLayout(t, s, 3, 8)
	}
	if n := share(a) + share(b) + share(c); n != 0 {
		t.Errorf("all agree: want no further record, got %d", n)
	}
}

// Plans of many exporters in turn: what a lookup costs as the store grows.
func BenchmarkPlanOfMany(b *testing.B) {
	for _, exporters := range []int{1000, 20_000, 100_000} {
		b.Run(strconv.Itoa(exporters), func(b *testing.B) {
			s := New(Options{MaxUnconfirmed: 2 * 100_000})
			keys := make([]*decode.TemplateKey, exporters)
			for i, at := range rand.Perm(exporters) {
				a := spoofed(at)
				keys[i] = keyOf(a, 7, 300)
				if err := learnID(s, a, t0, 300); err != nil {
					b.Fatal(err)
				}
			}
			m, h := &decode.Meta{Port: 1, Received: t0}, &decode.Header{Version: 9}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if s.Plan(keys[i%exporters], m, h) == nil {
					b.Fatal("want a plan")
				}
			}
		})
	}
}

func BenchmarkLearnAgain(b *testing.B) {
	s, _ := newStore("r1")
	l, m, h := layout(4), &decode.Meta{Port: 1, Received: t0}, &decode.Header{}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Learn(key300, m, h, l); err != nil {
			b.Fatal(err)
		}
		for _, r := range s.Due() {
			s.Published(r, nil)
		}
	}
}

// BenchmarkMergeNew is the start of a replica: every record a new exporter's.
func BenchmarkMergeNew(b *testing.B) {
	other, _ := newStore("r2")
	const n = 100_000
	recs := make([]Record, 0, n)
	for i := range n {
		k := *key300
		k.Exporter[12], k.Exporter[13], k.Exporter[14] = byte(i>>16), byte(i>>8), byte(i)
		if _, err := other.Learn(&k, &decode.Meta{Port: 1, Received: t0}, &decode.Header{}, layout(4)); err != nil {
			b.Fatal(err)
		}
	}
	recs = append(recs, other.Due()...)
	for b.Loop() {
		s, _ := newStore("r1")
		for _, r := range recs {
			if err := s.Merge(r.Key, r.Value); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/record")
}
