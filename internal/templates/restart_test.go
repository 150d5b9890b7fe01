package templates

import (
	"testing"
	"time"

	"weir/internal/decode"
	"weir/pkg/flowpb"
)

// A definition came at uptime 100 s with sequence 50; a data set follows a
// second later.
func TestDataAfterARestartWaitsForAFreshDefinition(t *testing.T) {
	const second = int64(time.Second)
	const at = 1_000 * second
	for _, tt := range []struct {
		name                   string
		defUptime, uptime, seq uint32
		later                  int64 // ns, of the data set
		waits                  bool
	}{
		{"the exporter runs on", 100_000, 101_000, 51, second, false},
		{"its uptime is a minute lower, its sequence too", 100_000, 39_999, 1, second, true},
		{"less than a minute is out of order", 100_000, 40_000, 1, second, false},
		{"the sequence goes on: another clock", 100_000, 1_000, 50, second, false},
		{"the uptime has wrapped", 0xffff_ffff, 500, 1, second, false},
		{"it may have wrapped meanwhile", 0xffff_ffff - 3_600_000, 500, 1, 3600 * second, false},
		{"it cannot have wrapped yet", 0xffff_ffff - 3_600_000, 500, 1, 1000 * second, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := patient()
			meta := func(at int64) *decode.Meta {
				return &decode.Meta{Exporter: exporterA, Port: 1, Received: at}
			}
			learn := func(at int64, octets uint16, uptime, seq uint32) {
				t.Helper()
				if _, err := s.Learn(key300, meta(at), &decode.Header{Version: 9, Uptime: uptime, Sequence: seq}, layout(octets)); err != nil {
					t.Fatal(err)
				}
			}
			learn(at, 4, tt.defUptime, 50)
			m, h := meta(at+tt.later), &decode.Header{Version: 9, Uptime: tt.uptime, Sequence: tt.seq}
			if got := s.Plan(key300, m, h) == nil; got != tt.waits {
				t.Fatalf("waits: want %v, got %v", tt.waits, got)
			}
			if !tt.waits {
				return
			}
			if got := lengthOf(s.Settle(key300, m, h)); got != 4 {
				t.Errorf("after the wait: want the old layout of 4 octets, got %d", got)
			}
			if got := lengthOf(s.Plan(key300, m, h)); got != 4 {
				t.Errorf("the next set does not wait: want 4 octets, got %d", got)
			}
			if n := s.Stats().Stale; n != 2 {
				t.Errorf("sets decoded with the old layout: want 2, got %d", n)
			}
			learn(m.Received+second, 8, tt.uptime+1000, tt.seq+1)
			m, h = meta(m.Received+2*second), &decode.Header{Version: 9, Uptime: tt.uptime + 2000, Sequence: tt.seq + 2}
			if got := lengthOf(s.Plan(key300, m, h)); got != 8 || s.Stats().Stale != 2 {
				t.Errorf("once it came: want the layout of 8 octets and 2 stale sets still, got %d and %d", got, s.Stats().Stale)
			}
		})
	}
}

// The same layout again after a restart: no doubt any more, and a second restart
// makes it doubtful again.
func TestEachRestartIsDoubtedOnce(t *testing.T) {
	s := patient()
	at := int64(time.Second)
	step := func(template bool, uptime, seq uint32, waits bool) {
		t.Helper()
		at += int64(time.Second)
		m, h := &decode.Meta{Exporter: exporterA, Port: 1, Received: at}, &decode.Header{Version: 9, Uptime: uptime, Sequence: seq}
		if template {
			if _, err := s.Learn(key300, m, h, layout(4)); err != nil {
				t.Fatal(err)
			}
			return
		}
		if got := s.Plan(key300, m, h) == nil; got != waits {
			t.Errorf("uptime %d: waits: want %v, got %v", uptime, waits, got)
		}
		if waits {
			s.Settle(key300, m, h)
		}
	}
	step(true, 500_000, 9, false)
	step(false, 1_000, 1, true)
	step(false, 2_000, 2, false) // settled
	step(true, 300_000, 3, false)
	step(false, 301_000, 4, false)
	step(false, 1_000, 1, true)
}

