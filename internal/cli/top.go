package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"weir/internal/cli/console"
	"weir/internal/cli/offline"
	"weir/internal/cli/report"
	"weir/internal/cli/topics"
	"weir/internal/query"
)

const topAbout = `Sums flows by the fields of --by and prints the largest sums, with a line "other" for
the rest. Without a file it reads the topic PREFIXflows from --since ago to its
present end. Kafka is reached as by the services: KAFKA_BROKERS, KAFKA_TLS…,
TOPIC_PREFIX. With files, it sums the flows of captures, of JSON Lines (weir
collect), and of files of the Python package netflow; "-" is standard input.

FIELDS are separated by commas: srcip, dstip, ip, srcport, dstport, port, proto,
service, exporter, srcas, dstas, as, inif, outif, if, srcvlan, tos, flags, app, next,
or any field of a flow or Information Element (docs/filter.md). ip/24 groups
addresses by networks. ip, port, as, if and mac count a flow once for its source and
once for its destination. time/1m groups by the start, as --every 1m does.

Packets and octets are multiplied by the sampling rate; a sum with sampled packets is
marked with ~. Those of both directions of a biflow are added.

exit code: 0 the input was read; 1 it could not be read; 2 wrong usage`

// topFlags are the flags of the verb top.
type topFlags struct {
	by, in, sort       string
	every, since       time.Duration
	limit, groups      int
	asJSON, asCSV, raw bool
	noNames            bool
}

func (o *topFlags) add(f *console.Flags) {
	f.StringVar(&o.by, "by", "srcip,dstip", "sum by these `FIELDS`, such as srcip/24,dstport")
	f.StringVar(&o.in, "in", "flows", "what is summed: `flows` or connections")
	f.StringVar(&o.sort, "sort", "octets", "print in the order of `MEASURE`: octets, packets, flows, connections, "+
		"duration, "+
		"bps, pps, bpp, the largest first, or first, last, upwards")
	f.DurationVar(&o.every, "every", 0, "sum by steps of time, such as `1m`; --limit applies to each step")
	f.DurationVar(&o.since, "since", time.Hour, "read the messages of the topic of the last `DURATION`; 0: all")
	f.Func("limit", "print `N` groups; 0: all (default 10)", func(s string) (err error) {
		if o.limit, err = strconv.Atoi(s); err != nil || o.limit < 0 {
			return fmt.Errorf("%q: want a number, 0 or more", s)
		}
		return nil
	})
	o.limit, o.groups = 10, query.MaxGroups
	f.Func("groups", "hold at most `N` groups in memory (default 1000000); the flows of others count as other",
		func(s string) (err error) {
			if o.groups, err = strconv.Atoi(s); err != nil || o.groups < 1 {
				return fmt.Errorf("%q: want a number, 1 or more", s)
			}
			return nil
		})
	f.BoolVar(&o.asJSON, "json", false, "print JSON Lines, an object for each group")
	f.BoolVar(&o.asCSV, "csv", false, "print CSV with a line of column names")
	f.BoolVar(&o.raw, "raw", false, "do not multiply by sampling rates")
	f.BoolVar(&o.noNames, "n", false, "with --in connections and files: send no DNS queries")
}

// aggregation returns the Aggregation and the form of its output. The error is one of usage.
func (o *topFlags) aggregation(filter *report.Filter) (*query.Aggregation, *report.Ranking, error) {
	r := &report.Ranking{Form: report.Brief, Limit: o.limit}
	schema := query.Flows()
	switch o.in {
	case "flows":
	case "connections":
		schema, r.Connections = query.Connections(), true
	default:
		return nil, nil, fmt.Errorf("--in %q: want flows or connections", o.in)
	}
	switch {
	case o.asJSON && o.asCSV:
		return nil, nil, errors.New("--json and --csv: want only one of these")
	case o.asJSON:
		r.Form = report.JSONLines
	case o.asCSV:
		r.Form = report.CSV
	}
	by := o.by
	switch {
	case o.every < 0 || o.every > 0 && o.every < time.Millisecond:
		return nil, nil, fmt.Errorf("--every %v: want 1ms or more", o.every)
	case o.since < 0:
		return nil, nil, fmt.Errorf("--since %v: want 0 or more", o.since)
	case o.every > 0:
		by = "time/" + o.every.String() + "," + by
	}
	var err error
	if r.Keys, err = query.ParseGrouping(schema, by); err != nil {
		return nil, nil, fmt.Errorf("--by: %w", err)
	}
	if r.Order, err = query.ParseOrder(o.sort); err != nil {
		return nil, nil, fmt.Errorf("--sort: %w", err)
	}
	if r.Order.Name == "connections" && !r.Connections {
		return nil, nil, errors.New("--sort connections: want --in connections, too")
	}
	parsed, err := filter.Query(schema)
	if err != nil {
		return nil, nil, err
	}
	a, err := query.NewAggregation(schema, r.Keys, parsed, o.groups, o.raw)
	return a, r, err
}

