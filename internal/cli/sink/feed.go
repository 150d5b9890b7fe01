package sink

import (
	"context"
	"errors"
	"fmt"
	"time"

	"weir/internal/kafka"
	"weir/internal/kafka/framing"
)

// A Feed reads a topic at isolation level read_committed into a Sink. All fields must be set before Run.
type Feed struct {
	Sink    Sink
	Options Options // the options of Sink
	Kafka   kafka.Config
	Once    bool // stop at the end offsets of the start; otherwise run until ctx ends

	Began    func()      // called once the topic was found
	Notice   func(error) // called for lost records and for a topic that was recreated
	Failed   func(error) // called for each temporary failure, equal failures included
	Progress func(Kept)  // called after each transaction

	// Ticks delivers the times at which old rows are deleted; nil: every ten seconds. Rows are deleted while no
	// record arrives, and while the topic cannot be read.
	Ticks <-chan time.Time
}

// Kept counts the work of a Feed.
type Kept struct {
	Rows, Bad int   // messages stored, and messages of another kind
	Deleted   int64 // rows deleted by age or size
}

// A feeding is a running Feed. The Sink and the functions of Feed are called from the goroutine of Run only.
type feeding struct {
	Feed
	kept Kept
}

// Run stores records until ctx ends. After a change of the topic it asks the Sink for the new position. A missing
// topic, and an unreachable Kafka at the start, are errors; later failures of Kafka are reported to Failed and
// retried. Old rows are deleted before the first record is stored, every ten seconds and, with Once, at the end.
func (f Feed) Run(ctx context.Context) (Kept, error) {
	r := &feeding{Feed: f}
	if r.Ticks == nil {
		ticker := time.NewTicker(trimEvery)
		defer ticker.Stop()
		r.Ticks = ticker.C
	}
	b, err := r.begins(ctx)
	if err != nil {
		return r.kept, err
	}
	f.Began()
	if err := r.trim(ctx, time.Now()); err != nil {
		return r.kept, err
	}
	for {
		err = r.read(ctx, b)
		if f.Once && err == nil {
			err = r.trim(ctx, time.Now())
		}
		if f.Once || !errors.Is(err, kafka.ErrTopicChanged) {
			return r.kept, err
		}
		f.Failed(err)
		if b, err = r.waitReadable(ctx); err != nil {
			return r.kept, err
		}
	}
}

// begins returns the first and end offsets of the topic.
func (r *feeding) begins(ctx context.Context) (kafka.Beginning, error) {
	epochs, err := r.Sink.Epochs(ctx)
	if err != nil {
		return kafka.Beginning{}, fmt.Errorf("%s: %w", r.Options.Path, err)
	}
	return kafka.Begins(ctx, r.Kafka, r.Options.Topic, epochs)
}

// beginEvery is the interval of attempts to read a topic that changed.
const beginEvery = time.Second

// waitReadable waits until the topic can be read or ctx ends. It returns an error when the Sink fails.
func (r *feeding) waitReadable(ctx context.Context) (kafka.Beginning, error) {
	for {
		again := time.After(beginEvery)
		for waiting := true; waiting; {
			select {
			case <-ctx.Done():
				return kafka.Beginning{}, nil
			case now := <-r.Ticks:
				if err := r.trim(ctx, now); err != nil {
					return kafka.Beginning{}, err
				}
			case <-again:
				waiting = false
			}
		}
		b, err := r.begins(ctx)
		if err == nil || ctx.Err() != nil {
			return b, nil
		}
		r.Failed(err)
	}
}

// read reads the topic from the position of the Sink.
func (r *feeding) read(ctx context.Context, b kafka.Beginning) error {
	if ctx.Err() != nil {
		return nil
	}
	o := &r.Options
	at, err := r.Sink.Begin(ctx, Topic{ID: b.ID, First: b.First, End: b.End, EpochEnds: b.EpochEnds})
	if err != nil {
		return fmt.Errorf("%s: %w", o.Path, err)
	}
	if at.Anew {
		r.Notice(fmt.Errorf("topic %s was deleted and recreated: reading it from its start", o.Topic))
	}
	if at.Missed > 0 {
		r.Notice(fmt.Errorf("%d records of %s were deleted from Kafka before they were read: "+
			"this program was stopped or behind for longer than the retention of the topic", at.Missed, o.Topic))
	}
	if at.Lost > 0 {
		r.Notice(fmt.Errorf("the last records of %s are lost in Kafka, %d of which are in %s: "+
			"reading continues at the end of the topic", o.Topic, at.Lost, o.Path))
	}
	tail := kafka.Tail{From: at.From, ID: b.ID, Once: r.Once}
	return r.follow(ctx, func(ctx context.Context, apply func([]kafka.Record) error, failed func(error)) error {
		return tail.Read(ctx, r.Kafka, o.Topic, apply, failed)
	})
}

