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
	// From is where each partition begins, all of the topic's; nil: as above.
	From map[int32]int64
}

// A Beginning is where a topic begins.
type Beginning struct {
	ID    string          // another one once the topic was deleted and made again
	First map[int32]int64 // the first offset that is there, by partition
}

// Begins tells where a topic begins.
func Begins(ctx context.Context, c Config, topic string) (Beginning, error) {
	cl, err := kgo.NewClient(append(c.as("reader").opts(), kgo.RetryTimeout(within), kgo.RequestRetries(5))...)
	if err != nil {
		return Beginning{}, fmt.Errorf("kafka client: %w", err)
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	topics, err := adm.ListTopics(ctx, topic)
	if err == nil {
		err = topics[topic].Err
	}
	var starts kadm.ListedOffsets
	if err == nil {
		if starts, err = adm.ListStartOffsets(ctx, topic); err == nil {
			err = starts.Error()
		}
	}
	if err != nil {
		return Beginning{}, fmt.Errorf("topic %s at %v: %w", topic, c.Brokers, err)
	}
	b := Beginning{ID: topics[topic].ID.String(), First: map[int32]int64{}}
	for p, o := range starts[topic] {
		b.First[p] = o.Offset
	}
	return b, nil
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
	what := []kgo.Opt{kgo.ConsumeTopics(topic), kgo.ConsumeStartOffset(from)}
	if t.From != nil {
		at := map[int32]kgo.Offset{}
		for p, o := range t.From {
			at[p] = kgo.NewOffset().At(o)
		}
		what = []kgo.Opt{kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: at})}
	}
	cl, err := kgo.NewClient(append(append(c.as("reader").opts(), what...),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
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
				records = append(records, Record{Key: r.Key, Value: r.Value, Offset: r.Offset, Time: r.Timestamp, Partition: r.Partition})
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
	if t.Once && t.From != nil {
		start = func(ctx context.Context, topics ...string) (kadm.ListedOffsets, error) {
			all, err := adm.ListStartOffsets(ctx, topics...)
			for p, o := range all[topic] {
				o.Offset = max(o.Offset, t.From[p])
				all[topic][p] = o
			}
			return all, err
		}
	}
	if t.Once && !t.Start && !t.Since.IsZero() {
		start = func(ctx context.Context, topics ...string) (kadm.ListedOffsets, error) {
			return adm.ListOffsetsAfterMilli(ctx, t.Since.UnixMilli(), topics...)
		}
	}
	return unread(ctx, c, topic, start, adm.ListCommittedOffsets)
}
