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
	left, err := t.unread(ctx, c, topic)
	if err != nil {
		return err
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

// unread is unread of what is decided, from where t begins. Its client is of its
// own: it gives up soon, one that follows a topic does not.
func (t Tail) unread(ctx context.Context, c Config, topic string) (map[int32]int64, error) {
	cl, err := kgo.NewClient(append(c.as("reader").opts(), kgo.RetryTimeout(within), kgo.RequestRetries(5))...)
	if err != nil {
		return nil, fmt.Errorf("kafka client: %w", err)
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	start := offsets(adm.ListStartOffsets)
	if t.Once && !t.Start && !t.Since.IsZero() {
		start = func(ctx context.Context, topics ...string) (kadm.ListedOffsets, error) {
			return adm.ListOffsetsAfterMilli(ctx, t.Since.UnixMilli(), topics...)
		}
	}
	return unread(ctx, c, topic, start, adm.ListCommittedOffsets)
}
