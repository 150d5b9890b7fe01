package kafka

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// A life is the time of one client within a Session. Its fields belong to the session's goroutine, which alone
// calls the Handler, except where noted. The client's goroutines call assigned, revoked, fetched and adjust; these
// write ownership under its lock, and the session's goroutine reads it in follow, between transactions.
type life struct {
	*Session
	h          Handler
	gts        *kgo.GroupTransactSession
	late       context.Context // parent of transactions: ends some time after Run's context
	partitions int
	inputID    [16]byte // Kafka's id of the input topic
	topics     map[string]topicState
	begin      map[int32]int64 // start of reading by partition, from the last fetch of positions
	unreadable int             // polls in a row that had errors
	reading    *reporter       // reports these errors
	expired    atomic.Pointer[error]
	outages    outages  // written by the client's goroutines
	buf        []Record // of the fetch being taken
	slabs      recordSlabs
	weight     int // messages of a record, of late
	refusals   refusals
	aborts     int       // aborted transactions in a row
	compared   time.Time // last call of compareClocks

	ownership  ownership // written by the client's goroutines
	owned      map[int32]*progress
	member     string // with generation: under which positions are committed, see follow
	generation int32
	revocation bool // partitions were revoked: see settle
	more       bool // the Handler left work on quiet partitions
	void       bool // the last transaction was aborted: the Handler's state must be restored
}

// progress is the state of an owned partition. committed and committedEpoch are of the last commit, the other offsets
// of the open transaction; rewind and end bring them together again.
type progress struct {
	tenure         *tenure
	committed      Position
	committedEpoch int32       // leader epoch committed with the position; noEpoch: none
	next           int64       // offset after the last record seen
	epoch          int32       // leader epoch of the last record taken; noEpoch: not known
	since          time.Time   // begin of its silence
	rest           time.Time   // begin of its silence, as of the committed state
	touched        bool        // in this transaction
	behind         *kgo.Record // the first record read that the Handler did not take; nil: none
	end            int64       // offset after the last record of the log
	until          int64       // end of the current pass; 0: no pass
}

// transactionTimeout returns the age at which a broker aborts an open transaction. It must be longer than a
// session timeout, and than a rebalance that blocks the end of the transaction. It bounds the time for which a killed
// member holds back readers of the output at read_committed.
func (s *Session) transactionTimeout() time.Duration { return cmp.Or(s.sc.Timeout, 45*time.Second) }

// leaveWithin bounds the time for leaving the group. Without an answer the group removes the member after the
// session timeout.
const leaveWithin = 2 * time.Second

// fetchMaxWait is the time for which a broker holds a fetch back that has less than fetchMinBytes to return.
const fetchMaxWait = 100 * time.Millisecond

// fetchMinBytes returns the octets that a broker waits for before it answers a fetch. Producers append a batch every
// few milliseconds to each partition: a fetch that returned at the first of them would cost broker and client more
// than its records do. A pass reads a log to its end, where nothing may follow.
func (s *Session) fetchMinBytes() int32 {
	if s.sc.Passes {
		return 1
	}
	return 64 << 10
}

// rebalanceTimeout returns the time for which a rebalance waits for a member: for the end of its transaction, or
// for a dead member.
func (s *Session) rebalanceTimeout() time.Duration {
	return cmp.Or(s.sc.Rebalance, min(10*time.Second, max(2*s.c.SessionTimeout, s.sc.Every+2*time.Second)))
}

