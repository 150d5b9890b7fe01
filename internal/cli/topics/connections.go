package topics

import (
	"cmp"
	"context"
	"errors"
	"io"
	"math"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"weir/internal/bounded"
	"weir/internal/cli/console"
	"weir/internal/cli/report"
	"weir/internal/kafka"
	"weir/internal/kafka/framing"
	"weir/pkg/flowpb"
)

// A ConnectionsView prints connections of the topic PREFIXconnections. All exported fields must be set.
type ConnectionsView struct {
	Flags
	Filter  *report.Filter
	Choice  *report.Choice
	NoNames bool // leave out the names of endpoints
	Stderr  io.Writer
	Printer *report.ConnectionPrinter

	shown    int // number of printed connections, without --once
	versions bounded.Map[string, uint32]
	newest   map[string]*flowpb.Connection // newest report of each selected connection, by id; with --once
	poison   int
}

// maxVersions bounds the number of connections whose newest version is remembered, so that an older version is not
// printed after it. Kafka delivers the reports of a connection in order, so only repeated records can be out of
// order.
const maxVersions = 1_000_000

// Run reads the topic until ctx ends, with Once to its end, or until the limit of connections is printed. The
// error comes from Kafka or from the output.
func (o *ConnectionsView) Run(ctx context.Context, settings Settings) error {
	topic := settings.Topics.Name(kafka.Connections)
	o.newest = map[string]*flowpb.Connection{}
	o.versions = bounded.New[string, uint32](maxVersions)
	if o.Once { // newest holds all connections anyway
		o.versions = bounded.New[string, uint32](math.MaxInt)
	}
	if !o.Once {
		console.Linef(o.Stderr, "following %s at %s; end with Ctrl-C", topic, strings.Join(settings.Kafka.Brokers, ","))
	}
	err := o.tail().Read(ctx, settings.Kafka, topic, o.addRecords, func(err error) {
		console.Linef(o.Stderr, "weir connections: %v", err)
	})
	if errors.Is(err, report.ErrEnough) {
		err = nil
	}
	if err == nil && o.Once {
		list := make([]*flowpb.Connection, 0, len(o.newest))
		for _, c := range o.newest {
			if c != nil && !report.IsMerged(c) {
				list = append(list, c)
			}
		}
		slices.SortFunc(list, func(a, b *flowpb.Connection) int {
			return cmp.Or(cmp.Compare(a.GetStartUnixNs(), b.GetStartUnixNs()),
				strings.Compare(string(a.GetConnectionId()), string(b.GetConnectionId())))
		})
		shown := o.Choice.Select(list)
		o.Printer.PrintAll(shown)
		console.Linef(o.Stderr, "%s", report.Totals(shown, len(list)))
		console.Linef(o.Stderr, "%d connections shown", len(shown))
		if o.versions.Len() == 0 {
			console.Linef(o.Stderr, "%s has none: enrich reports a connection once it has ended, "+
				"after PAIR_IDLE at the latest; weir exporters lists the exporters", topic)
		}
	}
	if o.poison > 0 {
		console.Linef(o.Stderr, "%d records of %s are not connections", o.poison, topic)
	}
	if perr := o.Printer.Err(); err == nil {
		err = perr
	}
	return err
}

// addRecords decodes the records of a fetch and prints the selected connections.
func (o *ConnectionsView) addRecords(records []kafka.Record) error {
	var list []*flowpb.Connection
	for _, r := range records {
		_, err := framing.Connections.Each(r.Value, func(value []byte) {
			c := &flowpb.Connection{}
			if proto.Unmarshal(value, c) != nil || len(c.ConnectionId) == 0 {
				o.poison++
				return
			}
			list = o.addReport(list, c)
		})
		if err != nil {
			o.poison++
		}
	}
	if n := o.Choice.Limit; n > 0 && !o.Once {
		list = list[:min(len(list), n-o.shown)]
	}
	o.Printer.Print(list)
	if o.shown += len(list); !o.Once && o.Choice.Limit > 0 && o.shown >= o.Choice.Limit && o.Printer.Err() == nil {
		return report.ErrEnough
	}
	return o.Printer.Err()
}

// addReport records a report of a connection and appends it to list when it must be printed now.
func (o *ConnectionsView) addReport(list []*flowpb.Connection, c *flowpb.Connection) []*flowpb.Connection {
	id := string(c.ConnectionId)
	if o.versions.Get(id) >= c.Version {
		return list
	}
	o.versions.PutOrForget(id, c.Version)
	if o.NoNames {
		for _, e := range []*flowpb.Endpoint{c.GetInitiator(), c.GetResponder()} {
			if e != nil {
				e.Name = ""
			}
		}
	}
	shown := o.Filter.MatchesConnection(c) && report.Packets(c) >= o.Filter.MinPackets &&
		(c.Final || o.Interim || o.Once)
	switch {
	case o.Once && shown:
		o.newest[id] = c
	case o.Once:
		delete(o.newest, id) // an older report matched the filter, this report does not
	case shown:
		list = append(list, c)
	}
	return list
}
