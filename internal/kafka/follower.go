package kafka

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// A Follower reads partitions of a topic as records arrive, at isolation level read_committed, without a
// consumer group and without committing offsets. Add and Remove may be called by any goroutine at any time, also
// while a lock is held that apply takes: neither waits for Kafka or for apply.
type Follower struct {
	c     Config
	topic string

	changed    chan struct{} // wakes updateClient; of capacity 1
	checkEvery time.Duration // interval at which the topic's id is compared

	mu    sync.Mutex      // guards the fields below; must not be held during calls of the client
	at    map[int32]int64 // partitions followed, and the offset at which each begins
	dirty map[int32]bool  // partitions whose entry in at the client does not have yet
	anew  bool            // the topic was deleted and recreated
}

// NewFollower returns a Follower of a topic, given its full name. It reads nothing before Run.
func NewFollower(c Config, topic string) *Follower {
	return &Follower{
		c: *c.withRole("follower"), topic: topic, changed: make(chan struct{}, 1), checkEvery: topicStateEvery,
		at: map[int32]int64{}, dirty: map[int32]bool{},
	}
}

// Add follows a partition from an offset on; a negative offset is the start. A partition that is followed
// already begins at offset again. Add does not wait for Kafka.
func (f *Follower) Add(partition int32, offset int64) {
	f.mu.Lock()
	f.at[partition], f.dirty[partition] = offset, true
	f.mu.Unlock()
	f.wake()
}

// Remove stops following a partition. It does not wait for Kafka: records that were fetched before may still
// arrive.
func (f *Follower) Remove(partition int32) {
	f.mu.Lock()
	delete(f.at, partition)
	f.dirty[partition] = true
	f.mu.Unlock()
	f.wake()
}

// wake wakes updateClient. It never blocks.
func (f *Follower) wake() {
	select {
	case f.changed <- struct{}{}:
	default:
	}
}

// updateClient passes changes of the followed partitions to the client until ctx ends. It has a goroutine of its
// own, since the client's calls wait for open fetches. Several changes of a partition between two rounds take effect
// as one: the client gets the last state.
func (f *Follower) updateClient(ctx context.Context, cl *kgo.Client) {
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
				add[p], followed[p] = offsetOrStart(at), true
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

// offsetOrStart returns an offset; the start of the log for a negative number.
func offsetOrStart(offset int64) kgo.Offset {
	if offset < 0 {
		return kgo.NewOffset().AtStart()
	}
	return kgo.NewOffset().At(offset)
}

// Run calls apply for each record until ctx ends, in order within a partition, from one goroutine. A failed fetch is
// repeated with back-off and logged at a bounded rate. A topic that is deleted and recreated is read from its start,
// perhaps more than once: apply must tolerate repeats. The goroutines that Run starts end before it returns. It must be
// called once.
func (f *Follower) Run(ctx context.Context, apply func(partition int32, r Record)) error {
	cl, err := kgo.NewClient(append(f.c.opts(),
		kgo.WithContext(ctx),                        // an unanswered fetch must not delay the end
		kgo.ConsumeResetOffset(kgo.RewindOffset(0)), // from the start, or from the last record read
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.FetchMaxWait(time.Second),
		kgo.FetchMaxPartitionBytes(256<<10), // anybody may fill the topic
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
	inner, stop := context.WithCancel(ctx)
	var helpers sync.WaitGroup
	helpers.Go(func() { f.updateClient(inner, cl) })
	helpers.Go(func() {
		is := topicCheck{topic: f.topic}
		is.watch(inner, cl, f.checkEvery, f.restart)
	})
	defer func() {
		stop()
		cl.Close() // ends their calls of the client
		helpers.Wait()
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
			f.restart()
		}
	}
	return nil
}

// restart follows all partitions from their start: the topic was deleted and recreated, with another id. The
// offsets given to Add are those of the old topic and void. It may be called by any goroutine.
func (f *Follower) restart() {
	f.mu.Lock()
	f.anew = true
	for p := range f.at {
		f.at[p], f.dirty[p] = -1, true
	}
	f.mu.Unlock()
	f.wake()
}
