package templates

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"weir/internal/decode"
	"weir/pkg/flowpb"
)

func sampler(id, rate uint64) decode.Fact {
	return decode.Fact{What: flowpb.Fact_WHAT_SAMPLER, ID: id, Number: rate}
}

func learnFact(s *Store, at int64, f decode.Fact) {
	s.LearnFact(key300, &decode.Meta{Exporter: exporterA, Received: at}, &decode.Header{Export: at - 5, Uptime: 11, Sequence: 12}, f)
}

// ratesOf lists the sampling rates of samplers 0 to 9.
func ratesOf(f *decode.Facts) map[uint64]uint64 {
	rates := map[uint64]uint64{}
	for id := range uint64(10) {
		if n, ok := f.Rate(id); ok {
			rates[id] = n
		}
	}
	return rates
}

func wantFacts(t *testing.T, s *Store, initMs uint64, rates map[uint64]uint64) {
	t.Helper()
	f := s.Facts(key300)
	if got := f.InitMs(); got != initMs {
		t.Errorf("init time: want %d, got %d", initMs, got)
	}
	if d := cmp.Diff(rates, ratesOf(f), cmpopts.EquateEmpty()); d != "" {
		t.Errorf("sampling rates (-want +got):\n%s", d)
	}
}

func TestFactsAreThoseOfTheGreatestReceiveTime(t *testing.T) {
	a, _ := newStore("a")
	b, _ := newStore("b")
	wantFacts(t, a, 0, nil)
	learnFact(a, t0, sampler(0, 100))
	learnFact(a, t0, sampler(3, 1000))
	learnFact(a, t0, decode.Fact{What: flowpb.Fact_WHAT_INIT_TIME, Number: 1_700_000_000_000})
	learnFact(a, t0, decode.Fact{What: flowpb.Fact_WHAT_INTERFACE_NAME, ID: 1, Text: "eth0"})
	old := publish(t, a)
	learnFact(a, t0+1000, sampler(0, 200))
	fresh := publish(t, a)
	want := map[uint64]uint64{0: 200, 3: 1000}
	wantFacts(t, a, 1_700_000_000_000, want)
	merge(t, b, fresh...)
	merge(t, b, old...)
	wantFacts(t, b, 1_700_000_000_000, want)
	for _, s := range []*Store{a, b} {
		if got := s.Facts(key300).Name(flowpb.Fact_WHAT_INTERFACE_NAME, 1); got != "eth0" {
			t.Errorf("name of interface 1: want eth0, got %q", got)
		}
	}
	if got := len(old) + 10*len(fresh); got != 14 {
		t.Errorf("published: want 4 facts and then 1, got %d and %d", len(old), len(fresh))
	}
	// The topic's last record of sampler 0 is the old one now.
	if got := b.Due(); len(got) != 1 {
		t.Errorf("repairs due: want 1, got %d", len(got))
	}
}

func TestAFactIsDueWhenItDiffersFromTheTopicsAndForItsRefresh(t *testing.T) {
	s, _ := newStore("r1")
	due := func(why string, want int) {
		t.Helper()
		if got := len(publish(t, s)); got != want {
			t.Errorf("%s: want %d due, got %d", why, want, got)
		}
	}
	learnFact(s, t0, sampler(0, 100))
	due("new", 1)
	learnFact(s, t0+minute, sampler(0, 100))
	due("the same again", 0)
	learnFact(s, t0+2*minute, sampler(0, 50))
	due("another rate", 1)
	learnFact(s, t0+2*minute+8*minute-1, sampler(0, 50))
	due("before 10 min less 20 %", 0)
	learnFact(s, t0+2*minute+12*minute, sampler(0, 50))
	due("after 10 min and 20 %", 1)
}

func TestAFactsRecordIsAsDescribed(t *testing.T) {
	s, _ := newStore("a")
	learnFact(s, t0, decode.Fact{What: flowpb.Fact_WHAT_VRF_NAME, ID: 258, Text: "blue\xff"})
	r := s.Due()[0]
	wantKey := []byte{
		2,
		0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 1,
		9,
		0, 0, 0, 7,
		4,
		0, 0, 0, 0, 0, 0, 1, 2,
	}
	if d := cmp.Diff(wantKey, r.Key); d != "" {
		t.Errorf("key (-want +got):\n%s", d)
	}
	got := &flowpb.ExporterState{}
	if err := proto.Unmarshal(r.Value, got); err != nil {
		t.Fatal(err)
	}
	want := &flowpb.ExporterState{
		Schema: 1, Exporter: []byte{192, 0, 2, 1}, Version: 9, Domain: 7,
		ReceivedNs: t0, FirstReceivedNs: t0, ExportNs: t0 - 5, UptimeMs: 11, Sequence: 12, Replica: "a",
		State: &flowpb.ExporterState_Fact{Fact: &flowpb.Fact{What: flowpb.Fact_WHAT_VRF_NAME, Id: 258, Text: "blue\uFFFD"}},
	}
	if d := cmp.Diff(want, got, protocmp.Transform()); d != "" {
		t.Errorf("value (-want +got):\n%s", d)
	}
}

func TestATombstoneOfAFactForgetsIt(t *testing.T) {
	a, _ := newStore("a")
	b, _ := newStore("b")
	learnFact(a, t0, sampler(0, 100))
	rs := publish(t, a)
	merge(t, b, rs...)
	merge(t, b, Record{Key: rs[0].Key})
	wantFacts(t, b, 0, nil)
	merge(t, a, Record{Key: rs[0].Key})
	if got := a.Due(); len(got) != 1 {
		t.Errorf("due where it was received: want 1, got %d", len(got))
	}
}
