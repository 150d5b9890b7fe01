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
		kgo.RetryTimeout(within), kgo.RequestRetries(5),
		kgo.ConsumeTopics(topic), kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()),
		kgo.KeepControlRecords(), // the last offset may be one
	)...)
	if err != nil {
		return fmt.Errorf("kafka client: %w", err)
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	starts, err := adm.ListStartOffsets(ctx, topic)
	if err == nil {
		err = starts.Error()
	}
	if err != nil {
		return fmt.Errorf("topic %s at %v: %w", topic, c.Brokers, err)
	}
	ends, err := adm.ListEndOffsets(ctx, topic)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return fmt.Errorf("topic %s at %v: %w", topic, c.Brokers, err)
	}
	left := map[int32]int64{}
	for p, end := range ends[topic] {
		if end.Offset > starts[topic][p].Offset {
			left[p] = end.Offset
		}
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
