package templates

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"

	"weir/internal/decode"
	"weir/pkg/flowpb"
)

// heap returns the octets in use after a collection.
func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// wide makes a template of so many fields of one octet; nth makes it another.
func wide(id uint16, nth, fields int) *decode.Template {
	t := &decode.Template{ID: id}
	for i := range fields {
		t.Fields = append(t.Fields, decode.Field{PEN: uint32(nth + 1), ID: uint16(i + 1), Length: 1})
	}
	return t
}

// usual makes a template as routers send it; nth makes it another.
func usual(id uint16, nth int) *decode.Template {
	t := &decode.Template{ID: id}
	for _, f := range []uint16{8, 12, 15} {
		t.Fields = append(t.Fields, decode.Field{ID: f, Length: 4})
	}
	for _, f := range []uint16{7, 11, 16, 17} {
		t.Fields = append(t.Fields, decode.Field{ID: f, Length: 2})
	}
	for _, f := range []uint16{4, 5, 6, 9, 13, 61} {
		t.Fields = append(t.Fields, decode.Field{ID: f, Length: 1})
	}
	for _, f := range []uint16{1, 2, 10, 14, 21, 22} {
		t.Fields = append(t.Fields, decode.Field{ID: f, Length: 4})
	}
	t.Fields = append(t.Fields, decode.Field{PEN: uint32(nth + 1), ID: 1, Length: 2})
	return t
}

func learnTemplate(tb testing.TB, s *Store, a netip.Addr, domain uint32, port uint16, at int64, is *decode.Template) {
	tb.Helper()
	k := &decode.TemplateKey{Exporter: decode.Map16(a), Domain: domain, ID: is.ID, Version: 10}
	if _, err := s.Learn(k, &decode.Meta{Exporter: a, Port: port, Received: at}, &decode.Header{Version: 10}, is); err != nil {
		tb.Fatal(err)
	}
}

// The accounted octets must be within half and twice what the heap grows by, for
// each kind of entry alone.
func TestTheOctetsOfEverythingKeptAreAccounted(t *testing.T) {
	for _, tt := range []struct {
		name string
		n    int
		add  func(s *Store, i int)
	}{
		{"wide templates", 100, func(s *Store, i int) { learnTemplate(t, s, exporterA, 1, 1, t0, wide(uint16(300+i), i, 4000)) }},
		{"usual templates of one exporter", 2000, func(s *Store, i int) { learnTemplate(t, s, exporterA, 1, 1, t0, usual(uint16(300+i), i)) }},
		{"usual templates of many domains", 2000, func(s *Store, i int) { learnTemplate(t, s, exporterA, uint32(i), 1, t0, usual(300, i)) }},
		{"one template of many exporters", 20_000, func(s *Store, i int) { learnTemplate(t, s, spoofed(i), 1, 1, t0, usual(300, 0)) }},
		{"templates of one field of many exporters", 20_000, func(s *Store, i int) { learnTemplate(t, s, spoofed(i), 1, 1, t0, wide(300, i, 1)) }},
		{"one template from eight ports", 2000, func(s *Store, i int) {
			for port := range uint16(8) {
				learnTemplate(t, s, exporterA, 1, port, t0, usual(uint16(300+i), i))
			}
		}},
		{"data from eight ports", 2000, func(s *Store, i int) {
			learnTemplate(t, s, exporterA, 1, 1, t0, usual(uint16(300+i), i))
			k := &decode.TemplateKey{Exporter: decode.Map16(exporterA), Domain: 1, ID: uint16(300 + i), Version: 10}
			for port := range uint16(8) {
				s.Plan(k, &decode.Meta{Exporter: exporterA, Port: port, Received: t0}, &decode.Header{Version: 10})
				s.takeUses()
			}
		}},
		{"samplers", 4000, func(s *Store, i int) {
			learnFact(s, t0, decode.OptionsFact{What: flowpb.Fact_WHAT_SAMPLER, ID: uint64(i), Number: 10})
		}},
		{"names", 4000, func(s *Store, i int) {
			learnFact(s, t0, decode.OptionsFact{What: flowpb.Fact_WHAT_INTERFACE_NAME, ID: uint64(i), Text: fmt.Sprintf("interface %d", i)})
		}},
		{"long names", 4000, func(s *Store, i int) {
			learnFact(s, t0, decode.OptionsFact{What: flowpb.Fact_WHAT_INTERFACE_NAME, ID: uint64(i), Text: fmt.Sprintf("%01000d", i)})
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := &clock{t0}
			s := New(Options{Now: c.now})
			before := heap()
			for i := range tt.n {
				c.ns += 3e9 // within the budget of one exporter
				tt.add(s, i)
			}
			grown, accounted := heap()-before, s.Stats().Octets
			t.Logf("heap %d, accounted %d octets an entry: %.2f", grown/int64(tt.n), accounted/int64(tt.n), float64(accounted)/float64(grown))
			if accounted < grown/2 || accounted > 2*grown {
				t.Errorf("the heap grew by %d octets: want half to twice of that accounted, got %d", grown, accounted)
			}
			runtime.KeepAlive(s)
		})
	}
}

