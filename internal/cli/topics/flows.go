package topics

import (
	"context"
	"errors"
	"io"
	"strings"

	"google.golang.org/protobuf/proto"

	"weir/internal/cli/console"
	"weir/internal/cli/report"
	"weir/internal/kafka"
	"weir/internal/kafka/framing"
	"weir/pkg/flowpb"
)

// ReadFlows prints the flows of the topic PREFIXflows until ctx ends or p has reached its limit. With Once, it stops at
// the present end of the topic.
func ReadFlows(ctx context.Context, settings Settings, flags Flags, p *report.FlowPrinter, stderr io.Writer) error {
	topic := settings.Topics.Name(kafka.Flows)
	if !flags.Once {
		console.Linef(stderr, "following %s at %s; end with Ctrl-C", topic, strings.Join(settings.Kafka.Brokers, ","))
	}
	poison := 0
	err := flags.tail().Read(ctx, settings.Kafka, topic, func(records []kafka.Record) error {
		var list []*flowpb.FlowMessage
		for _, r := range records {
			_, err := framing.Flows.Each(r.Value, func(value []byte) {
				m := &flowpb.FlowMessage{}
				if proto.Unmarshal(value, m) != nil || m.GetType() == flowpb.FlowMessage_FLOWUNKNOWN {
					poison++
					return
				}
				list = append(list, m)
			})
			if err != nil {
				poison++
			}
		}
		return errors.Join(p.Print(list), p.Flush())
	}, func(err error) {
		console.Linef(stderr, "weir flows: %v", err)
	})
	if errors.Is(err, report.ErrEnough) {
		err = nil
	}
	if poison > 0 {
		console.Linef(stderr, "%d records of %s are not flows", poison, topic)
	}
	console.Linef(stderr, "%s", p.Summary())
	return err
}
