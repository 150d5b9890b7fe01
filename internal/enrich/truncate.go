package enrich

import (
	"context"
	"time"

	"weir/internal/kafka"
)

// truncateEvery is the minimum time between two deletions of old state.
const truncateEvery = 5 * time.Second

// truncate passes the committed restore points to deleteOldState. It does not block: while a deletion runs, it does
// nothing and is called again after the next commit. It uses the committed restore points (kept), not those of the open
// transaction: until the commit, a restore begins at the previous point. It reads the wall clock, not Deps.Now, because
// it only limits the rate of requests to Kafka. Partitions whose state begins at offset 0 need no deletion.
func (w handler) truncate() {
	if time.Since(w.truncated) < truncateEvery {
		return
	}
	before := map[int32]int64{}
	for n, p := range w.partitions {
		if p.kept.from > 0 {
			before[n] = p.kept.from
		}
	}
	if len(before) == 0 {
		return
	}
	select {
	case w.truncations <- before:
		w.truncated = time.Now()
	default:
	}
}

// deleteOldState deletes pairing state before the restore points that truncate sends, until ctx ends. It runs in a
// goroutine of its own, since a commit must not wait for the deletion. An error is logged, not retried: the next
// deletion covers its range.
func (w *Worker) deleteOldState(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case before := <-w.truncations:
			attempt, cancel := context.WithTimeout(ctx, 10*time.Second)
			err := w.session.Truncate(attempt, w.c.Topics.Name(kafka.Pairing), before)
			cancel()
			if err != nil && ctx.Err() == nil {
				w.log.Warn("old pairing state is not deleted: the topic grows "+
					"(enrich needs the right to delete its records)", "err", err)
			}
		}
	}
}
