package topics

import (
	"context"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"weir/internal/cli/console"
	"weir/internal/cli/report"
	"weir/internal/kafka"
	"weir/internal/kafka/framing"
	"weir/internal/query"
	"weir/pkg/flowpb"
)

// A Summation adds the messages of a topic to an Aggregation.
type Summation struct {
	Aggregation *query.Aggregation
	Connections bool          // of the topic PREFIXconnections; else of PREFIXflows
	Since       time.Duration // only the messages of this time; 0: all of the topic
	Progress    *console.Progress

	messages int
	poison   int // records that are not messages of the topic
	newest   map[string]versioned
}

// A versioned is the newest report of a connection.
type versioned struct {
	version uint32
	merged  bool // into another connection
	wire    []byte
}

// Run reads the topic to its present end and returns its name and the number of records that are not its messages. Of a
// connection the newest report counts.
func (o *Summation) Run(ctx context.Context, settings Settings) (topic string, poison int, err error) {
	topic = settings.Topics.Name(kafka.Flows)
	add := o.addFlows
	if o.Connections {
		topic = settings.Topics.Name(kafka.Connections)
		add = o.addConnections
		o.newest = map[string]versioned{}
	}
	tail := kafka.Tail{Start: o.Since == 0, Once: true}
	if o.Since > 0 {
		tail.Since = time.Now().Add(-o.Since)
	}
	err = tail.Read(ctx, settings.Kafka, topic, func(records []kafka.Record) error {
		add(records)
		o.Progress.Count("%d records of %s read", o.messages, topic)
		return nil
	}, func(err error) { o.Progress.Step("%v", err) })
	o.Progress.Clear()
	for _, c := range o.newest {
		if !c.merged {
			o.Aggregation.Add(c.wire)
		}
	}
	return topic, o.poison, err
}

func (o *Summation) addFlows(records []kafka.Record) {
	for _, r := range records {
		_, err := framing.Flows.Each(r.Value, func(value []byte) {
			o.messages++
			o.Aggregation.Add(value)
		})
		if err != nil {
			o.poison++
		}
	}
}

func (o *Summation) addConnections(records []kafka.Record) {
	for _, r := range records {
		_, err := framing.Connections.Each(r.Value, func(value []byte) {
			c := &flowpb.Connection{}
			if proto.Unmarshal(value, c) != nil || len(c.GetConnectionId()) == 0 {
				o.poison++
				return
			}
			o.messages++
			id := string(c.GetConnectionId())
			if was, again := o.newest[id]; !again || c.GetVersion() > was.version {
				o.newest[id] = versioned{c.GetVersion(), report.IsMerged(c), slices.Clone(value)}
			}
		})
		if err != nil {
			o.poison++
		}
	}
}
