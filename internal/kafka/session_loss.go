package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// The causes for which a Session moves a position that the input does not hold.
const (
	causeRetention = "retention" // the log begins after the position
	causeTruncated = "truncated" // the log ends before the position: brokers lost records
	causeRecreated = "recreated" // the topic was deleted and made again
)

// losses counts positions that were moved, and the records that were gone before they were
// read. They are shared by all sessions of a registry.
type losses struct{ moved, records *prometheus.CounterVec }

func newLosses(reg prometheus.Registerer) losses {
	labels := []string{"topic", "cause"}
	l := losses{
		prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_kafka_positions_moved_total",
			Help: "positions of partitions of an input topic that were moved because the topic does not hold them, by cause: " +
				"retention, truncated (brokers lost records), recreated",
		}, labels),
		prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_kafka_unread_records_lost_total",
			Help: "records of an input topic that were gone before they were read, as far as known, by cause as in weir_kafka_positions_moved_total",
		}, labels),
	}
	if reg != nil {
		l.moved, l.records = registered(reg, l.moved), registered(reg, l.records)
	}
	return l
}

// registered registers c and returns it, or the same vector that is registered already.
func registered(reg prometheus.Registerer, c *prometheus.CounterVec) *prometheus.CounterVec {
	err := reg.Register(c)
	if are, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
		if is, ok := are.ExistingCollector.(*prometheus.CounterVec); ok {
			return is
		}
	}
	return c // without its metric the session works all the same
}

// start makes the series of a topic, so that they begin at 0.
func (l losses) start(topic string) {
	for _, cause := range []string{causeRetention, causeTruncated, causeRecreated} {
		l.moved.WithLabelValues(topic, cause)
		l.records.WithLabelValues(topic, cause)
	}
}

// A move is the change of a position that the input does not hold.
type move struct {
	cause    string
	from, to int64
}

// moved counts and logs a move by which lost records, as far as known, were never read. A
// move that was counted already, before a transaction that was aborted or a session that
// began anew, counts with what it has grown by.
func (s *Session) moved(partition int32, m move, lost int64) {
	s.mu.Lock()
	was, again := s.moves[partition]
	s.moves[partition] = m
	s.mu.Unlock()
	again = again && was.cause == m.cause && was.from == m.from
	if again && was.to == m.to {
		return
	}
	if again && m.cause == causeRetention {
		lost = m.to - max(m.from, was.to)
	}
	s.losses.moved.WithLabelValues(s.sc.Input, m.cause).Inc()
	s.losses.records.WithLabelValues(s.sc.Input, m.cause).Add(float64(max(lost, 0)))
	s.sc.Log.Error("the input does not hold the position of a partition; reading goes on at another", "group", s.sc.Group,
		"topic", s.sc.Input, "partition", partition, "cause", m.cause, "position", m.from, "goes_on_at", m.to, "records_lost_unread", max(lost, 0))
}

// nearest returns the position from which a partition is read: at, or the nearest one that
// the log holds.
func (l *life) nearest(at Position, log bounds) Position {
	m := move{from: at.Offset, to: min(max(at.Offset, log.first), log.end)}
	switch {
	case at.Offset < 0 || m.to == m.from:
		return at
	case m.to > m.from:
		m.cause = causeRetention
		l.moved(at.Partition, m, m.to-m.from)
	default:
		m.cause = causeTruncated
		l.moved(at.Partition, m, 0) // what lay below the position was read
	}
	at.Offset = m.to
	return at
}

// adoptTopics takes the state of the topics over at the beginning of a life.
func (l *life) adoptTopics(ctx context.Context) error {
	topics, err := l.inputTopics(ctx)
	if err != nil {
		return err
	}
	l.topics, l.partitions, l.inputID = topics, topics[l.sc.Input].partitions, topics[l.sc.Input].id
	renewed, err := l.adopt(l.inputID)
	if err != nil {
		return err
	}
	if renewed {
		l.sc.Log.Error("the input topic was deleted and made again: it is read from its start", "group", l.sc.Group, "topic", l.sc.Input)
	}
	return nil
}

