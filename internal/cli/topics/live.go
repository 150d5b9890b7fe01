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

// exportersEvery is how often the page's list of exporters is made; they publish
// every 10 s.
const exportersEvery = 5 * time.Second

// silentAfter is when an exporter is shown as silent.
const silentAfter = time.Minute

// FeedFlows adds the flows of the topic PREFIXflows to b until ctx ends.
func FeedFlows(ctx context.Context, settings Settings, b *page.Board) error {
	return kafka.Tail{Start: true}.Read(ctx, settings.Kafka, settings.Topics.Name(kafka.Flows), func(records []kafka.Record) error {
		var list []*flowpb.FlowMessage
		for _, r := range records {
			_, _ = framing.Flows.Each(r.Value, func(value []byte) { // ours wrote them
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

// FeedExporters updates the exporters of b every 5 s until ctx ends. A failed read is repeated at the next turn.
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
			continue // the next may do
		}
		list := make([]page.Exporter, len(lines))
		for i := range lines {
			l := &lines[i]
			list[i] = page.Exporter{
				Exporter: l.Exporter, Name: l.Name, Version: l.Version, Domain: l.Domain, Flows: l.Flows, PerSecond: l.FlowsPerSecond,
				Lost: l.lostCell(), Templates: l.templatesCell(now), LastSeen: ago(now, l.last), Silent: now.Sub(l.last) >= silentAfter,
			}
		}
		b.Exporters(list)
	}
}
