package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// A Tx is a transaction of a Session. It must not be used after Handler.Finish returns.
type Tx struct {
	l          *life
	ctx        context.Context // of the client's calls; ends with the transaction's timeout
	cancel     context.CancelFunc
	began      bool
	quiet      []int32   // touched partitions without input records in the transaction
	idle       time.Time // time up to which these were quiet
	full       bool      // the Handler left records for the next transaction
	records    int       // input records, or their messages if a record holds several; see Count
	partitions []int32   // touched, in order of appearance
	last       Position  // of the last input record, without metadata
	now        time.Time // timestamp of produced records; see stamp

	done, doneAt func(*kgo.Record, error) // refused and refusedAt: made once, since a method value allocates

	mu  sync.Mutex
	err error // of the first failed record
}

// newTx returns a transaction that has not begun.
func (l *life) newTx() *Tx {
	tx := &Tx{l: l}
	tx.done, tx.doneAt = tx.refused, tx.refusedAt
	return tx
}

// stamp sets the timestamp of the records that the next call of the Handler produces: such a call takes a moment,
// and the clock is not read for every record.
func (tx *Tx) stamp() { tx.now = time.Now() }

// begin begins the transaction, unless it has begun, under the client's current ownership. Kafka learns of it with the
// first record or offset that is added.
func (tx *Tx) begin() error {
	if tx.began {
		return nil
	}
	if err := tx.l.follow(); err != nil {
		return err
	}
	if err := tx.l.gts.Begin(); err != nil {
		return fmt.Errorf("begin of transaction: %w", err)
	}
	// Brokers abort the transaction after this time: waiting longer for their answer is useless.
	tx.ctx, tx.cancel = context.WithTimeout(tx.l.late, tx.l.transactionTimeout())
	tx.began = true
	return nil
}

// release frees the context of the transaction. It may be called if none has begun.
func (tx *Tx) release() {
	if tx.cancel != nil {
		tx.cancel()
	}
}

// touch adds a partition to those of the transaction: its position and metadata are committed with it.
func (tx *Tx) touch(n int32, p *progress) {
	if !p.touched {
		p.touched = true
		tx.partitions = append(tx.partitions, n)
	}
}

// Count adds messages to the length of the transaction: the records passed to Handler.Records hold more messages
// than records. SessionConfig.MaxRecords limits messages.
func (tx *Tx) Count(more int) { tx.records += more }

// fail makes the transaction abort. The first reason is kept. It may be called by any goroutine.
func (tx *Tx) fail(err error) {
	tx.mu.Lock()
	defer tx.mu.Unlock()
	if tx.err == nil {
		tx.err = err
	}
}

// failure returns the reason for which the transaction will be aborted; nil: none.
func (tx *Tx) failure() error {
	tx.mu.Lock()
	defer tx.mu.Unlock()
	return tx.err
}

// Produce adds a record to the transaction, stamped with the wall clock at the begin of the current call of the
// Handler. partition counts for the topics of SessionConfig.ManualPartitioning only. acked, if not nil, is called with
// the offset of the acknowledged record, from a goroutine of the client, before the transaction is committed. The
// caller must not modify key or value before Handler.Committed, and never if the transaction is aborted; an empty key
// counts as none. A failure aborts the transaction.
func (tx *Tx) Produce(topic string, partition int32, key, value []byte, acked func(offset int64)) {
	tx.produce(topic, partition, key, value, tx.now, tx.done, acked)
}

// ProduceAt is Produce with the timestamp of an input record.
func (tx *Tx) ProduceAt(topic string, partition int32, key, value []byte, at time.Time, acked func(offset int64)) {
	tx.produce(topic, partition, key, value, at, tx.doneAt, acked)
}