// adopt takes the id of the input topic over and reports whether the topic is another one
// than before. The id of a topic that was deleted is an error: the broker that gave it lags
// behind, and positions would be taken for those of another topic. A zero id, of a broker
// that knows none, says nothing.
func (s *Session) adopt(id [16]byte) (renewed bool, err error) {
	if id == ([16]byte{}) {
		return false, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.past[id] {
		return false, fmt.Errorf("topic %s: a broker still tells the id of the topic of this name that was deleted", s.sc.Input)
	}
	if renewed = s.seen != [16]byte{} && s.seen != id; renewed {
		s.past.add(s.seen)
		was := s.seen // others may have committed in it: what was kept of a topic before it is stale
		maps.DeleteFunc(s.kept, func(_ int32, m memory) bool { return m.topic != was })
	}
	s.seen = id
	maps.DeleteFunc(s.kept, func(_ int32, m memory) bool { return m.topic == id })
	return renewed, nil
}

// isNewTopic reports whether id is that of a topic made after the one with the id was: neither
// unknown, nor of a topic that is known to be deleted.
func (s *Session) isNewTopic(id, was [16]byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return id != was && id != [16]byte{} && was != [16]byte{} && !s.past[id]
}

// locate returns where partitions with these committed positions, and the leader epochs
// committed with them, are read from. A log that lost its end may have grown beyond the
// position since: the epoch tells where it was cut. The client finds out itself if a
// partition whose leader does not answer does not hold its position.
func (l *life) locate(ctx context.Context, cl *kgo.Client, committed []Position, epochs map[int32]int32) ([]Position, error) {
	partitions := make([]int32, len(committed))
	for i, pos := range committed {
		partitions[i] = pos.Partition
	}
	logs, err := listHeld(ctx, cl, l.sc.Input, partitions, epochs)
	if err != nil {
		return nil, err
	}
	at := make([]Position, len(committed))
	for i, pos := range committed {
		if int(pos.Partition) >= l.partitions {
			err := fmt.Errorf("topic %s has a partition %d, it had %d partitions", l.sc.Input, pos.Partition, l.partitions)
			l.expire(err)
			return nil, err
		}
		at[i] = l.recall(pos)
		if log, ok := logs[pos.Partition]; ok {
			at[i] = l.nearest(at[i], log)
		}
		l.begin[pos.Partition] = at[i].Offset
	}
	return at, nil
}

// adjust tells the client where to begin: kgo.AdjustFetchOffsetsFn. Before a cut the epoch
// that was committed holds: with it the client notices the next cut.
func (l *life) adjust(_ context.Context, fetched map[string]map[int32]kgo.Offset) (map[string]map[int32]kgo.Offset, error) {
	for n, o := range fetched[l.sc.Input] {
		if at, ok := l.begin[n]; ok && at >= 0 && o.EpochOffset().Offset != at {
			begin := kgo.NewOffset().At(at)
			if was := o.EpochOffset(); at < was.Offset {
				begin = begin.WithEpoch(was.Epoch)
			}
			fetched[l.sc.Input][n] = begin
		}
	}
	return fetched, nil
}

// A memory is what a Session keeps of a partition that a life owned at its end, until the
// next life.
type memory struct {
	topic     [16]byte // Kafka's id
	committed Position
	unread    int64 // records behind the last one taken, as far as known
}

// remember keeps the positions of owned partitions at the end of a life: Kafka deletes the
// committed offsets of a topic with the topic.
func (l *life) remember() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for n, p := range l.owned {
		l.kept[n] = memory{l.inputID, p.committed, max(0, p.end-p.next)}
	}
}

// recall returns the position of a partition, given its committed one. While the input is
// the topic that was read before, they are equal. In a topic that was made again, offsets of
// the old one mean nothing: unless another member has committed, the partition is read
// from the start, with the metadata of what this session committed last.
func (s *Session) recall(at Position) Position {
	s.mu.Lock()
	was, ok := s.kept[at.Partition]
	ok = ok && was.topic != s.seen && was.topic != [16]byte{}
	s.mu.Unlock()
	if !ok || at.Offset >= 0 && at != was.committed {
		return at
	}
	s.moved(at.Partition, move{causeRecreated, was.committed.Offset, 0}, was.unread)
	return Position{Partition: at.Partition, Metadata: was.committed.Metadata}
}

// noteDataLoss takes the news that the log of a partition was cut: the client goes on at its end.
func (l *life) noteDataLoss(loss *kgo.ErrDataLoss) {
	p := l.owned[loss.Partition]
	if p == nil {
		return
	}
	l.moved(loss.Partition, move{causeTruncated, loss.ConsumedTo, loss.ResetTo}, p.end-loss.ConsumedTo)
	p.next, p.end, p.since = loss.ResetTo, loss.ResetTo, l.sc.Now()
}

