package telemetry

import (
	"context"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
)

// Beside runs work and serves the pages on addr (host:port; empty: no pages) until work
// returns. The end of ctx ends work but not the pages, so that /readyz can report a
// shutdown. If either fails, Beside ends both and returns the first error.
func Beside(
	ctx context.Context, addr string, reg *prometheus.Registry, ready func() error, work func(context.Context) error,
) error {
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
