package ingest

import (
	"encoding/binary"
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"weir/internal/decode"
	"weir/internal/templates"
)

// A topic of many records must not take more memory than definitions may, and no
// record of it may be lost. The records here are poison, so that each that is merged
// is counted.
func TestWhatWaitsForTheBarrierIsBounded(t *testing.T) {
	c := config("127.0.0.1:1", "r")
	c.Templates.Octets = 8 << 20
	r, err := New(c, Deps{Log: slog.New(slog.DiscardHandler), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	const n = 20_000
	value := make([]byte, 1000)
	for i := range uint64(n) {
		r.apply(binary.BigEndian.AppendUint64([]byte("poison"), i), value)
		if r.backlog.octets > c.Templates.Octets/backlogPart {
			t.Fatalf("after %d records: %d octets wait, want at most %d", i+1, r.backlog.octets, c.Templates.Octets/backlogPart)
		}
	}
	merged, waiting := int(counted(r.metrics.poison)), len(r.backlog.records)
	if merged == 0 || waiting == 0 || merged+waiting != n {
		t.Errorf("of %d records %d are merged and %d wait: want all, and some of both", n, merged, waiting)
	}
	r.apply(nil, value) // without a key: poison at once, and no barrier
	if got := int(counted(r.metrics.poison)); got != merged+1 || r.barrierAt.Load() != 0 {
		t.Errorf("a record without a key: want %d counted and the barrier not passed, got %d", merged+1, got)
	}
	r.passBarrier()
	if got := int(counted(r.metrics.poison)); got != n+1 || r.backlog.octets != 0 || len(r.backlog.at) != 0 {
		t.Errorf("after the barrier: want %d merged and nothing waiting, got %d and %d octets", n+1, got, r.backlog.octets)
	}
}

func TestABacklogKeepsTheLastRecordOfEachKey(t *testing.T) {
	var b backlog
	var want, got []string
	for i := range 10_000 {
		for _, k := range []string{"a", "b", "c"} {
			b.add(templates.Record{Key: []byte(k), Value: binary.BigEndian.AppendUint32(nil, uint32(i))})
		}
		if len(b.records) > 2*3+1024+1 {
			t.Fatalf("%d places for 3 keys", len(b.records))
		}
	}
	b.add(templates.Record{Key: []byte("a")}) // a removal
	if octets := 3*192 + 3*2 + 2*4; b.octets != octets {
		t.Errorf("want %d octets, got %d", octets, b.octets)
	}
	last := string(binary.BigEndian.AppendUint32(nil, 9999))
	want = []string{"b=" + last, "c=" + last, "a="}
	b.removeOldest(-1, func(rec templates.Record) { got = append(got, string(rec.Key)+"="+string(rec.Value)) })
	if !slices.Equal(got, want) || b.octets != 0 || len(b.records) != 0 {
		t.Errorf("want %q in this order, got %q, %d octets", want, got, b.octets)
	}
}

// A template log that refuses at once must not make the publisher spin: each new
// template wakes it.
func TestAPublisherWhoseRecordsAreRefusedTriesOnceASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, err := New(config("127.0.0.1:1", "r"), Deps{Log: slog.New(slog.DiscardHandler), Now: time.Now})
		if err != nil {
			t.Fatal(err)
		}
		exporter := netip.MustParseAddr("192.0.2.1")
		k := decode.TemplateKey{Exporter: decode.Map16(exporter), Domain: 7, ID: 300, Version: 9}
		m := decode.Meta{Exporter: exporter, Port: 1, Received: time.Now().UnixNano()}
		if _, err := r.store.Learn(&k, &m, &decode.Header{Version: 9},
			&decode.Template{ID: 300, Fields: []decode.Field{{ID: 1, Length: 4}}}); err != nil {
			t.Fatal(err)
		}
		r.barrierAt.Store(time.Now().UnixNano())
		go func() { _ = r.publisher(t.Context()) }()
		const seconds, wakesPerSecond = 10, 1000
		for range seconds * wakesPerSecond {
			r.wakePublisher()
			time.Sleep(time.Second / wakesPerSecond)
		}
		failed := int(counted(r.metrics.published.WithLabelValues("failed")))
		if failed < 2 || failed > 10*seconds {
			t.Errorf("%d wakes within %d s: want 2 to %d tries, got %d", seconds*wakesPerSecond, seconds, 10*seconds, failed)
		}
	})
}
