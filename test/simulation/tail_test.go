//go:build synctests

package simulation

import (
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/internal/kafka"
)

// tailProfile has brokers that come back without the last records of a partition, which members had read, as
// after an unclean leader election. Members must continue, nothing may be counted twice, and missing records
// must be counted.
var tailProfile = profile{
	name: "tail", class: truncated, share: 1,
	setup: func(rng *rand.Rand) setup {
		s := usualSetup(rng)
		s.StateLost = "continue"
		return s
	},
	weight: []weighted{
		{24, drawPlainTraffic}, {3, drawLostTail}, {2, drawStart}, {2, drawStop}, {1, drawKill}, {1, drawCut},
		{3, drawSilence},
	},
}

// A lostTail makes brokers come back without the last records of partitions of a topic. kfake keeps every
// record: instead, the position of the group, or the end of the state in its metadata, is moved beyond the
// end of the log. A partition of flows gets a new leader, and brokers return the ends of the epochs before
// it.
type lostTail struct {
	Topic   kafka.Topic // flows or pairing
	Records int64
	Written int           // flow records that are written before a member looks
	Away    time.Duration // time for which no member reaches a broker afterwards
}

func drawLostTail(rng *rand.Rand) action {
	topics := []kafka.Topic{kafka.Flows, kafka.Flows, kafka.Pairing}
	topic := topics[rng.IntN(len(topics))]
	return lostTail{topic, 1 + rng.Int64N(5), rng.IntN(2) * rng.IntN(32), duration(rng, 10*time.Second)}
}

func (a lostTail) String() string {
	return fmt.Sprintf("brokers come back without the last %d records of partitions of %s, "+
		"%v and %d flow records before members reach them", a.Records, a.Topic, a.Away, a.Written)
}

func (a lostTail) run(w *world, rng *rand.Rand) {
	if err := w.client.Flush(w.ctx); err != nil {
		panic(err)
	}
	cut, empty := w.cutAll()
	defer func() {
		time.Sleep(a.Away)
		for _, m := range cut {
			m.host.mend()
		}
	}()
	info := w.cluster.GroupInfo(group)
	if !empty || info == nil {
		w.trace.printf("the group has members still: nothing is lost")
		return
	}
	var lost kadm.Offsets
	topic := topicPrefix + string(kafka.Flows)
	for _, p := range w.cluster.PartitionInfos(topic) {
		c := info.Commits[topic][p.Partition]
		if c.Offset != p.HighWatermark || c.Metadata == "" || rng.IntN(2) == 0 {
			continue // no member can detect the loss of an unread record
		}
		if a.Topic == kafka.Flows {
			if c.LeaderEpoch < 0 || w.watch.epochEnd(p.Partition, c.LeaderEpoch) < c.Offset {
				continue // no record was read yet, or none since the last loss
			}
			w.watch.cut(p.Partition, p.Epoch, p.HighWatermark)
			if err := w.cluster.MoveTopicPartition(topic, p.Partition, rng.Int32N(brokers)); err != nil {
				panic(err)
			}
			c.Offset += a.Records
			w.tails++
		} else {
			var format, stream, from, tip int64
			if _, err := fmt.Sscanf(c.Metadata, "weir/%d %d %d %d", &format, &stream, &from, &tip); err != nil {
				panic(err)
			}
			if from > tip {
				continue // there is no state
			}
			// The marker of a transaction may follow the tip.
			end := w.cluster.PartitionInfo(topicPrefix+string(kafka.Pairing), p.Partition).HighWatermark
			c.Metadata = fmt.Sprintf("weir/%d %d %d %d", format, stream, from, end-1+a.Records)
			w.tips++
			w.remade[kafka.Pairing] = true
		}
		w.trace.printf("partition %d of %s has lost its tail: position %d, %q", p.Partition, a.Topic, c.Offset, c.Metadata)
		lost.AddOffset(topic, p.Partition, c.Offset, c.LeaderEpoch)
		o := lost[topic][p.Partition]
		o.Metadata = c.Metadata
		lost[topic][p.Partition] = o
	}
	if len(lost) > 0 {
		if err := kadm.NewClient(w.client).CommitAllOffsets(w.ctx, group, lost); err != nil {
			panic(err)
		}
	}
	traffic{tcp, a.Written}.run(w, rng)
}

// An endedEpoch is the end of a leader's epoch, and of all before it, in a truncated log.
type endedEpoch struct {
	epoch int32
	end   int64
}

// cut records that the log of a partition of flows was truncated at the end of an epoch.
func (o *watch) cut(partition, epoch int32, end int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.cuts == nil {
		o.cuts = map[int32][]endedEpoch{}
	}
	o.cuts[partition] = append(o.cuts[partition], endedEpoch{epoch, end})
}

// epochEnd returns the end of an epoch of a partition of flows if a truncation determines it; else MaxInt64.
func (o *watch) epochEnd(partition, epoch int32) int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.endOf(partition, epoch)
}

// endOf is like epochEnd; the caller must hold the lock of the watch.
func (o *watch) endOf(partition, epoch int32) int64 {
	end := int64(math.MaxInt64)
	for _, c := range o.cuts[partition] {
		if epoch <= c.epoch {
			end = min(end, c.end)
		}
	}
	return end
}

// epochEnds is a kfake control function that returns the ends of epochs in truncated logs. broker.Mend
// answers the other requests.
func (o *watch) epochEnds(req kmsg.Request) (kmsg.Response, error, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	r, ok := req.(*kmsg.OffsetForLeaderEpochRequest)
	if !ok || len(o.cuts) == 0 {
		return nil, nil, false
	}
	resp := r.ResponseKind().(*kmsg.OffsetForLeaderEpochResponse)
	for _, t := range r.Topics {
		rt := kmsg.NewOffsetForLeaderEpochResponseTopic()
		rt.Topic = t.Topic
		for _, p := range t.Partitions {
			rp := kmsg.NewOffsetForLeaderEpochResponseTopicPartition()
			rp.Partition, rp.LeaderEpoch, rp.EndOffset = p.Partition, p.LeaderEpoch, math.MaxInt64
			if t.Topic == topicPrefix+string(kafka.Flows) {
				rp.EndOffset = o.endOf(p.Partition, p.LeaderEpoch)
			}
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return resp, nil, true
}

// cutAll cuts members off until the group has none, and returns the members that it has cut off.
func (w *world) cutAll() (cut []*member, empty bool) {
	for began := time.Now(); time.Since(began) < time.Minute; time.Sleep(time.Second) {
		w.mu.Lock()
		cut = nil
		for _, m := range w.all {
			if !m.killed {
				cut = append(cut, m)
			}
		}
		w.mu.Unlock()
		for _, m := range cut {
			m.host.cut()
		}
		info := w.cluster.GroupInfo(group)
		if info == nil || len(info.Members) == 0 {
			return cut, true
		}
		w.evictPhantoms(group, info)
	}
	return cut, false
}

// judgeTails compares the missing records with the counts of the members.
func (w *world) judgeTails(r *result, last []report) {
	moved, gone := w.counter("weir_kafka_positions_moved_total"), w.counter("weir_enrich_state_lost_total")
	if moved < float64(w.tails) {
		w.find(findSum, "%d partitions of flows ended before their position, %v are counted as moved", w.tails, moved)
	}
	if gone < float64(w.tips) {
		w.find(findSum, "the state of %d partitions was lost, %v are counted", w.tips, gone)
	}
	lost := uint64(0)
	if gone > 0 {
		lost = w.sent.records
	}
	w.sum(r, last, lost)
}
