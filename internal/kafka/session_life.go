package kafka

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// A life is one client's life within a Session.
type life struct {
	*Session
	h          Handler
	gts        *kgo.GroupTransactSession
	partitions int
	inputID    [16]byte // Kafka's id of the input topic
	buf        []Record // of the fetch that is taken
	weight     int      // messages of a record, of late
	refusals   refusals
	aborts     int // transactions in a row that were aborted

	mu    chanMutex // callbacks of the client come from its own goroutines
	owned map[int32]*progress
	fatal error
}

// A chanMutex is a mutex that is held while a Handler reads from Kafka. A goroutine that
// waits for a channel is durably blocked in a testing/synctest bubble, one that waits for
// a sync.Mutex is not: the bubble's clock would stand still.
type chanMutex chan struct{}

func newChanMutex() chanMutex { return make(chanMutex, 1) }

func (m chanMutex) Lock()   { m <- struct{}{} }
func (m chanMutex) Unlock() { <-m }

// progress is where an owned partition stands.
type progress struct {
	committed Position
	next      int64     // offset after the last record seen
	since     time.Time // quiet since
	touched   bool      // in this transaction
	end       int64     // offset after the last record there is
	until     int64     // end of the pass that is under way; 0: none is
}

// transactionTimeout: a transaction must outlive a session timeout and a
// rebalance that blocks its end.
const transactionTimeout = 45 * time.Second

// leaveWithin bounds how long leaving the group takes. Without an answer the group
// notices after the session timeout.
const leaveWithin = 2 * time.Second

// rebalanceTimeout is how long a rebalance waits for a member: for the end of
// its transaction, and for one that is dead.
func (s *Session) rebalanceTimeout() time.Duration {
	return cmp.Or(s.sc.Rebalance, min(10*time.Second, max(2*s.c.SessionTimeout, s.sc.Every+2*time.Second)))
}

func (s *Session) once(ctx context.Context, h Handler) (err error) {
	l := &life{Session: s, h: h, owned: map[int32]*progress{}, mu: newChanMutex()}
	if l.partitions, l.inputID, err = s.inputTopic(ctx); err != nil {
		return err
	}
	c := s.c.as(s.sc.Group)
	heartbeat := min(3*time.Second, s.c.SessionTimeout/5)
	client, giveUp := context.WithCancel(context.WithoutCancel(ctx))
	defer giveUp()
	l.gts, err = kgo.NewGroupTransactSession(append(c.opts(),
		kgo.WithContext(client),
		kgo.ConsumerGroup(s.sc.Group),
		kgo.ConsumeTopics(s.sc.Input),
		kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.KeepControlRecords(), // they count for whether a partition is read to its end
		kgo.Balancers(kgo.CooperativeStickyBalancer()),
		kgo.BlockRebalanceOnPoll(),
		kgo.SessionTimeout(s.c.SessionTimeout), kgo.HeartbeatInterval(heartbeat), kgo.RebalanceTimeout(s.rebalanceTimeout()),
		kgo.TransactionalID(s.sc.Group+"-"+s.sc.Member), kgo.TransactionTimeout(cmp.Or(s.sc.Timeout, transactionTimeout)),
		kgo.RecordPartitioner(partitioner{byNumber: s.sc.ByNumber}),
		kgo.ProducerLinger(2*time.Millisecond), kgo.ProducerBatchCompression(kgo.SnappyCompression()),
		kgo.MaxBufferedRecords(100_000), // a transaction's, so that taking records does not wait for the broker
		kgo.FetchMaxWait(200*time.Millisecond),
		kgo.FetchMaxPartitionBytes(256<<10), // a poll empties one partition's share before the next: small ones keep all moving
		kgo.OnOffsetsFetched(l.fetched), kgo.OnPartitionsRevoked(l.revoked), kgo.OnPartitionsLost(l.revoked),
	)...)
	if err != nil {
		return fmt.Errorf("transactional client: %w", err)
	}
	l.refusals.max = s.sc.MaxRecords
	defer s.noteAbort(nil)
	defer func() {
		leaving := time.AfterFunc(leaveWithin, giveUp)
		defer leaving.Stop()
		l.gts.Client().CloseAllowingRebalance()
	}()
	defer l.dropAll()
	if s.sc.Passes {
		l.hold()
	}
	// Ends a transaction that a killed process of this name left open, now and not
	// at the first record: until then nobody gets the offsets of its partitions.
	if _, _, err := l.gts.Client().ProducerID(ctx); err != nil {
		return fmt.Errorf("transactional id %s: %w", s.sc.Group+"-"+s.sc.Member, err)
	}
	return l.work(ctx)
}

