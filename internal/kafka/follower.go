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

	changed chan struct{} // wakes turn

	mu    sync.Mutex      // guards what follows; never held while the client is called, which may wait for a broker
	at    map[int32]int64 // partitions followed, and where each begins
	dirty map[int32]bool  // partitions of which the client does not know yet what at says
	anew  bool            // the topic was made again
}

// NewFollower returns a Follower of a topic (full name); it is inert until Run.
func NewFollower(c Config, topic string) *Follower {
	return &Follower{c: *c.as("follower"), topic: topic, changed: make(chan struct{}, 1), at: map[int32]int64{}, dirty: map[int32]bool{}}
}

// Add begins to follow a partition from an offset on; one that is followed
// already begins anew. It does not wait for Kafka.
func (f *Follower) Add(partition int32, offset int64) {
	f.mu.Lock()
	f.at[partition], f.dirty[partition] = offset, true
	f.mu.Unlock()
	f.wake()
}

// Remove ends following a partition. It does not wait for Kafka: a few records may still come.
func (f *Follower) Remove(partition int32) {
	f.mu.Lock()
	delete(f.at, partition)
	f.dirty[partition] = true
	f.mu.Unlock()
	f.wake()
}

func (f *Follower) wake() {
	select {
	case f.changed <- struct{}{}:
	default:
	}
}

// turn tells the client what is followed, until ctx ends. The client waits for its open fetches.
func (f *Follower) turn(ctx context.Context, cl *kgo.Client) {
	followed := map[int32]bool{} // by the client
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.changed:
		}
		f.mu.Lock()
		anew := f.anew
		f.anew = false
		var remove []int32
		add := map[int32]kgo.Offset{}
		for p := range f.dirty {
			if followed[p] && !anew {
				remove = append(remove, p)
			}
			delete(followed, p)
			if at, is := f.at[p]; is {
				add[p], followed[p] = begin(at), true
			}
		}
		clear(f.dirty)
		f.mu.Unlock()
		if anew {
			cl.PurgeTopicsFromClient(f.topic)
		}
		if len(remove) > 0 {
			cl.RemoveConsumePartitions(map[string][]int32{f.topic: remove})
		}
		if len(add) > 0 {
			cl.AddConsumePartitions(map[string]map[int32]kgo.Offset{f.topic: add})
		}
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
// topic that is deleted and made again is read from its start, perhaps more than once.
func (f *Follower) Run(ctx context.Context, apply func(partition int32, r Record)) error {
	cl, err := kgo.NewClient(append(f.c.opts(),
		kgo.WithContext(ctx),                        // a fetch that is not answered must not delay the end
		kgo.ConsumeResetOffset(kgo.RewindOffset(0)), // from the start, or the last record read
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.FetchMaxWait(time.Second),
		kgo.FetchMaxPartitionBytes(256<<10), // of a topic that anybody can fill
	)...)
	if err != nil {
		return fmt.Errorf("follower of %s: %w", f.topic, err)
	}
	f.mu.Lock()
	for p := range f.at {
		f.dirty[p] = true
	}
	f.mu.Unlock()
	f.wake()
	turning, stop := context.WithCancel(ctx)
	turned := make(chan struct{})
	go func() {
		defer close(turned)
		f.turn(turning, cl)
	}()
	defer func() {
		stop()
		cl.Close()
		<-turned
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
		if ctx.Err() != nil {
			break
		}
		for _, err := range errs {
			report.report(err)
		}
		waitBackoff(ctx, try)
		try++
		if slices.ContainsFunc(errs, topicIsGone) {
			f.again()
		}
	}
	return nil
}

// again begins anew: the topic was deleted and made again, its id is another.
func (f *Follower) again() {
	f.mu.Lock()
	f.anew = true
	for p := range f.at {
		f.at[p], f.dirty[p] = -1, true
	}
	f.mu.Unlock()
	f.wake()
}
