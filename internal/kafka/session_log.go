package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// ErrTruncated is wrapped by every TruncatedError.
var ErrTruncated = errors.New("the log no longer holds wanted records")

// A TruncatedError names the partitions of a topic that no longer hold a wanted range of records: retention or
// DeleteRecords removed its beginning, or the log ends before the end of the range (brokers lost records, or the
// topic was deleted and recreated).
type TruncatedError struct {
	Topic      string
	Partitions map[int32]Truncation
}

// A Truncation is a range of records that a partition no longer holds completely.
type Truncation struct {
	Want  Range
	First int64 // first offset of the log; -1: not known
	End   int64 // offset after the last record of the log; -1: not known
}

// Error implements error.
func (e *TruncatedError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v: topic %s", ErrTruncated, e.Topic)
	for i, n := range slices.Sorted(maps.Keys(e.Partitions)) {
		if i > 0 {
			b.WriteByte(',')
		}
		t := e.Partitions[n]
		fmt.Fprintf(&b, " partition %d from offset %d to %d", n, t.Want.From, t.Want.To)
		if t.First >= 0 && t.End >= 0 {
			fmt.Fprintf(&b, " (it begins at %d and ends before %d)", t.First, t.End)
		}
	}
	return b.String()
}

// Unwrap returns ErrTruncated.
func (e *TruncatedError) Unwrap() error { return ErrTruncated }

// A topicState holds the properties of a topic that must not change during a life.
type topicState struct {
	id         [16]byte // changes when the topic is deleted and recreated
	partitions int
}

// inputTopics returns the states of the input and of the co-partitioned topic, by name. Different numbers of
// partitions are fatal: neither can change for the life of the topics. State of partition n of the input is in
// partition n of the other topic, so that the member that owns one can restore from the other.
func (s *Session) inputTopics(ctx context.Context) (map[string]topicState, error) {
	cl, err := kgo.NewClient(append(s.c.withRole("topics").opts(),
		kgo.RequestRetries(2), kgo.RetryTimeout(5*time.Second))...)
	if err != nil {
		return nil, fmt.Errorf("kafka client: %w", err)
	}
	defer cl.Close()
	names := []string{s.sc.Input}
	if s.sc.CoPartitioned != "" {
		names = append(names, s.sc.CoPartitioned)
	}
	topics, err := kadm.NewClient(cl).ListTopics(ctx, names...)
	if err == nil {
		err = topics.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("topics %v: %w", names, err)
	}
	are := map[string]topicState{}
	for _, name := range names {
		are[name] = topicState{topics[name].ID, len(topics[name].Partitions)}
	}
	if n, m := are[s.sc.Input].partitions, are[s.sc.CoPartitioned].partitions; s.sc.CoPartitioned != "" && m != n {
		return nil, fmt.Errorf("%w: topic %s has %d partitions and %s has %d: want as many; their number is fixed for life "+
			"(create both again, under another TOPIC_PREFIX)", ErrFatal, s.sc.Input, n, s.sc.CoPartitioned, m)
	}
	return are, nil
}

// A Range is a range of offsets of a partition, both ends included.
type Range struct{ From, To int64 }

// ReadLog reads ranges of a topic at read_committed and passes every record to apply, in order within a
// partition. It returns a *TruncatedError when partitions do not hold their range completely: before the first
// record, unless records were removed during the reading. An error of apply ends the reading and is returned.
func (s *Session) ReadLog(
	ctx context.Context, topic string, parts map[int32]Range,
	apply func(partition int32, offset int64, value []byte) error,
) error {
	start := map[int32]kgo.Offset{}
	for p, r := range parts {
		start[p] = kgo.NewOffset().At(r.From)
	}
	if len(start) == 0 {
		return nil
	}
	cl, err := kgo.NewClient(append(s.c.withRole("restore").opts(),
		kgo.WithContext(ctx), // an unanswered fetch must not delay the end
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: start}),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.KeepControlRecords(), // the last record may be a control record
		kgo.FetchMaxWait(100*time.Millisecond),
	)...)
	if err != nil {
		return fmt.Errorf("kafka client: %w", err)
	}
	defer cl.Close()
	if err := verifyRanges(ctx, cl, topic, parts); err != nil {
		if ended := ctx.Err(); ended != nil { // the client ends with ctx and reports only that it is closed
			return fmt.Errorf("reading %s: %w", topic, ended)
		}
		return err
	}
	left := endOffsets{}
	for p, r := range parts {
		left[p] = r.To + 1
	}
	err = left.read(ctx, cl, func(records []*kgo.Record) error {
		for _, r := range records {
			if err := apply(r.Partition, r.Offset, r.Value); err != nil {
				return err
			}
		}
		return nil
	}, nil)
	if gone, ok := errors.AsType[*fetchError](err); ok && errors.Is(err, kerr.OffsetOutOfRange) {
		return &TruncatedError{topic, map[int32]Truncation{
			gone.partition: {Want: parts[gone.partition], First: -1, End: -1},
		}}
	}
	if ended := ctx.Err(); err != nil && ended != nil {
		return fmt.Errorf("reading %s: %w", topic, ended)
	}
	return err
}

