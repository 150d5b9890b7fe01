package cli

import (
	"cmp"
	"context"
	"errors"
	"io"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"weir/internal/cli/console"
	"weir/internal/cli/report"
	"weir/internal/kafka"
	"weir/internal/kafka/framing"
	"weir/pkg/flowpb"
)

// topicConnections prints the connections of the topic.
type topicConnections struct {
	topicFlags
	filter   *report.Filter
	choice   *report.Choice
	noNames  bool
	stderr   io.Writer
	print    *report.ConnectionPrinter
	shown    int // without --once
	versions map[string]uint32
	newest   map[string]*flowpb.Connection // with --once
	poison   int
}

// maxVersions bounds the connections whose newest version is remembered, so that
// an older one is not printed after it. They come in order from Kafka; only what
// was written twice could be out of it.
const maxVersions = 1_000_000

// run reads the topic until ctx ends, or it is read.
func (o *topicConnections) run(ctx context.Context, settings kafkaSettings) error {
	topic := settings.Topics.Name(kafka.Connections)
	o.newest, o.versions = map[string]*flowpb.Connection{}, map[string]uint32{}
	if !o.once {
		console.Linef(o.stderr, "following %s at %s; end with Ctrl-C", topic, strings.Join(settings.Kafka.Brokers, ","))
	}
	err := o.tail().Read(ctx, settings.Kafka, topic, o.take, func(err error) {
		console.Linef(o.stderr, "weir connections: %v", err)
	})
	if errors.Is(err, report.ErrEnough) {
		err = nil
	}
	if err == nil && o.once {
		list := make([]*flowpb.Connection, 0, len(o.newest))
		for _, c := range o.newest {
			if c != nil && !report.IsMerged(c) {
				list = append(list, c)
			}
		}
		slices.SortFunc(list, func(a, b *flowpb.Connection) int {
			return cmp.Or(cmp.Compare(a.GetStartUnixNs(), b.GetStartUnixNs()), strings.Compare(string(a.GetConnectionId()), string(b.GetConnectionId())))
		})
		shown := o.choice.Select(list)
		o.print.PrintAll(shown)
		console.Linef(o.stderr, "%s", report.Totals(shown, len(list)))
		console.Linef(o.stderr, "%d connections shown", len(shown))
		if len(o.versions) == 0 {
			console.Linef(o.stderr, "%s has none: enrich reports a connection once it has ended, after PAIR_IDLE at the latest; weir exporters says who sends", topic)
		}
	}
	if o.poison > 0 {
		console.Linef(o.stderr, "%d records of %s are no connections", o.poison, topic)
	}
	if perr := o.print.Err(); err == nil {
		err = perr
	}
	return err
}

// take takes the records of one fetch.
func (o *topicConnections) take(records []kafka.Record) error {
	var list []*flowpb.Connection
	for _, r := range records {
		_, err := framing.Connections.Each(r.Value, func(value []byte) {
			c := &flowpb.Connection{}
			if proto.Unmarshal(value, c) != nil || len(c.ConnectionId) == 0 {
				o.poison++
				return
			}
			list = o.report(list, c)
		})
		if err != nil {
			o.poison++
		}
	}
	if n := o.choice.Limit; n > 0 && !o.once {
		list = list[:min(len(list), n-o.shown)]
	}
	o.print.Print(list)
	if o.shown += len(list); !o.once && o.choice.Limit > 0 && o.shown >= o.choice.Limit && o.print.Err() == nil {
		return report.ErrEnough
	}
	return o.print.Err()
}

// report takes a report of a connection, and adds it to list when it is to be
// printed now.
func (o *topicConnections) report(list []*flowpb.Connection, c *flowpb.Connection) []*flowpb.Connection {
	id := string(c.ConnectionId)
	if o.versions[id] >= c.Version {
		return list
	}
	if len(o.versions) >= maxVersions && !o.once {
		clear(o.versions)
	}
	o.versions[id] = c.Version
	if o.noNames {
		for _, e := range []*flowpb.Endpoint{c.GetInitiator(), c.GetResponder()} {
			if e != nil {
				e.Name = ""
			}
		}
	}
	shown := o.filter.MatchesConnection(c) && report.Packets(c) >= o.filter.MinPackets && (c.Final || o.interim || o.once)
	switch {
	case o.once && shown:
		o.newest[id] = c
	case o.once:
		delete(o.newest, id) // an older report was shown, the newest is not asked for
	case shown:
		list = append(list, c)
	}
	return list
}
