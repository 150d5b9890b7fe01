package kafka

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// endSlack is how much longer than a rebalance the end of a transaction may take.
const endSlack = 5 * time.Second

// outlive returns a context that ends some time after ctx: a shutdown still commits the
// open transaction, but does not wait for a Kafka that is away. The next member of this
// name, or the transaction's timeout, then aborts it.
func (l *life) outlive(ctx context.Context) (context.Context, func()) {
	longer, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(l.rebalanceTimeout()+commitSlack, cancel) })
	return longer, func() { stop(); cancel() }
}

// commitSlack is how much longer than a rebalance a shutdown waits for a commit.
const commitSlack = 2 * time.Second

// end finishes a transaction: all or nothing.
func (l *life) end(ctx context.Context, tx *Tx) error {
	longer, cancel := l.outlive(ctx)
	defer cancel()
	tx.ctx = longer
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
	bounded, over := context.WithTimeout(tx.ctx, l.rebalanceTimeout()+endSlack)
	defer over()
	commitCtx := kgo.PreTxnCommitFnContext(bounded, func(req *kmsg.TxnOffsetCommitRequest) error {
		l.mu.Lock()
		defer l.mu.Unlock()
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
		l.aborted(tx)
		return l.restore(ctx)
	}
	l.noteAbort(nil)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.aborts = 0
	l.refusals.committed()
	for n, pos := range next {
		if p := l.owned[n]; p != nil {
			p.committed = pos
			l.refusals.forget(n, pos.Offset)
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
			return fmt.Errorf("partition %d: %w", n, errNotOwned)
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
