package kafka

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// A Tail reads a topic as consumers do who believe in transactions: what is
// committed, and nothing else.
type Tail struct {
	Since time.Time // from the records of that time on
	Start bool      // from the first record on
	Once  bool      // until what is there now is read; else until ctx ends
}

// Read hands the records of a topic to apply, a fetch at a time, in order within
// a partition. A topic that is not there, and a Kafka that does not answer at the
// start, are errors; later ones are told to failed, and reading goes on.
func (t Tail) Read(ctx context.Context, c Config, topic string, apply func([]Record) error, failed func(error)) error {
	from := kgo.NewOffset().AtEnd()
	switch {
	case t.Start:
		from = kgo.NewOffset().AtStart()
	case !t.Since.IsZero():
		from = kgo.NewOffset().AfterMilli(t.Since.UnixMilli())
	}
	first, err := kgo.NewClient(append(c.as("reader").opts(), kgo.RetryTimeout(within), kgo.RequestRetries(5))...)
	if err != nil {
		return fmt.Errorf("kafka client: %w", err)
	}
	defer first.Close()
	adm := kadm.NewClient(first)
	starts, err := adm.ListStartOffsets(ctx, topic)
	if err == nil {
		err = starts.Error()
	}
	if err != nil {
		return fmt.Errorf("topic %s at %v: %w", topic, c.Brokers, err)
	}
	ends, err := adm.ListCommittedOffsets(ctx, topic) // ends of what is decided
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return fmt.Errorf("topic %s at %v: %w", topic, c.Brokers, err)
	}
	if t.Once && !t.Start && !t.Since.IsZero() {
		if starts, err = adm.ListOffsetsAfterMilli(ctx, t.Since.UnixMilli(), topic); err != nil {
			return fmt.Errorf("topic %s at %v: %w", topic, c.Brokers, err)
		}
	}
	left := map[int32]int64{}
	for p, end := range ends[topic] {
		if end.Offset > starts[topic][p].Offset {
			left[p] = end.Offset
		}
	}
	if t.Once && len(left) == 0 {
		return nil
	}
	cl, err := kgo.NewClient(append(c.as("reader").opts(),
		kgo.ConsumeTopics(topic), kgo.ConsumeStartOffset(from), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.KeepControlRecords(), // the last offset may be one
	)...)
	if err != nil {
		return fmt.Errorf("kafka client: %w", err)
	}
	defer cl.Close()
	var records []Record
	for {
		fetches := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			return nil
		}
		for _, e := range fetches.Errors() {
			if errors.Is(e.Err, kgo.ErrClientClosed) {
				return e.Err
			}
			failed(fmt.Errorf("topic %s partition %d: %w", e.Topic, e.Partition, e.Err))
		}
		records = records[:0]
		fetches.EachRecord(func(r *kgo.Record) {
			end, counts := left[r.Partition]
			if !r.Attrs.IsControl() && (!t.Once || counts && r.Offset < end) {
				records = append(records, Record{Key: r.Key, Value: r.Value, Offset: r.Offset, Time: r.Timestamp})
			}
			if counts && r.Offset+1 >= end {
				delete(left, r.Partition)
			}
		})
		if err := apply(records); err != nil {
			return err
		}
		if t.Once && len(left) == 0 {
			return nil
		}
	}
}
