package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// ErrTruncated is why a part of a log cannot be read: it begins later.
var ErrTruncated = errors.New("the log begins later")

// inputTopic returns how many partitions the input has, and its id. A twin with
// another number is fatal: both are fixed for life, together.
func (s *Session) inputTopic(ctx context.Context) (partitions int, id [16]byte, err error) {
	cl, err := kgo.NewClient(append(s.c.as("topics").opts(), kgo.RequestRetries(2), kgo.RetryTimeout(5*time.Second))...)
	if err != nil {
		return 0, id, fmt.Errorf("kafka client: %w", err)
	}
	defer cl.Close()
	names := []string{s.sc.Input}
	if s.sc.Twin != "" {
		names = append(names, s.sc.Twin)
	}
	topics, err := kadm.NewClient(cl).ListTopics(ctx, names...)
	if err == nil {
		err = topics.Error()
	}
	if err != nil {
		return 0, id, fmt.Errorf("topics %v: %w", names, err)
	}
	n := len(topics[s.sc.Input].Partitions)
	id = topics[s.sc.Input].ID
	if s.sc.Twin == "" {
		return n, id, nil
	}
	if m := len(topics[s.sc.Twin].Partitions); m != n {
		return 0, id, fmt.Errorf("%w: topic %s has %d partitions and %s has %d: want as many; their number is fixed for life (make both anew, under another TOPIC_PREFIX)",
			ErrFatal, s.sc.Input, n, s.sc.Twin, m)
	}
	return n, id, nil
}

// A Range is the records of a partition from one offset to another, both
// included.
type Range struct{ From, To int64 }

// ReadLog reads parts of a topic, read_committed, and hands every record to
// apply, in order within a partition. The error wraps ErrTruncated when a part
// is not there any more.
func (s *Session) ReadLog(ctx context.Context, topic string, parts map[int32]Range, apply func(partition int32, offset int64, value []byte) error) error {
	start := map[int32]kgo.Offset{}
	for p, r := range parts {
		start[p] = kgo.NewOffset().At(r.From)
	}
	if len(start) == 0 {
		return nil
	}
	cl, err := kgo.NewClient(append(s.c.as("restore").opts(),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: start}),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.KeepControlRecords(), // the last offset may be one
		kgo.FetchMaxWait(100*time.Millisecond),
	)...)
	if err != nil {
		return fmt.Errorf("kafka client: %w", err)
	}
	defer cl.Close()
	left := maps.Clone(parts)
	for len(left) > 0 {
		fetches := cl.PollFetches(ctx)
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("reading %s: %w", topic, err)
		}
		for _, e := range fetches.Errors() {
			if errors.Is(e.Err, kerr.OffsetOutOfRange) {
				return fmt.Errorf("%w: %s partition %d is wanted from offset %d", ErrTruncated, topic, e.Partition, parts[e.Partition].From)
			}
			return fmt.Errorf("reading %s partition %d: %w", topic, e.Partition, e.Err)
		}
		var failed error
		fetches.EachRecord(func(r *kgo.Record) {
			want, ok := left[r.Partition]
			if !ok || failed != nil {
				return
			}
			if r.Offset <= want.To && !r.Attrs.IsControl() {
				failed = apply(r.Partition, r.Offset, r.Value)
			}
			if r.Offset >= want.To {
				delete(left, r.Partition)
			}
		})
		if failed != nil {
			return failed
		}
	}
	return nil
}

// Truncate deletes the records of a topic before the offsets given, by
// partition. Kafka frees whole segments.
func (s *Session) Truncate(ctx context.Context, topic string, before map[int32]int64) error {
	cl, err := kgo.NewClient(append(s.c.as("truncate").opts(), kgo.RequestRetries(1), kgo.RetryTimeout(5*time.Second))...)
	if err != nil {
		return fmt.Errorf("kafka client: %w", err)
	}
	defer cl.Close()
	offsets := kadm.Offsets{}
	for p, at := range before {
		offsets.AddOffset(topic, p, at, -1)
	}
	resp, err := kadm.NewClient(cl).DeleteRecords(ctx, offsets)
	if err == nil {
		err = resp.Error()
	}
	if err != nil {
		return fmt.Errorf("deleting old records of %s: %w", topic, err)
	}
	return nil
}