func TestIPFIXUptimesWaitOnceForTheInitTime(t *testing.T) {
	s := patient()
	k := &decode.TemplateKey{Exporter: decode.Map16(exporterA), Version: 10, ID: 300}
	m, h := &decode.Meta{Exporter: exporterA, Port: 1, Received: 1}, &decode.Header{Version: 10}
	uptimes := &decode.Template{ID: 300, Fields: []decode.Field{{ID: 21, Length: 4}, {ID: 22, Length: 4}}}
	if _, err := s.Learn(k, m, h, uptimes); err != nil {
		t.Fatal(err)
	}
	other := *k
	other.Domain = 9
	if _, err := s.Learn(&other, m, &decode.Header{Version: 10, Domain: 9}, uptimes); err != nil {
		t.Fatal(err)
	}
	if s.Plan(k, m, h) != nil {
		t.Error("no init time yet: want a wait")
	}
	s.LearnFact(k, m, h, decode.OptionsFact{What: flowpb.Fact_WHAT_INIT_TIME, Number: 1_700_000_000_000})
	if s.Plan(k, m, h) == nil {
		t.Error("the init time is there: want no wait")
	}
	if s.Plan(&other, m, h) != nil || s.Settle(&other, m, h) == nil || s.Plan(&other, m, h) == nil {
		t.Error("another domain: want one wait, and none after it")
	}
	for name, fields := range map[string][]decode.Field{
		"times of their own":          {{ID: 152, Length: 8}, {ID: 153, Length: 8}, {ID: 21, Length: 4}},
		"the init time in the record": {{ID: 21, Length: 4}, {ID: 22, Length: 4}, {ID: 160, Length: 8}},
	} {
		third := *k
		third.Domain, third.ID = 10, 301
		if _, err := s.Learn(&third, m, &decode.Header{Version: 10, Domain: 10}, &decode.Template{ID: 301, Fields: fields}); err != nil {
			t.Fatal(err)
		}
		if s.Plan(&third, m, h) == nil {
			t.Errorf("%s: want no wait", name)
		}
	}
}

func patient() *Store {
	c := &clock{t0}
	return New(Options{Now: c.now, Patient: true})
}

// What comes back from the topic is the reception that is known: it is no fresh
// definition, and a doubt that was settled stays so.
func TestARecordThatComesBackSettlesNothingAnew(t *testing.T) {
	s := patient()
	learn(t, s, t0, 1, 4) // at uptime 11, sequence 12
	all := s.Due()
	m, h := &decode.Meta{Exporter: exporterA, Port: 1, Received: t0 + 1}, &decode.Header{Version: 9, Uptime: 500_000, Sequence: 100}
	if _, err := s.Learn(key300, m, h, layout(4)); err != nil {
		t.Fatal(err)
	}
	restarted := &decode.Header{Version: 9, Uptime: 1_000, Sequence: 1}
	if s.Ready(key300, m, restarted) || s.Settle(key300, m, restarted) == nil || !s.Ready(key300, m, restarted) {
		t.Fatal("want a wait, and none once it is settled")
	}
	for _, r := range all {
		s.Published(r, nil)
	}
	s.Republish()
	for _, r := range s.Due() {
		s.Published(r, nil)
	}
	if !s.Ready(key300, m, restarted) {
		t.Error("its own records came back: want it settled still")
	}
}

// Two exporters behind one address, with one layout: the uptime of one says
// nothing of the other.
func TestARestartIsOfOnePort(t *testing.T) {
	s := patient()
	at := t0
	learnFrom := func(port uint16, uptime, sequence uint32) {
		t.Helper()
		at++
		if _, err := s.Learn(key300, &decode.Meta{Exporter: exporterA, Port: port, Received: at}, &decode.Header{Version: 9, Uptime: uptime, Sequence: sequence}, layout(4)); err != nil {
			t.Fatal(err)
		}
	}
	waits := func(port uint16, uptime, sequence uint32) bool {
		return s.Plan(key300, &decode.Meta{Exporter: exporterA, Port: port, Received: at + 1}, &decode.Header{Version: 9, Uptime: uptime, Sequence: sequence}) == nil
	}
	learnFrom(1, 900_000_000, 5000)
	learnFrom(2, 100_000, 10)
	learnFrom(1, 900_001_000, 5001)
	if waits(2, 101_000, 11) || waits(3, 1, 1) {
		t.Error("an exporter that runs on, and one that is not known: want no wait")
	}
	if !waits(2, 1_000, 1) {
		t.Error("the second one restarts: want a wait")
	}
	if waits(1, 900_002_000, 5002) {
		t.Error("the first one runs on: want no wait")
	}
}
