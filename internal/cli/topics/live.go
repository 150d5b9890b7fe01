package topics

import (
	"context"
	"io"
	"time"

	"google.golang.org/protobuf/proto"

	"weir/internal/cli/page"
	"weir/internal/kafka"
	"weir/internal/kafka/framing"
	"weir/pkg/flowpb"
)

// exportersEvery is the interval between updates of the exporters on the page. The replicas publish them every 10
// s.
const exportersEvery = 5 * time.Second

// silentAfter is the time without datagrams after which an exporter is shown as silent.
const silentAfter = time.Minute

// FeedFlows adds the flows of the topic PREFIXflows to b until ctx ends.
func FeedFlows(ctx context.Context, settings Settings, b *page.Board) error {
	topic := settings.Topics.Name(kafka.Flows)
	return kafka.Tail{Start: true}.Read(ctx, settings.Kafka, topic, func(records []kafka.Record) error {
		var list []*flowpb.FlowMessage
		for _, r := range records {
			_, _ = framing.Flows.Each(r.Value, func(value []byte) { // ingest of this process wrote them
				m := &flowpb.FlowMessage{}
				if proto.Unmarshal(value, m) == nil {
					list = append(list, m)
				}
			})
		}
		b.Flows(list)
		return nil
	}, func(error) {}) // the broker is in this process
}

// FeedExporters updates the exporters of b every 5 s until ctx ends. It ignores a failed read until the next
// update.
func FeedExporters(ctx context.Context, settings Settings, b *page.Board) {
	tick := time.NewTicker(exportersEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := time.Now()
		lines, err := (&ExportersView{Stderr: io.Discard}).lines(ctx, settings, now)
		if err != nil {
			continue // try again at the next tick
		}
		list := make([]page.Exporter, len(lines))
		for i := range lines {
			l := &lines[i]
			list[i] = page.Exporter{
				Exporter: l.Exporter, Name: l.Name, Version: l.Version, Domain: l.Domain,
				Flows: l.Flows, PerSecond: l.FlowsPerSecond,
				Lost: l.lostCell(), Templates: l.templatesCell(now),
				LastSeen: formatAge(now, l.last), Silent: now.Sub(l.last) >= silentAfter,
			}
		}
		b.Exporters(list)
	}
}
