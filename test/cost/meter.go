package main

import (
	"errors"
	"runtime"
	"runtime/debug"
	"strings"
)

// A cost holds the cost of a sequence.
type cost struct {
	octets                 uint64  // received
	changes                int     // new or changed definitions and options facts
	due                    int     // reports of streams, at one per minute
	honest                 float64 // statements that honest datagrams of the same sizes take
	work                   profile
	allocated              uint64 // octets
	flows, shared, reports uint64 // octets to Kafka, by topic
	kept                   uint64 // octets of heap; 0 unless measured
	accounted              uint64 // octets that the stores report as used

	allocators, keepers map[string]uint64 // octets by function; nil unless explained
}

func (c *cost) kafka() uint64 { return c.flows + c.shared + c.reports }

// topic is the topic that most octets go to.
func (c *cost) topic() string {
	return largest(map[string]uint64{"flows": c.flows, "templates": c.shared, "exporters": c.reports})
}

// A meter measures sequences, one at a time. It runs garbage collections itself: a collection in
// the middle of a sequence would be counted.
type meter struct {
	counter               *counter
	udp                   worker
	base                  uint64  // live heap with a target without state, octets
	perOctet, perDatagram float64 // statements of honest datagrams
	perMinute             float64 // statements of the search for expired state
}

// collectAt is the heap at which a meter collects, octets.
const collectAt = 128 << 20

// newMeter returns a meter that has measured the cost of honest datagrams. It turns the garbage
// collector off.
func newMeter() (*meter, error) {
	c, err := newCounter()
	if err != nil {
		return nil, err
	}
	debug.SetGCPercent(-1)
	runtime.GOMAXPROCS(1) // only one goroutine measures, and a reading, which stops the world, costs less
	m := &meter{counter: c}
	m.udp.result.Buf = make([]byte, 0, 8<<20)
	return m, m.calibrate()
}

// measure runs a sequence on a target without state. With kept it measures the heap that
// the sequence leaves, which takes a collection.
func (m *meter) measure(packets []packet, kept bool) (c cost, err error) {
	var before, after runtime.MemStats
	t := newTarget(&m.udp)
	if err := m.counter.reset(); err != nil {
		return c, err
	}
	runtime.ReadMemStats(&before)
	t.take(packets)
	runtime.ReadMemStats(&after)
	if c.work, err = m.counter.read(); err != nil {
		return c, err
	}
	c.work.exclude("weir/test/cost")
	c.octets, c.allocated, c.flows, c.shared, c.reports = t.received, after.TotalAlloc-before.TotalAlloc, t.flows, t.shared, t.reports
	minutes := t.now.Sub(start).Minutes()
	c.accounted, c.changes, c.due = accounted(t), t.changes, len(t.streams)*(1+int(minutes))
	c.honest = m.perMinute * minutes
	for i := range packets {
		c.honest += m.perDatagram + m.perOctet*float64(len(packets[i].octets))
	}
	switch {
	case kept:
		runtime.GC()
		runtime.ReadMemStats(&after)
		c.kept = after.HeapAlloc - min(after.HeapAlloc, m.base)
		runtime.KeepAlive(t)
	case after.HeapAlloc > collectAt:
		runtime.GC()
	}
	return c, nil
}

// rebase measures the live heap with a target without state.
func (m *meter) rebase() {
	var s runtime.MemStats
	t := newTarget(&m.udp)
	runtime.GC()
	runtime.ReadMemStats(&s)
	m.base = s.HeapAlloc
	runtime.KeepAlive(t)
}

// explain measures a sequence with the heap, and determines the functions that allocate and the
// part of their memory that remains in use.
func (m *meter) explain(packets []packet) (cost, error) {
	m.rebase()
	c, err := m.measure(packets, true)
	if err != nil {
		return c, err
	}
	rate := runtime.MemProfileRate
	runtime.MemProfileRate = 1
	defer func() { runtime.MemProfileRate = rate }()
	t := newTarget(&m.udp)
	allocated, kept := sites()
	t.take(packets)
	c.allocators, c.keepers = sites()
	runtime.KeepAlive(t)
	for k := range c.allocators {
		c.allocators[k] -= allocated[k]
		c.keepers[k] -= min(c.keepers[k], kept[k])
	}
	return c, nil
}

// sites returns, for each function of the code under test, the octets allocated since the start and
// the octets in use.
func sites() (allocated, kept map[string]uint64) {
	runtime.GC()
	runtime.GC() // the heap profile is as of the collection before the last
	allocated, kept = map[string]uint64{}, map[string]uint64{}
	n, _ := runtime.MemProfile(nil, true)
	records := make([]runtime.MemProfileRecord, n+1000)
	n, _ = runtime.MemProfile(records, true)
	for i := range records[:n] {
		r := &records[i]
		name := site(r.Stack())
		allocated[name] += uint64(r.AllocBytes)
		kept[name] += uint64(r.InUseBytes())
	}
	return allocated, kept
}

// site returns the innermost function of the code under test.
func site(stack []uintptr) string {
	for frames := runtime.CallersFrames(stack); ; {
		f, more := frames.Next()
		if name, ok := strings.CutPrefix(f.Function, "weir/internal/"); ok {
			name, _, _ = strings.Cut(name, "[")
			return name
		}
		if !more {
			return "elsewhere"
		}
	}
}

// calibrate measures honest datagrams of two sizes, and a minute without input.
func (m *meter) calibrate() error {
	m.rebase()
	const n = 2
	var failed error
	statements := func(g *genome) float64 {
		_, err := m.measure(g.render(), false) // the first time something may grow
		c, again := m.measure(g.render(), false)
		failed = errors.Join(failed, err, again)
		return float64(c.work.total)
	}
	few, many := (statements(honest(4, 2*n))-statements(honest(4, n)))/n, (statements(honest(12, 2*n))-statements(honest(12, n)))/n
	small, large := float64(len(honest(4, 1).render()[1].octets)), float64(len(honest(12, 1).render()[1].octets))
	m.perOctet = (many - few) / (large - small)
	m.perDatagram = few - m.perOctet*small
	idle := func(gap uint16) *genome {
		return &genome{messages: []message{{source: 1, version: 9, repeat: 1, gap: gap}}}
	}
	m.perMinute = statements(idle(61_000)) - statements(idle(0))
	return failed
}
