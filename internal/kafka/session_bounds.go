package kafka

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// The timestamps of ListOffsets requests that stand for the bounds of a log.
const (
	startOfLog = -2
	endOfLog   = -1
)

// The isolation levels of ListOffsets requests: with readCommitted, the end of a log is
// that of its decided transactions.
const (
	readUncommitted = 0
	readCommitted   = 1
)

// listOffsets returns the start or the end of the logs of partitions of a topic. A partition
// whose leader does not answer within endsWithin is missing: it must not hold up the others.
// It is an error only if no leader answers.
func listOffsets(ctx context.Context, cl *kgo.Client, topic string, partitions []int32, timestamp int64, isolation int8) (map[int32]int64, error) {
	ctx, cancel := context.WithTimeout(ctx, endsWithin)
	defer cancel()
	req := kmsg.NewPtrListOffsetsRequest()
	req.IsolationLevel = isolation
	t := kmsg.NewListOffsetsRequestTopic()
	t.Topic = topic
	for _, n := range partitions {
		p := kmsg.NewListOffsetsRequestTopicPartition()
		p.Partition, p.Timestamp = n, timestamp
		t.Partitions = append(t.Partitions, p)
	}
	req.Topics = append(req.Topics, t)
	at := map[int32]int64{}
	var why error
	for _, shard := range cl.RequestSharded(ctx, req) {
		if shard.Err != nil {
			why = cmp.Or(why, shard.Err)
			continue
		}
		resp, ok := shard.Resp.(*kmsg.ListOffsetsResponse)
		if !ok {
			continue
		}
		for _, t := range resp.Topics {
			for _, p := range t.Partitions {
				if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
					why = cmp.Or(why, err)
				} else if slices.Contains(partitions, p.Partition) {
					at[p.Partition] = p.Offset
				}
			}
		}
	}
	if len(at) == 0 && len(partitions) > 0 {
		return nil, fmt.Errorf("offsets of %s: %w", topic, cmp.Or(why, errors.New("the answer has no partition")))
	}
	return at, nil
}

// bounds are the first offset of a partition and the offset after its last record.
type bounds struct{ first, end int64 }

// listBounds returns the bounds of partitions of a topic, as listOffsets does.
func listBounds(ctx context.Context, cl *kgo.Client, topic string, partitions []int32, isolation int8) (map[int32]bounds, error) {
	var starts, ends map[int32]int64
	var startErr, endErr error
	var both sync.WaitGroup
	both.Go(func() { starts, startErr = listOffsets(ctx, cl, topic, partitions, startOfLog, readUncommitted) })
	ends, endErr = listOffsets(ctx, cl, topic, partitions, endOfLog, isolation)
	both.Wait()
	if err := cmp.Or(startErr, endErr); err != nil {
		return nil, err
	}
	all := map[int32]bounds{}
	for n, start := range starts {
		if end, ok := ends[n]; ok {
			all[n] = bounds{start, end}
		}
	}
	return all, nil
}

// noEpoch is the leader epoch of a position that nobody knows one of.
const noEpoch = -1

// epochEnds returns the offset after the last record that the log of each partition holds of
// the given leader epoch and all epochs before it (KIP-320). A partition without an epoch, or
// whose leader does not answer or does not know the epoch, is missing.
func epochEnds(ctx context.Context, cl *kgo.Client, topic string, epochs map[int32]int32) map[int32]int64 {
	var req kadm.OffsetForLeaderEpochRequest
	for n, epoch := range epochs {
		if epoch > noEpoch {
			req.Add(topic, n, epoch)
		}
	}
	if len(req) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, endsWithin)
	defer cancel()
	// An error is that of some brokers: the others have answered.
	all, _ := kadm.NewClient(cl).OffsetForLeaderEpoch(ctx, req)
	ends := map[int32]int64{}
	for n, e := range all[topic] {
		if e.Err == nil && e.EndOffset >= 0 {
			ends[n] = e.EndOffset
		}
	}
	return ends
}

// listHeld returns the bounds of what partitions of a topic hold of what was read from them,
// given the leader epoch of the last record read: where the log of a partition was cut, the
// end is the cut. What the log holds after that is new.
func listHeld(ctx context.Context, cl *kgo.Client, topic string, partitions []int32, epochs map[int32]int32) (map[int32]bounds, error) {
	logs, err := listBounds(ctx, cl, topic, partitions, readUncommitted)
	if err != nil {
		return nil, err
	}
	ask := map[int32]int32{} // whose leaders answer
	for n := range logs {
		if epoch, ok := epochs[n]; ok {
			ask[n] = epoch
		}
	}
	for n, end := range epochEnds(ctx, cl, topic, ask) {
		log := logs[n]
		logs[n] = bounds{log.first, max(log.first, min(log.end, end))}
	}
	return logs, nil
}
