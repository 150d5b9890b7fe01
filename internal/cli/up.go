package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"weir/internal/cli/console"
	"weir/internal/cli/pipeline"
	"weir/internal/cli/up"
	"weir/internal/settings"
)

const upAbout = `Runs everything in one process: an embedded broker, two ingest replicas that
receive the datagrams in turn, and enrich. Connections are printed on stdout as
they close, everything else on stderr. SIGINT ends it; open connections are then
closed and printed. A page on --page shows the current traffic: rates, talkers,
services, the newest connections, exporters.

It is for evaluation and development: the broker keeps little, in memory.
The environment variables PAIR_* and DNS_* work as for enrich.`

// runUp implements the verb up.
func runUp(args []string, _ io.Reader, stdout, stderr io.Writer) int {
	f := console.NewFlags("up", "[flag]...", upAbout)
	o := up.Options{Environ: settings.WithPrefix(os.Environ(), "PAIR_", "DNS_")}
	f.StringVar(&o.Kafka, "kafka", "127.0.0.1:9092", "`HOST:PORT` of the embedded broker (default 127.0.0.1:9092)")
	listen := f.String("listen", ":2055,:4739",
		"comma-separated `LIST` of UDP addresses to receive on (default :2055,:4739)")
	f.StringVar(&o.Metrics, "metrics", "127.0.0.1:9108",
		"`HOST:PORT` of /metrics, /healthz and /readyz (default 127.0.0.1:9108); empty: none")
	f.StringVar(&o.Exporters, "exporters", os.Getenv("EXPORTERS_FILE"),
		"YAML `FILE` of exporters: names, sites, sampling rates, interfaces, allow-list "+
			"(default $EXPORTERS_FILE); read again when it changes")
	f.StringVar(&o.Page, "page", "127.0.0.1:8055",
		"`HOST:PORT` of the page for browsers (default 127.0.0.1:8055); empty: none")
	f.BoolVar(&o.JSON, "json", false, "print connections as JSON Lines")
	rest, code, ok := f.ParseArgs(args, stdout, stderr)
	if !ok {
		return code
	}
	if len(rest) > 0 {
		return f.UsageError(stderr, fmt.Sprintf("unexpected argument %q", rest[0]))
	}
	if _, err := pipeline.EnrichConfig("127.0.0.1:9092", o.Environ); err != nil {
		console.Linef(stderr, "weir up: settings:\n%v", err)
		return console.ExitUsage
	}
	o.Listen = strings.Split(*listen, ",")
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := up.Run(ctx, o, stdout, stderr); err != nil {
		console.Linef(stderr, "weir up: %v", err)
		return console.ExitFailed
	}
	return console.ExitDone
}