// needsNewLife reports whether an error lasts until another client takes this one's place:
// a topic was deleted and made again, whose new id the client never adopts; or the input
// does not hold the position, and the next life looks for the nearest one.
func needsNewLife(err error) bool {
	return errors.Is(err, kerr.UnknownTopicID) || errors.Is(err, kerr.OffsetOutOfRange)
}

// expire ends the life soon, for a reason that only another one can mend.
func (l *life) expire(why error) { l.expired.CompareAndSwap(nil, &why) }

// needsReplacement reports whether another client would do better than this one after an error that
// needs a new life. While a deleted topic is not made again this one stays in the group: a
// member of the group can commit positions in the new topic, see bequeath.
func (l *life) needsReplacement(ctx context.Context, err error) bool {
	if !errors.Is(err, kerr.UnknownTopicID) {
		return true
	}
	_, again := l.madeAgain(ctx, l.gts.Client())
	return again
}

// madeAgain returns the id of the input topic if it is another one than at the beginning of
// the life.
func (l *life) madeAgain(ctx context.Context, cl *kgo.Client) (id [16]byte, again bool) {
	now, err := readTopicState(ctx, cl, l.sc.Input)
	if err != nil || now.partitions != l.partitions {
		return id, false
	}
	return now.id, l.isNewTopic(now.id, l.inputID)
}

// bequeath commits the start of owned partitions, with the metadata that was committed
// last, when the input was made again: Kafka deleted the positions with the topic, and who
// gets a partition next needs its state. The group refuses it from a member that it has put
// out. A partition for which it fails keeps its state if this session gets it again.
func (l *life) bequeath() {
	id, again := l.madeAgain(l.late, l.gts.Client())
	if !again {
		return
	}
	ctx, cancel := context.WithTimeout(l.late, endsWithin)
	defer cancel()
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Group, req.MemberID, req.Generation = l.sc.Group, l.member, l.generation
	topic := kmsg.NewOffsetCommitRequestTopic()
	topic.Topic, topic.TopicID = l.sc.Input, id
	for n, p := range l.owned {
		rp := kmsg.NewOffsetCommitRequestTopicPartition()
		rp.Partition, rp.Offset, rp.Metadata = n, 0, &p.committed.Metadata
		topic.Partitions = append(topic.Partitions, rp)
	}
	req.Topics = append(req.Topics, topic)
	resp, err := req.RequestWith(ctx, l.gts.Client())
	if err != nil {
		l.sc.Log.Warn("the state of partitions is not handed on to the new topic", "group", l.sc.Group, "topic", l.sc.Input, "err", err)
		return
	}
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				l.sc.Log.Warn("the state of a partition is not handed on to the new topic", "group", l.sc.Group, "topic", l.sc.Input,
					"partition", p.Partition, "err", err)
			} else if was := l.owned[p.Partition]; was != nil {
				l.moved(p.Partition, move{causeRecreated, was.committed.Offset, 0}, was.end-was.next)
			}
		}
	}
}

// watchEvery is how often a session compares its topics with those that it began with. The
// client looks at its metadata every 5 min if nothing fails.
const watchEvery = 30 * time.Second

// watch ends the life when the input or its twin is another topic, or has another number of
// partitions, than at its beginning.
func (l *life) watch(ctx context.Context) {
	tick := time.NewTicker(l.every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := l.changed(ctx); err != nil {
			l.expire(err)
		}
	}
}

// changed returns what has changed about the topics since the life began; nil for nothing,
// and while Kafka does not say.
func (l *life) changed(ctx context.Context) error {
	names := slices.Sorted(maps.Keys(l.topics))
	topics, err := kadm.NewClient(l.gts.Client()).ListTopics(ctx, names...)
	if err != nil {
		return nil
	}
	for _, name := range names {
		was, now := l.topics[name], topics[name]
		switch {
		case now.Err != nil || len(now.Partitions) == 0:
		case l.isNewTopic(now.ID, was.id):
			return fmt.Errorf("topic %s was deleted and made again", name)
		case len(now.Partitions) != was.partitions:
			return fmt.Errorf("topic %s has %d partitions, it had %d", name, len(now.Partitions), was.partitions)
		}
	}
	return nil
}
