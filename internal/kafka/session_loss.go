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

// Causes for moving a position that the input does not hold.
const (
	causeRetention = "retention" // the log begins after the position
	causeTruncated = "truncated" // the log ends before the position: brokers lost records
	causeRecreated = "recreated" // the topic was deleted and recreated
)

// losses counts moved positions and the records that were gone before they were read. All sessions of a registry
// share its metrics.
type losses struct{ moved, records *prometheus.CounterVec }

func newLosses(reg prometheus.Registerer) losses {
	labels := []string{"topic", "cause"}
	l := losses{
		prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_kafka_positions_moved_total",
			Help: "changes of the read position in a partition of an input topic because its records no longer exist, by " +
				"cause: retention, truncated (brokers lost records), recreated",
		}, labels),
		prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_kafka_unread_records_lost_total",
			Help: "records of an input topic that were deleted before they were read, as far as known, by cause as " +
				"in " +
				"weir_kafka_positions_moved_total",
		}, labels),
	}
	if reg != nil {
		l.moved, l.records = registered(reg, l.moved), registered(reg, l.records)
	}
	return l
}

// registered registers c and returns it, or returns the vector that was registered before with the same
// descriptor.
func registered(reg prometheus.Registerer, c *prometheus.CounterVec) *prometheus.CounterVec {
	err := reg.Register(c)
	if are, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
		if is, ok := are.ExistingCollector.(*prometheus.CounterVec); ok {
			return is
		}
	}
	return c // the session works without its metric
}

// start creates the series of a topic, so that they begin at 0: rate() does not see the first increase of a series that
// begins at 1.
func (l losses) start(topic string) {
	for _, cause := range []string{causeRetention, causeTruncated, causeRecreated} {
		l.moved.WithLabelValues(topic, cause)
		l.records.WithLabelValues(topic, cause)
	}
}

// A move is the change of a position that the input does not hold. from is the committed position, to the offset from
// which the partition is read.
type move struct {
	cause    string
	from, to int64
}

// moved counts and logs a move. lost is the number of records that were never read, as far as known. A move that
// was counted before, in an aborted transaction or an earlier life, counts only its growth.
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
		"topic", s.sc.Input, "partition", partition, "cause", m.cause, "position", m.from, "goes_on_at", m.to,
		"records_lost_unread", max(lost, 0))
}

// nearest returns the position from which a partition is read: at, or the nearest offset that the log holds. A negative
// offset, where nothing was committed, is left to the client, which begins at the start of the log.
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
		l.moved(at.Partition, m, 0) // records below the position were read
	}
	at.Offset = m.to
	return at
}

// adoptTopics takes over the state of the topics at the beginning of a life. It precedes the client: positions that the
// group answers later belong to a topic whose id is known, unless recreatedID says otherwise.
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
		l.sc.Log.Error("the input topic was deleted and recreated: it is read from its start",
			"group", l.sc.Group, "topic", l.sc.Input)
	}
	return nil
}