// runClient runs one life: a client from its creation to its end. It returns nil when ctx has ended, and an error when
// the next life may do better.
//
// Deferred calls run in this order: the watch ends; positions are remembered; the Handler drops its partitions; the
// client leaves the group and is closed, for which it has leaveWithin.
func (s *Session) runClient(ctx context.Context, h Handler) (err error) {
	l := s.newLife(h)
	if err := l.adoptTopics(ctx); err != nil {
		return err
	}
	c := s.c.withRole(s.sc.Group)
	heartbeat := min(3*time.Second, s.c.SessionTimeout/5)
	late, over := outlive(ctx, min(commitWithin, s.rebalanceTimeout()+commitSlack))
	defer over()
	l.late = late
	client, giveUp := outlive(ctx, giveUpAfter)
	defer giveUp()
	l.gts, err = kgo.NewGroupTransactSession(append(c.opts(),
		kgo.WithContext(client), kgo.WithHooks(&l.outages),
		kgo.ConsumerGroup(s.sc.Group),
		kgo.ConsumeTopics(s.sc.Input),
		kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()), // see locate
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.KeepControlRecords(), // their offsets count for the end of a partition
		kgo.Balancers(syncBalancer{kgo.CooperativeStickyBalancer(), s.sc.Input, &l.ownership}),
		kgo.BlockRebalanceOnPoll(),
		kgo.SessionTimeout(s.c.SessionTimeout), kgo.HeartbeatInterval(heartbeat), kgo.RebalanceTimeout(s.rebalanceTimeout()),
		kgo.TransactionalID(s.sc.Group+"-"+s.sc.Member), kgo.TransactionTimeout(s.transactionTimeout()),
		kgo.RecordPartitioner(partitioner{manual: s.sc.ManualPartitioning}),
		// A transaction is flushed before its commit, so a long linger delays nothing: it only makes batches larger.
		kgo.ProducerLinger(100*time.Millisecond), kgo.ProducerBatchCompression(kgo.SnappyCompression()),
		kgo.MaxBufferedRecords(100_000), // of a transaction, so that taking records does not wait for the broker
		kgo.FetchMaxWait(fetchMaxWait), kgo.FetchMinBytes(s.fetchMinBytes()),
		kgo.FetchMaxPartitionBytes(256<<10), // a poll empties a partition's share first: small shares keep all moving
		kgo.OnPartitionsAssigned(l.assigned), kgo.OnOffsetsFetched(l.fetched), kgo.AdjustFetchOffsetsFn(l.adjust),
		kgo.OnPartitionsRevoked(l.revoked), kgo.OnPartitionsLost(l.revoked),
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
	defer func() { l.drop(slices.Sorted(maps.Keys(l.owned))) }()
	defer l.remember()
	// Ends a transaction that a killed process of this name left open, now and not at the first record: nobody
	// gets the offsets of its partitions before.
	if _, _, err := l.gts.Client().ProducerID(ctx); err != nil {
		return fmt.Errorf("transactional id %s: %w", s.sc.Group+"-"+s.sc.Member, err)
	}
	watch, end := context.WithCancel(ctx)
	var watching sync.WaitGroup
	watching.Go(func() { l.watch(watch) })
	defer watching.Wait()
	defer end()
	err = l.work(ctx)
	if ctx.Err() == nil && (errors.Is(err, kerr.UnknownTopicID) || l.expired.Load() != nil) {
		l.bequeath()
	}
	return err
}

// newLife returns a life without a client. It owns no partition and knows no topic: adoptTopics and the client's
// callbacks fill it.
func (s *Session) newLife(h Handler) *life {
	return &life{
		Session: s, h: h, owned: map[int32]*progress{}, begin: map[int32]int64{},
		ownership: ownership{tenures: map[int32]*tenure{}}, reading: logReporter(s.sc.Log, "reading", s.sc.Input),
	}
}

// work runs transactions until ctx ends or the client must be replaced. Rebalances are blocked from the first poll of
// a transaction to AllowRebalance after its end (kgo.BlockRebalanceOnPoll): the ownership cannot change within one.
func (l *life) work(ctx context.Context) error {
	lastIdle := l.sc.Now()
	defer l.noteTurn(time.Time{})
	for ctx.Err() == nil {
		if err := l.prepare(ctx); err != nil {
			return err
		}
		l.noteTurn(l.sc.Now())
		tx := l.newTx()
		l.beginPasses(ctx)
		err := l.gather(ctx, tx)
		if now := l.sc.Now(); err == nil && !tx.full && (l.more || now.Sub(lastIdle) >= idleEvery || now.Before(lastIdle)) {
			lastIdle = now
			err = l.idle(ctx, tx)
		}
		if err == nil && tx.began {
			err = l.end(tx)
		}
		tx.release()
		l.gts.AllowRebalance()
		if err != nil {
			return err
		}
		if why := l.expired.Load(); why != nil {
			return *why
		}
		l.pause(ctx)
	}
	return nil
}

// prepare brings ownership and state up to date before a transaction. Rebalances are not blocked meanwhile. The order
// matters: a partition that was lost and assigned again must be dropped by follow before restore assigns it.
func (l *life) prepare(ctx context.Context) error {
	l.noteTurn(time.Time{})
	if err := l.follow(); err != nil {
		return err
	}
	if err := l.settle(); err != nil {
		return err
	}
	return l.restore(ctx)
}

// gather polls until a transaction is full, its time is over, or ctx ends. The transaction begins with its first
// record: an idle session opens none, since an open transaction holds back readers at read_committed.
func (l *life) gather(ctx context.Context, tx *Tx) error {
	// The length of a transaction does not affect correctness, so the wall clock is good enough.
	every := l.sc.Every
	if l.more { // quiet partitions wait for the next transaction
		every = time.Millisecond
	}
	until, cancel := context.WithTimeout(ctx, every)
	defer cancel()
	most := l.refusals.recordLimit()
	for until.Err() == nil && tx.records < most && !tx.full {
		fetches := l.gts.PollRecords(until, max(1, (most-tx.records)/max(1, l.weight)))
		if err := l.failures(ctx, fetches); err != nil {
			return err
		}
		if fetches.NumRecords() == 0 {
			l.measure(fetches)
			if tx.records == 0 || l.unreadable > 0 {
				return nil
			}
			continue
		}
		if err := tx.begin(); err != nil {
			return err
		}
		fetches.EachPartition(func(p kgo.FetchTopicPartition) { l.takeRecords(tx, p.Partition, p.Records) })
		l.weight = tx.records / fetches.NumRecords()
		l.measure(fetches)
	}
	return nil
}

// measure updates the lag of the owned partitions. The high watermark of a fetch is that of the broker's response: a
// partition whose leader does not answer keeps its last value.
func (l *life) measure(fetches kgo.Fetches) {
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

// failures notes and reports the errors of a poll. It returns an error if the client must be replaced. The errors of
// the poll's own deadline are none: the session polls with one to keep to the length of a transaction.
func (l *life) failures(ctx context.Context, fetches kgo.Fetches) error {
	working := true
	for _, e := range fetches.Errors() {
		if ctx.Err() != nil || errors.Is(e.Err, context.DeadlineExceeded) || errors.Is(e.Err, context.Canceled) {
			continue
		}
		if errors.Is(e.Err, kgo.ErrClientClosed) {
			return e.Err
		}
		if needsNewLife(e.Err) && l.needsReplacement(ctx, e.Err) {
			return fmt.Errorf("reading %s partition %d: %w", e.Topic, e.Partition, e.Err)
		}
		if loss, ok := errors.AsType[*kgo.ErrDataLoss](e.Err); ok {
			l.noteDataLoss(loss)
			continue
		}
		working = false
		l.note(e.Err)
		l.reading.report(fmt.Errorf("topic %s partition %d: %w", e.Topic, e.Partition, e.Err))
		for n, p := range l.owned { // a fetch error must not count as silence
			if e.Topic == "" || n == e.Partition {
				p.since = l.sc.Now()
				p.rest = p.since
			}
		}
	}
	if l.unreadable++; working {
		l.unreadable = 0
	}
	if _, generation := l.gts.Client().GroupMetadata(); working && generation >= 0 {
		l.note(nil)
	}
	return nil
}

// takeRecords passes records of a partition to the Handler and updates the partition's progress. When the Handler takes
// fewer than it gets, the rest is not kept: readAgain resets the client to the first of them after the commit.
// Control records are not passed on, but their offsets count: the last record of a log may be one.
func (l *life) takeRecords(tx *Tx, partition int32, records []*kgo.Record) {
	if len(records) == 0 {
		return
	}
	p := l.owned[partition]
	if p == nil {
		tx.fail(fmt.Errorf("partition %d: %w", partition, errNotOwned))
		return
	}
	if p.behind != nil {
		return // it is read again with the records before it
	}
	l.buf = slices.Grow(l.buf[:0], len(records))
	for _, r := range records {
		p.next = r.Offset + 1
		if !r.Attrs.IsControl() {
			refused := l.refusals.causeOf(partition, r.Offset)
			l.buf = append(l.buf, Record{Key: r.Key, Value: r.Value, Offset: r.Offset, Time: r.Timestamp, Refused: refused})
		}
	}
	last := p.next - 1
	if len(l.buf) > 0 {
		p.since = l.sc.Now()
	}
	tx.touch(partition, p)
	tx.stamp()
	if n := l.h.Records(tx, partition, l.buf); n < len(l.buf) {
		rest := slices.IndexFunc(records, func(r *kgo.Record) bool { return r.Offset == l.buf[n].Offset })
		p.behind, tx.full = records[rest], true
		p.next, last, records = p.behind.Offset, p.behind.Offset-1, records[:rest]
	}
	tx.records += len(records)
	if len(records) > 0 {
		p.epoch = records[len(records)-1].LeaderEpoch
		tx.last = Position{Partition: partition, Offset: last}
	}
	l.passed(partition, p)
}
