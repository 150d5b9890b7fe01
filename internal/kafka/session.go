package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// SessionConfig holds the topics of a Session and the limits of its transactions. It must not be modified after
// NewSession. Topics are full names, with the prefix of the installation.
type SessionConfig struct {
	Group              string
	Member             string        // must be unique among running members; part of the transactional id, after Group
	Input              string        // topic, full name; read at read_committed
	CoPartitioned      string        // topic that must have as many partitions as Input; "": none
	ManualPartitioning []string      // topics whose producer sets the partition (Tx.Produce); others go by key
	MaxRecords         int           // input records of a transaction, or messages: see Tx.Count
	Every              time.Duration // duration after which a transaction ends
	Passes             bool          // read in passes, see Session.Pass
	// SkipRefused skips an input record if Kafka refuses its output for its content. The output must depend on
	// that record alone. See Record.Refused.
	SkipRefused bool
	Rebalance   time.Duration    // bounds the wait of a rebalance for a member; 0: up to 10 s
	Timeout     time.Duration    // of a transaction whose member died; 0: 45 s
	Now         func() time.Time // clock that measures quiet partitions and transactions
	Log         *slog.Logger
}

// A Position is the committed offset of a partition and the metadata committed with it, from which a Handler
// restores its state.
type Position struct {
	Partition int32
	Offset    int64  // of the next record; -1: nothing was committed yet
	Metadata  string // as Handler.Metadata returned it; "": none
}

// A Record is a consumed record. Key and Value belong to the Handler.
type Record struct {
	Key, Value []byte
	Offset     int64
	Time       time.Time
	Partition  int32 // set by Tail
	Epoch      int32 // leader epoch, set by Tail; -1 where the log has none
	// Refused is the error with which Kafka refused the output of this record in an earlier transaction; nil: it
	// did not. The Handler must count such a record and must not produce output for it. Only a Session with
	// SkipRefused sets it.
	Refused error
}

// A Handler processes the records of a Session. The session's goroutine calls its methods, never two at a time.
// Assigned comes before the first record of a partition.
type Handler interface {
	// Assigned assigns partitions, with the positions to restore their state from: newly assigned partitions,
	// and all owned ones after an abort. State that the Handler held of them before is void. partitions is the
	// number of partitions of the input. After an error the Handler must hold no state of these partitions.
	// Assigned must return soon after ctx ends.
	Assigned(ctx context.Context, partitions int, at []Position) error
	// Lost revokes partitions. The Handler must drop their state.
	Lost(partitions []int32)
	// Records processes records of a partition within a transaction and returns the number of records taken. If
	// it takes fewer, the transaction ends, and the rest is passed again in the next transaction.
	Records(tx *Tx, partition int32, records []Record) int
	// Due reports whether a partition has work for Quiet. The partition is read to its end and has been quiet
	// for this duration.
	Due(partition int32, quiet time.Duration) bool
	// Quiet does the work of a quiet partition. It returns true when a part is left for the next transaction,
	// which then begins at once.
	Quiet(tx *Tx, partition int32, quiet time.Duration) (more bool)
	// Finish is the last call that may produce in a transaction. partitions are those that were passed to
	// Records or Quiet in it.
	Finish(tx *Tx, partitions []int32)
	// Metadata returns the metadata to commit with the offset of a partition that was passed to Finish. All
	// produced records are acknowledged.
	Metadata(partition int32) string
	// Committed reports that the transaction is committed.
	Committed(partitions []int32)
}

// ErrFatal must be wrapped by an error of a Handler that ends the Session; after any other error it tries again.
var ErrFatal = errors.New("cannot continue")

