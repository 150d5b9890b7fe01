package templates

import (
	"errors"
	"testing"
	"time"

	"weir/internal/decode"
	"weir/internal/wire"
)

// A flood of templates beyond the budget must cost no allocation for each.
func TestATemplateBeyondTheBudgetAllocatesNothing(t *testing.T) {
	s, c := newStore("r1")
	d := &decode.Decoder{State: s}
	var r decode.Result
	n := 0
	send := func() {
		c.ns++
		n++
		d.Wire(oneFieldTemplates(0, n), &decode.Meta{Exporter: exporterA, Port: 1, Received: c.ns}, &r)
	}
	for range 100 { // 16 800 templates of 72 octets: more than 1 MiB
		send()
	}
	refused := s.Stats().OverBudget
	made := testing.AllocsPerRun(20, func() { _ = oneFieldTemplates(0, n) })
	if got := testing.AllocsPerRun(20, send); got > made {
		t.Errorf("168 templates that are refused take %v allocations, and their datagram %v: want no more", got, made)
	}
	if got := s.Stats().OverBudget - refused; got != 21*168 || len(r.Errors) != 168 {
		t.Errorf("refused: want %d and 168 errors a datagram, got %d and %d", 21*168, got, len(r.Errors))
	}
}

// A sender can have known templates decided anew: eight layouts of an id, in turn from
// eight ports. That has a budget, as new ones have.
func TestTemplatesThatTakeTurnsHaveABudget(t *testing.T) {
	s, c := newStore("r1")
	d := &decode.Decoder{State: s}
	var r decode.Result
	var pkts [][]byte
	for n := range 8 {
		pkts = append(pkts, oneFieldTemplates(0, n))
	}
	octets := 0
	send := func(n int) {
		for range n {
			for i := range 64 {
				c.ns++
				octets += len(pkts[i/8])
				d.Wire(pkts[i/8], &decode.Meta{Exporter: exporterA, Port: uint16(i % 8), Received: c.ns}, &r)
			}
		}
	}
	send(16) // 172 032 templates
	octets = 0
	if made := allocatedBy(func() { send(2) }); made > uint64(octets)/10 {
		t.Errorf("%d octets of known templates beyond the budget allocate %d: want a tenth at most", octets, made)
	}
	if got := s.Stats(); got.OverBudget == 0 || got.Definitions != 8*168 {
		t.Errorf("want 1 344 definitions and some refused, got %+v", got)
	}
	// A minute later the exporter has a budget again: its port 1 changes to another layout.
	c.ns += minute
	d.Wire(pkts[3], &decode.Meta{Exporter: exporterA, Port: 1, Received: c.ns}, &r)
	if got := lengthOf(s.Known(keyOf(exporterA, 7, 256), 1)); got != 4 || len(r.Errors) > 0 {
		t.Errorf("layout in force for port 1: want that of 4 octets, got %d and errors %v", got, r.Errors)
	}
}

// An exporter that sends its templates in each datagram spends nothing of what it has for
// new ones, and for another layout of a known one.
func TestTemplatesInEachDatagramLeaveTheBudgetForNewOnes(t *testing.T) {
	s, c := newStore("r1")
	d := &decode.Decoder{State: s}
	var r decode.Result
	send := func(n int) {
		c.ns++
		d.Wire(oneFieldTemplates(0, n), &decode.Meta{Exporter: exporterA, Port: 1, Received: c.ns}, &r)
		if len(r.Errors) > 0 || len(r.Templates) != 168 {
			t.Fatalf("want 168 templates, got %d and errors %v", len(r.Templates), r.Errors)
		}
	}
	send(1)
	send(0)
	for range 1000 { // 168 000 templates within a µs
		send(0)
	}
	made := testing.AllocsPerRun(10, func() { _ = oneFieldTemplates(0, 0) })
	if got := testing.AllocsPerRun(10, func() { send(0) }); got > made {
		t.Errorf("168 templates that are not noted take %v allocations, and their datagram %v: want no more", got, made)
	}
	send(1) // after a restart
	if got := lengthOf(s.Known(keyOf(exporterA, 7, 256), 1)); got != 2 {
		t.Errorf("layout in force: want that of 2 octets, got %d", got)
	}
	send(2)
	if got := s.Stats(); got.OverBudget != 0 {
		t.Errorf("want none refused, got %d", got.OverBudget)
	}
}

// Facts that come again from two ports, which say different rates, have a budget too.
func TestFactsThatComeAgainHaveABudget(t *testing.T) {
	s, c := newStore("r1")
	d := &decode.Decoder{State: s}
	var r decode.Result
	send := func(n int) {
		for i := range n {
			c.ns++
			d.Wire(samplerRecords(0, 4000, byte(i%2+1)), &decode.Meta{Exporter: exporterA, Port: uint16(i % 2), Received: c.ns}, &r)
		}
	}
	d.Wire(samplerTemplate, &decode.Meta{Exporter: exporterA, Port: 1, Received: t0}, &r)
	send(20)
	before := s.Stats().FactConflicts
	send(20)
	if got := s.Stats().FactConflicts; got != before {
		t.Errorf("facts taken beyond the budget: want none, got %d", got-before)
	}
	for port := range uint16(2) {
		if rate, _ := s.Facts(key300).Rate(port, 0); rate != uint64(port+1) {
			t.Errorf("rate of port %d: want its own, got %d", port, rate)
		}
	}
}

// A session over TCP may define templates at a rate; what is refused is not decoded by
// the layout that its id had.
func TestDefinitionsOfASessionHaveABudget(t *testing.T) {
	s, c := newStore("r1")
	in := s.NewSession(nil)
	k := &decode.TemplateKey{Exporter: decode.Map16(exporterA), Domain: 7, ID: 300, Version: 10}
	learn := func(octets uint16) error {
		c.ns++
		_, err := in.Learn(k, &decode.Meta{Exporter: exporterA, Port: 1, Received: c.ns}, &decode.Header{Version: 10}, layout(octets))
		return err
	}
	taken := 0
	for ; taken < 100_000 && learn(uint16(1+taken%2)) == nil; taken++ {
	}
	if want := 4 << 20 / 72; taken != want { // 64 octets, and 8 of its field
		t.Errorf("definitions at once: want %d, got %d", want, taken)
	}
	if p := in.Plan(k, nil, nil); p != nil {
		t.Errorf("after a refused definition its id has a layout of %d octets: want none", lengthOf(p))
	}
	if err := learn(9); !errors.Is(err, wire.BadTemplate) || s.Stats().OverBudget != 2 {
		t.Errorf("want a refused template, and two counted, got %v and %+v", err, s.Stats())
	}
	c.ns += int64(time.Second)
	if err := learn(10); err != nil {
		t.Errorf("a second later: %v", err)
	}
}
