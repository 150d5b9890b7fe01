package kafka

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// A Follower reads partitions of a topic as records come (read_committed),
// without a group: for whoever wants to know what is there, beside its offsets.
type Follower struct {
	c     Config
	topic string

	mu sync.Mutex // guards what follows
	cl *kgo.Client
	at map[int32]int64 // partitions followed, and where each begins
}

// NewFollower returns a Follower of a topic (full name); it is inert until Run.
func NewFollower(c Config, topic string) *Follower {
	return &Follower{c: *c.as("follower"), topic: topic, at: map[int32]int64{}}
}

// Add begins to follow a partition from an offset on; one that is followed
// already begins anew.
func (f *Follower) Add(partition int32, offset int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, again := f.at[partition]
	f.at[partition] = offset
	if f.cl == nil {
		return
	}
	if again {
		f.cl.RemoveConsumePartitions(map[string][]int32{f.topic: {partition}})
	}
	f.cl.AddConsumePartitions(map[string]map[int32]kgo.Offset{f.topic: {partition: begin(offset)}})
}

// Remove ends following a partition.
func (f *Follower) Remove(partition int32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.at, partition)
	if f.cl != nil {
		f.cl.RemoveConsumePartitions(map[string][]int32{f.topic: {partition}})
	}
}

func begin(offset int64) kgo.Offset {
	if offset < 0 {
		return kgo.NewOffset().AtStart()
	}
	return kgo.NewOffset().At(offset)
}

// Run hands every record to apply, in order within a partition and one at a
// time, until ctx ends. What fails is tried again, and logged at a bounded rate. A
// topic that is deleted and made again is read from its start.
func (f *Follower) Run(ctx context.Context, apply func(partition int32, r Record)) error {
	cl, err := kgo.NewClient(append(f.c.opts(),
		kgo.ConsumeResetOffset(kgo.RewindOffset(0)), // from the start, or the last record read
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.FetchMaxWait(time.Second),
		kgo.FetchMaxPartitionBytes(256<<10), // of a topic that anybody can fill
	)...)
	if err != nil {
		return fmt.Errorf("follower of %s: %w", f.topic, err)
	}
	f.mu.Lock()
	f.cl = cl
	for p, at := range f.at {
		cl.AddConsumePartitions(map[string]map[int32]kgo.Offset{f.topic: {p: begin(at)}})
	}
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		f.cl = nil
		f.mu.Unlock()
		cl.Close()
	}()
	report := logReporter(f.c.Log, "reading a topic failed; it is tried again", f.topic)
	for try := 0; ctx.Err() == nil; {
		fetches := cl.PollFetches(ctx)
		fetches.EachRecord(func(r *kgo.Record) {
			apply(r.Partition, Record{Key: r.Key, Value: r.Value, Offset: r.Offset, Time: r.Timestamp})
		})
		errs := pollErrors(fetches)
		if len(errs) == 0 {
			try = 0
			continue
		}
		for _, err := range errs {
			report.report(err)
		}
		waitBackoff(ctx, try)
		try++
		if slices.ContainsFunc(errs, topicIsGone) {
			f.again(cl)
		}
	}
	return nil
}

// again begins anew: the topic was deleted and made again, its id is another.
func (f *Follower) again(cl *kgo.Client) {
	f.mu.Lock()
	defer f.mu.Unlock()
	cl.PurgeTopicsFromClient(f.topic)
	for p := range f.at {
		f.at[p] = -1
		cl.AddConsumePartitions(map[string]map[int32]kgo.Offset{f.topic: {p: begin(-1)}})
	}
}