// fetched restores the state of newly assigned partitions: the metadata comes
// with the very offsets from which consumption starts.
func (l *life) fetched(ctx context.Context, _ *kgo.Client, resp *kmsg.OffsetFetchResponse) error {
	var at []Position
	seen := map[int32]bool{} // the same answer stands there in the form of an older version too
	add := func(topic string, p int32, offset int64, metadata *string) {
		if topic != "" && topic != l.sc.Input || seen[p] {
			return
		}
		seen[p] = true
		pos := Position{Partition: p, Offset: offset}
		if metadata != nil {
			pos.Metadata = *metadata
		}
		at = append(at, pos)
	}
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			add(t.Topic, p.Partition, p.Offset, p.Metadata)
		}
	}
	for _, g := range resp.Groups {
		for _, t := range g.Topics {
			for _, p := range t.Partitions {
				add(t.Topic, p.Partition, p.Offset, p.Metadata)
			}
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.h.Assigned(ctx, l.partitions, at); err != nil {
		if errors.Is(err, ErrFatal) {
			l.fatal = err
		}
		l.note(fmt.Errorf("state could not be restored: %w", err))
		l.sc.Log.Warn("state of partitions could not be restored", "group", l.sc.Group, "err", err)
		return err
	}
	for _, pos := range at {
		l.owned[pos.Partition] = &progress{committed: pos, next: max(pos.Offset, 0), since: l.sc.Now()}
		l.Pass(pos.Partition)
	}
	if len(at) > 0 {
		l.sc.Log.Info("partitions assigned", "group", l.sc.Group, "topic", l.sc.Input, "partitions", len(at))
	}
	return nil
}

func (l *life) revoked(_ context.Context, _ *kgo.Client, lost map[string][]int32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var gone []int32
	for _, p := range lost[l.sc.Input] {
		if l.owned[p] != nil {
			delete(l.owned, p)
			l.refusals.forget(p, math.MaxInt64)
			gone = append(gone, p)
		}
	}
	if len(gone) > 0 {
		l.noteAbort(nil) // what could not be committed is another member's now
		if l.sc.Passes { // whoever gets them back begins with a pass
			l.gts.Client().PauseFetchPartitions(map[string][]int32{l.sc.Input: gone})
		}
		l.h.Lost(gone)
	}
}

func (l *life) dropAll() {
	l.mu.Lock()
	defer l.mu.Unlock()
	var gone []int32
	for p := range l.owned {
		gone = append(gone, p)
	}
	clear(l.owned)
	if len(gone) > 0 {
		l.h.Lost(gone)
	}
}

// work runs transactions until ctx ends or something fails.
func (l *life) work(ctx context.Context) error {
	lastIdle := l.sc.Now()
	defer l.turns(time.Time{})
	for ctx.Err() == nil {
		l.turns(l.sc.Now())
		tx := &Tx{l: l, ctx: context.WithoutCancel(ctx)}
		l.beginPasses(ctx)
		err := l.gather(ctx, tx)
		if err == nil && tx.records == 0 {
			// Nothing came: look after partitions that are quiet.
			if now := l.sc.Now(); now.Sub(lastIdle) >= idleEvery || now.Before(lastIdle) {
				lastIdle = now
				err = l.idle(ctx, tx)
			}
		}
		if err == nil && tx.began {
			err = l.end(ctx, tx)
		}
		l.mu.Lock()
		fatal := l.fatal
		l.mu.Unlock()
		l.gts.AllowRebalance()
		if fatal != nil {
			return fatal
		}
		if err != nil {
			return err
		}
		l.pause(ctx)
	}
	return nil
}

// gather polls until a transaction is full, its time is over, or ctx ends.
func (l *life) gather(ctx context.Context, tx *Tx) error {
	// Cutting a transaction is no matter of correctness: the wall clock does.
	until, cancel := context.WithTimeout(ctx, l.sc.Every)
	defer cancel()
	most := l.refusals.most()
	for until.Err() == nil && tx.records < most {
		fetches := l.gts.PollRecords(until, max(1, (most-tx.records)/max(1, l.weight)))
		if err := l.failures(ctx, fetches); err != nil {
			return err
		}
		if fetches.NumRecords() == 0 {
			l.measure(fetches)
			if tx.records == 0 {
				return nil
			}
			continue
		}
		if err := tx.begin(); err != nil {
			return err
		}
		l.mu.Lock()
		fetches.EachPartition(func(p kgo.FetchTopicPartition) { l.take(tx, p.Partition, p.Records) })
		l.mu.Unlock()
		l.weight = tx.records / fetches.NumRecords()
		l.measure(fetches)
	}
	return nil
}

// measure notes how far the owned partitions are behind.
func (l *life) measure(fetches kgo.Fetches) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fetches.EachPartition(func(f kgo.FetchTopicPartition) {
		if p := l.owned[f.Partition]; p != nil && f.HighWatermark > p.end {
			p.end = f.HighWatermark
		}
	})
	lag := int64(0)
	for _, p := range l.owned {
		lag += max(0, p.end-p.next)
	}
	l.lag.Store(lag)
}

func (l *life) failures(ctx context.Context, fetches kgo.Fetches) error {
	working := true
	for _, e := range fetches.Errors() {
		if ctx.Err() != nil || errors.Is(e.Err, context.DeadlineExceeded) || errors.Is(e.Err, context.Canceled) {
			continue
		}
		if errors.Is(e.Err, kgo.ErrClientClosed) {
			return e.Err
		}
		working = false
		l.note(e.Err)
		l.sc.Log.Warn("reading", "group", l.sc.Group, "topic", e.Topic, "partition", e.Partition, "err", e.Err)
		l.mu.Lock()
		for _, p := range l.owned { // what was not read is no silence
			p.since = l.sc.Now()
		}
		l.mu.Unlock()
	}
	if _, generation := l.gts.Client().GroupMetadata(); working && generation >= 0 {
		l.note(nil)
	}
	return nil
}

// take hands records to the Handler. l.mu is held.
func (l *life) take(tx *Tx, partition int32, records []*kgo.Record) {
	p := l.owned[partition]
	if p == nil || len(records) == 0 {
		return
	}
	l.buf = slices.Grow(l.buf[:0], len(records))
	for _, r := range records {
		p.next = r.Offset + 1
		if !r.Attrs.IsControl() {
			refused := l.refusals.of(partition, r.Offset)
			l.buf = append(l.buf, Record{Key: r.Key, Value: r.Value, Offset: r.Offset, Time: r.Timestamp, Refused: refused})
		}
	}
	tx.records += len(records)
	tx.last = Position{Partition: partition, Offset: p.next - 1}
	if len(l.buf) > 0 {
		p.since = l.sc.Now()
	}
	tx.touch(partition, p)
	l.h.Records(tx, partition, l.buf)
	l.passed(partition, p)
}
