// Package enrich pairs the flows of netflow.flows into connections, annotates them with names and publishes them on
// netflow.connections, exactly once.
//
// Each partition of flows has a pair.Machine. One Kafka transaction commits the connections of a batch, the changes of
// the machine's state on the pairing topic, and the offset with a restore point. A member that takes over a partition
// replays the pairing topic between the offsets of its restore point, and so continues from the same state. The
// machines belong to the goroutine of the session: only it may use them.
//
// A batch passes through the package as follows. The session hands the records of a partition to handler.Records, which
// decodes each into a FlowMessage, completes it with options data, and passes it to the machine of the partition.
// Connections that the machine emits are annotated, encoded and produced in the open transaction. At its end, Finish
// produces the changed state, and Metadata returns the restore point, which Kafka commits together with the offsets.
// Committed then adds the counts of the transaction to the metrics; after an abort they are dropped, since the flows
// are read again.
//
// Files: worker.go has the service and its goroutines, handler.go the transaction, point.go the restore point, facts.go
// options data, traffic.go and timeouts.go metrics that are derived from flows, clock.go the detection of wrong clocks.
package enrich

import (
	"context"
	"log/slog"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"weir/internal/telemetry"
)

// Run runs the service with its HTTP server for metrics and readiness until ctx ends. cmd/enrich calls it. It blocks.
// It registers the metrics of this service in a registry of its own, which telemetry.Beside serves.
func Run(ctx context.Context, c Config) error {
	reg := telemetry.NewRegistry()
	w, err := New(c, Deps{Log: slog.Default(), Now: time.Now, Metrics: reg})
	if err != nil {
		return err
	}
	return telemetry.Beside(ctx, c.MetricsListen, reg, w.Ready, func(ctx context.Context) error {
		ctx, stop := context.WithCancel(ctx)
		var beside sync.WaitGroup
		defer beside.Wait()
		defer stop()
		if os.Getenv("GOGC") == "" { // the operator's value takes precedence
			beside.Go(func() { limitGarbage(ctx, w.stats.octets.Load, debug.SetGCPercent) })
		}
		return w.Run(ctx)
	})
}
