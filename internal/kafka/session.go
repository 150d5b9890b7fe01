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

// A SessionConfig is what a Session consumes and how its transactions are cut.
type SessionConfig struct {
	Group              string
	Member             string   // unique among those that run; with Group the transactional id
	Input              string   // topic, full name; read_committed
	CoPartitioned      string   // topic that must have as many partitions as Input; "" = none
	ManualPartitioning []string // topics whose records carry their partition's number; others go by key
	MaxRecords         int      // a transaction ends after so many records
	Every              time.Duration
	Passes             bool // read in passes, see Session.Pass
	// SkipRefused passes over an input record whose output Kafka refuses for what the
	// record holds. The output must depend on that record alone. See Record.Refused.
	SkipRefused bool
	Rebalance   time.Duration    // how long a rebalance waits for a member; 0: up to 10 s
	Timeout     time.Duration    // of a transaction whose member died; 0: 45 s
	Now         func() time.Time // measures how long a partition is quiet, and a transaction takes
	Log         *slog.Logger
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
	Epoch      int32 // leader epoch, of those that a Tail reads; -1 where the log has none
	// Refused is why Kafka refused the output of this record in an earlier
	// transaction; nil: it did not. The Handler must count such a record and produce
	// nothing of it. Only a Session with SkipRefused sets it.
	Refused error
}

// A Handler is what a Session works for. Its methods are never called
// concurrently, and Assigned before any record of a partition.
type Handler interface {
	// Assigned gives partitions with where they start: at an assignment, and for
	// all owned ones after an abort. State that is held of them is void. After an
	// error the Handler must hold none of them; it must return soon after ctx ends.
	Assigned(ctx context.Context, partitions int, at []Position) error
	// Lost takes partitions away.
	Lost(partitions []int32)
	// Records takes records of a partition, within a transaction, and returns how many.
	// When it does not take all, the transaction ends and the rest comes again in the
	// next one.
	Records(tx *Tx, partition int32, records []Record) int
	// Due tells whether a partition that is read to its end and has been quiet
	// for so long has something to do in a transaction.
	Due(partition int32, quiet time.Duration) bool
	// Quiet does it. It returns true when a part is left for the next transaction, which
	// then begins at once.
	Quiet(tx *Tx, partition int32, quiet time.Duration) (more bool)
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
	behind atomic.Int64   // ns, see Behind
	mu     sync.Mutex     // must not be held over I/O
	reason error          // why it is not working; nil when it is
	abort  error          // why transactions are aborted; nil when the last one committed
	turn   time.Time      // when the last transaction, or search for one, began; zero: not at work
	asked  map[int32]bool // passes
	void   int            // partitions whose state is being restored

	every  time.Duration // how often topics are compared with those of the beginning
	losses losses
	seen   [16]byte         // Kafka's id of the input topic; zero: not seen yet
	past   pastTopics       // of the input
	kept   map[int32]memory // of partitions that a life owned at its end
	moves  map[int32]move   // the last one that was counted, by partition
}

// NewSession returns a Session; it is inert until Run.
func NewSession(c Config, sc SessionConfig) *Session {
	s := &Session{
		c: c, sc: sc, reason: errors.New("kafka is not reached yet"), asked: map[int32]bool{},
		past: pastTopics{}, kept: map[int32]memory{}, moves: map[int32]move{}, losses: newLosses(c.Metrics), every: watchEvery,
	}
	s.losses.start(sc.Input)
	return s
}

// standsStill is how long a transaction may take: more than one whose end waits for a
// rebalance.
const standsStill = 30 * time.Second

// Ready returns nil while the session is a member of its group and its transactions
// end and commit.
func (s *Session) Ready() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if took := s.sc.Now().Sub(s.turn); s.reason == nil && !s.turn.IsZero() && took > standsStill {
		return fmt.Errorf("a transaction that began %v ago has not ended: is Kafka away, or too slow?", took.Round(time.Second))
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

// Aborting returns why transactions are aborted over and over, nil while they are
// not. Their input stays where it is until Kafka takes the output.
func (s *Session) Aborting() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.abort
}

func (s *Session) noteAbort(err error) {
	s.mu.Lock()
	s.abort = err
	s.mu.Unlock()
}

// Lag is how many records of the owned partitions are not taken yet, as of the
// last answer of their brokers.
func (s *Session) Lag() int64 { return s.lag.Load() }

// noteTurn notes that a transaction begins; with zero, that none does.
func (s *Session) noteTurn(now time.Time) {
	s.mu.Lock()
	s.turn = now
	s.mu.Unlock()
}

// restoring notes of how many partitions the state is being restored.
func (s *Session) restoring(partitions int) {
	s.mu.Lock()
	s.void = partitions
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
	failures := newReporter(func(err error) {
		s.sc.Log.Warn("the transactional session starts anew", "group", s.sc.Group, "err", err)
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
