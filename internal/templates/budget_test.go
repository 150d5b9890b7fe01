package templates

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"weir/internal/decode"
	"weir/pkg/flowpb"
)

// v9Datagram is a NetFlow v9 datagram of source id 7, with one set.
func v9Datagram(set uint16, content ...byte) []byte {
	b := make([]byte, 20, 24+len(content))
	b[1], b[3], b[19] = 9, 1, 7
	b = binary.BigEndian.AppendUint16(b, set)
	b = binary.BigEndian.AppendUint16(b, uint16(4+len(content)))
	return append(b, content...)
}

// samplerTemplate is options template 256: scope system without octets, sampler id
// (48) of 2 octets, sampling interval (34) of 1, padding (210) of 5: as many octets as
// a fact takes at least.
var samplerTemplate = v9Datagram(1, 1, 0, 0, 4, 0, 12, 0, 1, 0, 0, 0, 48, 0, 2, 0, 34, 0, 1, 0, 210, 0, 5)

// samplerRecords is options data of n samplers from an id on, all of one rate.
func samplerRecords(first, n int, rate byte) []byte {
	var b []byte
	for i := range n {
		b = append(binary.BigEndian.AppendUint16(b, uint16(first+i)), rate, 0, 0, 0, 0, 0)
	}
	return v9Datagram(256, b...)
}

// receive has a Store take datagrams of exporterA.
func receive(s *Store, at int64, pkts ...[]byte) {
	d := &decode.Decoder{State: s}
	var r decode.Result
	for _, pkt := range pkts {
		d.Wire(pkt, &decode.Meta{Exporter: exporterA, Port: 1, Received: at}, &r)
	}
}

// Options data of 500 changed rates must cost the same with 3 500 other samplers
// known as with none.
func TestAFactCostsTheSameWhateverIsKnown(t *testing.T) {
	octets := func(known int) uint64 {
		s, _ := newStore("r1")
		receive(s, t0, samplerTemplate, samplerRecords(0, 500, 1), samplerRecords(500, known, 1))
		changed := samplerRecords(0, 500, 2)
		n := allocatedBy(func() { receive(s, t0+1, changed) })
		if got := s.Stats(); got.Facts != 500+known || got.OverBudget != 0 {
			t.Fatalf("want %d facts, got %+v", 500+known, got)
		}
		return n
	}
	octets(0)
	// The map's growth and the queue's vary a little; a copy of all would be 100 times as much.
	if none, many := octets(0), octets(3500); many > 4*none {
		t.Errorf("a datagram of 500 rates takes %d octets with 3 500 samplers known, %d with none: want the same", many, none)
	}
}

// Names whose ids a forger chose must not cost more than others: these 2 000 ids
// share their high bits after multiplication with 2^64 divided by the golden ratio.
func TestANameCostsTheSameWhateverItsID(t *testing.T) {
	names := func(ids func(i uint64) uint64) uint64 {
		s, _ := newStore("r1")
		return allocatedBy(func() {
			for i := range uint64(2000) {
				learnFact(s, t0, decode.OptionsFact{What: flowpb.Fact_WHAT_INTERFACE_NAME, ID: ids(i), Text: "eth0"})
			}
		})
	}
	var chosen []uint64
	for id := uint64(0); len(chosen) < 2000; id++ {
		if (id+uint64(flowpb.Fact_WHAT_INTERFACE_NAME))*0x9e3779b97f4a7c15>>58 == 0 {
			chosen = append(chosen, id)
		}
	}
	names(func(i uint64) uint64 { return i })
	if any, one := names(func(i uint64) uint64 { return i }), names(func(i uint64) uint64 { return chosen[i] }); one > 4*any {
		t.Errorf("2 000 names take %d octets with chosen ids, %d with others: want the same", one, any)
	}
}

// A refresh that says what is known allocates nothing and is free of charge.
func TestUnchangedFactsAreFree(t *testing.T) {
	s, _ := newStore("r1")
	again := samplerRecords(0, 4000, 1)
	receive(s, t0, samplerTemplate, again)
	d := &decode.Decoder{State: s}
	var r decode.Result
	at := t0
	if n := testing.AllocsPerRun(20, func() { // 80 000 facts: five times the budget
		at++
		d.Wire(again, &decode.Meta{Exporter: exporterA, Port: 1, Received: at}, &r)
	}); n > 10 {
		t.Errorf("4 000 facts that are known take %v allocations: want at most 10 a datagram", n)
	}
	if got := s.Stats(); got.OverBudget != 0 || got.Facts != 4000 {
		t.Errorf("want 4 000 facts and none refused, got %+v", got)
	}
}

