package kafka

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// ReadBetween hands the committed records of a topic whose timestamps are at or after from and before to to
// apply, fetch by fetch, in order within a partition. The broker finds offsets by time: where timestamps
// are not in order, apply gets records outside of the span too. Records of open transactions are left out. An
// error of apply, or of a fetch, ends the reading and is returned. apply must not keep the slice. The wait for Kafka is
// bounded by ctx alone: the caller must set a deadline.
func ReadBetween(ctx context.Context, c Config, topic string, from, to time.Time, apply func([]Record) error) error {
	first, left, err := offsetsBetween(ctx, c, topic, from, to)
	if err != nil || len(left) == 0 {
		return err
	}
	cl, err := kgo.NewClient(append(c.withRole("reader").opts(),
		kgo.WithContext(ctx), // an unanswered fetch must not delay the end
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: first}),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.KeepControlRecords(), // the last record may be a control record
	)...)
	if err != nil {
		return fmt.Errorf("kafka client: %w", err)
	}
	defer cl.Close()
	err = left.read(ctx, cl, func(records []*kgo.Record) error {
		batch := make([]Record, 0, len(records))
		for _, r := range records {
			batch = append(batch, Record{
				Key: r.Key, Value: r.Value, Offset: r.Offset, Time: r.Timestamp, Partition: r.Partition,
			})
		}
		return apply(batch)
	}, nil)
	if ended := ctx.Err(); err != nil && ended != nil {
		return fmt.Errorf("topic %s: %w", topic, ended)
	}
	return err
}

// offsetsBetween returns the offset of the first record of the span, and the offset after its last record, of
// each partition that has records in it. The end is at most the last stable offset: a read at read_committed that
// waited for an open transaction might not end.
func offsetsBetween(
	ctx context.Context, c Config, topic string, from, to time.Time,
) (first map[int32]kgo.Offset, left endOffsets, err error) {
	cl, err := kgo.NewClient(append(c.withRole("reader").opts(), kgo.RetryTimeout(within), kgo.RequestRetries(5))...)
	if err != nil {
		return nil, nil, fmt.Errorf("kafka client: %w", err)
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	starts, startErr := adm.ListOffsetsAfterMilli(ctx, from.UnixMilli(), topic)
	ends, endErr := adm.ListOffsetsAfterMilli(ctx, to.UnixMilli(), topic)
	committed, committedErr := adm.ListCommittedOffsets(ctx, topic)
	if err := errors.Join(startErr, endErr, committedErr, starts.Error(), ends.Error(), committed.Error()); err != nil {
		return nil, nil, fmt.Errorf("topic %s at %v: %w", topic, c.Brokers, err)
	}
	first, left = map[int32]kgo.Offset{}, endOffsets{}
	for p, s := range starts[topic] {
		if end := min(ends[topic][p].Offset, committed[topic][p].Offset); s.Offset < end {
			first[p], left[p] = kgo.NewOffset().At(s.Offset), end
		}
	}
	return first, left, nil
}
