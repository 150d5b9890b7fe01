package templates

import (
	"net/netip"
	"testing"

	"weir/internal/decode"
)

// data asks for the plan of a data set of template 300 from a port and confirms
// what was used.
func data(s *Store, a netip.Addr, port uint16, at int64, sets int) *decode.Plan {
	var p *decode.Plan
	for range sets {
		p = s.Plan(keyOf(a, 7, 300), &decode.Meta{Exporter: a, Port: port, Received: at}, &decode.Header{Version: 9})
	}
	s.takeUses()
	return p
}

// learn8 learns eight other layouts of template 300 from a port.
func learn8(t *testing.T, s *Store, at int64, port uint16) {
	t.Helper()
	for i := range uint16(8) {
		learn(t, s, at+int64(i), port, 10+i)
	}
}

func TestForgedLayoutsOfATemplateIDDoNotDisplaceAConfirmedOne(t *testing.T) {
	s, _ := newStore("r")
	learn(t, s, t0, 2055, 4)
	if got := lengthOf(data(s, exporterA, 2055, t0, 1)); got != 4 {
		t.Fatalf("plan: want the layout of 4 octets, got %d", got)
	}
	learn8(t, s, t0+1, 7777)
	if got := lengthOf(data(s, exporterA, 2055, t0+20, 1)); got != 4 {
		t.Errorf("after 8 layouts from another port: want the layout of 4 octets, got %d", got)
	}
	for i := range uint16(8) { // the port's own layouts make room for each other, with more data than the honest one
		learn(t, s, t0+50+int64(i), 7777, 10+i)
		data(s, exporterA, 7777, t0+50+int64(i), 3)
	}
	learn8(t, s, t0+60, 7777)
	if got := lengthOf(data(s, exporterA, 2055, t0+70, 1)); got != 4 {
		t.Errorf("after 8 layouts from another port, with more data: want the layout of 4 octets, got %d", got)
	}
	for i := range uint16(8) { // from as many ports, each confirmed by forged data
		learn(t, s, t0+100+int64(i), 8000+i, 20+i)
		data(s, exporterA, 8000+i, t0+100+int64(i), 1)
	}
	if got := lengthOf(data(s, exporterA, 2055, t0+200, 1)); got != 4 {
		t.Errorf("after 8 layouts from 8 ports, with data: want the layout of 4 octets, got %d", got)
	}
}

func TestForgedTemplateIDsDoNotDisplaceAConfirmedOne(t *testing.T) {
	s, _ := newStore("r")
	learn(t, s, t0, 2055, 4)
	data(s, exporterA, 2055, t0, 1)
	for i := range 5000 {
		if err := learnID(s, exporterA, t0+1+int64(i), uint16(1000+i)); err != nil {
			t.Fatal(err)
		}
	}
	if got := lengthOf(data(s, exporterA, 2055, t0+9000, 1)); got != 4 {
		t.Errorf("after 5 000 other template ids: want the layout of 4 octets, got %d", got)
	}
}

// A port that sends only data sets keeps the layout with which its data was decoded.
func TestATemplateOfAThirdPortDoesNotDisplaceALayoutForAPortOfDataAlone(t *testing.T) {
	s, _ := newStore("r")
	learn(t, s, t0, 9001, 4)
	data(s, exporterA, 9000, t0, 1)
	learn(t, s, t0+1, 7777, 8)
	if got := lengthOf(data(s, exporterA, 9000, t0+2, 1)); got != 4 {
		t.Errorf("after a template from a third port: want the layout of 4 octets, got %d", got)
	}
	learn(t, s, t0+3, 9001, 16) // the exporter's own redefinition
	if got := lengthOf(data(s, exporterA, 9000, t0+4, 1)); got != 16 {
		t.Errorf("after a redefinition from the port of its template: want the layout of 16 octets, got %d", got)
	}
}

// The port of an honest exporter stays a source of its layout when others send the
// same layout from more ports than are remembered.
func TestASourceWithDataIsNotDisplacedByOthers(t *testing.T) {
	s, _ := newStore("r")
	learn(t, s, t0, 2055, 4)
	data(s, exporterA, 2055, t0, 1)
	for i := range uint16(20) {
		learn(t, s, t0+1+int64(i), 8000+i, 4)
	}
	for i := range uint16(20) { // and go over to another
		learn(t, s, t0+100+int64(i), 8000+i, 8)
	}
	if got := lengthOf(data(s, exporterA, 2055, t0+200, 1)); got != 4 {
		t.Errorf("want the layout of 4 octets, got %d", got)
	}
}

