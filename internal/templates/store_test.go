package templates

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"weir/internal/decode"
	"weir/internal/wire"
	"weir/pkg/flowpb"
)

// t0 is when everything in these tests begins, ns since the epoch.
const t0 = int64(1_800_000_000_000_000_000)

const minute = int64(time.Minute)

// A clock is set by hand, ns since the epoch.
type clock struct{ ns int64 }

func (c *clock) now() time.Time { return time.Unix(0, c.ns) }

func newStore(replica string) (*Store, *clock) {
	c := &clock{t0}
	return New(Options{Replica: replica, Now: c.now}), c
}

var exporterA = netip.MustParseAddr("192.0.2.1")

func keyOf(a netip.Addr, domain uint32, id uint16) *decode.TemplateKey {
	return &decode.TemplateKey{Exporter: decode.Map16(a), Domain: domain, ID: id, Version: 9}
}

var key300 = keyOf(exporterA, 7, 300)

// layout makes a template 300 whose only field has so many octets: layouts of
// different lengths are different definitions.
func layout(octets uint16) *decode.Template {
	return &decode.Template{ID: 300, Fields: []decode.Field{{ID: 1, Length: octets}}}
}

// lengthOf tells layouts apart: 0 for none.
func lengthOf(p *decode.Plan) uint16 {
	if p == nil {
		return 0
	}
	return p.Template().Fields[0].Length
}

func learn(t *testing.T, s *Store, at int64, port uint16, octets uint16) {
	t.Helper()
	p, err := s.Learn(key300, &decode.Meta{Exporter: exporterA, Port: port, Received: at}, &decode.Header{Version: 9, Export: at - 5, Uptime: 11, Sequence: 12}, layout(octets))
	if err != nil {
		t.Fatal(err)
	}
	if lengthOf(p) != octets {
		t.Fatalf("learnt the layout of %d octets: want its plan, got that of %d", octets, lengthOf(p))
	}
}

func wantLayout(t *testing.T, s *Store, port uint16, want uint16) {
	t.Helper()
	if got := lengthOf(s.Known(key300, port)); got != want {
		t.Errorf("layout in force for port %d: want that of %d octets, got %d", port, want, got)
	}
}

// publish takes what is due as published.
func publish(t *testing.T, s *Store) []Record {
	t.Helper()
	rs := s.Due()
	for _, r := range rs {
		s.Published(r, nil)
	}
	return rs
}

func merge(t *testing.T, s *Store, rs ...Record) {
	t.Helper()
	for _, r := range rs {
		if err := s.Merge(r.Key, r.Value); err != nil {
			t.Fatalf("merge: %v", err)
		}
	}
}

func TestADatagramUsesTheNewestDefinitionOfItsOwnPortElseTheNewestOfAll(t *testing.T) {
	s, _ := newStore("r1")
	wantLayout(t, s, 1, 0)
	learn(t, s, t0, 1, 4)
	wantLayout(t, s, 1, 4)
	wantLayout(t, s, 2, 4) // a line card that sends data from another port
	learn(t, s, t0+1000, 2, 8)
	wantLayout(t, s, 1, 4) // two exporters behind one address: each its own
	wantLayout(t, s, 2, 8)
	wantLayout(t, s, 3, 8)
	learn(t, s, t0+2000, 1, 4)
	wantLayout(t, s, 3, 4)
	learn(t, s, t0+3000, 1, 8) // redefinition
	wantLayout(t, s, 1, 8)
	learn(t, s, t0+4000, 1, 4) // and back
	wantLayout(t, s, 1, 4)
	for _, k := range []*decode.TemplateKey{
		keyOf(exporterA, 7, 301), keyOf(exporterA, 8, 300), keyOf(netip.MustParseAddr("192.0.2.2"), 7, 300),
		{Exporter: key300.Exporter, Domain: 7, ID: 300, Version: 10},
	} {
		if p := s.Known(k, 1); p != nil {
			t.Errorf("%+v has a plan of another's", k)
		}
	}
	if got := s.Stats(); got.Definitions != 2 || got.Exporters != 1 || got.Redefined != 2 {
		t.Errorf("stats: want 1 exporter, 2 definitions, 2 redefinitions; got %+v", got)
	}
}

func TestLayoutsThatAlternateFromDifferentPortsAreCounted(t *testing.T) {
	s, _ := newStore("r1")
	for i := range int64(3) {
		learn(t, s, t0+4*i, 1, 4)
		learn(t, s, t0+4*i+2, 2, 8)
	}
	if got := s.Stats().Conflicts; got != 4 { // the first of each port is none
		t.Errorf("conflicts: want 4, got %d", got)
	}
}

func TestTheLaterOfTwoDefinitionsInOneDatagramIsInForce(t *testing.T) {
	for _, at := range []int64{t0, 0} { // 0: receive time not known
		s, _ := newStore("r1")
		for _, octets := range []uint16{4, 8, 2, 4} {
			learn(t, s, at, 1, octets)
			wantLayout(t, s, 1, octets)
		}
	}
}

