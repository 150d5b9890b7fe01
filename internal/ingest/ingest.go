// Package ingest is the service that receives NetFlow and IPFIX over UDP, TCP and TLS, decodes it and
// publishes flows, template definitions, options facts and counts of received data on Kafka.
//
// A Replica shares template state with all other replicas through the templates topic: data may be
// sent to a replica that never received its template. A data set without a template waits in memory
// (setBuffer) for PARK_FOR, then on the undecoded topic (undecoded).
//
// A datagram passes through the package as follows. transport reads it from a socket and calls the worker
// of that socket. The worker removes a PROXY header, drops denied exporters, decodes the message with the
// templates of the exporter, counts it in its tally, and hands the flows to Kafka's client. Nothing on this
// path waits for Kafka: at a limit, flows are dropped and counted.
//
// Beside the workers, single goroutines publish and read templates (publish.go), decode buffered sets
// (buffer.go, receive.go), read the undecoded topic (undecoded.go), publish and complete the accounts of
// received data (account.go, recover.go), and move the labels of metrics (labels.go).
//
// Every source address may be forged. State per exporter, per template and per label is therefore bounded,
// and the bounds prefer exporters with activity over time.
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

// Run runs the service until ctx ends; cmd/ingest calls it. It sets the memory limit of the Go runtime, so
// a process must call it only once. An error means that the service cannot run, for example because of a
// wrong file; losing Kafka is not an error.
func Run(ctx context.Context, c Config) error {
	if len(c.Listen)+len(c.Streams.TCP)+len(c.Streams.TLS) == 0 {
		return errors.New("LISTEN_UDP, LISTEN_TCP and LISTEN_TLS are empty: want at least one host:port to receive on")
	}
	if err := elements.Load(c.ElementsFile); err != nil {
		return err
	}
	debug.SetMemoryLimit(int64(c.heapMax())) // the garbage collector keeps the heap below MEMORY_MAX
	reg := telemetry.NewRegistry()
	r, err := New(c, Deps{Log: slog.Default(), Now: time.Now, Metrics: reg})
	if err != nil {
		return err
	}
	return telemetry.Beside(ctx, c.MetricsListen, reg, r.Ready, r.Run)
}