// Two replicas, of which one spares a source, must not publish against each other.
func TestASparedSourceIsNoReasonToPublishAgain(t *testing.T) {
	a, ac := newStore("a")
	b, bc := newStore("b")
	learn(t, a, t0, 2055, 4)
	data(a, exporterA, 2055, t0, 1)
	for i := range uint16(20) {
		learn(t, a, t0+1+int64(i), 8000+i, 4)
		learn(t, b, t0+1+int64(i), 8000+i, 4)
	}
	learn(t, a, t0+100, 7777, 8)
	learn(t, b, t0+100, 7777, 8)
	records := 0
	for range 100 {
		ac.ns, bc.ns = ac.ns+1e8, bc.ns+1e8
		ra, rb := publish(t, a), publish(t, b)
		records += len(ra) + len(rb)
		merge(t, b, ra...)
		merge(t, a, rb...)
	}
	if records > 24 { // two layouts, two keys, two replicas, and their confirmation
		t.Errorf("published in 10 s: want at most 24 records, got %d", records)
	}
}

// forge fills s with so many definitions of as many exporters, a template and one
// data set each.
func forge(tb testing.TB, s *Store, n int, c *clock) {
	tb.Helper()
	for i := range n {
		c.ns += 10_000
		if err := learnID(s, spoofed(i), c.ns, 300); err != nil {
			tb.Fatal(err)
		}
		if !decodeWith(s, spoofed(i), c.ns) {
			tb.Fatal("forged data is not decoded")
		}
	}
}

// Forgeries, each with a data set, fill the store. Then 100 new exporters come, each
// with its template first and its data afterwards, as one that restarts does. The
// store is a tenth of the default one, in short mode a fiftieth: the rule knows no
// numbers, and a million definitions take 2 GiB.
func TestForgedDefinitionsWithDataDoNotKeepNewExportersOut(t *testing.T) {
	n := 100_000
	if testing.Short() {
		n = 20_000
	}
	honest := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{198, 51, 100, byte(i)}) }
	for _, tt := range []struct {
		name  string
		n     int
		later int64
	}{{"at once", n / 5, 0}, {"a minute later", n, 2 * minute}} {
		t.Run(tt.name, func(t *testing.T) {
			c := &clock{t0}
			s := New(Options{Now: c.now, MaxTotal: tt.n})
			old := netip.MustParseAddr("192.0.2.200")
			if err := learnID(s, old, t0, 300); err != nil {
				t.Fatal(err)
			}
			for i := range 100 {
				decodeWith(s, old, t0+int64(i))
			}
			forge(t, s, tt.n+tt.n/10, c)
			if st := s.Stats(); st.Definitions != tt.n || st.Refused != 0 {
				t.Fatalf("want %d definitions and none refused, got %+v", tt.n, st)
			}
			c.ns += tt.later
			for i := range 100 {
				c.ns += 10_000
				if err := learnID(s, honest(i), c.ns, 300); err != nil {
					t.Errorf("new exporter %d: %v", i, err)
				}
			}
			forge(t, s, tt.n/100, c) // goes on
			for i := range 100 {
				for set := range int64(2) {
					if !decodeWith(s, honest(i), c.ns+minute/2+set) {
						t.Errorf("new exporter %d: data set %d is not decoded", i, set)
					}
				}
			}
			c.ns += 2 * minute
			forge(t, s, tt.n/10, c)
			for i := range 100 {
				if !decodeWith(s, honest(i), c.ns) {
					t.Errorf("exporter %d, 2 minutes later: not decoded", i)
				}
			}
			if !decodeWith(s, old, c.ns) {
				t.Error("an old exporter with 100 data sets: not decoded")
			}
		})
	}
}

// Of equal ones the one longest without data goes, and none younger than a minute
// while there is an older one with a single data set.
func TestWhichDefinitionGoesAtTheLimitInTotal(t *testing.T) {
	c := &clock{t0}
	s := New(Options{Now: c.now, MaxTotal: 4})
	set := func(i, n int) {
		for range n {
			if !decodeWith(s, spoofed(i), c.ns) {
				t.Fatalf("exporter %d has no definition", i)
			}
			s.takeUses()
		}
	}
	add := func(i int) {
		if err := learnID(s, spoofed(i), c.ns, 300); err != nil {
			t.Fatal(err)
		}
	}
	known := func(what string, want ...int) {
		t.Helper()
		for i := range 8 {
			is := s.Known(keyOf(spoofed(i), 7, 300), 1) != nil
			wanted := false
			for _, w := range want {
				wanted = wanted || w == i
			}
			if is != wanted {
				t.Errorf("%s: exporter %d is known: want %v, got %v", what, i, wanted, is)
			}
		}
	}
	for i := range 4 {
		add(i)
		c.ns += 1e9
	}
	set(1, 1)
	c.ns += 1e9
	set(0, 1)
	set(2, 3)
	set(3, 10)
	c.ns += 2 * minute
	add(4) // one of 0 and 1 goes: 1 is longer without data
	known("a fifth", 0, 2, 3, 4)
	add(5) // 4 has no set, but is young
	known("a sixth", 2, 3, 4, 5)
	add(6) // 2 has three sets
	known("a seventh", 3, 4, 5, 6)
	add(7) // now the young ones are those with the fewest
	known("an eighth", 3, 5, 6, 7)
}