// A Session consumes a topic in a group and produces, in transactions (KIP-98): the output, the input's offsets
// and their metadata are committed together or not at all. After any failure it begins again from the committed
// positions, in the same process.
type Session struct {
	c  Config
	sc SessionConfig

	lag    atomic.Int64
	behind atomic.Int64   // nanoseconds, see Behind
	mu     sync.Mutex     // guards the fields below; must not be held over I/O
	reason error          // why the session does not work; nil: it does
	abort  error          // why transactions are aborted; nil: the last was committed
	turn   time.Time      // begin of the current transaction, or of the wait for records; zero: none
	asked  map[int32]bool // passes asked for, by partition
	void   int            // partitions whose state is being restored

	every  time.Duration // interval of life.watch
	losses losses
	seen   [16]byte         // Kafka's id of the input topic; zero: not known yet
	past   pastTopics       // deleted topics with the name of the input
	kept   map[int32]memory // positions of the last life, by partition
	moves  map[int32]move   // the last move that was counted, by partition
}

// NewSession returns a Session. It does nothing before Run. Sessions of one registry share their metrics, which have
// the input topic as label.
func NewSession(c Config, sc SessionConfig) *Session {
	s := &Session{
		c: c, sc: sc, reason: errors.New("kafka is not reached yet"), asked: map[int32]bool{},
		past: pastTopics{}, kept: map[int32]memory{}, moves: map[int32]move{},
		losses: newLosses(c.Metrics), every: watchEvery,
	}
	s.losses.start(sc.Input)
	return s
}

// standsStill is the duration of a transaction after which the session is not ready. It is longer than that of a
// transaction whose end waits for a rebalance.
const standsStill = 30 * time.Second

// Ready returns nil while the session is a member of its group and its transactions end and are committed; else
// the reason.
func (s *Session) Ready() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if took := s.sc.Now().Sub(s.turn); s.reason == nil && !s.turn.IsZero() && took > standsStill {
		return fmt.Errorf("a transaction that began %v ago has not ended: is Kafka away, or too slow?",
			took.Round(time.Second))
	}
	switch {
	case s.reason == nil && s.void > 0:
		return fmt.Errorf("the state of %d partitions is being restored", s.void)
	case s.reason == nil && s.abort != nil:
		return s.abort
	default:
		return s.reason
	}
}

// Aborting returns the reason why transactions are aborted again and again, nil while they are not. Their input
// stays uncommitted until Kafka accepts the output.
func (s *Session) Aborting() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.abort
}

// noteAbort notes the reason of aborted transactions; nil: the last was committed.
func (s *Session) noteAbort(err error) {
	s.mu.Lock()
	s.abort = err
	s.mu.Unlock()
}

// Lag returns the number of records in owned partitions that are not taken yet, as of their brokers' last
// responses. Records of open transactions and control records are included.
func (s *Session) Lag() int64 { return s.lag.Load() }

// noteTurn notes that a transaction begins; zero: that none is open. Ready compares the time with standsStill.
func (s *Session) noteTurn(now time.Time) {
	s.mu.Lock()
	s.turn = now
	s.mu.Unlock()
}

// restoring notes the number of partitions whose state is being restored.
func (s *Session) restoring(partitions int) {
	s.mu.Lock()
	s.void = partitions
	s.mu.Unlock()
}

// note notes why the session does not work; nil: it does. It may be called by any goroutine.
func (s *Session) note(err error) {
	s.mu.Lock()
	s.reason = err
	s.mu.Unlock()
}

// Run consumes the input and passes it to h until ctx ends; then it commits the open transaction and leaves the group.
// It returns early only with an error that wraps ErrFatal. Each failure ends a life. The next life has a new client and
// begins from the committed positions, after a back-off of up to 1 s, which is reset once a life has lasted a minute.
// Run must be called once; the caller must not use h meanwhile.
func (s *Session) Run(ctx context.Context, h Handler) error {
	failures := newReporter(func(err error) {
		s.sc.Log.Warn("the transactional session failed and restarts", "group", s.sc.Group, "err", err)
	})
	for try := 0; ctx.Err() == nil; try++ {
		began := time.Now()
		err := s.runClient(ctx, h)
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
		failures.report(err)
		select {
		case <-ctx.Done():
		case <-time.After(backoff(try)):
		}
	}
	s.note(errors.New("shutting down"))
	return nil
}
