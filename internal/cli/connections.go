package cli

import (
	"context"
	"io"
	"slices"

	"weir/internal/annotate"
	"weir/internal/cli/console"
	"weir/internal/cli/offline"
	"weir/internal/cli/report"
	"weir/internal/cli/topics"
	"weir/internal/query"
	"weir/pkg/flowpb"
)

const connectionsAbout = `Without a file, follows the topic PREFIXconnections (committed records only) and
prints connections as they are reported; a correction by a late record is printed
again. With --once it reads the topic to its end and prints the newest report of
each connection.
Kafka is reached as by the services: KAFKA_BROKERS, KAFKA_TLS…, TOPIC_PREFIX.

With files, pairs their flows into connections, offline. A file is a capture
(pcap, pcapng), flows as JSON Lines (of weir collect or weir decode --json), or
a file of the collector of the Python package netflow; each may be compressed
with gzip or zstd, and "-" is standard input. At the end of the input all open
connections are closed. The last report of each connection is printed. Flows are
paired in order of their times of receipt, regardless of the order of the files.
The environment variables PAIR_* set the timeouts of the pairing (enrich -h).
Connections are annotated as by enrich, with its settings DNS_*, HOME_NETS,
MAXMIND_FILES and ANONYMIZE_KEY_FILE; -n sends no DNS queries. AS, country, home
networks and network direction are in the output of --json.

The table has a line for each connection: its start, service, octets and packets
of both directions, duration, and its initiator and responder. -v prints the
directions separately, and the evidence for the initiator. Octets and packets of an
exporter that samples are estimates, reported numbers times the sampling rate, and
marked ~; --sort, --top and the total use them. -p counts reported packets; --json and
--csv have the reported numbers (octets_est in --json). On a terminal the table
has colours (unless NO_COLOR is set) and, from 110 characters on, lines of the width
of the terminal; in a file or pipe lines are neither cut nor coloured.

exit code: 0 the input was read, whatever its content (a truncated file up to its
last complete record); 1 it could not be read; 2 wrong usage`

// runConnections implements the verb connections.
func runConnections(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	f := console.NewFlags("connections", "[flag]... [--pcap] [FILE]...", connectionsAbout)
	var files []string
	f.Func("pcap", "read `FILE`, same as an argument; may be repeated", func(s string) error {
		files = append(files, s)
		return nil
	})
	form, noNames := report.FormFlags(f), false
	f.BoolVar(&noNames, "n", false, "send no DNS queries and print no names")
	f.BoolVar(&noNames, "no-dns", false, "as -n")
	filter := report.FilterFlags(f, "connections", 10, "default 10 in the table of a file, else 0")
	choice := report.ChoiceFlags(f)
	topic := topics.AddFlags(f, "print the newest report of each connection")
	f.BoolVar(&topic.Interim, "interim", false, "print reports of open connections too")
	port, age := offline.PortFlag(f, "udp-port"), offline.UptimeAgeFlag(f)
	rest, code, ok := f.ParseArgs(args, stdout, stderr)
	if !ok {
		return code
	}
	files = append(files, rest...)
	printed, err := form.Form()
	if err == nil {
		err = choice.Check(f, len(files) > 0 || topic.Once)
	}
	if err == nil {
		err = topic.Check(f, len(files) > 0, "once", "from-start", "since", "interim")
	}
	if err != nil {
		return f.UsageError(stderr, err.Error())
	}
	if err := filter.Compile(query.Connections()); err != nil {
		return f.UsageErrorLines(stderr, err.Error())
	}
	if (printed == report.JSONLines || printed == report.CSV || len(files) == 0) &&
		!f.IsSet("p") && !f.IsSet("packets") {
		filter.MinPackets = 0
	}
	out := report.NewConnectionPrinter(stdout, printed)
	if len(files) == 0 {
		if problem := forFilesOnly(*port, *age, "a connection"); problem != "" {
			return f.UsageError(stderr, problem)
		}
		return followConnections(&topics.ConnectionsView{
			Flags: *topic, Filter: filter, Choice: choice, NoNames: noNames, Stderr: stderr, Printer: out,
		})
	}
	o, err := newPairingOfFiles("connections", *port, *age, noNames, stdin, stderr)
	if err != nil {
		return f.UsageError(stderr, err.Error())
	}
	code = o.Run(nil, files)
	all := selectConnections(o.pairing.Connections(), filter, o.annotator, stderr)
	enough := slices.DeleteFunc(slices.Clone(all), func(c *flowpb.Connection) bool {
		return report.Packets(c) < filter.MinPackets
	})
	shown := choice.Select(enough)
	if filter.Expression == "" {
		offline.Annotate(o.annotator, shown, stderr)
	}
	out.PrintAll(shown)
	if err := out.Err(); err != nil && !console.IsBrokenPipe(err) {
		console.Linef(stderr, "weir connections: %v", err)
		code = console.ExitFailed
	}
	console.Linef(stderr, "%s", o.Summary())
	console.Linef(stderr, "%s", report.Totals(shown, len(enough)))
	console.Linef(stderr, "%d connections shown, %d of fewer than %d packets left out (-p), %d flows not pairable",
		len(shown), len(all)-len(enough), filter.MinPackets, o.pairing.NotPairable)
	return code
}

// selectConnections returns the connections of list that match the filter. With an expression, which may ask for names,
// countries and AS numbers, it annotates all of them before.
func selectConnections(
	list []*flowpb.Connection, filter *report.Filter, a *annotate.Annotator, stderr io.Writer,
) []*flowpb.Connection {
	if filter.Expression != "" {
		offline.Annotate(a, list, stderr)
	}
	return slices.DeleteFunc(list, func(c *flowpb.Connection) bool { return !filter.MatchesConnection(c) })
}

// followConnections implements the verb connections without files.
func followConnections(o *topics.ConnectionsView) int {
	settings, err := topics.FromEnvironment()
	if err != nil {
		console.Linef(o.Stderr, "weir connections: no file, and for the topic the settings are wrong:\n%v", err)
		return console.ExitUsage
	}
	return console.RunUntilSignal("connections", o.Stderr, func(ctx context.Context) error {
		return o.Run(ctx, settings)
	})
}
