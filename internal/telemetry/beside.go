package telemetry

import (
	"context"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
)

// Beside runs work with the pages beside it, on addr (host:port; empty: none).
// They answer until work has ended, so that /readyz tells of a shutdown. A
// failure of either ends both.
func Beside(ctx context.Context, addr string, reg *prometheus.Registry, ready func() error, work func(context.Context) error) error {
	pages, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	g, ctx := errgroup.WithContext(ctx)
	if addr != "" {
		g.Go(func() error {
			return Serve(pages, addr, reg, ready, func(addr string) { slog.Info("metrics", "address", addr) })
		})
	}
	g.Go(func() error {
		defer stop()
		return work(ctx)
	})
	return g.Wait()
}