func TestAClockThatIsSetBackDoesNotBringBackAnOldDefinition(t *testing.T) {
	s, _ := newStore("r1")
	learn(t, s, t0, 1, 4)
	learn(t, s, t0-minute, 1, 8)
	wantLayout(t, s, 1, 8)
}

func TestARefusedTemplateLeavesTheGoodOneInForce(t *testing.T) {
	s, _ := newStore("r1")
	learn(t, s, t0, 1, 4)
	_, err := s.Learn(key300, &decode.Meta{Received: t0 + 1, Port: 1}, &decode.Header{}, &decode.Template{ID: 300})
	var we *wire.Error
	if !errors.As(err, &we) || we.Cause != wire.BadTemplate {
		t.Errorf("a template without fields: want %v, got %v", wire.BadTemplate, err)
	}
	wantLayout(t, s, 1, 4)
	if _, err := s.Learn(keyOf(exporterA, 7, 301), &decode.Meta{Received: t0}, &decode.Header{}, &decode.Template{ID: 301}); err == nil {
		t.Error("a template without fields was learnt")
	}
	if got := s.Stats().Definitions; got != 1 {
		t.Errorf("definitions: want 1, got %d", got)
	}
}

func TestATemplateIsClonedFromTheCallersScratch(t *testing.T) {
	s, _ := newStore("r1")
	scratch := layout(4)
	if _, err := s.Learn(key300, &decode.Meta{Received: t0}, &decode.Header{}, scratch); err != nil {
		t.Fatal(err)
	}
	scratch.Fields[0].Length = 99
	wantLayout(t, s, 0, 4)
}

func TestLookingUpAPlanAllocatesNothing(t *testing.T) {
	s, _ := newStore("r1")
	learn(t, s, t0, 1, 4)
	learn(t, s, t0+1, 2, 8)
	s.LearnFact(key300, &decode.Meta{Received: t0}, &decode.Header{}, decode.OptionsFact{What: flowpb.Fact_WHAT_SAMPLER, Number: 100})
	var p *decode.Plan
	var f *decode.Facts
	if n := testing.AllocsPerRun(100, func() {
		p = s.Known(key300, 1)
		p = s.Known(key300, 3)
		f = s.Facts(key300)
	}); n != 0 {
		t.Errorf("allocations: want 0, got %v", n)
	}
	if n, _ := f.Rate(0, 0); p == nil || n != 100 {
		t.Error("nothing was looked up")
	}
}

func TestAnotherReplicaDecodesWithWhatOneLearnt(t *testing.T) {
	a, _ := newStore("a")
	b, _ := newStore("b")
	learn(t, a, t0, 1, 4)
	rs := publish(t, a)
	if len(rs) != 1 {
		t.Fatalf("due: want 1 record, got %d", len(rs))
	}
	merge(t, b, rs...)
	wantLayout(t, b, 1, 4)
	if got := b.Due(); len(got) != 0 {
		t.Errorf("what came from the topic is due again: %d records", len(got))
	}
	// RFC 3954 section 5.2 fields as sent; exporter 192.0.2.1, domain 7.
	wantKey := []byte{
		3,
		0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 1,
		9,
		0, 0, 0, 7,
		0x01, 0x2c,
	}
	// sha256sum of 000000 00000000 0001 0004, the first 16 octets.
	wantKey = append(wantKey, 0x52, 0x18, 0xb6, 0x64, 0xc3, 0x4a, 0x37, 0xe7, 0x6e, 0x13, 0x8f, 0xa2, 0x15, 0xac, 0x05, 0x83)
	if d := cmp.Diff(wantKey, rs[0].Key); d != "" {
		t.Errorf("key (-want +got):\n%s", d)
	}
	got := &flowpb.ExporterState{}
	if err := proto.Unmarshal(rs[0].Value, got); err != nil {
		t.Fatal(err)
	}
	want := &flowpb.ExporterState{
		Schema: 1, Exporter: []byte{192, 0, 2, 1}, Version: 9, Domain: 7,
		ReceivedNs: t0, FirstReceivedNs: t0, ExportNs: t0 - 5, UptimeMs: 11, Sequence: 12, Replica: "a",
		State: &flowpb.ExporterState_Definition{Definition: &flowpb.TemplateDefinition{
			TemplateId: 300,
			Fields:     []*flowpb.FieldSpec{{Id: 1, Length: 4}},
			Sources:    []*flowpb.TemplateSource{{Port: 1, ReceivedNs: t0}},
		}},
	}
	if d := cmp.Diff(want, got, protocmp.Transform()); d != "" {
		t.Errorf("value (-want +got):\n%s", d)
	}
}