// verifyRanges returns a *TruncatedError when partitions of a topic do not hold their range. It compares with
// the end of the log, not with the last stable offset: the records of a committed transaction are there before
// its marker is.
func verifyRanges(ctx context.Context, cl *kgo.Client, topic string, parts map[int32]Range) error {
	logs, err := listBounds(ctx, cl, topic, slices.Collect(maps.Keys(parts)), readUncommitted)
	if err != nil {
		return err
	}
	gone := map[int32]Truncation{}
	for n, want := range parts {
		log, ok := logs[n]
		if !ok {
			return fmt.Errorf("offsets of %s: the leader of partition %d does not answer", topic, n)
		}
		if log.first > want.From || log.end <= want.To {
			gone[n] = Truncation{want, log.first, log.end}
		}
	}
	if len(gone) > 0 {
		return &TruncatedError{topic, gone}
	}
	return nil
}

// Committed returns the committed positions of partitions of the input, by partition. It waits for commits in
// progress (RequireStable, KIP-447): the offsets of an open transaction may still be committed, and a member that
// began before them would process their records twice.
func (s *Session) Committed(ctx context.Context, partitions []int32) (map[int32]Position, error) {
	cl, err := kgo.NewClient(append(s.c.withRole("offsets").opts(),
		kgo.RequestRetries(2), kgo.RetryTimeout(5*time.Second))...)
	if err != nil {
		return nil, fmt.Errorf("kafka client: %w", err)
	}
	defer cl.Close()
	all, err := kadm.NewClient(cl).FetchOffsets(kadm.RequireStable(ctx), s.sc.Group)
	if err != nil {
		return nil, fmt.Errorf("committed offsets of group %s: %w", s.sc.Group, err)
	}
	at := map[int32]Position{}
	for _, n := range partitions {
		o, ok := all.Lookup(s.sc.Input, n)
		switch {
		case !ok:
			at[n] = s.recall(Position{Partition: n, Offset: -1})
		case o.Err != nil:
			return nil, fmt.Errorf("committed offset of group %s, partition %d: %w", s.sc.Group, n, o.Err)
		default:
			at[n] = s.recall(Position{Partition: n, Offset: o.At, Metadata: o.Metadata})
		}
	}
	return at, nil
}

// InputStart returns the first offset that a partition of the input holds: retention moves it up. It gives up after
// 5 s.
func (s *Session) InputStart(ctx context.Context, partition int32) (int64, error) {
	cl, err := kgo.NewClient(append(s.c.withRole("offsets").opts(),
		kgo.RequestRetries(2), kgo.RetryTimeout(5*time.Second))...)
	if err != nil {
		return 0, fmt.Errorf("kafka client: %w", err)
	}
	defer cl.Close()
	starts, err := listOffsets(ctx, cl, s.sc.Input, []int32{partition}, startOfLog, readUncommitted)
	return starts[partition], err
}

// Truncate deletes the records of a topic before the given offsets, by partition (DeleteRecords, KIP-107). Readers see
// them no more at once; Kafka frees the space of whole segments only. It needs the ACL Delete on the topic.
func (s *Session) Truncate(ctx context.Context, topic string, before map[int32]int64) error {
	cl, err := kgo.NewClient(append(s.c.withRole("truncate").opts(),
		kgo.RequestRetries(1), kgo.RetryTimeout(5*time.Second))...)
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