// A readTopic reads a topic until ctx ends, as kafka.Tail.Read does. It calls apply and failed.
type readTopic func(ctx context.Context, apply func([]kafka.Record) error, failed func(error)) error

// follow stores the records that read passes, and deletes old rows between them. read runs in a goroutine of its own,
// which ends before follow returns.
func (r *feeding) follow(ctx context.Context, read readTopic) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	fetches, stored := make(chan []kafka.Record), make(chan error)
	failures, ended := make(chan error), make(chan error, 1)
	go func() {
		ended <- read(ctx, func(records []kafka.Record) error {
			fetches <- records
			return <-stored
		}, func(err error) { failures <- err })
	}()
	var failed error // of a deletion; it ends the reading
	for {
		select {
		case records := <-fetches:
			err := failed
			if err == nil {
				err = r.writeRecords(ctx, records)
			}
			stored <- err
		case err := <-failures:
			r.Failed(err)
		case now := <-r.Ticks:
			if failed == nil {
				if failed = r.trim(ctx, now); failed != nil {
					cancel()
				}
			}
		case err := <-ended:
			return errors.Join(failed, err)
		}
	}
}

// transactionMessages is the number of messages at which a transaction is committed. It bounds the work that is lost
// when the process is killed.
const transactionMessages = 5000

// trimEvery is the interval of the deletion of old rows.
const trimEvery = 10 * time.Second

// writeRecords stores the records of a fetch. A transaction that has begun is committed when ctx ends.
func (r *feeding) writeRecords(ctx context.Context, records []kafka.Record) error {
	kind := &framing.Connections
	if r.Options.Rows == string(kafka.Flows) {
		kind = &framing.Flows
	}
	var list []Record
	messages := 0
	for i, rec := range records {
		x := Record{Partition: rec.Partition, Offset: rec.Offset, Epoch: rec.Epoch, Time: rec.Time}
		n, err := kind.Each(rec.Value, func(m []byte) { x.Messages = append(x.Messages, m) })
		if err != nil {
			r.kept.Bad++
		}
		list, messages = append(list, x), messages+n
		if messages >= transactionMessages || i == len(records)-1 {
			rows, bad, err := r.write(ctx, list)
			if err != nil {
				return fmt.Errorf("%s: %w", r.Options.Path, err)
			}
			r.kept.Rows, r.kept.Bad = r.kept.Rows+rows, r.kept.Bad+bad
			r.Progress(r.kept)
			list, messages = list[:0], 0
		}
	}
	r.Progress(r.kept)
	return nil
}

// write stores records. When the disk is full it deletes old rows first and tries again, at each tick; with Once it
// tries again once.
func (r *feeding) write(ctx context.Context, list []Record) (rows, bad int, err error) {
	now := time.Now()
	for {
		rows, bad, err = r.Sink.Write(context.WithoutCancel(ctx), list)
		if !errors.Is(err, ErrFull) {
			return rows, bad, err
		}
		full := fmt.Errorf("%s: %w", r.Options.Path, err)
		r.Failed(full)
		if err := r.trim(ctx, now); err != nil {
			return 0, 0, err
		}
		rows, bad, err = r.Sink.Write(context.WithoutCancel(ctx), list)
		if !errors.Is(err, ErrFull) || r.Once {
			return rows, bad, err
		}
		select {
		case <-ctx.Done():
			return 0, 0, full
		case now = <-r.Ticks:
		}
	}
}

// trim deletes old rows as of now. A full disk is reported and is no error: the deletion needs room too.
func (r *feeding) trim(ctx context.Context, now time.Time) error {
	n, err := r.Sink.Trim(context.WithoutCancel(ctx), now)
	r.kept.Deleted += n
	switch {
	case errors.Is(err, ErrFull):
		r.Failed(fmt.Errorf("%s: deleting old rows: %w", r.Options.Path, err))
	case err != nil:
		return fmt.Errorf("%s: deleting old rows: %w", r.Options.Path, err)
	}
	if n > 0 {
		r.Progress(r.kept)
	}
	return nil
}