// adopt takes over the id of the input topic and reports whether the topic is not the former. The id of a
// deleted topic is an error: the broker that answered lags behind, and its positions would be taken for those of
// the new topic. A zero id comes from a broker without topic ids and changes nothing.
func (s *Session) adopt(id [16]byte) (renewed bool, err error) {
	if id == ([16]byte{}) {
		return false, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.past[id] {
		return false, fmt.Errorf("topic %s: a broker still answers with the id of the deleted topic of this name", s.sc.Input)
	}
	if renewed = s.seen != [16]byte{} && s.seen != id; renewed {
		s.past.add(s.seen)
		was := s.seen // others may have committed in it: older memories are stale
		maps.DeleteFunc(s.kept, func(_ int32, m memory) bool { return m.topic != was })
	}
	s.seen = id
	maps.DeleteFunc(s.kept, func(_ int32, m memory) bool { return m.topic == id })
	return renewed, nil
}

// isNewTopic reports whether id belongs to a topic that was made after the topic was: it is neither zero nor the
// id of a topic known to be deleted.
func (s *Session) isNewTopic(id, was [16]byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return id != was && id != [16]byte{} && was != [16]byte{} && !s.past[id]
}

// locate returns the positions from which partitions are read, given their committed positions and the leader
// epochs committed with them. A log that lost its end may have grown beyond the position since: the epoch then
// locates the cut (KIP-320). Where a leader does not answer, the position is unchanged, and the client finds out
// itself whether the log holds it.
func (l *life) locate(
	ctx context.Context, cl *kgo.Client, committed []Position, epochs map[int32]int32,
) ([]Position, error) {
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

// adjust moves the client to the offsets that locate chose: kgo.AdjustFetchOffsetsFn. Before a cut the committed
// epoch is valid: with it the client notices the next cut.
func (l *life) adjust(
	_ context.Context, fetched map[string]map[int32]kgo.Offset,
) (map[string]map[int32]kgo.Offset, error) {
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

// A memory is a Session's record of a partition that a life owned at its end, for the next life.
type memory struct {
	topic     [16]byte // Kafka's id
	committed Position
	unread    int64 // records after the last record taken, as far as known
}

// remember stores the positions of owned partitions at the end of a life: Kafka deletes the committed offsets of
// a topic with the topic. The memory is of this process only. bequeath commits the metadata in the new topic for the
// other members.
func (l *life) remember() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for n, p := range l.owned {
		l.kept[n] = memory{l.inputID, p.committed, max(0, p.end-p.next)}
	}
}

// recall returns the position of a partition, given its committed position. The two are equal while the input is
// the topic that was read before. In a topic that was recreated, offsets of the old topic are void: unless
// another member has committed, the partition is read from the start, with the metadata that this session
// committed last.
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

// noteDataLoss counts a log that was cut while it was read (KIP-320): the leader's last epoch ends before the records
// that the client consumed. The client goes on at the end of the cut log.
func (l *life) noteDataLoss(loss *kgo.ErrDataLoss) {
	p := l.owned[loss.Partition]
	if p == nil {
		return
	}
	l.moved(loss.Partition, move{causeTruncated, loss.ConsumedTo, loss.ResetTo}, p.end-loss.ConsumedTo)
	p.next, p.end, p.since = loss.ResetTo, loss.ResetTo, l.sc.Now()
}

// needsNewLife reports whether an error lasts until the client is replaced: the topic was deleted and
// recreated, and a client never adopts the new id; or the input does not hold the position, and the next life looks
// for the nearest.
func needsNewLife(err error) bool {
	return errors.Is(err, kerr.UnknownTopicID) || errors.Is(err, kerr.OffsetOutOfRange)
}

// expire ends the life after the current transaction, for a reason that only a new client can correct. It may be
// called by any goroutine.
func (l *life) expire(why error) { l.expired.CompareAndSwap(nil, &why) }

// needsReplacement reports whether a new client would do better after an error for which needsNewLife is true. It asks
// the cluster, which takes up to 5 s; the poll's errors come with a back-off.
// While a deleted topic is not recreated, this client stays in the group: only a member of the group can commit
// positions in the new topic, see bequeath.
func (l *life) needsReplacement(ctx context.Context, err error) bool {
	if !errors.Is(err, kerr.UnknownTopicID) {
		return true
	}
	_, again := l.recreatedID(ctx, l.gts.Client())
	return again
}

// recreatedID returns the id of the input topic and true if the topic was deleted and recreated during this life.
func (l *life) recreatedID(ctx context.Context, cl *kgo.Client) (id [16]byte, again bool) {
	now, err := readTopicState(ctx, cl, l.sc.Input)
	if err != nil || now.partitions != l.partitions {
		return id, false
	}
	return now.id, l.isNewTopic(now.id, l.inputID)
}

// bequeath commits the start of owned partitions in a topic that was recreated, with the metadata that was
// committed last. Kafka deleted the positions with the old topic, but the next owner of a partition needs its
// state. The group refuses the commit of a member that it has removed. A partition whose commit fails keeps its
// state if this session gets it again.
func (l *life) bequeath() {
	id, again := l.recreatedID(l.late, l.gts.Client())
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
		l.sc.Log.Warn("the state of partitions is not handed on to the new topic",
			"group", l.sc.Group, "topic", l.sc.Input, "err", err)
		return
	}
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				l.sc.Log.Warn("the state of a partition is not handed on to the new topic",
					"group", l.sc.Group, "topic", l.sc.Input, "partition", p.Partition, "err", err)
			} else if was := l.owned[p.Partition]; was != nil {
				l.moved(p.Partition, move{causeRecreated, was.committed.Offset, 0}, was.end-was.next)
			}
		}
	}
}

// watchEvery is the interval of watch. The client itself refreshes its metadata every 5 min if nothing fails.
const watchEvery = 30 * time.Second

// watch expires the life when the input or the co-partitioned topic was recreated or has another number of partitions:
// the life then ends after its current transaction. watch runs in a goroutine of its own until ctx ends.
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

// changed returns the change of the topics since the life began; nil if there is none, or while Kafka does not
// answer.
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
			return fmt.Errorf("topic %s was deleted and recreated", name)
		case len(now.Partitions) != was.partitions:
			return fmt.Errorf("topic %s has %d partitions, it had %d", name, len(now.Partitions), was.partitions)
		}
	}
	return nil
}
