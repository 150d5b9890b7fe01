package templates

import (
	"runtime"
	"testing"
	"time"

	"weir/internal/decode"
	"weir/pkg/flowpb"
)

// A map does not shrink when its entries go. Facts that fill one domain after the other, and
// are displaced, must leave nothing behind that is not accounted.
func TestWhatIsDisplacedLeavesNoMemory(t *testing.T) {
	c := &clock{t0}
	s := New(Options{Replica: "r1", Now: c.now, MaxPerExporter: 4096})
	runtime.GC()
	before := heap()
	k := *key300
	say := func(domain uint32, id uint64) {
		k.Domain = domain
		c.ns++
		s.LearnFact(&k, &decode.Meta{Exporter: exporterA, Port: 1, Received: c.ns}, &decode.Header{Version: 9},
			decode.OptionsFact{What: flowpb.Fact_WHAT_SAMPLER, ID: id, Number: 2})
	}
	const domains = 24
	for domain := range uint32(domains) {
		for id := range uint64(4096) {
			c.ns += int64(10 * time.Millisecond) // the exporter's budget lets 256 a second through
			if id%128 == 0 {
				for old := range domain {
					say(old, 0) // keeps one there
				}
			}
			say(domain, id)
		}
	}
	runtime.GC()
	runtime.GC()
	grown, accounted := int64(heap()-before), s.Stats().Octets
	if grown > 2*accounted {
		t.Errorf("heap: want at most twice the %d octets accounted, got %d", accounted, grown)
	}
	runtime.KeepAlive(s)
}

// A clock that was years ahead at the start and is set back must not end the sweeps.
func TestAClockSetBackDoesNotEndExpiry(t *testing.T) {
	s, c := newStore("r1")
	c.ns += int64(365 * 24 * time.Hour)
	s.Due() // sweeps
	c.ns = t0
	learn(t, s, t0, 1, 4)
	publish(t, s)
	c.ns += int64(lifetime) + int64(time.Hour)
	for range 3 {
		publish(t, s)
	}
	if got := s.Stats().Definitions; got != 0 {
		t.Errorf("definitions a day after the last reception: want none, got %d", got)
	}
}
