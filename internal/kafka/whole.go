package kafka

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// within is how long people wait for a broker that does not answer.
const within = 10 * time.Second

// silent is how long a topic is read on that ought to have more.
const silent = 3 * time.Second

// ReadWhole hands every record that is on a topic now to apply, in order within
// a partition, and returns. A topic that is not there, and a Kafka that does not
// answer, are errors.
func ReadWhole(ctx context.Context, c Config, topic string, apply func(r Record)) error {
	cl, err := kgo.NewClient(append(c.as("reader").opts(),
		kgo.WithContext(ctx), // a fetch that is not answered must not delay the end
		kgo.RetryTimeout(within), kgo.RequestRetries(5),
		kgo.ConsumeTopics(topic), kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()),
		kgo.KeepControlRecords(), // the last offset may be one
	)...)
	if err != nil {
		return fmt.Errorf("kafka client: %w", err)
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	left, err := unread(ctx, c, topic, adm.ListStartOffsets, adm.ListEndOffsets)
	if err != nil {
		return err
	}
	for len(left) > 0 {
		try, cancel := context.WithTimeout(ctx, silent)
		fetches := cl.PollFetches(try)
		cancel()
		if fetches.NumRecords() == 0 {
			// Compaction may have left nothing at the end.
			if _, err := adm.ListEndOffsets(ctx, topic); err != nil {
				return fmt.Errorf("reading topic %s: %w", topic, errors.Join(err, fetches.Err()))
			}
			return ctx.Err()
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if !r.Attrs.IsControl() {
				apply(Record{Key: r.Key, Value: r.Value, Offset: r.Offset, Time: r.Timestamp})
			}
			if end, ok := left[r.Partition]; ok && r.Offset+1 >= end {
				delete(left, r.Partition)
			}
		})
	}
	return nil
}

// offsets lists offsets of a topic's partitions.
type offsets func(ctx context.Context, topics ...string) (kadm.ListedOffsets, error)

// unread is up to where a topic is to be read, by partition; those that have
// nothing from start on are not in it.
func unread(ctx context.Context, c Config, topic string, start, end offsets) (left map[int32]int64, err error) {
	var at [2]kadm.ListedOffsets
	for i, list := range []offsets{start, end} {
		if at[i], err = list(ctx, topic); err == nil {
			err = at[i].Error()
		}
		if err != nil {
			return nil, fmt.Errorf("topic %s at %v: %w", topic, c.Brokers, err)
		}
	}
	left = map[int32]int64{}
	for p, end := range at[1][topic] {
		if end.Offset > at[0][topic][p].Offset {
			left[p] = end.Offset
		}
	}
	return left, nil
}

// Write publishes records to a topic and waits until all are acknowledged.
func Write(ctx context.Context, c Config, topic string, records []Record) error {
	cl, err := kgo.NewClient(append(c.as("writer").opts(), kgo.RetryTimeout(within), kgo.RecordDeliveryTimeout(within), kgo.RequiredAcks(kgo.AllISRAcks()))...)
	if err != nil {
		return fmt.Errorf("kafka client: %w", err)
	}
	defer cl.Close()
	var out []*kgo.Record
	for _, r := range records {
		out = append(out, &kgo.Record{Topic: topic, Key: r.Key, Value: r.Value})
	}
	if err := cl.ProduceSync(ctx, out...).FirstErr(); err != nil {
		return fmt.Errorf("topic %s at %v: %w", topic, c.Brokers, err)
	}
	return nil
}
