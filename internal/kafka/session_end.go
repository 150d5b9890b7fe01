package kafka

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// endSlack is the time that the end of a transaction may take beyond a rebalance.
const endSlack = 5 * time.Second

// A shutdown commits the open transaction, but must not wait for a Kafka that is away: then the next member of
// this name, or the timeout of the transaction, aborts it. The process must end within 12 s.
const (
	// commitWithin bounds the end of the open transaction, from the shutdown on.
	commitWithin = 8 * time.Second
	// commitSlack is the time that the end may take beyond a rebalance, where rebalances are short.
	commitSlack = 2 * time.Second
	// giveUpAfter is the time after which the client is closed, whatever still waits for Kafka.
	giveUpAfter = 9 * time.Second
)

// outlive returns a context that ends the given time after ctx. The caller must call the CancelFunc. It carries the
// values of ctx, not its deadline. Clients get such a context: after ctx has ended they can still commit or leave
// their group, but an unanswered request cannot delay the end of the process.
func outlive(ctx context.Context, by time.Duration) (context.Context, context.CancelFunc) {
	longer, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		late := time.AfterFunc(by, cancel)
		context.AfterFunc(longer, func() { late.Stop() })
	})
	return longer, func() { stop(); cancel() }
}

// settle ends an empty transaction after a revocation of partitions. Until its next End a GroupTransactSession
// reports no second revocation, and aborts any commit. The transaction has no record, so that no broker learns of it.
func (l *life) settle() error {
	if !l.revocation {
		return nil
	}
	l.revocation = false
	if err := l.gts.Begin(); err != nil {
		return fmt.Errorf("begin of transaction: %w", err)
	}
	bounded, cancel := context.WithTimeout(l.late, l.rebalanceTimeout())
	defer cancel()
	if _, err := l.gts.End(bounded, kgo.TryAbort); err != nil {
		return fmt.Errorf("end of an empty transaction: %w", err)
	}
	return nil
}

// end ends a transaction: it commits the output, the offsets and the metadata together, or aborts. It returns an
// error if the client must be replaced.
//
// The order matters. Finish is the last call that may produce; Flush waits until all output is acknowledged; Metadata
// is called in the commit request, when the Handler knows the offsets of its output. Positions of partitions without
// input (tx.quiet) are added by commitQuiet before the client's End, which decides the transaction. An abort is no
// error: rewind resets the positions, and the records are read again.
func (l *life) end(tx *Tx) error {
	if !l.stillOwns(tx.partitions) {
		tx.fail(fmt.Errorf("generation %d of the group: %w", l.generation, errNotOwned))
	} else {
		tx.stamp()
		l.h.Finish(tx, tx.partitions)
	}
	if err := l.gts.Client().Flush(tx.ctx); err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	l.compareClocks(tx.ctx)
	next, epochs := map[int32]Position{}, map[int32]int32{}
	// The client's End waits for a heartbeat, without limit if the group has removed this member: the heartbeat
	// loop in turn waits for the end of this transaction (BlockRebalanceOnPoll). After the timeout a new client
	// begins at the last commit.
	bounded, over := context.WithTimeout(tx.ctx, l.rebalanceTimeout()+endSlack)
	defer over()
	commitCtx := kgo.PreTxnCommitFnContext(bounded, func(req *kmsg.TxnOffsetCommitRequest) error {
		req.MemberID, req.Generation = l.member, l.generation
		for i := range req.Topics {
			for j := range req.Topics[i].Partitions {
				rp := &req.Topics[i].Partitions[j]
				p := l.owned[rp.Partition]
				if p == nil {
					return fmt.Errorf("partition %d: %w", rp.Partition, errNotOwned)
				}
				metadata := p.committed.Metadata
				if p.touched {
					metadata = l.h.Metadata(rp.Partition)
				}
				if p.behind != nil {
					rp.Offset, rp.LeaderEpoch = p.behind.Offset, p.behind.LeaderEpoch
				}
				rp.Metadata = &metadata
				next[rp.Partition], epochs[rp.Partition] = Position{rp.Partition, rp.Offset, metadata}, rp.LeaderEpoch
			}
		}
		return nil
	})
	try := kgo.TransactionEndTry(tx.failure() == nil)
	if try == kgo.TryCommit && len(tx.quiet) > 0 {
		positions, err := l.commitQuiet(bounded, tx)
		if err != nil {
			tx.fail(fmt.Errorf("positions of quiet partitions: %w", stale(err)))
			try = kgo.TryAbort
		}
		for _, p := range positions {
			next[p.Partition], epochs[p.Partition] = p, l.owned[p.Partition].epoch
		}
	}
	committed, err := l.gts.End(commitCtx, try)
	if err != nil {
		return fmt.Errorf("end of transaction: %w", err)
	}
	if !committed {
		l.slabs.drop()
		l.aborted(tx)
		l.rewind()
		if err := tx.failure(); needsNewLife(err) {
			return err
		}
		return nil
	}
	l.slabs.reuse()
	l.noteAbort(nil)
	l.aborts = 0
	l.refusals.committed()
	for n, pos := range next {
		if p := l.owned[n]; p != nil {
			p.committed, p.committedEpoch = pos, epochs[n]
			l.refusals.forget(n, pos.Offset)
		}
	}
	l.readAgain()
	for _, n := range tx.partitions {
		p := l.owned[n]
		if p.touched, p.rest = false, p.since; slices.Contains(tx.quiet, n) {
			p.rest = tx.idle
		}
	}
	l.h.Committed(tx.partitions)
	return nil
}

// readAgain resets the client to the first record that the Handler did not take. That offset is committed, and
// no rebalance happens between the commit and this call. Records that the client has buffered are dropped and fetched
// again: a Handler should rarely take fewer than it gets.
func (l *life) readAgain() {
	at := map[int32]kgo.EpochOffset{}
	for n, p := range l.owned {
		if r := p.behind; r != nil {
			at[n], p.behind = kgo.EpochOffset{Epoch: r.LeaderEpoch, Offset: r.Offset}, nil
		}
	}
	if len(at) > 0 {
		l.gts.Client().SetOffsets(map[string]map[int32]kgo.EpochOffset{l.sc.Input: at})
	}
}

// rewind resets the partitions to their committed positions after an abort, as the client does with its own. The
// Handler's state is void from then on; restore hands it the committed positions before the next record.
func (l *life) rewind() {
	l.void = true
	for n, p := range l.owned {
		if p.until == 0 && p.touched {
			l.Pass(n) // its pass had ended in the aborted transaction
		}
		at := max(p.committed.Offset, 0)
		if p.since = p.rest; p.next > at {
			p.since = l.sc.Now() // its records are read again
		}
		p.touched, p.behind, p.next, p.epoch = false, nil, at, p.committedEpoch
	}
}
