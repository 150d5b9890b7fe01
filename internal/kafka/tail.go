package kafka

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// A Tail reads a topic at isolation level read_committed, without a group. The zero value reads the records that are
// committed from now on, until the context of Read ends.
type Tail struct {
	Since time.Time // the first record is the first with this time or a later one
	Start bool      // the first record is the first of the log
	Once  bool      // Read ends after the records present when it begins; false: it follows the topic until ctx ends
	// From is the first offset to read, by partition; it must have all partitions of the topic. nil selects
	// Since, Start or, with neither, the end of the log.
	From map[int32]int64
	ID   string // the topic's id, as Begins returned it with From

	checkEvery time.Duration // interval of checkTopic; 0: topicStateEvery
}

// A Beginning is the state of a topic at a moment.
type Beginning struct {
	ID    string          // changes when the topic is deleted and recreated
	First map[int32]int64 // the first offset of the log, by partition
	End   map[int32]int64 // the offset after the last one, by partition
	// EpochEnds is the offset after the last record of a leader epoch and all epochs before it (KIP-320), by
	// partition. It has the partitions whose epochs were passed to Begins.
	EpochEnds map[int32]int64
}

// Begins returns the bounds of a topic. epochs are the leader epochs of the last records read, by
// partition, or nil. If the log of a partition was cut since, its epoch ends before the last record read
// (KIP-320).
func Begins(ctx context.Context, c Config, topic string, epochs map[int32]int32) (Beginning, error) {
	cl, err := kgo.NewClient(append(c.withRole("reader").opts(), kgo.RetryTimeout(within), kgo.RequestRetries(5))...)
	if err != nil {
		return Beginning{}, fmt.Errorf("kafka client: %w", err)
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	state, err := readTopicState(ctx, cl, topic)
	if err != nil {
		return Beginning{}, err
	}
	b := Beginning{ID: kadm.TopicID(state.id).String(), First: map[int32]int64{}, End: map[int32]int64{}}
	for _, x := range []struct {
		list offsets
		to   map[int32]int64
	}{{adm.ListStartOffsets, b.First}, {adm.ListEndOffsets, b.End}} {
		at, err := x.list(ctx, topic)
		if err == nil {
			err = at.Error()
		}
		if err != nil {
			return Beginning{}, fmt.Errorf("topic %s at %v: %w", topic, c.Brokers, err)
		}
		for p, o := range at[topic] {
			x.to[p] = o.Offset
		}
	}
	held := maps.Clone(epochs)
	maps.DeleteFunc(held, func(p, _ int32) bool { _, ok := b.End[p]; return !ok })
	b.EpochEnds = epochEnds(ctx, cl, topic, held)
	return b, nil
}

// A tailing is the state of a Tail.Read. It belongs to the goroutine of Read; at is the position that reading returns
// to when the client must forget the topic.
type tailing struct {
	Tail
	cl      *kgo.Client
	topic   string
	report  *reporter
	left    endOffsets // with Once: what is not read yet
	is      topicCheck
	at      map[int32]kgo.Offset // the next offset of each partition
	checked time.Time            // time of the last checkTopic
	records []Record
}

// Read hands the records of a topic to apply, fetch by fetch, in order within a partition. A missing topic,
// and a Kafka that does not answer at the start, are errors; later failures go to failed, at a bounded rate, and
// reading goes on. Added partitions, and a topic that is deleted and recreated, are read from their start. With
// From the caller decides on that: Read returns ErrTopicChanged.
func (t Tail) Read(ctx context.Context, c Config, topic string, apply func([]Record) error, failed func(error)) error {
	left, err := t.unread(ctx, c, topic)
	if err != nil {
		return err
	}
	if t.Once && (len(left) == 0 || t.startsAtEnd()) {
		return nil
	}
	t.checkEvery = cmp.Or(t.checkEvery, topicStateEvery)
	r := &tailing{
		Tail: t, topic: topic, report: newReporter(failed), left: left,
		at: map[int32]kgo.Offset{}, is: topicCheck{topic: topic},
	}
	if err := r.open(ctx, c); err != nil {
		return err
	}
	defer r.cl.Close()
	for try := 0; ; {
		errs, err := r.poll(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err == nil {
			err = apply(r.records)
		}
		if err != nil {
			return err
		}
		if t.Once && len(r.left) == 0 {
			return nil
		}
		if err := r.checkTopic(ctx, errs); err != nil {
			return err
		}
		if len(errs) == 0 {
			try = 0
			continue
		}
		waitBackoff(ctx, try)
		try++
	}
}

// open makes the client, which reads each partition from the offset that t selects. The caller must close it. With From
// the client never resets an offset by itself: the caller decides on records that are missing.
func (r *tailing) open(ctx context.Context, c Config) (err error) {
	reset := kgo.RewindOffset(0) // after a loss that cannot be located, go on with records newer than the last one read
	if r.From != nil {
		reset = kgo.NoResetOffset()
	}
	r.cl, err = kgo.NewClient(append(c.withRole("reader").opts(),
		kgo.WithContext(ctx), // an unanswered fetch must not delay the end
		kgo.ConsumeResetOffset(reset),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.KeepControlRecords(), // the last record may be a control record
	)...)
	if err != nil {
		return fmt.Errorf("kafka client: %w", err)
	}
	err = r.is.begin(ctx, r.cl)
	now := r.is.state
	if err == nil && r.From != nil && (kadm.TopicID(now.id).String() != r.ID || now.partitions > len(r.From)) {
		err = r.changed("it is another one, or has more partitions, than a moment ago")
	}
	if err != nil {
		r.cl.Close()
		return err
	}
	r.checked = time.Now()
	for p := range int32(now.partitions) { // a topic has few partitions
		r.at[p] = r.begin(p)
	}
	r.cl.AddConsumePartitions(map[string]map[int32]kgo.Offset{r.topic: maps.Clone(r.at)})
	return nil
}

// startsAtEnd reports whether t selects no start: the first record to read is not there yet.
func (t *Tail) startsAtEnd() bool { return t.From == nil && !t.Start && t.Since.IsZero() }

// begin returns the offset at which a partition begins. A time after the last record selects the end of the log.
func (r *tailing) begin(partition int32) kgo.Offset {
	switch {
	case r.From != nil:
		return kgo.NewOffset().At(r.From[partition])
	case r.Start:
		return kgo.NewOffset().AtStart()
	case !r.Since.IsZero():
		return kgo.NewOffset().AfterMilli(r.Since.UnixMilli())
	default:
		return kgo.NewOffset().AtEnd()
	}
}

// poll fills r.records. errs are transient errors, already reported; a non-nil err ends Read. It returns within
// checkEvery, so that checkTopic runs at its interval on an idle topic too. Records that came with errors of other
// partitions are kept.
func (r *tailing) poll(ctx context.Context) (errs []error, err error) {
	ctx, cancel := context.WithTimeout(ctx, r.checkEvery)
	defer cancel()
	fetches := r.cl.PollFetches(ctx)
	r.records = r.records[:0]
	errs = pollErrors(fetches)
	for _, e := range errs {
		_, lost := errors.AsType[*kgo.ErrDataLoss](e)
		switch {
		case errors.Is(e, kgo.ErrClientClosed):
			return nil, e
		case errors.Is(e, kerr.OffsetOutOfRange) && r.From != nil:
			return nil, r.changed(e.Error())
		case lost && r.Once:
			return nil, e // the end to read to may be gone
		}
		r.report.report(e)
	}
	for _, f := range fetches {
		for _, t := range f.Topics {
			if id := kadm.TopicID(t.TopicID); r.From != nil && id != (kadm.TopicID{}) && id.String() != r.ID {
				return nil, r.changed("it was deleted and recreated")
			}
			for _, p := range t.Partitions {
				if n := len(p.Records); n > 0 {
					r.at[p.Partition] = kgo.NewOffset().At(p.Records[n-1].Offset + 1)
				}
			}
		}
	}
	fetches.EachRecord(r.takeRecord)
	return errs, nil
}

// changed returns ErrTopicChanged with the reason.
func (r *tailing) changed(how string) error {
	return fmt.Errorf("topic %s: %w: %s", r.topic, ErrTopicChanged, how)
}

// takeRecord appends a record to r.records and notes the end of a partition. Control records only move the
// position. Records after the end of a bounded read are left out, also when they came in the same fetch.
func (r *tailing) takeRecord(rec *kgo.Record) {
	if r.left.take(rec) || !r.Once && !rec.Attrs.IsControl() {
		r.records = append(r.records, Record{
			Key: rec.Key, Value: rec.Value, Offset: rec.Offset, Time: rec.Timestamp,
			Partition: rec.Partition, Epoch: rec.LeaderEpoch,
		})
	}
}

// checkTopic compares the state of the topic with that of the last check, at each interval, and at once when
// errs show that the topic is gone. It returns an error that ends Read. A check that fails changes nothing and is
// repeated after the interval, or after the next such error.
func (r *tailing) checkTopic(ctx context.Context, errs []error) error {
	gone := slices.ContainsFunc(errs, topicIsGone)
	if time.Since(r.checked) < r.checkEvery && !gone {
		return nil
	}
	r.checked = time.Now()
	now, change, err := r.is.compare(ctx, r.cl)
	switch {
	case err != nil:
		if ctx.Err() == nil {
			r.report.report(err)
		}
		return nil
	case change == topicRenewed:
		return r.switchTopic(now)
	case change != topicStale && gone: // the client has the id of a broker that lags behind
		r.cl.PurgeTopicsFromClient(r.topic)
		r.cl.AddConsumePartitions(map[string]map[int32]kgo.Offset{r.topic: maps.Clone(r.at)})
	case change == topicGrown && !r.Once:
		return r.addPartitions(now)
	}
	return nil
}

// switchTopic reads another topic of the same name from its start. Positions and the end of a bounded read are offsets
// of the old topic: with From or Once it returns ErrTopicChanged instead.
func (r *tailing) switchTopic(now topicState) error {
	if r.From != nil || r.Once {
		return r.changed("it was deleted and recreated")
	}
	r.report.report(fmt.Errorf("topic %s was deleted and recreated: it is read from its start", r.topic))
	r.cl.PurgeTopicsFromClient(r.topic)
	clear(r.at)
	r.addFrom(0, now)
	return nil
}

// addPartitions reads added partitions from their start. A bounded read leaves them out: it ends at the records that
// were there when it began.
func (r *tailing) addPartitions(now topicState) error {
	how := fmt.Sprintf("it has %d partitions now, %d before", now.partitions, r.is.state.partitions)
	if r.From != nil {
		return r.changed(how)
	}
	r.report.report(fmt.Errorf("topic %s: %s: the new ones are read from their start", r.topic, how))
	r.addFrom(int32(r.is.state.partitions), now) // a topic has few partitions
	return nil
}

// addFrom adds the partitions from first up to the new number of partitions. They are read from their start.
func (r *tailing) addFrom(first int32, now topicState) {
	added := map[int32]kgo.Offset{}
	for p := first; p < int32(now.partitions); p++ {
		added[p] = kgo.NewOffset().AtStart()
	}
	maps.Copy(r.at, added)
	r.cl.AddConsumePartitions(map[string]map[int32]kgo.Offset{r.topic: added})
	r.is.adopt(now)
}

// unread returns the ends of the partitions that have committed records, from the offset that t selects. It has
// a client of its own that gives up soon; the client that follows the topic does not. The end of a partition is its
// last stable offset: a bounded read does not wait for open transactions.
func (t Tail) unread(ctx context.Context, c Config, topic string) (endOffsets, error) {
	cl, err := kgo.NewClient(append(c.withRole("reader").opts(), kgo.RetryTimeout(within), kgo.RequestRetries(5))...)
	if err != nil {
		return nil, fmt.Errorf("kafka client: %w", err)
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	start := offsets(adm.ListStartOffsets)
	if t.Once && t.From != nil {
		start = func(ctx context.Context, topics ...string) (kadm.ListedOffsets, error) {
			all, err := adm.ListStartOffsets(ctx, topics...)
			for p, o := range all[topic] {
				o.Offset = max(o.Offset, t.From[p])
				all[topic][p] = o
			}
			return all, err
		}
	}
	if t.Once && !t.Start && !t.Since.IsZero() {
		start = func(ctx context.Context, topics ...string) (kadm.ListedOffsets, error) {
			return adm.ListOffsetsAfterMilli(ctx, t.Since.UnixMilli(), topics...)
		}
	}
	return unread(ctx, c, topic, start, adm.ListCommittedOffsets)
}