// Wide templates: what MaxExporterOctets says holds for one address, and what
// MaxUnconfirmedOctets says for all, on the heap too.
func TestDefinitionsAreBoundedByOctets(t *testing.T) {
	const most = 8 << 20
	for _, tt := range []struct {
		name     string
		o        Options
		exporter func(i int) netip.Addr
	}{
		{"one exporter", Options{MaxExporterOctets: most}, func(int) netip.Addr { return exporterA }},
		{"unconfirmed", Options{MaxUnconfirmedOctets: most}, spoofed},
		{"all", Options{MaxOctets: most, MaxUnconfirmedOctets: 1 << 40}, spoofed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := &clock{t0}
			tt.o.Now = c.now
			s := New(tt.o)
			before := heap()
			for i := range 400 {
				c.ns += 3e9 // within the budget of one exporter
				learnTemplate(t, s, tt.exporter(i), 1, 1, t0+int64(i), wide(uint16(300+i), i, 1000))
			}
			grown, st := heap()-before, s.Stats()
			if st.Octets > most+most/16 || st.Octets < most*7/8 || grown > 2*most {
				t.Errorf("want %d octets used, on the heap twice that at most; got %d, %d", most, st.Octets, grown)
			}
			if s.Known(&decode.TemplateKey{Exporter: decode.Map16(tt.exporter(399)), Domain: 1, ID: 699, Version: 10}, 1) == nil {
				t.Error("the newest definition is not known")
			}
			if st.Definitions+int(st.Evicted) != 400 {
				t.Errorf("want 400 definitions known or evicted, got %+v", st)
			}
			runtime.KeepAlive(s)
		})
	}
}

func TestFactsAreBoundedByOctetsAndSpareConfirmedDefinitions(t *testing.T) {
	const most = 1 << 20
	c := &clock{t0}
	s := New(Options{Now: c.now, MaxExporterOctets: most})
	learn(t, s, t0, 1, 4)
	decodeWith(s, exporterA, t0)
	s.Due()
	for i := range 4000 {
		c.ns += 1e8 // within the budget of one exporter
		learnFact(s, t0+int64(i), decode.OptionsFact{What: flowpb.Fact_WHAT_INTERFACE_NAME, ID: uint64(i), Text: fmt.Sprintf("%01000d", i)})
	}
	if st := s.Stats(); st.Octets > most*5/8 || st.Octets < most*3/8 || st.Definitions != 1 || st.Facts+int(st.Evicted) != 4000 {
		t.Errorf("want half of %d octets used, and the definition known; got %+v", most, st)
	}
	if s.Facts(key300).Name(0, flowpb.Fact_WHAT_INTERFACE_NAME, 3999) == "" {
		t.Error("the newest fact is not known")
	}
}

func TestATemplateLargerThanAnExportersOctetsIsRefused(t *testing.T) {
	s := New(Options{Now: (&clock{t0}).now, MaxExporterOctets: 64 << 10})
	k := &decode.TemplateKey{Exporter: decode.Map16(exporterA), Domain: 1, ID: 300, Version: 10}
	if _, err := s.Learn(k, &decode.Meta{Exporter: exporterA, Port: 1, Received: t0}, &decode.Header{Version: 10}, wide(300, 0, 4000)); err == nil {
		t.Error("want the template refused")
	}
	if got := s.Stats(); got != (Stats{Refused: 1}) {
		t.Errorf("want nothing kept and 1 refused, got %+v", got)
	}
}
