package ingest

import (
	"context"
	"errors"
	"log/slog"
	"net"
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

// A logHook is a slog.Handler that calls a function for each message.
type logHook struct {
	slog.Handler
	call func(msg string)
}

// Handle implements slog.Handler.
func (h logHook) Handle(_ context.Context, rec slog.Record) error {
	h.call(rec.Message)
	return nil
}

// Enabled implements slog.Handler.
func (logHook) Enabled(context.Context, slog.Level) bool { return true }

// WithAttrs implements slog.Handler.
func (h logHook) WithAttrs([]slog.Attr) slog.Handler { return h }

// The producers are closed when Run logs its end: a set that a loop decoded then would be lost.
func TestNoLoopDecodesBufferedSetsAfterTheProducersAreClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := config("127.0.0.1:1", "r")
		c.ParkMax = 1 << 20
		c.Kafka.Dial = func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("no network") }
		var r *Replica
		left := -1
		log := slog.New(logHook{slog.DiscardHandler, func(msg string) {
			if msg != "ended" {
				return
			}
			r.barrierAt.Store(time.Now().UnixNano()) // sets expire from here on
			if !r.buffer.put(aSet(netip.MustParseAddr("192.0.2.1"), 300, 100), time.Now()) {
				t.Error("the set is not buffered")
			}
			time.Sleep(time.Hour) // of the bubble's clock: far beyond PARK_FOR
			left, _ = r.buffer.held()
		}})
		var err error
		if r, err = New(c, Deps{Log: log, Now: time.Now}); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- r.Run(ctx) }()
		time.Sleep(time.Minute)
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
		if left != 1 {
			t.Errorf("sets that are buffered after the producers were closed: want 1 left alone, got %d", left)
		}
	})
}
