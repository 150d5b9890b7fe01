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
	Options Options // that the Sink was opened with
	Kafka   kafka.Config
	Once    bool // end when what is on the topic at the start is kept; else when ctx ends

	Began    func()      // the topic was found
	Notice   func(error) // something was lost, or the topic was made anew
	Failed   func(error) // a failure that passes; equal ones follow one another
	Progress func(Kept)  // after each transaction
}

// Kept is what a Feed has done.
type Kept struct {
	Rows, Bad int   // messages that were written, and that are none of the topic's
	Deleted   int64 // rows that were too old or too much
}

// A feeding is a Feed that runs.
type feeding struct {
	Feed
	kept    Kept
	trimmed time.Time
}

// Run reads until ctx ends. Where the topic changes, the Sink decides again where to read on. A topic that is not
// there, and a Kafka that does not answer at the start, are errors.
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
		b = r.again(ctx)
	}
}

// begins returns where the topic begins and ends.
func (r *feeding) begins(ctx context.Context) (kafka.Beginning, error) {
	epochs, err := r.Sink.Epochs(ctx)
	if err != nil {
		return kafka.Beginning{}, fmt.Errorf("%s: %w", r.Options.Path, err)
	}
	return kafka.Begins(ctx, r.Kafka, r.Options.Topic, epochs)
}

// beginEvery is how often a topic that changed is looked at until it can be read.
const beginEvery = time.Second

// again waits until the topic can be read, or ctx ends.
func (r *feeding) again(ctx context.Context) kafka.Beginning {
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

// read reads the topic from where the Sink ends.
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
		r.Notice(fmt.Errorf("topic %s was made anew: it is read from its start", o.Topic))
	}
	if at.Missed > 0 {
		r.Notice(fmt.Errorf("%d records of %s were deleted from Kafka before they were read: the topic keeps less than this was away", at.Missed, o.Topic))
	}
	if at.Lost > 0 {
		r.Notice(fmt.Errorf("the last records of %s are lost in Kafka, %d of which are in %s: reading goes on at the end of the topic", o.Topic, at.Lost, o.Path))
	}
	return kafka.Tail{From: at.From, ID: b.ID, Once: r.Once}.Read(ctx, r.Kafka, o.Topic, func(records []kafka.Record) error {
		return r.keep(context.WithoutCancel(ctx), records)
	}, r.Failed)
}

// transactionMessages are how many messages a transaction has at least, where there
// are so many: what a kill in the middle of it takes back.
const transactionMessages = 5000

// trimEvery is how often old rows are looked for.
const trimEvery = 10 * time.Second

// keep writes the records of a fetch.
func (r *feeding) keep(ctx context.Context, records []kafka.Record) error {
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
