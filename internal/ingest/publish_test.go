package ingest

import (
	"log/slog"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"weir/internal/decode"
)

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
		r.passBarrier()
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
