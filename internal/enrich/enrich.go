// Package enrich pairs the flows of netflow.flows into connections, names
// their ends and publishes them on netflow.connections, exactly once.
package enrich

import (
	"context"
	"log/slog"
	"time"

	"weir/internal/telemetry"
)

// Run is the whole service: cmd/enrich calls it.
func Run(ctx context.Context, c Config) error {
	reg := telemetry.NewRegistry()
	w, err := New(c, Deps{Log: slog.Default(), Now: time.Now, Metrics: reg})
	if err != nil {
		return err
	}
	return telemetry.Beside(ctx, c.MetricsListen, reg, w.Ready, w.Run)
}