func TestNewFactsBeyondTheBudgetOfTheirExporterAreRefused(t *testing.T) {
	s, c := newStore("r1")
	receive(s, t0, samplerTemplate)
	for i := range 8 { // 32 000 changes of 64 octets: 1 MiB is 16 384 of them
		receive(s, t0, samplerRecords(0, 4000, byte(1+i)))
	}
	if got := s.Stats().OverBudget; got != 32_000-16_384 {
		t.Errorf("refused: want %d, got %d", 32_000-16_384, got)
	}
	if n, _ := s.Facts(key300).Rate(1, 0); n != 5 { // the last rate that the budget let through
		t.Errorf("rate of sampler 0: want 5, got %d", n)
	}
	c.ns += int64(10 * time.Second) // 160 KiB more: 2 560
	receive(s, c.ns, samplerRecords(0, 4000, 9))
	if got := s.Stats().OverBudget; got != 32_000-16_384+4000-2560 {
		t.Errorf("refused 10 s later: want %d, got %d", 32_000-16_384+4000-2560, got)
	}
}

// A flood of facts from forged addresses uses up the total. What a new exporter
// says first is learnt all the same: a sampling rate.
func TestAFloodLeavesNewExportersTheirReserve(t *testing.T) {
	c := &clock{t0}
	s := New(Options{Now: c.now, MaxTotal: 2_000_000})
	say := func(a netip.Addr, n uint64) {
		for i := range n {
			s.LearnFact(keyOf(a, 7, 300), &decode.Meta{Exporter: a, Port: 1, Received: t0}, &decode.Header{}, sampler(i, 10))
		}
	}
	for i := range 200 { // 200 × 4 000 facts of 64 octets are 51 MB: 32 MiB is the total
		say(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 4000)
	}
	if got := s.Stats().OverBudget; got == 0 {
		t.Fatal("the flood was not refused")
	}
	honest := netip.MustParseAddr("192.0.2.9")
	before := s.Stats().OverBudget
	say(honest, 4)
	if got := s.Stats().OverBudget - before; got != 0 {
		t.Errorf("refused of the new exporter: want 0, got %d", got)
	}
}

func octetsOf(rs []Record) (n int) {
	for _, r := range rs {
		n += len(r.Key) + len(r.Value)
	}
	return n
}

// One datagram of 12 kB changes 4 000 facts. Again and again within a minute, it
// must not put more on the topic than the exporter's budget.
func TestWhatIsBeyondThePublishBudgetIsPublishedLater(t *testing.T) {
	s, c := newStore("r1")
	receive(s, t0, samplerTemplate)
	total, records := 0, 0
	for i := range 4 {
		receive(s, t0+int64(i), samplerRecords(0, 4000, byte(1+i)))
		rs := publish(t, s)
		total, records = total+octetsOf(rs), records+len(rs)
	}
	if most := 512<<10 + 200; total > most || total < most/2 {
		t.Errorf("to the topic at once: want at most %d octets, got %d in %d records", most, total, records)
	}
	if got := s.Stats().Pending; got == 0 {
		t.Error("nothing is pending: want what is beyond the budget")
	}
	for range 60 {
		c.ns += int64(time.Second)
		publish(t, s)
	}
	if got := s.Stats().Pending; got != 0 {
		t.Errorf("pending after a minute: want 0, got %d", got)
	}
}

// A router with 4 000 interfaces sends names and descriptions of 40 octets within
// a few seconds after its start. All must be known at once and on the topic within
// 60 s, the shortest interval at which routers repeat their templates.
func TestALargeInterfaceTableIsLearntAndPublishedWithinAMinute(t *testing.T) {
	c := &clock{t0}
	s := New(Options{Replica: "ingest-0", Now: c.now, MaxPerExporter: 10_000})
	b := New(Options{Replica: "ingest-1", Now: c.now, MaxPerExporter: 10_000})
	text := strings.Repeat("x", 40)
	for i := range uint64(4000) {
		learnFact(s, t0, decode.OptionsFact{What: flowpb.Fact_WHAT_INTERFACE_NAME, ID: i, Text: text})
		learnFact(s, t0, decode.OptionsFact{What: flowpb.Fact_WHAT_INTERFACE_DESCRIPTION, ID: i, Text: text})
	}
	if got := s.Stats(); got.Facts != 8000 || got.OverBudget != 0 {
		t.Fatalf("want 8 000 facts and none refused, got %+v", got)
	}
	total, took := 0, 0
	for ; s.Stats().Pending > 0 && took < 600; took++ {
		rs := publish(t, s)
		total += octetsOf(rs)
		merge(t, b, rs...)
		c.ns += int64(time.Second)
	}
	t.Logf("%d octets on the topic within %d s", total, took)
	if took > 60 || b.Stats().Facts != 8000 {
		t.Errorf("after %d s another replica knows %d facts: want 8 000 within 60 s", took, b.Stats().Facts)
	}
}