// produce adds a record to the transaction. The record is one of life.slabs, which are used again once the transaction
// is committed.
func (tx *Tx) produce(
	topic string, partition int32, key, value []byte, at time.Time,
	done func(*kgo.Record, error), acked func(offset int64),
) {
	if len(key) == 0 {
		key = nil
	}
	r := tx.l.slabs.next()
	*r = kgo.Record{Topic: topic, Partition: partition, Key: key, Value: value, Timestamp: at}
	if acked == nil {
		tx.l.gts.Produce(tx.ctx, r, done)
		return
	}
	tx.l.gts.Produce(tx.ctx, r, func(r *kgo.Record, err error) {
		if done(r, err); err == nil {
			acked(r.Offset)
		}
	})
}

// recordSlabs holds the records that transactions produce. The records of a committed transaction are used again by
// the next: the client has finished with them, since it has called all their promises.
type recordSlabs struct {
	slabs [][]kgo.Record // each of slabLen records
	used  int            // records of the open transaction
}

const (
	// slabLen is the number of records allocated at a time.
	slabLen = 64
	// maxSlabs bounds the slabs that are kept between transactions.
	maxSlabs = 512
)

// next returns a record whose old content the caller must overwrite.
func (s *recordSlabs) next() *kgo.Record {
	i := s.used / slabLen
	if i == len(s.slabs) {
		s.slabs = append(s.slabs, make([]kgo.Record, slabLen))
	}
	s.used++
	return &s.slabs[i][(s.used-1)%slabLen]
}

// reuse makes all records available again. It must be called only after a transaction is committed.
func (s *recordSlabs) reuse() {
	if len(s.slabs) > maxSlabs {
		clear(s.slabs[maxSlabs:])
		s.slabs = s.slabs[:maxSlabs]
	}
	s.used = 0
}

// drop leaves all records to the client, which may still hold records of an aborted transaction.
func (s *recordSlabs) drop() { *s = recordSlabs{} }

// refused fails the transaction for a record that Kafka refused. A refusal for its content starts the search for the
// input record, see refusals; any other error is expected to pass. It is called by the client's goroutines.
func (tx *Tx) refused(r *kgo.Record, err error) {
	switch {
	case err == nil:
	case errors.Is(err, kerr.MessageTooLarge) || errors.Is(err, kerr.RecordListTooLarge) ||
		errors.Is(err, kerr.InvalidRecord):
		tx.fail(&refusal{r.Topic, err})
	default:
		tx.fail(fmt.Errorf("record for %s: %w", r.Topic, err))
	}
}

// refusedAt is refused for a record with the timestamp of an input record.
func (tx *Tx) refusedAt(r *kgo.Record, err error) {
	if errors.Is(err, kerr.InvalidTimestamp) {
		tx.fail(&refusal{r.Topic, fmt.Errorf("timestamp %s: %w", r.Timestamp.UTC().Format(time.RFC3339), err)})
		return
	}
	tx.refused(r, err)
}

// A partitioner takes the partition set in the record for the topics in manual; other records go by their key,
// with the hash of the Java client (murmur2).
type partitioner struct{ manual []string }

// ForTopic implements kgo.Partitioner. Records without a key go to a partition that changes with each batch.
func (p partitioner) ForTopic(topic string) kgo.TopicPartitioner {
	if slices.Contains(p.manual, topic) {
		return kgo.ManualPartitioner().ForTopic(topic)
	}
	return kgo.StickyKeyPartitioner(nil).ForTopic(topic)
}

// idleEvery is the interval at which quiet partitions are visited; quietAfter is the least time without records
// before a partition is quiet.
const (
	idleEvery  = time.Second
	quietAfter = 2 * time.Second
)

// endsWithin is the timeout of a request for the end offsets of partitions.
const endsWithin = 5 * time.Second

