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

// Timestamps in ListOffsets requests that select a bound of a log.
const (
	startOfLog = -2
	endOfLog   = -1
)

// Isolation levels of ListOffsets requests. With readCommitted the end of a log is its last stable offset: that
// of its decided transactions.
const (
	readUncommitted = 0
	readCommitted   = 1
)

// listOffsets returns the first or the end offset of partitions of a topic. A partition whose leader does not
// answer within endsWithin is missing from the result: it must not delay the others. It returns an error only if
// no leader answers.
func listOffsets(
	ctx context.Context, cl *kgo.Client, topic string, partitions []int32, timestamp int64, isolation int8,
) (map[int32]int64, error) {
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

// bounds are the first offset of a log and the offset after its last record. They are equal for an empty log, which
// need not be 0: retention removes records, not offsets.
type bounds struct{ first, end int64 }

// listBounds returns the bounds of partitions of a topic. Partitions may be missing, as with listOffsets. The two
// bounds are of two requests: retention may move the start meanwhile, so that first may be after end for a moment.
func listBounds(
	ctx context.Context, cl *kgo.Client, topic string, partitions []int32, isolation int8,
) (map[int32]bounds, error) {
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

// noEpoch is the leader epoch of a position without a known epoch.
const noEpoch = -1

// epochEnds returns, for each partition, the offset after the last record of the given leader epoch and all
// epochs before it (KIP-320). A partition is missing if it has no epoch, or if its leader does not answer or
// does not know the epoch.
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
	// An error concerns some brokers only: the others have answered.
	all, _ := kadm.NewClient(cl).OffsetForLeaderEpoch(ctx, req)
	ends := map[int32]int64{}
	for n, e := range all[topic] {
		if e.Err == nil && e.EndOffset >= 0 {
			ends[n] = e.EndOffset
		}
	}
	return ends
}

// listHeld returns the bounds of those records of each log that were there when the partition was last read,
// given the leader epoch of the last record read. If the log was cut since, the end is the cut; records after it
// are new.
func listHeld(
	ctx context.Context, cl *kgo.Client, topic string, partitions []int32, epochs map[int32]int32,
) (map[int32]bounds, error) {
	logs, err := listBounds(ctx, cl, topic, partitions, readUncommitted)
	if err != nil {
		return nil, err
	}
	ask := map[int32]int32{} // of partitions whose leaders answer
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
