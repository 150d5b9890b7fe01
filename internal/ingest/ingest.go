// Package ingest receives export datagrams over UDP, decodes them and publishes
// flows and exporter state.
package ingest

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"weir/internal/telemetry"
)

// Run is the whole service: cmd/ingest calls it.
func Run(ctx context.Context, c Config) error {
	if len(c.Listen) == 0 {
		return errors.New("LISTEN_UDP is empty: want at least one host:port to receive on")
	}
	log := slog.Default()
	reg := telemetry.NewRegistry()
	r, err := New(c, Deps{Log: log, Now: time.Now, Metrics: reg})
	if err != nil {
		return err
	}
	pages, stop := context.WithCancel(context.WithoutCancel(ctx)) // /readyz answers while shutting down
	defer stop()
	g, ctx := errgroup.WithContext(ctx)
	if c.MetricsListen != "" {
		g.Go(func() error {
			return telemetry.Serve(pages, c.MetricsListen, reg, r.Ready, func(addr string) { log.Info("metrics", "address", addr) })
		})
	}
	g.Go(func() error {
		defer stop()
		return r.Run(ctx)
	})
	return g.Wait()
}
