package kafka

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// A SessionConfig is what a Session consumes and how its transactions are cut.
type SessionConfig struct {
	Group      string
	Member     string   // unique among those that run; with Group the transactional id
	Input      string   // topic, full name; read_committed
	Twin       string   // topic that must have as many partitions as Input; "" = none
	ByNumber   []string // topics whose records carry their partition's number; others go by key
	MaxRecords int      // a transaction ends after so many records
	Every      time.Duration
	Passes     bool             // read in passes, see Session.Pass
	Rebalance  time.Duration    // how long a rebalance waits for a member; 0: up to 10 s
	Timeout    time.Duration    // of a transaction whose member died; 0: 45 s
	Now        func() time.Time // measures how long a partition is quiet, and a transaction takes
	Log        *slog.Logger
}

// A Position is where consumption of a partition starts, with what was
// committed beside the offset. It is the state that a Handler restores.
type Position struct {
	Partition int32
	Offset    int64  // of the next record; -1: nothing was committed yet
	Metadata  string // as Handler.Metadata returned it; "": none
}

// A Record is one consumed record. Key and Value are the Handler's to keep.
type Record struct {
	Key, Value []byte
	Offset     int64
	Time       time.Time
	Partition  int32 // of those that a Tail reads
}

// A Handler is what a Session works for. Its methods are never called
// concurrently, and Assigned before any record of a partition.
type Handler interface {
	// Assigned gives partitions with where they start: at an assignment, and for
	// all owned ones after an abort. State that is held of them is void.
	Assigned(ctx context.Context, partitions int, at []Position) error
	// Lost takes partitions away.
	Lost(partitions []int32)
	// Records takes records of a partition, within a transaction.
	Records(tx *Tx, partition int32, records []Record)
	// Due tells whether a partition that is read to its end and has been quiet
	// for so long has something to do in a transaction.
	Due(partition int32, quiet time.Duration) bool
	// Quiet does it.
	Quiet(tx *Tx, partition int32, quiet time.Duration)
	// Finish is the last chance to produce in a transaction; partitions are
	// those that had Records or Quiet in it.
	Finish(tx *Tx, partitions []int32)
	// Metadata returns what is committed beside the offset of a partition of
	// Finish. All that was produced is acknowledged.
	Metadata(partition int32) string
	// Committed tells that the transaction is done.
	Committed(partitions []int32)
}

// ErrFatal is wrapped by errors of a Handler that ends the Session instead of
// being tried again.
var ErrFatal = errors.New("cannot go on")

// A Session consumes a topic in a group and produces, in transactions: what is
// produced, the input's offsets and their metadata commit in one step. After any
// failure it starts anew from what was committed, in the same process.
type Session struct {
	c  Config
	sc SessionConfig

	lag    atomic.Int64
	mu     sync.Mutex
	reason error          // why it is not working; nil when it is
	turn   time.Time      // when the last transaction, or search for one, began; zero: not at work
	asked  map[int32]bool // passes
}

// NewSession returns a Session; it is inert until Run.
func NewSession(c Config, sc SessionConfig) *Session {
	return &Session{c: c, sc: sc, reason: errors.New("kafka is not reached yet"), asked: map[int32]bool{}}
}

// standsStill is how long a transaction may take: more than one whose end waits for a
// rebalance.
const standsStill = 30 * time.Second

// Ready returns nil while the session is a member of its group and its transactions end.
func (s *Session) Ready() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if took := s.sc.Now().Sub(s.turn); s.reason == nil && !s.turn.IsZero() && took > standsStill {
		return fmt.Errorf("a transaction that began %v ago has not ended: is Kafka away, or too slow?", took.Round(time.Second))
	}
	return s.reason
}

// Lag is how many records of the owned partitions are not taken yet, as of the
// last answer of their brokers.
func (s *Session) Lag() int64 { return s.lag.Load() }

// turns notes that a transaction begins; with zero, that none does.
func (s *Session) turns(now time.Time) {
	s.mu.Lock()
	s.turn = now
	s.mu.Unlock()
}

func (s *Session) note(err error) {
	s.mu.Lock()
	s.reason = err
	s.mu.Unlock()
}

// Run works for h until ctx ends: then the open transaction is committed and the
// group left. It returns early only with an error that wraps ErrFatal.
func (s *Session) Run(ctx context.Context, h Handler) error {
	for try := 0; ctx.Err() == nil; try++ {
		began := time.Now()
		err := s.once(ctx, h)
		if errors.Is(err, ErrFatal) {
			return err
		}
		if err == nil || ctx.Err() != nil {
			continue
		}
		if time.Since(began) > time.Minute {
			try = 0
		}
		s.note(err)
		s.sc.Log.Warn("the transactional session starts anew", "group", s.sc.Group, "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(backoff(try)):
		}
	}
	s.note(errors.New("shutting down"))
	return nil
}

// A life is one client's life within a Session.
type life struct {
	*Session
	h          Handler
	gts        *kgo.GroupTransactSession
	partitions int
	inputID    [16]byte // Kafka's id of the input topic
	buf        []Record // of the fetch that is taken
	weight     int      // messages of a record, of late

	mu    sync.Mutex // callbacks of the client come from its own goroutines
	owned map[int32]*progress
	fatal error
}

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

