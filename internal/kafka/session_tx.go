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

// A Tx is one transaction of a Session.
type Tx struct {
	l          *life
	ctx        context.Context // of the client's calls: ends with the transaction's timeout
	cancel     context.CancelFunc
	began      bool
	quiet      []int32      // partitions that it holds no input records of
	idle       time.Time    // until when those were quiet
	full       bool         // the Handler left records for the next transaction
	records    int          // of the input; or messages, when records hold several
	partitions []int32      // touched, in order of appearance
	slab       []kgo.Record // of records to produce
	last       Position     // of the last input record, without metadata

	mu  sync.Mutex
	err error // the first failed record
}

// begin begins the transaction, under the client's ownership as it is then.
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
	// The brokers abort it after this time: to wait for their answer longer is in vain.
	tx.ctx, tx.cancel = context.WithTimeout(tx.l.late, tx.l.transactionTimeout())
	tx.began = true
	return nil
}

// release frees what the transaction holds.
func (tx *Tx) release() {
	if tx.cancel != nil {
		tx.cancel()
	}
}

func (tx *Tx) touch(n int32, p *progress) {
	if !p.touched {
		p.touched = true
		tx.partitions = append(tx.partitions, n)
	}
}

// Count says that the input records at hand held so many more messages than one
// each: SessionConfig.MaxRecords is about messages.
func (tx *Tx) Count(more int) { tx.records += more }

// fail makes the transaction abort; the first reason is kept.
func (tx *Tx) fail(err error) {
	tx.mu.Lock()
	defer tx.mu.Unlock()
	if tx.err == nil {
		tx.err = err
	}
}

func (tx *Tx) failure() error {
	tx.mu.Lock()
	defer tx.mu.Unlock()
	return tx.err
}

// Produce adds a record to the transaction, stamped with the wall clock;
// partition counts for the topics of SessionConfig.ManualPartitioning. acked (may be nil)
// is told its offset, before the transaction commits. Key and value are not to
// be changed any more; an empty key is none. A failure aborts the transaction.
func (tx *Tx) Produce(topic string, partition int32, key, value []byte, acked func(offset int64)) {
	tx.produce(topic, partition, key, value, time.Now(), tx.refused, acked)
}

// ProduceAt is Produce with a timestamp of the input record.
func (tx *Tx) ProduceAt(topic string, partition int32, key, value []byte, at time.Time, acked func(offset int64)) {
	tx.produce(topic, partition, key, value, at, tx.refusedAt, acked)
}

func (tx *Tx) produce(
	topic string, partition int32, key, value []byte, at time.Time, done func(*kgo.Record, error), acked func(offset int64),
) {
	if len(key) == 0 {
		key = nil
	}
	if len(tx.slab) == cap(tx.slab) {
		tx.slab = make([]kgo.Record, 0, slabLen)
	}
	tx.slab = append(tx.slab, kgo.Record{Topic: topic, Partition: partition, Key: key, Value: value, Timestamp: at})
	r := &tx.slab[len(tx.slab)-1]
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

// slabLen is how many records are made at a time.
const slabLen = 64

// refused fails the transaction for a record that Kafka did not take.
func (tx *Tx) refused(r *kgo.Record, err error) {
	switch {
	case err == nil:
	case errors.Is(err, kerr.MessageTooLarge) || errors.Is(err, kerr.RecordListTooLarge) || errors.Is(err, kerr.InvalidRecord):
		tx.fail(&refusal{r.Topic, err})
	default:
		tx.fail(fmt.Errorf("record for %s: %w", r.Topic, err))
	}
}

// refusedAt is refused for a record whose timestamp is that of the input.
func (tx *Tx) refusedAt(r *kgo.Record, err error) {
	if errors.Is(err, kerr.InvalidTimestamp) {
		tx.fail(&refusal{r.Topic, fmt.Errorf("timestamp %s: %w", r.Timestamp.UTC().Format(time.RFC3339), err)})
		return
	}
	tx.refused(r, err)
}

// A partitioner takes the record's own partition for some topics; for others
// murmur2 of the key, as the Java client does.
type partitioner struct{ manual []string }

// ForTopic implements kgo.Partitioner.
func (p partitioner) ForTopic(topic string) kgo.TopicPartitioner {
	if slices.Contains(p.manual, topic) {
		return kgo.ManualPartitioner().ForTopic(topic)
	}
	return kgo.StickyKeyPartitioner(nil).ForTopic(topic)
}

// idleEvery is how often quiet partitions are looked at; quietAfter how long
// nothing must have come.
const (
	idleEvery  = time.Second
	quietAfter = 2 * time.Second
)

// endsWithin bounds a request for the ends of the input's partitions.
const endsWithin = 5 * time.Second

// idle lets the Handler work on partitions that are read to their end and quiet, and have
// no records in the transaction.
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
		if now.Before(p.since) { // the clock was ahead, and was put right
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
		if !ok { // its leader is away: that is no silence, and the question is not repeated soon
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
			l.more = l.h.Quiet(tx, n, quiet[n]) || l.more
		}
	}
	return nil
}

// quietTries is how often a request for the positions of quiet partitions is sent while
// the end of the transaction before it is not done.
const quietTries = 8

// commitQuiet commits, within the transaction, the positions of partitions of which it
// holds no records: the client does not know of them. It commits as the member and in the
// generation of the last follow, so that the broker refuses a member that has lost them.
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
		rp.LeaderEpoch = l.owned[n].epoch // tells a log that was cut and has grown again
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

// whileConcurrent tries request again, after a growing delay, while Kafka answers
// CONCURRENT_TRANSACTIONS: the transaction before is committed, its markers are not
// written yet.
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
