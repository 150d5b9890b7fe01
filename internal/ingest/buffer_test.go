package ingest

import (
	"log/slog"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"weir/internal/decode"
	"weir/internal/weirtest/locked"
)

func aSet(from netip.Addr, id uint16, octets int) *decode.Set {
	return &decode.Set{Meta: decode.Meta{Exporter: from, Port: 9}, Header: decode.Header{Version: 9}, ID: id, Data: make([]byte, octets)}
}

// While Kafka is away nothing is over. Sets that come and are decoded meanwhile
// leave nothing behind, whatever waits before them.
func TestParkingKeepsNothingOfTheSetsThatWereTaken(t *testing.T) {
	p := setBuffer{max: 1 << 20, wait: time.Second}
	now := time.Unix(1_700_000_000, 0)
	one, two := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	p.put(aSet(one, 256, 100), now)
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	const sets, octets = 20_000, 1000
	for range sets {
		if !p.put(aSet(two, 257, octets), now) {
			t.Fatal("want room")
		}
		if got := p.removeReady([][16]byte{decode.Map16(two)}, false, func(*decode.Set) bool { return true }); len(got) != 1 {
			t.Fatalf("want one set, got %d", len(got))
		}
		if got := p.removeExpired(now.Add(time.Hour), time.Time{}); len(got) != 0 {
			t.Fatalf("before the barrier: want none, got %d", len(got))
		}
	}
	if after := heap(); after > before+sets*octets/10 {
		t.Errorf("want nothing kept of %d octets, got %d", sets*octets, after-before)
	}
	if n, _ := p.held(); n != 1 {
		t.Errorf("want one set held, got %d", n)
	}
}

// The buffer is full of empty sets of one exporter. A template of it must cost a bounded number of
// look-ups at a time, and receivers must not wait for any of them.
func TestALookAtBufferedSetsIsBoundedAndHoldsNoLock(t *testing.T) {
	p := setBuffer{max: 16 << 20, wait: time.Second}
	now := time.Unix(1_700_000_000, 0)
	flooded, honest := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	n := 0
	for p.put(aSet(flooded, uint16(256+n%60_000), 0), now) {
		n++
	}
	p.max += 1 << 10
	p.put(aSet(honest, 300, 4), now)
	looks, found := 0, 0
	is := func(s *decode.Set) bool {
		looks++
		if !p.mu.TryLock() {
			t.Fatal("the lock that receivers need is held while a template is looked up")
		}
		p.mu.Unlock()
		return s.Meta.Exporter == honest
	}
	found += len(p.removeReady([][16]byte{decode.Map16(flooded), decode.Map16(honest)}, false, is))
	if looks > maxScans || found != 1 {
		t.Errorf("want at most %d looks and the honest set, got %d and %d sets", maxScans, looks, found)
	}
	for range n/maxScans + 1 {
		p.removeReady(nil, false, is)
	}
	if looks != n+1 {
		t.Errorf("want each of %d sets looked at once, got %d", n+1, looks)
	}
	// A template that arrives during a scan begins another scan.
	looks = 0
	p.removeReady([][16]byte{decode.Map16(flooded)}, false, is)
	p.removeReady([][16]byte{decode.Map16(flooded)}, false, is)
	for range 3 * n / maxScans {
		p.removeReady(nil, false, is)
	}
	if looks != 2*n {
		t.Errorf("want each of %d sets looked at twice, got %d looks", n, looks)
	}
	if got := p.removeReady(nil, true, func(*decode.Set) bool { return true }); len(got) != maxScans {
		t.Errorf("of all: want %d sets at a time, got %d", maxScans, len(got))
	}
	if got := p.removeExpired(now.Add(time.Hour), now); len(got) != n-maxScans {
		t.Errorf("over: want the other %d, got %d", n-maxScans, len(got))
	}
	if p.all.first != nil || len(p.by) != 0 {
		t.Error("want nothing left")
	}
}

// PARK_FOR=0s: no set waits in memory.
func TestParkForZeroSendsSetsToTheTopicAtOnce(t *testing.T) {
	b := embedded(t)
	var log locked.Buffer
	c := config(b.Addr(), "r")
	c.ParkFor = 0
	r, stop := start(t, c, &log)
	eventually(t, "ready", func() bool { return r.Ready() == nil })
	r.Receive(packet(t, "v9_data.hex"), exporterAt, time.Now())
	if n, _ := r.buffer.held(); n != 0 || r.Stats().Buffered != 0 {
		t.Errorf("want nothing buffered, got %d", n)
	}
	eventually(t, "the set is on the topic", func() bool { return r.lateSets(lateAppended) == 1 })
	r.Receive(packet(t, "v9_template.hex"), exporterAt, time.Now())
	eventually(t, "it is decoded", func() bool { return r.lateSets(lateDecoded) == 1 })
	if err := stop(); err != nil {
		t.Errorf("shutdown: %v", err)
	}
	committedFlows(t, b.Addr(), 24)
}

// Ten thousand forged templates that are missing do not silence the warning of an honest exporter's template.
func TestAMissingTemplateIsToldAfterAFlood(t *testing.T) {
	var log locked.Buffer
	now := time.Unix(1_700_000_000, 0)
	w := newWatch(slog.New(slog.NewTextHandler(&log, nil)), now, func() []string { return nil })
	honest := aSet(netip.MustParseAddr("192.0.2.1"), 256, 0)
	forged := 0
	forge := func(n int, at time.Time) {
		for range n {
			forged++
			w.waiting(aSet(netip.AddrFrom4([4]byte{10, byte(forged >> 16), byte(forged >> 8), byte(forged)}), 256, 0), at)
		}
	}
	forge(2*maxMissing, now)
	if n := w.missing.Len(); n > maxMissing {
		t.Errorf("want at most %d remembered, got %d", maxMissing, n)
	}
	// The flood goes on; the honest exporter sends a set a second.
	for i := range 180 {
		at := now.Add(time.Duration(i) * time.Second)
		forge(1000, at)
		w.waiting(honest, at)
	}
	if n := strings.Count(log.String(), "exporter=192.0.2.1 "); n < 1 || n > 3 {
		t.Errorf("want the honest exporter reported once a minute at most, got %d lines", n)
	}
	before := strings.Count(log.String(), "a missing template came")
	for k := range w.missing.All() {
		w.found(k, now.Add(180*time.Second))
	}
	if n := strings.Count(log.String(), "a missing template came") - before; n > 100 {
		t.Errorf("want few lines for forged templates, got %d", n)
	}
}