// rebalanceTimeout is how long a rebalance waits for a member: for the end of
// its transaction, and for one that is dead.
func (s *Session) rebalanceTimeout() time.Duration {
	return cmp.Or(s.sc.Rebalance, min(10*time.Second, max(2*s.c.SessionTimeout, s.sc.Every+2*time.Second)))
}

func (s *Session) once(ctx context.Context, h Handler) (err error) {
	l := &life{Session: s, h: h, owned: map[int32]*progress{}}
	if l.partitions, l.inputID, err = s.inputTopic(ctx); err != nil {
		return err
	}
	c := s.c.as(s.sc.Group)
	heartbeat := min(3*time.Second, s.c.SessionTimeout/5)
	l.gts, err = kgo.NewGroupTransactSession(append(c.opts(),
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
	defer l.gts.Client().CloseAllowingRebalance()
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
			gone = append(gone, p)
		}
	}
	if len(gone) > 0 {
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
		tx.produced = tx.refused
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
	}
	return nil
}

// gather polls until a transaction is full, its time is over, or ctx ends.
func (l *life) gather(ctx context.Context, tx *Tx) error {
	// Cutting a transaction is no matter of correctness: the wall clock does.
	until, cancel := context.WithTimeout(ctx, l.sc.Every)
	defer cancel()
	for until.Err() == nil && tx.records < l.sc.MaxRecords {
		fetches := l.gts.PollRecords(until, max(1, (l.sc.MaxRecords-tx.records)/max(1, l.weight)))
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
			l.buf = append(l.buf, Record{Key: r.Key, Value: r.Value, Offset: r.Offset, Time: r.Timestamp})
		}
	}
	tx.records += len(records)
	if len(l.buf) > 0 {
		p.since = l.sc.Now()
	}
	tx.touch(partition, p)
	l.h.Records(tx, partition, l.buf)
	l.passed(partition, p)
}

// endSlack is how much longer than a rebalance the end of a transaction may take.
const endSlack = 5 * time.Second

// end finishes a transaction: all or nothing.
func (l *life) end(ctx context.Context, tx *Tx) error {
	l.mu.Lock()
	if lost := l.lost(tx); lost != nil {
		tx.fail(lost)
	} else {
		l.h.Finish(tx, tx.partitions)
	}
	l.mu.Unlock()
	if err := l.gts.Client().Flush(tx.ctx); err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	next := map[int32]Position{}
	// The client's End wants a heartbeat, and waits for one without end when the group
	// put this member out meanwhile: the loop that beats waits in turn for the end of
	// this transaction (BlockRebalanceOnPoll). A new session then begins where the last
	// commit was.
	bounded, cancel := context.WithTimeout(tx.ctx, l.rebalanceTimeout()+endSlack)
	defer cancel()
	commitCtx := kgo.PreTxnCommitFnContext(bounded, func(req *kmsg.TxnOffsetCommitRequest) error {
		l.mu.Lock()
		defer l.mu.Unlock()
		for i := range req.Topics {
			for j := range req.Topics[i].Partitions {
				rp := &req.Topics[i].Partitions[j]
				p := l.owned[rp.Partition]
				if p == nil {
					return fmt.Errorf("partition %d is not owned any more", rp.Partition)
				}
				metadata := p.committed.Metadata
				if p.touched {
					metadata = l.h.Metadata(rp.Partition)
				}
				rp.Metadata = &metadata
				next[rp.Partition] = Position{rp.Partition, rp.Offset, metadata}
			}
		}
		return nil
	})
	try := kgo.TransactionEndTry(tx.failure() == nil)
	if try == kgo.TryCommit && tx.quiet {
		positions, err := l.commitQuiet(tx)
		if err != nil {
			l.sc.Log.Warn("offsets of quiet partitions are not committed", "group", l.sc.Group, "err", err)
			try = kgo.TryAbort
		}
		for _, p := range positions {
			next[p.Partition] = p
		}
	}
	committed, err := l.gts.End(commitCtx, try)
	if err != nil {
		return fmt.Errorf("end of transaction: %w", err)
	}
	if !committed {
		l.sc.Log.Warn("a transaction was aborted; its records are read again", "group", l.sc.Group, "err", tx.failure())
		return l.restore(ctx)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for n, pos := range next {
		if p := l.owned[n]; p != nil {
			p.committed = pos
		}
	}
	for _, p := range l.owned {
		p.touched = false
	}
	l.h.Committed(tx.partitions)
	return nil
}

// lost tells of a partition that was taken away in the middle of tx: the group
// put this member out. l.mu is held.
func (l *life) lost(tx *Tx) error {
	for _, n := range tx.partitions {
		if l.owned[n] == nil {
			return fmt.Errorf("partition %d is not owned any more", n)
		}
	}
	return nil
}

// restore puts the Handler's state back to what is committed, as the client does
// with its position.
func (l *life) restore(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var at []Position
	for _, p := range l.owned {
		if p.until == 0 && p.touched {
			l.Pass(p.committed.Partition) // its pass had ended in what was aborted
		}
		p.touched, p.next, p.since = false, max(p.committed.Offset, 0), l.sc.Now()
		at = append(at, p.committed)
	}
	if len(at) == 0 {
		return nil
	}
	return l.h.Assigned(ctx, l.partitions, at)
}