// Once what is delayed is not needed any more, because another replica published
// it or it was evicted, it must not be kept.
func TestWhatIsDelayedIsBoundedByWhatIsKnown(t *testing.T) {
	c := &clock{t0}
	s := New(Options{Now: c.now, MaxPerExporter: 100})
	for round := range 400 {
		for i := range uint64(200) {
			learnFact(s, t0+int64(round), sampler(uint64(round)*200+i, 10))
		}
		c.ns += int64(200 * time.Millisecond)
		publish(t, s)
	}
	st := s.Stats()
	if st.Pending > 2*lateMost {
		t.Errorf("%d facts are known, %d entries pending", st.Facts, st.Pending)
	}
}

// An outage of Kafka must not spend the budgets: each record is tried again and
// again, and has to be on the topic soon after.
func TestRecordsThatAreNotPublishedSpendNoBudget(t *testing.T) {
	s, _ := newStore("r1")
	receive(s, t0, samplerTemplate)
	receive(s, t0, samplerRecords(0, 100, 1)) // more than exporterFirst: the total is charged, too
	before := s.Due()
	if len(before) < 100 {
		t.Fatalf("due: want at least 100 records, got %d", len(before))
	}
	due := before
	for try := range 1000 {
		for _, r := range due {
			s.Published(r, errors.New("kafka is away"))
		}
		if due = s.Due(); len(due) != len(before) {
			t.Fatalf("due after %d failures: want %d records, got %d", try+1, len(before), len(due))
		}
	}
	if got := s.spent.records[ofFacts].taken; got > int64(octetsOf(before)) {
		t.Errorf("octets charged to the budget: want at most %d, those of the pending records, got %d", octetsOf(before), got)
	}
}

func TestABucketRefillsWhateverItsCallersInterval(t *testing.T) {
	l := limit{burst: 100, perSecond: 10}
	for _, every := range []time.Duration{time.Microsecond, time.Millisecond, 70 * time.Millisecond, time.Second} {
		t.Run(fmt.Sprint(every), func(t *testing.T) {
			b := bucket{taken: 100, at: t0}
			for at := int64(0); at <= int64(2*time.Second); at += int64(every) {
				b.refill(l, t0+at)
			}
			b.refill(l, t0+int64(2*time.Second))
			if b.taken != 80 {
				t.Errorf("taken after 2 s at 10 octets a second: want 80 of 100, got %d", b.taken)
			}
			b.refill(l, t0-int64(time.Hour)) // the clock is set back
			if b.taken != 80 {
				t.Errorf("taken after the clock was set back: want 80, got %d", b.taken)
			}
			b.refill(l, t0+int64(1000*time.Hour))
			if b.taken != 0 {
				t.Errorf("taken after 1 000 h: want 0, got %d", b.taken)
			}
		})
	}
}

// 1 MiB of changes are 14 563 definitions of one field, 72 octets each; the one by which an
// exporter becomes known is free. What is beyond must be refused without being compiled, and known definitions must stay in force.
func TestNewDefinitionsBeyondTheBudgetOfTheirExporterAreRefused(t *testing.T) {
	s, c := newStore("r1")
	learn := func(domain uint32, id uint16) error {
		k := keyOf(exporterA, domain, id)
		_, err := s.Learn(k, &decode.Meta{Exporter: exporterA, Port: 1, Received: c.ns}, &decode.Header{Version: 9}, &decode.Template{
			ID: id, Fields: []decode.Field{{ID: 8, Length: 4}},
		})
		return err
	}
	refused := 0
	for i := range 20_000 {
		if learn(uint32(i/10_000), uint16(256+i%10_000)) != nil {
			refused++
		}
	}
	if want := 20_000 - 1<<20/72 - 1; refused != want || s.Stats().OverBudget != uint64(want) {
		t.Errorf("refused: %d, counted %d, want %d", refused, s.Stats().OverBudget, want)
	}
	octets := allocatedBy(func() {
		for i := range 1000 {
			_ = learn(9, uint16(256+i))
		}
	})
	if octets > 1000*400 { // a plan of one field takes 800 octets and more
		t.Errorf("1 000 refused definitions took %d octets: want no more than their errors", octets)
	}
	if err := learn(1, uint16(256+14_563-10_000)); err != nil {
		t.Errorf("the last definition that was learnt, again: %v", err)
	}
	c.ns += int64(10 * time.Second) // 160 KiB more
	if err := learn(9, 300); err != nil {
		t.Errorf("a new definition 10 s later: %v", err)
	}
}
