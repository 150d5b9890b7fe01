// Package enrich pairs the flows of netflow.flows into connections, annotates them with names and publishes them on
// netflow.connections, exactly once.
//
// Each partition of flows has a pair.Machine. One Kafka transaction commits the connections of a batch, the changes of
// the machine's state on the pairing topic, and the offset with a restore point. A member that takes over a partition
// replays the pairing topic between the offsets of its restore point, and so continues from the same state. The
// machines belong to the goroutine of the session: only it may use them.
package enrich

import (
	"context"
	"log/slog"
	"time"

	"weir/internal/telemetry"
)

// Run runs the service with its HTTP server for metrics and readiness until ctx ends. cmd/enrich calls it.
func Run(ctx context.Context, c Config) error {
	reg := telemetry.NewRegistry()
	w, err := New(c, Deps{Log: slog.Default(), Now: time.Now, Metrics: reg})
	if err != nil {
		return err
	}
	return telemetry.Beside(ctx, c.MetricsListen, reg, w.Ready, w.Run)
}