// runTop implements the verb top.
func runTop(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	f := console.NewFlags("top", "[flag]... [FILE]...", topAbout)
	var o topFlags
	o.add(f)
	filter := report.FilterFlags(f, "flows", 0, "default 0")
	port, age := offline.PortFlag(f, "udp-port"), offline.UptimeAgeFlag(f)
	files, code, ok := f.ParseArgs(args, stdout, stderr)
	if !ok {
		return code
	}
	a, ranking, err := o.aggregation(filter)
	ofFiles := forFilesOnly(*port, *age, "a flow")
	switch {
	case err != nil && strings.Contains(err.Error(), "\n"):
		return f.UsageErrorLines(stderr, err.Error())
	case err != nil:
		return f.UsageError(stderr, err.Error())
	case len(files) > 0 && f.IsSet("since"):
		return f.UsageError(stderr, "--since is for the topic, not for files")
	case len(files) == 0 && ofFiles != "":
		return f.UsageError(stderr, ofFiles)
	case len(files) == 0:
		return topOfTopic(&o, a, ranking, stdout, stderr)
	}
	var summary string
	if ranking.Connections {
		code, summary, err = o.sumConnections(a, files, *port, *age, stdin, stderr)
		if err != nil {
			return f.UsageError(stderr, err.Error())
		}
	} else {
		r := offline.New("top", stdin, stderr, &offline.Summation{Aggregation: a})
		r.Port, r.Decoder.MaxUptimeAge, r.WireOnly = *port, *age, true
		code = r.Run(nil, files)
		summary = r.Summary()
	}
	if !printRanking(a, ranking, stdout, stderr) {
		code = console.ExitFailed
	}
	console.Linef(stderr, "%s", summary)
	return code
}

// printRanking prints the groups and the summary; it reports whether stdout took them.
func printRanking(a *query.Aggregation, ranking *report.Ranking, stdout, stderr io.Writer) bool {
	if err := ranking.Print(stdout, a); err != nil && !console.IsBrokenPipe(err) {
		console.Linef(stderr, "weir top: %v", err)
		return false
	}
	console.Linef(stderr, "%s", ranking.Summary(a))
	return true
}

// sumConnections pairs the flows of files and adds their connections to a. The error is one of usage.
func (o *topFlags) sumConnections(
	a *query.Aggregation, files []string, port uint16, age time.Duration, stdin io.Reader, stderr io.Writer,
) (code int, summary string, err error) {
	r, err := newPairingOfFiles("top", port, age, o.noNames, stdin, stderr)
	if err != nil {
		return 0, "", err
	}
	code = r.Run(nil, files)
	list := r.pairing.Connections()
	offline.Annotate(r.annotator, list, stderr)
	for _, connection := range list {
		wire, err := proto.Marshal(connection)
		if err != nil {
			return 0, "", err // cannot happen: texts are UTF-8
		}
		a.Add(wire)
	}
	return code, r.Summary(), nil
}

// topOfTopic implements the verb top without files.
func topOfTopic(o *topFlags, a *query.Aggregation, ranking *report.Ranking, stdout, stderr io.Writer) int {
	settings, err := topics.FromEnvironment()
	if err != nil {
		console.Linef(stderr, "weir top: no file, and for the topic the settings are wrong:\n%v", err)
		return console.ExitUsage
	}
	return console.RunUntilSignal("top", stderr, func(ctx context.Context) error {
		s := topics.Summation{
			Aggregation: a, Connections: ranking.Connections, Since: o.since, Progress: console.NewProgress(stderr),
		}
		topic, poison, err := s.Run(ctx, settings)
		if err != nil {
			return err
		}
		if !printRanking(a, ranking, stdout, stderr) {
			return errors.New("the output was not written")
		}
		if poison > 0 {
			console.Linef(stderr, "%d records of %s are not %s", poison, topic, o.in)
		}
		if a.Total.Flows == 0 && o.since > 0 {
			console.Linef(stderr, "%s has nothing that matches in the last %v: --since 0 reads all of it", topic, o.since)
		}
		return nil
	})
}
