package templates

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"weir/internal/decode"
	"weir/pkg/flowpb"
)

func sampler(id, rate uint64) decode.OptionsFact {
	return decode.OptionsFact{What: flowpb.Fact_WHAT_SAMPLER, ID: id, Number: rate}
}

func learnFact(s *Store, at int64, f decode.OptionsFact) {
	s.LearnFact(key300, &decode.Meta{Exporter: exporterA, Received: at}, &decode.Header{Export: at - 5, Uptime: 11, Sequence: 12}, f)
}

// ratesOf lists the sampling rates of samplers 0 to 9 as port 0 reads them.
func ratesOf(f *decode.Facts) map[uint64]uint64 { return ratesFor(f, 0) }

func ratesFor(f *decode.Facts, port uint16) map[uint64]uint64 {
	rates := map[uint64]uint64{}
	for id := range uint64(10) {
		if n, ok := f.Rate(port, id); ok {
			rates[id] = n
		}
	}
	return rates
}

func wantFacts(t *testing.T, s *Store, initMs uint64, rates map[uint64]uint64) {
	t.Helper()
	f := s.Facts(key300)
	if got := f.InitMs(0); got != initMs {
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
	learnFact(a, t0, decode.OptionsFact{What: flowpb.Fact_WHAT_INIT_TIME, Number: 1_700_000_000_000})
	learnFact(a, t0, decode.OptionsFact{What: flowpb.Fact_WHAT_INTERFACE_NAME, ID: 1, Text: "eth0"})
	old := publish(t, a)
	learnFact(a, t0+1000, sampler(0, 200))
	fresh := publish(t, a)
	want := map[uint64]uint64{0: 200, 3: 1000}
	wantFacts(t, a, 1_700_000_000_000, want)
	merge(t, b, fresh...)
	merge(t, b, old...)
	wantFacts(t, b, 1_700_000_000_000, want)
	for _, s := range []*Store{a, b} {
		if got := s.Facts(key300).Name(0, flowpb.Fact_WHAT_INTERFACE_NAME, 1); got != "eth0" {
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
	learnFact(s, t0, decode.OptionsFact{What: flowpb.Fact_WHAT_VRF_NAME, ID: 258, Text: "blue\xff"})
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
		State: &flowpb.ExporterState_Fact{Fact: &flowpb.Fact{
			What: flowpb.Fact_WHAT_VRF_NAME, Id: 258, Text: "blue\uFFFD", Sources: []*flowpb.FactSource{{ReceivedNs: t0}},
		}},
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

// say has a port of exporterA say facts.
func say(s *Store, at int64, port uint16, facts ...decode.OptionsFact) {
	for _, f := range facts {
		s.LearnFact(key300, &decode.Meta{Exporter: exporterA, Port: port, Received: at}, &decode.Header{}, f)
	}
}

func initTime(ms uint64) decode.OptionsFact {
	return decode.OptionsFact{What: flowpb.Fact_WHAT_INIT_TIME, Number: ms}
}

func ifName(id uint64, name string) decode.OptionsFact {
	return decode.OptionsFact{What: flowpb.Fact_WHAT_INTERFACE_NAME, ID: id, Text: name}
}

// readsAll is what a port reads: rate of sampler 0, init time, name of interface 1.
func readsAll(s *Store, port uint16) string {
	f := s.Facts(key300)
	n, _ := f.Rate(port, 0)
	return fmt.Sprint(n, f.InitMs(port), f.Name(port, flowpb.Fact_WHAT_INTERFACE_NAME, 1))
}

func wantReads(t *testing.T, s *Store, who string, want map[uint16]string) {
	t.Helper()
	for port, w := range want {
		if got := readsAll(s, port); got != w {
			t.Errorf("%s: port %d reads %q: want %q", who, port, got, w)
		}
	}
}

// Two exporters are behind one address, with source ports 1 and 2. Each reads what
// it said itself, on all replicas; port 3, which says nothing, reads the newest.
func TestAPortReadsItsOwnFactsElseTheNewestOfAll(t *testing.T) {
	a, _ := newStore("a")
	b, _ := newStore("b")
	one := []decode.OptionsFact{sampler(0, 10), initTime(1000), ifName(1, "eth0")}
	two := []decode.OptionsFact{sampler(0, 60_000), initTime(2000), ifName(1, "ge-0/0/0")}
	say(a, t0, 1, one...)
	wantReads(t, a, "a", map[uint16]string{1: "10 1000eth0", 2: "10 1000eth0", 3: "10 1000eth0"})
	merge(t, b, publish(t, a)...)
	say(a, t0+1000, 2, two...)
	rs := publish(t, a)
	merge(t, b, rs...)
	both := map[uint16]string{1: "10 1000eth0", 2: "60000 2000ge-0/0/0", 3: "60000 2000ge-0/0/0"}
	wantReads(t, a, "a", both)
	wantReads(t, b, "b", both)
	if len(rs) != 3 {
		t.Errorf("published: want the 3 facts, got %d", len(rs))
	}
	// A replica that starts now knows as much.
	c, _ := newStore("c")
	merge(t, c, rs...)
	wantReads(t, c, "c", both)
	if got := a.Stats().FactConflicts; got != 0 {
		t.Errorf("conflicts: want 0 before any of them speaks again, got %d", got)
	}
	// They refresh in turn: nothing is to be published, conflicts are counted.
	for i := range int64(5) {
		say(a, t0+2000+2000*i, 1, one...)
		say(a, t0+3000+2000*i, 2, two...)
		if got := len(a.Due()); got != 0 {
			t.Fatalf("due after refresh %d: want 0, got %d", i, got)
		}
	}
	wantReads(t, a, "a", both)
	if got := a.Stats().FactConflicts; got != 30 {
		t.Errorf("conflicts: want 30, of 3 facts at 10 refreshes; got %d", got)
	}
	// One of them changes its rate: the other one does not notice.
	say(a, t0+20_000, 1, sampler(0, 20))
	rs = publish(t, a)
	merge(t, b, rs...)
	for _, s := range []*Store{a, b} {
		wantReads(t, s, "after a change", map[uint16]string{1: "20 1000eth0", 2: "60000 2000ge-0/0/0", 3: "20 2000ge-0/0/0"})
	}
}

// Records that name no sampler take the rate of the only one that their own port
// said.
func TestTheOnlySamplerOfAPortIsItsOwn(t *testing.T) {
	s, _ := newStore("a")
	only := func(port uint16) uint64 {
		n, _ := s.Facts(key300).OnlyRate(port)
		return n
	}
	say(s, t0, 1, sampler(5, 10))
	if got := []uint64{only(1), only(2)}; !cmp.Equal(got, []uint64{10, 10}) {
		t.Errorf("one sampler: want 10 for all ports, got %d", got)
	}
	say(s, t0+1, 2, sampler(7, 60_000))
	if got := []uint64{only(1), only(2), only(3)}; !cmp.Equal(got, []uint64{10, 60_000, 0}) {
		t.Errorf("two ports of a sampler each: want 10, 60000 and none, got %d", got)
	}
}

// What a replica of an older version publishes names no ports; it reads number and
// text of what this one publishes.
func TestFactsAreSharedWithReplicasThatKnowNoPorts(t *testing.T) {
	a, _ := newStore("a")
	say(a, t0, 1, sampler(0, 10))
	say(a, t0+1, 2, sampler(0, 20))
	r := publish(t, a)[0]
	st := &flowpb.ExporterState{}
	if err := proto.Unmarshal(r.Value, st); err != nil {
		t.Fatal(err)
	}
	want := &flowpb.Fact{What: flowpb.Fact_WHAT_SAMPLER, Number: 20, Sources: []*flowpb.FactSource{
		{Port: 2, ReceivedNs: t0 + 1}, {Port: 1, ReceivedNs: t0, Number: 10},
	}}
	if d := cmp.Diff(want, st.GetFact(), protocmp.Transform()); d != "" {
		t.Errorf("fact (-want +got):\n%s", d)
	}
	// An old replica receives 30 from whichever port.
	st.ReceivedNs, st.GetFact().Number, st.GetFact().Sources = t0+2, 30, nil
	value, err := proto.Marshal(st)
	if err != nil {
		t.Fatal(err)
	}
	merge(t, a, Record{Key: r.Key, Value: value})
	for port, want := range map[uint16]uint64{1: 10, 2: 20, 3: 30} {
		if got, _ := a.Facts(key300).Rate(port, 0); got != want {
			t.Errorf("rate for port %d: want %d, got %d", port, want, got)
		}
	}
	// The topic lacks what ports 1 and 2 said: it is said once.
	if got := len(publish(t, a)); got != 1 {
		t.Errorf("published: want 1, got %d", got)
	}
	if got := len(publish(t, a)); got != 0 {
		t.Errorf("published again: want 0, got %d", got)
	}
	// Ports 1 and 2 change what they said.
	say(a, t0+3, 2, sampler(0, 21))
	say(a, t0+4, 1, sampler(0, 11))
	for port, want := range map[uint16]uint64{1: 11, 2: 21, 3: 11} {
		if got, _ := a.Facts(key300).Rate(port, 0); got != want {
			t.Errorf("changed rate for port %d: want %d, got %d", port, want, got)
		}
	}
}

// A port that differed from what a replica of an older version said is alone again.
func TestAPortThatIsAloneAgainReadsItsChanges(t *testing.T) {
	a, _ := newStore("a")
	b, _ := newStore("b")
	say(a, t0, 1, sampler(0, 10))
	r := publish(t, a)[0]
	st := &flowpb.ExporterState{}
	if err := proto.Unmarshal(r.Value, st); err != nil {
		t.Fatal(err)
	}
	st.ReceivedNs, st.GetFact().Number, st.GetFact().Sources = t0+1, 30, nil
	value, err := proto.Marshal(st)
	if err != nil {
		t.Fatal(err)
	}
	merge(t, b, r, Record{Key: r.Key, Value: value})
	for i, rate := range []uint64{10, 11} {
		say(b, t0+2+int64(i), 1, sampler(0, rate))
		for port := range uint16(3) {
			if got, _ := b.Facts(key300).Rate(port, 0); got != rate {
				t.Errorf("rate for port %d: want %d, got %d", port, rate, got)
			}
		}
	}
}

func TestNoMoreThanEightPortsOfAFactAreRemembered(t *testing.T) {
	s, _ := newStore("a")
	for p := range uint16(20) {
		say(s, t0+int64(p), p, sampler(0, 100+uint64(p)))
	}
	for p := range uint16(20) {
		want := uint64(119)
		if p >= 12 {
			want = 100 + uint64(p)
		}
		if got, _ := s.Facts(key300).Rate(p, 0); got != want {
			t.Errorf("rate for port %d: want %d, got %d", p, want, got)
		}
	}
	st := &flowpb.ExporterState{}
	r := s.Due()[0]
	if err := proto.Unmarshal(r.Value, st); err != nil {
		t.Fatal(err)
	}
	if got := len(st.GetFact().GetSources()); got != 8 {
		t.Errorf("sources on the topic: want 8, got %d", got)
	}
	st.GetFact().Sources = append(st.GetFact().Sources, &flowpb.FactSource{Port: 1, ReceivedNs: t0})
	value, err := proto.Marshal(st)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Merge(r.Key, value); err == nil {
		t.Error("a record of 9 sources was taken")
	}
}

func TestARemovedFactIsReadByNoPort(t *testing.T) {
	s, _ := newStore("a")
	say(s, t0, 1, sampler(0, 10), initTime(1000), ifName(1, "eth0"))
	say(s, t0+1, 2, sampler(0, 20), initTime(2000), ifName(1, "eth1"))
	for _, r := range publish(t, s) {
		e, ok, err := Read(r.Key, r.Value)
		if !ok || err != nil {
			t.Fatal(ok, err)
		}
		removed, err := Removed("op", time.Unix(0, t0+5), &e)
		if err != nil {
			t.Fatal(err)
		}
		merge(t, s, removed...)
	}
	wantReads(t, s, "after a removal", map[uint16]string{1: "0 0", 2: "0 0", 3: "0 0"})
	say(s, t0+10, 1, sampler(0, 10))
	if n, ok := s.Facts(key300).OnlyRate(2); !ok || n != 10 {
		t.Errorf("the only rate: want 10, got %d", n)
	}
}

// A replica of an older version believed any rate.
func TestAnImpossibleSamplingRateOfTheTopicIsRefused(t *testing.T) {
	a, _ := newStore("a")
	say(a, t0, 1, sampler(0, 1<<32-1))
	say(a, t0, 1, sampler(1, 1<<32))
	r := publish(t, a)[0]
	if got := ratesOf(a.Facts(key300)); !cmp.Equal(got, map[uint64]uint64{0: 1<<32 - 1}) {
		t.Errorf("rates: want that of sampler 0, got %v", got)
	}
	for _, fact := range []*flowpb.Fact{
		{What: flowpb.Fact_WHAT_SAMPLER, Number: 1 << 32},
		{What: flowpb.Fact_WHAT_SAMPLER, Number: 10, Sources: []*flowpb.FactSource{{Port: 1, ReceivedNs: t0, Number: 1 << 62}}},
	} {
		st := &flowpb.ExporterState{}
		if err := proto.Unmarshal(r.Value, st); err != nil {
			t.Fatal(err)
		}
		st.ReceivedNs, st.State = t0+1, &flowpb.ExporterState_Fact{Fact: fact}
		value, err := proto.Marshal(st)
		if err != nil {
			t.Fatal(err)
		}
		if err := a.Merge(r.Key, value); err == nil || !strings.Contains(err.Error(), "sampling rate") {
			t.Errorf("%v: want an error of the sampling rate, got %v", fact, err)
		}
		if n, _ := a.Facts(key300).Rate(1, 0); n != 1<<32-1 {
			t.Errorf("rate after %v: want 2^32-1, got %d", fact, n)
		}
	}
}

// The datagrams are by hand: a template of addresses, protocol and destination port, and a
// record of ICMPv6. 0x0088 is a type without code, neighbour advertisement; 0x0401 is port
// unreachable (type 1, code 4 of RFC 4443) of an exporter that sends code * 256 + type.
func TestAllReplicasReadICMPv6InTheFormThatOneSaw(t *testing.T) {
	a, _ := newStore("a")
	b, _ := newStore("b")
	datagram := func(port uint16) []byte {
		p := []byte{0, 10, 0, 83, 0x68, 0xe7, 0x78, 0, 0, 0, 0, 1, 0, 0, 0, 7,
			0, 2, 0, 24, 1, 44, 0, 4, 0, 27, 0, 16, 0, 28, 0, 16, 0, 4, 0, 1, 0, 11, 0, 2,
			1, 44, 0, 39}
		return append(append(p, make([]byte, 32)...), 58, byte(port>>8), byte(port))
	}
	read := func(s *Store, port uint16, at int64) string {
		var r decode.Result
		(&decode.Decoder{State: s}).Read(datagram(port), &decode.Meta{Exporter: exporterA, Port: 1, Received: at}, &r)
		if len(r.Messages) != 1 {
			t.Fatalf("want 1 flow, got %d: %v", len(r.Messages), r.Errors)
		}
		return fmt.Sprintf("%d/%d", r.Messages[0].IcmpType, r.Messages[0].IcmpCode)
	}
	expect := func(s *Store, port uint16, at int64, want string) {
		t.Helper()
		if got := read(s, port, at); got != want {
			t.Errorf("port %04x: want type and code %s, got %s", port, want, got)
		}
	}
	expect(b, 0x0401, t0, "4/1")
	publish(t, b)
	expect(a, 0x0088, t0, "136/0")
	merge(t, b, publish(t, a)...)
	expect(a, 0x0401, t0+1, "1/4")
	expect(b, 0x0401, t0+1, "1/4")

	// What comes again is noted in steps of minutes, and published as rarely as all facts.
	expect(a, 0x0088, t0+2, "136/0")
	if rs := a.Due(); len(rs) != 0 {
		t.Errorf("due after the same form again: want 0 records, got %d", len(rs))
	}
	// An exporter that sends type * 256 + code too is read as RFC 5102 has it, by all.
	expect(b, 0x8000, t0+3, "128/0")
	merge(t, a, publish(t, b)...)
	expect(a, 0x0401, t0+4, "4/1")
	expect(b, 0x0401, t0+4, "4/1")
}