// idle lets the Handler work on quiet partitions: they are read to their end, and have no records in the
// transaction. A partition whose leader does not confirm the end is not quiet.
func (l *life) idle(ctx context.Context, tx *Tx) error {
	l.more = false
	if !tx.began {
		if err := l.follow(); err != nil {
			return err
		}
	}
	l.unquiet()
	now := l.sc.Now()
	quiet := map[int32]time.Duration{}
	for n, p := range l.owned {
		if now.Before(p.since) { // the clock was ahead and has been corrected
			p.since, p.rest = now, now
		}
		if d := now.Sub(p.since); d >= quietAfter && !p.touched && l.h.Due(n, d) {
			quiet[n] = d
		}
	}
	if len(quiet) == 0 || tx.failure() != nil {
		return nil
	}
	partitions := slices.Sorted(maps.Keys(quiet))
	ends, err := listOffsets(ctx, l.gts.Client(), l.sc.Input, partitions, endOfLog, readUncommitted)
	if err != nil {
		ends = nil
	}
	for _, n := range partitions {
		p := l.owned[n]
		if p == nil { // lost at the begin of the transaction
			continue
		}
		end, ok := ends[n]
		if !ok { // its leader is away: that is not silence, and the request is not repeated soon
			p.since = l.sc.Now()
			continue
		}
		if end != p.next {
			continue
		}
		if err := tx.begin(); err != nil {
			return err
		}
		if p := l.owned[n]; p != nil {
			tx.quiet, tx.idle = append(tx.quiet, n), now
			tx.touch(n, p)
			tx.stamp()
			l.more = l.h.Quiet(tx, n, quiet[n]) || l.more
		}
	}
	return nil
}

// quietTries bounds the requests for the positions of quiet partitions while the end of the former transaction
// is in progress.
const quietTries = 8

// commitQuiet commits the positions of partitions without records in the transaction, within it: the client
// commits only partitions that it has read from. It commits as the member and in the generation of the last
// follow, so that the broker refuses a member that has lost the partitions.
func (l *life) commitQuiet(ctx context.Context, tx *Tx) (at []Position, err error) {
	cl := l.gts.Client()
	id, epoch, err := cl.ProducerID(ctx)
	if err != nil {
		return nil, err
	}
	txnID := l.sc.Group + "-" + l.sc.Member
	add := kmsg.NewPtrAddOffsetsToTxnRequest()
	add.TransactionalID, add.ProducerID, add.ProducerEpoch, add.Group = txnID, id, epoch, l.sc.Group
	req := kmsg.NewPtrTxnOffsetCommitRequest()
	req.TransactionalID, req.Group, req.ProducerID, req.ProducerEpoch = txnID, l.sc.Group, id, epoch
	req.MemberID, req.Generation = l.member, l.generation
	topic := kmsg.NewTxnOffsetCommitRequestTopic()
	topic.Topic, topic.TopicID = l.sc.Input, l.inputID
	for _, n := range tx.quiet {
		metadata := l.h.Metadata(n)
		rp := kmsg.NewTxnOffsetCommitRequestTopicPartition()
		rp.Partition, rp.Offset, rp.Metadata = n, l.owned[n].next, &metadata
		rp.LeaderEpoch = l.owned[n].epoch // locates the cut of a log that has grown again
		topic.Partitions = append(topic.Partitions, rp)
		at = append(at, Position{n, rp.Offset, metadata})
	}
	req.Topics = append(req.Topics, topic)
	err = whileConcurrent(ctx, func() error {
		resp, err := add.RequestWith(ctx, cl)
		if err != nil {
			return err
		}
		return kerr.ErrorForCode(resp.ErrorCode)
	})
	if err != nil {
		return nil, fmt.Errorf("adding the group to the transaction: %w", err)
	}
	return at, whileConcurrent(ctx, func() error {
		resp, err := req.RequestWith(ctx, cl)
		if err != nil {
			return err
		}
		for _, t := range resp.Topics {
			for _, p := range t.Partitions {
				if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
					return fmt.Errorf("partition %d: %w", p.Partition, err)
				}
			}
		}
		return nil
	})
}

// whileConcurrent repeats request with back-off while Kafka answers CONCURRENT_TRANSACTIONS: the former
// transaction is decided, but its markers are not written yet.
func whileConcurrent(ctx context.Context, request func() error) error {
	for try := 0; ; try++ {
		err := request()
		if !errors.Is(err, kerr.ConcurrentTransactions) || try+1 == quietTries {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(backoff(try)):
		}
	}
}
