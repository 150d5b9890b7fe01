package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"weir/internal/cli/console"
	"weir/internal/cli/demo"
)

const demoAbout = `Shows the whole pipeline at work, without network, Kafka or settings: starts an
embedded broker, two ingest replicas, enrich and a small name server in this
process and replays captures of real exporters over UDP. Datagrams with
templates go to the first replica only, the others alternate between both replicas.
Then the clock of the pairing is advanced until all connections have closed, and
the connections are printed as a table.`

// runDemo implements the verb demo.
func runDemo(args []string, _ io.Reader, stdout, stderr io.Writer) int {
	f := console.NewFlags("demo", "[flag]...", demoAbout)
	asJSON := f.Bool("json", false, "print connections as JSON Lines, the summary on stderr")
	verbose := f.Bool("v", false, "print the logs of the services")
	rest, code, ok := f.ParseArgs(args, stdout, stderr)
	if !ok {
		return code
	}
	if len(rest) > 0 {
		return f.UsageError(stderr, fmt.Sprintf("unexpected argument %q", rest[0]))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	d := &demo.Demo{Log: slog.New(slog.DiscardHandler), Progress: console.NewProgress(stderr)}
	if *verbose {
		d.Log = slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{ReplaceAttr: console.WithoutTime}))
		d.Progress.AppendOnly() // log lines would break an overwritten line
	}
	err := d.Run(ctx)
	d.Progress.Clear()
	if err == nil {
		err = d.Report(*asJSON, stdout, stderr)
	}
	if err != nil {
		console.Linef(stderr, "weir demo: %v", err)
		return console.ExitFailed
	}
	return console.ExitDone
}
