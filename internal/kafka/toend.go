package kafka

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// endOffsets holds the partitions that a bounded read has not read to their end: the offset after the last record to
// read, by partition. The client must keep control records: the record before the end may be one.
type endOffsets map[int32]int64

// take notes that r was read and reports whether the caller gets it: it is before the end of its partition and no
// control record. A partition is removed once a record shows that its end is reached. That may be a record after the
// end, since compaction and aborted transactions leave gaps.
func (e endOffsets) take(r *kgo.Record) bool {
	end, ok := e[r.Partition]
	if ok && r.Offset+1 >= end {
		delete(e, r.Partition)
	}
	return ok && r.Offset < end && !r.Attrs.IsControl()
}

// silent is the time without a record after which read calls idle.
const silent = 3 * time.Second

// read hands the records of a topic before e to apply, fetch by fetch, in order within a partition, until e is empty.
// An error of a fetch or of apply ends it and is returned, since records may be missing then; failures that the client
// repeats itself are no errors. When no record arrives for the time silent, read calls idle, which reports whether no
// more will come; nil reads on. The caller must close cl.
func (e endOffsets) read(
	ctx context.Context, cl *kgo.Client, apply func(records []*kgo.Record) error, idle func() (ended bool, err error),
) error {
	var records []*kgo.Record
	for len(e) > 0 {
		try, cancel := context.WithTimeout(ctx, silent)
		fetches := cl.PollFetches(try)
		quiet := try.Err() != nil // the client may also return no record at once
		cancel()
		if err := ctx.Err(); err != nil {
			return err
		}
		if errs := pollErrors(fetches); len(errs) > 0 {
			return errs[0]
		}
		records = records[:0]
		fetches.EachRecord(func(r *kgo.Record) {
			_, unread := e[r.Partition]
			if e.take(r) {
				records = append(records, r)
			}
			if _, still := e[r.Partition]; unread && !still { // do not fetch what nobody reads
				cl.PauseFetchPartitions(map[string][]int32{r.Topic: {r.Partition}})
			}
		})
		if err := apply(records); err != nil {
			return err
		}
		if idle != nil && quiet && fetches.NumRecords() == 0 {
			if ended, err := idle(); ended || err != nil {
				return err
			}
		}
	}
	return nil
}

// A fetchError is an error of a fetch of a partition.
type fetchError struct {
	topic     string
	partition int32
	err       error
}

// Error implements error.
func (e *fetchError) Error() string {
	return fmt.Sprintf("topic %s partition %d: %v", e.topic, e.partition, e.err)
}

// Unwrap returns the error of the fetch.
func (e *fetchError) Unwrap() error { return e.err }
