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
}

// Kept counts the work of a Feed.
type Kept struct {
	Rows, Bad int   // messages stored, and messages of another kind
	Deleted   int64 // rows deleted by age or size
}

// A feeding is a running Feed.
type feeding struct {
	Feed
	kept    Kept
	trimmed time.Time
}

// Run stores records until ctx ends. After a change of the topic it asks the Sink for the new position. A missing
// topic, and an unreachable Kafka at the start, are errors; later failures of Kafka are reported to Failed and
// retried.
func (f Feed) Run(ctx context.Context) (Kept, error) {
	r := &feeding{Feed: f}
	b, err := r.begins(ctx)
	if err != nil {
		return r.kept, err
	}
	f.Began()
	for {
		err = r.read(ctx, b)
		if f.Once || !errors.Is(err, kafka.ErrTopicChanged) {
			return r.kept, err
		}
		f.Failed(err)
		b = r.waitReadable(ctx)
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

// waitReadable waits until the topic can be read or ctx ends.
func (r *feeding) waitReadable(ctx context.Context) kafka.Beginning {
	for {
		select {
		case <-ctx.Done():
			return kafka.Beginning{}
		case <-time.After(beginEvery):
		}
		b, err := r.begins(ctx)
		if err == nil || ctx.Err() != nil {
			return b
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
	return tail.Read(ctx, r.Kafka, o.Topic, func(records []kafka.Record) error {
		return r.writeRecords(context.WithoutCancel(ctx), records)
	}, r.Failed)
}

// transactionMessages is the number of messages at which a transaction is committed. It bounds the work that is lost
// when the process is killed.
const transactionMessages = 5000

// trimEvery is the interval of the deletion of old rows.
const trimEvery = 10 * time.Second

// writeRecords stores the records of a fetch. ctx must not end with the reading, so that a started transaction is
// committed.
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
			rows, bad, err := r.Sink.Write(ctx, list)
			if err != nil {
				return fmt.Errorf("%s: %w", r.Options.Path, err)
			}
			r.kept.Rows, r.kept.Bad = r.kept.Rows+rows, r.kept.Bad+bad
			r.Progress(r.kept)
			list, messages = list[:0], 0
		}
	}
	if now := time.Now(); now.Sub(r.trimmed) >= trimEvery || r.Once {
		r.trimmed = now
		n, err := r.Sink.Trim(ctx, now)
		if r.kept.Deleted += n; err != nil {
			return fmt.Errorf("%s: deleting old rows: %w", r.Options.Path, err)
		}
	}
	r.Progress(r.kept)
	return nil
}
