package kafka

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// within is the retry timeout of requests of interactive commands.
const within = 10 * time.Second

// silent is the time without a record after which ReadWhole checks whether the topic has more.
const silent = 3 * time.Second

// ReadWhole hands every record that is on a topic now to apply, in order within a partition, and returns. A
// missing topic, and a Kafka that does not answer, are errors. Records of open and aborted transactions are
// included.
func ReadWhole(ctx context.Context, c Config, topic string, apply func(r Record)) error {
	cl, err := kgo.NewClient(append(c.withRole("reader").opts(),
		kgo.WithContext(ctx), // an unanswered fetch must not delay the end
		kgo.RetryTimeout(within), kgo.RequestRetries(5),
		kgo.ConsumeTopics(topic), kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()),
		kgo.KeepControlRecords(), // the last record may be a control record
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
			// Compaction may have removed the last records.
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

// offsets lists an offset of each partition of a topic.
type offsets func(ctx context.Context, topics ...string) (kadm.ListedOffsets, error)

// unread returns the offset after the last record to read, by partition. Partitions without a record between
// start and end are left out.
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
	cl, err := kgo.NewClient(append(c.withRole("writer").opts(),
		kgo.RetryTimeout(within), kgo.RecordDeliveryTimeout(within), kgo.RequiredAcks(kgo.AllISRAcks()),
	)...)
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
