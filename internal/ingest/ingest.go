// Package ingest receives export datagrams over UDP, decodes them and publishes
// flows and exporter state.
package ingest

import (
	"context"
	"errors"
	"log/slog"
	"runtime/debug"
	"time"

	"weir/internal/elements"
	"weir/internal/telemetry"
)

// Run is the whole service: cmd/ingest calls it.
func Run(ctx context.Context, c Config) error {
	if len(c.Listen)+len(c.Streams.TCP)+len(c.Streams.TLS) == 0 {
		return errors.New("LISTEN_UDP, LISTEN_TCP and LISTEN_TLS are empty: want at least one host:port to receive on")
	}
	if err := elements.Load(c.ElementsFile); err != nil {
		return err
	}
	debug.SetMemoryLimit(int64(c.heapMax())) // garbage makes no more of it
	reg := telemetry.NewRegistry()
	r, err := New(c, Deps{Log: slog.Default(), Now: time.Now, Metrics: reg})
	if err != nil {
		return err
	}
	return telemetry.Beside(ctx, c.MetricsListen, reg, r.Ready, r.Run)
}
