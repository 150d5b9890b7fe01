package kafka

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// within is the retry timeout of requests of interactive commands.
const within = 10 * time.Second

// ReadWhole hands every record that is on a topic now to apply, in order within a partition, and returns. A
// missing topic, a Kafka that does not answer, and a topic that is deleted meanwhile, are errors. Records of open and
// aborted transactions are included.
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
	if _, err := unread(ctx, c, topic, adm.ListStartOffsets, adm.ListEndOffsets); err != nil {
		return err
	}
	is := topicCheck{topic: topic}
	if err := is.begin(ctx, cl); err != nil {
		return err
	}
	// The topic may have been recreated meanwhile: the offsets must be those of the topic that is compared.
	left, err := unread(ctx, c, topic, adm.ListStartOffsets, adm.ListEndOffsets)
	if err != nil {
		return err
	}
	err = left.read(ctx, cl, func(records []*kgo.Record) error {
		for _, r := range records {
			apply(Record{Key: r.Key, Value: r.Value, Offset: r.Offset, Time: r.Timestamp})
		}
		return nil
	}, func() (ended bool, err error) {
		// Compaction may have removed the last records. The leaders must answer: one that is away is silent too.
		switch _, change, err := is.compare(ctx, cl); {
		case err != nil:
			return false, err
		case change == topicRenewed:
			return false, fmt.Errorf("it was deleted and recreated meanwhile, repeat the command: %w", ErrTopicChanged)
		}
		ends, err := adm.ListEndOffsets(ctx, topic)
		if err == nil {
			err = ends.Error() // of single partitions
		}
		return err == nil, err
	})
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("reading topic %s: %w", topic, err)
	}
	return err
}

// offsets lists an offset of each partition of a topic.
type offsets func(ctx context.Context, topics ...string) (kadm.ListedOffsets, error)

// unread returns the offset after the last record to read, by partition. Partitions without a record between
// start and end are left out: a reader that waited for a record there would not end. start and end are asked for one
// after the other, so that retention may have moved the start beyond the end.
func unread(ctx context.Context, c Config, topic string, start, end offsets) (left endOffsets, err error) {
	var at [2]kadm.ListedOffsets
	for i, list := range []offsets{start, end} {
		if at[i], err = list(ctx, topic); err == nil {
			err = at[i].Error()
		}
		if err != nil {
			return nil, fmt.Errorf("topic %s at %v: %w", topic, c.Brokers, err)
		}
	}
	left = endOffsets{}
	for p, end := range at[1][topic] {
		if end.Offset > at[0][topic][p].Offset {
			left[p] = end.Offset
		}
	}
	return left, nil
}

// Write publishes records to a topic and waits until all are acknowledged by all in-sync replicas. It gives up after
// within; records may have been written then. The key selects the partition.
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
