package kafka

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
)

// errNotOwned is the reason of an abort after a rebalance, which is no failure.
var errNotOwned = errors.New("not owned any more")

// stale wraps err in errNotOwned if the group reports that the member's generation has ended.
func stale(err error) error {
	for _, e := range []error{kerr.IllegalGeneration, kerr.UnknownMemberID, kerr.RebalanceInProgress} {
		if errors.Is(err, e) {
			return fmt.Errorf("%w: %w", errNotOwned, err)
		}
	}
	return err
}

// A refusal is Kafka's error for the content of a record: its size, its form or the timestamp taken from the
// input. A retry gives the same error.
type refusal struct {
	topic string
	err   error
}

// Error implements error.
func (r *refusal) Error() string { return fmt.Sprintf("record for %s: %v", r.topic, r.err) }

// Unwrap returns Kafka's error.
func (r *refusal) Unwrap() error { return r.err }

// refusals finds the input records whose output Kafka refuses. Kafka refuses a whole batch, so a refusal names a
// transaction, not a record: after each refusal, transactions take half as many records, down to a single
// record. That record is then passed to the Handler with Record.Refused. After each commit the limit doubles.
type refusals struct {
	max     int                       // records of a transaction
	limit   int                       // records of the next transaction; 0: max
	records map[int32]map[int64]error // by partition and offset, until committed
}

// recordLimit returns the number of records that the next transaction may take: at least 1.
func (r *refusals) recordLimit() int {
	if r.limit > 0 {
		return r.limit
	}
	return r.max
}

// causeOf returns the error with which Kafka refuses the output of a record; nil: none is known. The map is read for
// each record and is empty but for a search.
func (r *refusals) causeOf(partition int32, offset int64) error { return r.records[partition][offset] }

// noteRefused records that Kafka refused a transaction of this number of input records, which ended at position
// last. It returns false if the search cannot continue: the transaction had no records, or only a record that is
// already marked as refused.
func (r *refusals) noteRefused(records int, last Position, why error) bool {
	if records > 1 {
		r.limit = records / 2
		return true
	}
	r.limit = 1
	if records == 0 || r.causeOf(last.Partition, last.Offset) != nil {
		return false
	}
	if r.records == nil {
		r.records = map[int32]map[int64]error{}
	}
	if r.records[last.Partition] == nil {
		r.records[last.Partition] = map[int64]error{}
	}
	r.records[last.Partition][last.Offset] = why
	return true
}

// committed doubles the limit after a committed transaction, up to max. A refused record costs about
// 2·log2(max) transactions.
func (r *refusals) committed() {
	if r.limit *= 2; r.limit >= r.max {
		r.limit = 0
	}
}

// forget drops the records of a partition below an offset: they are committed as skipped and not read again.
func (r *refusals) forget(partition int32, below int64) {
	for offset := range r.records[partition] {
		if offset < below {
			delete(r.records[partition], offset)
		}
	}
	if len(r.records[partition]) == 0 {
		delete(r.records, partition)
	}
}

// aborted notes that tx was aborted. Its records are read again: at once if the refusal narrowed the search for
// a record, else after a growing delay.
func (l *life) aborted(tx *Tx) {
	err := tx.failure()
	if why := (*refusal)(nil); l.sc.SkipRefused && errors.As(err, &why) && l.narrow(tx, why) {
		l.sc.Log.Warn("Kafka refuses the output of a record of the input, which is searched for",
			"group", l.sc.Group, "records", tx.records, "err", err)
		return
	}
	l.aborts++
	l.sc.Log.Warn("a transaction was aborted; its records are read again",
		"group", l.sc.Group, "aborts", l.aborts, "err", err)
	if err != nil && !errors.Is(err, errNotOwned) {
		l.noteAbort(fmt.Errorf("%d transactions in a row were aborted: %w", l.aborts, err))
	}
}

// narrow reports whether the refusal of tx narrowed the search for a record or found it.
func (l *life) narrow(tx *Tx, why error) bool {
	return l.refusals.noteRefused(tx.records, tx.last, why)
}

// pause delays the next transaction after aborted transactions and failed polls. The session counts as without a
// transaction meanwhile: Ready reports the reason of the aborts, not a transaction that stands still.
func (l *life) pause(ctx context.Context) {
	delay := time.Duration(0)
	if l.aborts > 0 {
		delay = abortBackoff(l.aborts - 1)
	}
	if l.unreadable > 0 {
		delay = max(delay, backoff(l.unreadable-1))
	}
	if delay == 0 {
		return
	}
	l.noteTurn(time.Time{})
	select {
	case <-ctx.Done():
	case <-time.After(delay):
	}
}

// abortBackoff returns the delay after n+1 aborted transactions in a row: 50 ms, doubling up to 30 s, shortened
// by up to a fifth. Members that abort for the same reason do not all try again at the same time.
func abortBackoff(n int) time.Duration {
	d := 30 * time.Second
	if n < 9 {
		d = 50 * time.Millisecond << n
	}
	return d - rand.N(d/5)
}
