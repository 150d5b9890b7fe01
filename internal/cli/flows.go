package cli

import (
	"context"
	"fmt"
	"io"
	"strconv"

	"weir/internal/cli/console"
	"weir/internal/cli/offline"
	"weir/internal/cli/report"
	"weir/internal/cli/topics"
	"weir/internal/query"
)

const flowsAbout = `Without a file, follows the topic PREFIXflows and prints flows as exporters report
them, one a line, each direction of a conversation separately. With --once it reads
the topic to its end. Kafka is reached as by the services: KAFKA_BROKERS, KAFKA_TLS…,
TOPIC_PREFIX.

With files, prints the flows of captures, of JSON Lines (weir collect), and of files
of the Python package netflow; "-" is standard input.

The table has the start of a flow, its exporter, protocol, endpoints, packets and
octets (as counted: see sampling), and its duration. -v prints every field instead.

exit code: 0 the input was read, whatever its content (a truncated file up to its
last complete record); 1 it could not be read; 2 wrong usage`

// runFlows implements the verb flows.
func runFlows(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	f := console.NewFlags("flows", "[flag]... [FILE]...", flowsAbout)
	asJSON, wide := false, false
	f.BoolVar(&asJSON, "json", false, "print JSON Lines; keys are the names of FlowMessage's fields")
	f.BoolVar(&wide, "v", false, "print every field, as weir decode does")
	limit := 0
	f.Func("limit", "exit after `N` flows", func(s string) (err error) {
		if limit, err = strconv.Atoi(s); err != nil || limit < 1 {
			return fmt.Errorf("%q: want a number, 1 or more", s)
		}
		return nil
	})
	filter := report.FilterFlags(f, "flows", 0, "default 0")
	topic := topics.AddFlags(f, "print it")
	port, age := offline.PortFlag(f, "udp-port"), offline.UptimeAgeFlag(f)
	files, code, ok := f.ParseArgs(args, stdout, stderr)
	if !ok {
		return code
	}
	err := topic.Check(f, len(files) > 0, "once", "from-start", "since")
	wrong, ofFiles := filter.Compile(query.Flows()), forFilesOnly(*port, *age, "a flow")
	switch {
	case err != nil:
		return f.UsageError(stderr, err.Error())
	case wrong != nil:
		return f.UsageErrorLines(stderr, wrong.Error())
	case asJSON && wide:
		return f.UsageError(stderr, "--json and -v: want only one of these")
	case len(files) == 0 && ofFiles != "":
		return f.UsageError(stderr, ofFiles)
	}
	form := report.Brief
	switch {
	case asJSON:
		form = report.JSONLines
	case wide:
		form = report.Wide
	}
	if len(files) == 0 {
		return followFlows(*topic, report.NewFlowPrinter(stdout, form, filter, limit, nil), stderr)
	}
	o := offline.New("flows", stdin, stderr, nil)
	p := report.NewFlowPrinter(stdout, form, filter, limit, o.Template)
	o.Out, o.Port, o.Decoder.MaxUptimeAge = p, *port, *age
	code = o.Run(nil, files)
	console.Linef(stderr, "%s", o.Summary())
	console.Linef(stderr, "%s", p.Summary())
	return code
}

// followFlows implements the verb flows without files.
func followFlows(flags topics.Flags, p *report.FlowPrinter, stderr io.Writer) int {
	settings, err := topics.FromEnvironment()
	if err != nil {
		console.Linef(stderr, "weir flows: no file, and for the topic the settings are wrong:\n%v", err)
		return console.ExitUsage
	}
	return console.RunUntilSignal("flows", stderr, func(ctx context.Context) error {
		return topics.ReadFlows(ctx, settings, flags, p, stderr)
	})
}
