package cli

import (
	"context"
	"fmt"
	"io"
	"time"

	"weir/internal/cli/console"
	"weir/internal/cli/topics"
)

const exportersAbout = `Lists exporters with the records that all replicas together received and missed:
one line for each exporter, version and observation domain, from the topics
PREFIXexporters and PREFIXtemplates.

Lost is computed from sequence numbers, in the unit that the exporter counts. The
replicas publish every 10 s. Templates has the number of known templates and the
age of the newest. Flows per second is the rate of the minute before the last
datagram, by the time of receipt; 0 when nothing was received for a minute.

Kafka is reached as by ingest: KAFKA_BROKERS, KAFKA_TLS…, TOPIC_PREFIX.

exit code: 0 done; 1 Kafka or a topic is not available; 2 wrong usage`

// runExporters implements the verb exporters.
func runExporters(args []string, _ io.Reader, stdout, stderr io.Writer) int {
	f := console.NewFlags("exporters", "[flag]...", exportersAbout)
	o := &topics.ExportersView{Stdout: stdout, Stderr: stderr}
	f.DurationVar(&o.Silent, "silent", 0,
		"only exporters that sent nothing for `DURATION` (5m); reads the whole topic, a week")
	f.DurationVar(&o.Since, "since", time.Hour,
		"exporters of the last `DURATION` and their losses in it; default 1h; 0: the whole topic")
	f.BoolVar(&o.JSON, "json", false, "print JSON Lines")
	rest, code, ok := f.ParseArgs(args, stdout, stderr)
	switch {
	case !ok:
		return code
	case len(rest) > 0:
		return f.UsageError(stderr, fmt.Sprintf("want no arguments, got %q", rest[0]))
	case o.Silent < 0:
		return f.UsageError(stderr, "--silent: want more than 0s")
	case o.Since < 0:
		return f.UsageError(stderr, "--since: want 0s or more")
	}
	if o.Silent > 0 && !f.IsSet("since") {
		o.Since = 0
	}
	settings, err := topics.FromEnvironment()
	if err != nil {
		console.Linef(stderr, "weir exporters: settings:\n%v", err)
		return console.ExitUsage
	}
	return console.RunUntilSignal("exporters", stderr, func(ctx context.Context) error {
		return o.Run(ctx, settings, time.Now())
	})
}
