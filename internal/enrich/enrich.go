// Package enrich pairs the flows of netflow.flows into connections, names
// their ends and publishes them on netflow.connections, exactly once.
package enrich

import (
	"context"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"weir/internal/telemetry"
)

// Run is the whole service: cmd/enrich calls it.
func Run(ctx context.Context, c Config) error {
	log := slog.Default()
	reg := telemetry.NewRegistry()
	w, err := New(c, Deps{Log: log, Now: time.Now, Metrics: reg})
	if err != nil {
		return err
	}
	pages, stop := context.WithCancel(context.WithoutCancel(ctx)) // /readyz answers while shutting down
	defer stop()
	g, ctx := errgroup.WithContext(ctx)
	if c.MetricsListen != "" {
		g.Go(func() error {
			return telemetry.Serve(pages, c.MetricsListen, reg, w.Ready, func(addr string) { log.Info("metrics", "address", addr) })
		})
	}
	g.Go(func() error {
		defer stop()
		return w.Run(ctx)
	})
	return g.Wait()
}