func TestRecordsInAnyOrderGiveTheSameActiveDefinitions(t *testing.T) {
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 1)) // a test repeats
		ports := []uint16{1, 2, 3}
		// Three replicas receive datagrams in turn; each publishes all it has at
		// odd moments, so that records are partial and overlap.
		var replicas []*Store
		for i := range 3 {
			s, _ := newStore(fmt.Sprint("r", i))
			replicas = append(replicas, s)
		}
		var log []Record
		for i := range int64(40) {
			s := replicas[rnd.IntN(len(replicas))]
			at := t0 + i*int64(rnd.IntN(2))*1000 // equal times, too
			learn(t, s, at, ports[rnd.IntN(len(ports))], uint16(1+rnd.IntN(5)))
			s.LearnFact(key300, &decode.Meta{Port: ports[rnd.IntN(len(ports))], Received: at}, &decode.Header{}, sampler(uint64(rnd.IntN(2)), uint64(1+rnd.IntN(100))))
			log = append(log, publish(t, s)...)
		}
		var want string
		for i := range 6 {
			s, _ := newStore(fmt.Sprint("reader", i))
			rnd.Shuffle(len(log), func(i, j int) { log[i], log[j] = log[j], log[i] })
			merge(t, s, log...)
			inForce, rates := map[uint16]uint16{}, map[uint16]map[uint64]uint64{}
			for _, p := range append(ports, 9) {
				inForce[p], rates[p] = lengthOf(s.Known(key300, p)), ratesFor(s.Facts(key300), p)
			}
			got := fmt.Sprint(rates, inForce)
			if i == 0 {
				want = got
			} else if got != want {
				t.Fatalf("seed %d: stores that know the same %d records differ: %s, %s", seed, len(log), want, got)
			}
		}
	}
}

func TestNoMoreThanEightSourcePortsAreRememberedTheOldestGoes(t *testing.T) {
	s, _ := newStore("r1")
	learn(t, s, t0, 1, 4)
	learn(t, s, t0+1, 2, 8)
	for p := range uint16(8) {
		learn(t, s, t0+10+int64(p), 100+p, 4)
	}
	learn(t, s, t0+100, 2, 8)
	wantLayout(t, s, 1, 8)   // no longer remembered: the newest of all
	wantLayout(t, s, 100, 4) // remembered
}

func TestATombstoneForgetsWhatOthersSentAndIsAnsweredWithWhatIsStillReceived(t *testing.T) {
	a, _ := newStore("a")
	b, bc := newStore("b")
	learn(t, a, t0, 1, 4)
	rs := publish(t, a)
	merge(t, b, rs...)
	tombstone := Record{Key: rs[0].Key}
	merge(t, b, tombstone)
	wantLayout(t, b, 1, 0)
	if got := b.Stats(); got != (Stats{}) {
		t.Errorf("stats: want nothing left, got %+v", got)
	}
	merge(t, a, tombstone)
	wantLayout(t, a, 1, 4)
	if got := a.Due(); len(got) != 1 {
		t.Errorf("due in the replica that received it itself: want 1, got %d", len(got))
	}
	learn(t, b, t0, 1, 4)
	bc.ns += 24*60*minute + 1
	merge(t, b, tombstone)
	wantLayout(t, b, 1, 0) // a day old: nobody receives it any more
}

func TestWhatAnOperatorRemovedComesBackOnlyWhenReceivedAnew(t *testing.T) {
	s, _ := newStore("r1")
	learn(t, s, t0, 1, 4)
	r := publish(t, s)[0]
	st := &flowpb.ExporterState{}
	if err := proto.Unmarshal(r.Value, st); err != nil {
		t.Fatal(err)
	}
	st.RemovedNs = t0 + 10
	v, err := proto.Marshal(st)
	if err != nil {
		t.Fatal(err)
	}
	merge(t, s, Record{r.Key, v})
	wantLayout(t, s, 1, 0)
	if got := s.Due(); len(got) != 0 {
		t.Errorf("due after a removal: want 0, got %d", len(got))
	}
	learn(t, s, t0+20, 1, 4)
	wantLayout(t, s, 1, 4)
	if got := s.Due(); len(got) != 1 {
		t.Errorf("due when received anew: want 1, got %d", len(got))
	}
}

func TestChangedIsToldWhenSomethingBecameKnown(t *testing.T) {
	calls := 0
	c := &clock{t0}
	var s *Store
	s = New(Options{Now: c.now, Changed: func([16]byte) { calls++; s.Republish() }}) // which locks: nothing may be locked already
	want := func(why string, n int) {
		t.Helper()
		if calls != n {
			t.Errorf("%s: want %d calls of Changed in all, got %d", why, n, calls)
		}
	}
	learn(t, s, t0, 1, 4)
	want("new", 1)
	learn(t, s, t0+1, 1, 4)
	want("received again", 1)
	learn(t, s, t0+2, 1, 8)
	want("redefined", 2)
	fact := decode.OptionsFact{What: flowpb.Fact_WHAT_SAMPLER, Number: 5}
	s.LearnFact(key300, &decode.Meta{Received: t0}, &decode.Header{}, fact)
	want("a fact", 3)
	s.LearnFact(key300, &decode.Meta{Received: t0 + 1}, &decode.Header{}, fact)
	want("the same fact", 3)
	other, _ := newStore("other")
	learn(t, other, t0+10, 5, 16)
	merge(t, s, publish(t, other)...)
	want("from the topic", 4)
}
