package ingest

import (
	"bytes"
	"context"
	"time"

	"google.golang.org/protobuf/proto"

	"weir/internal/templates"
	"weir/pkg/flowpb"
)

// apply applies a record of the templates topic. Until the topic has been read to its end (the barrier),
// records wait in the backlog: a later record may replace an old definition. key and value are the caller's
// again afterwards. docs/decisions/0002-barrier.md gives the reason for the barrier.
func (r *Replica) apply(key, value []byte) {
	r.logMu.Lock()
	defer r.logMu.Unlock()
	rec := templates.Record{Key: bytes.Clone(key), Value: bytes.Clone(value)}
	if len(key) > 0 && r.barrierAt.Load() == 0 { // Weir writes no record without a key; merge rejects it
		if r.tlog.Ready() != nil {
			r.addToBacklog(rec)
			return
		}
		r.passBarrier()
	}
	r.merge(rec)
}

// addToBacklog adds a record to the backlog. If the backlog exceeds its bound, addToBacklog merges the
// older half before the barrier: data may be decoded with an outdated definition until a later record
// replaces it. The caller must hold logMu. The bound protects a start with a topic that forged exporters
// have filled.
func (r *Replica) addToBacklog(rec templates.Record) {
	r.backlog.add(rec)
	if most := r.c.Templates.Octets / backlogPart; r.backlog.octets > most {
		if r.errorLog.AllowN(r.deps.Now(), 1) {
			r.log.Warn("the templates topic is large: a part of it is applied before it is read to its end",
				"records", len(r.backlog.at), "octets", r.backlog.octets)
		}
		r.backlog.removeOldest(most/2, r.merge)
	}
}

// The backlog may take TEMPLATES_MAX_OCTETS / backlogPart.
const backlogPart = 8

// A backlog holds the last record of each key of the templates topic, in the order of the topic: the result
// of compaction. records has empty places where a later record replaced an earlier one; compact removes
// them, at the latest when they outnumber the records.
type backlog struct {
	records []templates.Record // no key: a later record replaced it
	at      map[string]int     // index in records, by key
	octets  int                // approximate heap
}

// backlogOctets returns the approximate heap of a record in a backlog.
func backlogOctets(rec *templates.Record) int { return 192 + 2*len(rec.Key) + len(rec.Value) }

// add adds a record and removes the earlier record with its key. The record must have a key.
func (b *backlog) add(rec templates.Record) {
	if b.at == nil {
		b.at = map[string]int{}
	}
	if i, ok := b.at[string(rec.Key)]; ok {
		b.octets -= backlogOctets(&b.records[i])
		b.records[i] = templates.Record{}
	}
	b.at[string(rec.Key)] = len(b.records)
	b.records = append(b.records, rec)
	b.octets += backlogOctets(&rec)
	if len(b.records) > 2*len(b.at)+1024 {
		b.compact()
	}
}

// removeOldest removes records, the oldest first, until at most octets are left, and calls f for each. A
// negative number removes all records. f must not use the backlog.
func (b *backlog) removeOldest(octets int, f func(templates.Record)) {
	for i := range b.records {
		if b.octets <= octets {
			break
		}
		rec := b.records[i]
		if rec.Key == nil {
			continue
		}
		delete(b.at, string(rec.Key))
		b.octets -= backlogOctets(&rec)
		b.records[i] = templates.Record{}
		f(rec)
	}
	b.compact()
}

// compact removes the empty places of records.
func (b *backlog) compact() {
	kept := make([]templates.Record, 0, len(b.at))
	for _, rec := range b.records {
		if rec.Key != nil {
			b.at[string(rec.Key)] = len(kept)
			kept = append(kept, rec)
		}
	}
	b.records = kept
}

// passBarrier merges the backlog and closes r.passed. The caller must hold logMu. Buffered sets whose
// definitions were on the topic can be decoded from now on.
func (r *Replica) passBarrier() {
	if r.barrierAt.Load() != 0 {
		return
	}
	r.backlog.removeOldest(-1, r.merge)
	r.backlog = backlog{}
	r.barrierAt.Store(r.deps.Now().UnixNano())
	close(r.passed)
	r.log.Info("the templates topic is read to its end", "definitions", r.store.Stats().Definitions)
	r.wakeBuffer()
	r.wakePublisher()
}

// merge merges a record into the store. An unusable record is counted and skipped. A record that this
// version cannot read stays on the topic for others. Merging is commutative
// (docs/decisions/0001-template-key-with-hash.md), so that replicas agree whatever the order.
func (r *Replica) merge(rec templates.Record) {
	before := r.store.Stats().Definitions
	if err := r.store.Merge(rec.Key, rec.Value); err != nil {
		r.metrics.poison.Inc()
		if r.errorLog.AllowN(r.deps.Now(), 1) {
			r.log.Warn("a record of the templates topic is skipped", "err", err)
		}
		return
	}
	if r.store.Stats().Definitions > before && r.isForeign(rec.Value) {
		r.stats.fromOthers.Add(1)
		r.metrics.fromOthers.Inc()
	}
}

// isForeign reports whether another replica published a value.
func (r *Replica) isForeign(value []byte) bool {
	var s flowpb.ExporterState
	return proto.Unmarshal(value, &s) == nil && s.GetReplica() != r.c.Replica
}

// publishEvery is the interval at which records due for a refresh are published. New definitions and
// facts wake the publisher at once.
const publishEvery = time.Second

// publisher publishes due records on the templates topic until ctx ends. After a failure it waits for the
// next publishEvery even if it is woken: that is the back-off. It must not publish before the barrier: the
// topic may already hold the definitions that it would write.
func (r *Replica) publisher(ctx context.Context) error {
	t := time.NewTicker(publishEvery / 10)
	defer t.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return nil
		case <-r.publishNow:
			if r.publishFailed.Load() {
				continue
			}
		case <-t.C:
			if r.barrierAt.Load() == 0 {
				r.logMu.Lock()
				if r.tlog.Ready() == nil {
					r.passBarrier()
				}
				r.logMu.Unlock()
			} else if n%10 != 0 {
				continue
			}
		}
		if r.barrierAt.Load() != 0 {
			r.publishFailed.Store(false)
			r.publishDue()
		}
	}
}

// publishDue publishes the records that are due. It does not wait for Kafka. The callbacks run on the Kafka
// client's goroutine. publishing lets the shutdown wait for them.
func (r *Replica) publishDue() {
	for _, rec := range r.store.Due() {
		r.publishing.Add(1)
		r.tlog.Publish(rec.Key, rec.Value, func(err error) {
			defer r.publishing.Add(-1)
			r.store.Published(rec, err)
			if err != nil {
				r.publishFailed.Store(true)
				r.metrics.published.WithLabelValues("failed").Inc()
				if r.errorLog.AllowN(r.deps.Now(), 1) {
					r.log.Warn("a template could not be published; it will be retried", "err", err)
				}
				return
			}
			r.stats.published.Add(1)
			r.metrics.published.WithLabelValues("done").Inc()
		})
	}
}

// wakePublisher and wakeBuffer do not block.
func (r *Replica) wakePublisher() { wake(r.publishNow) }
func (r *Replica) wakeBuffer()    { wake(r.bufferNow) }

// wake sends on c, whose capacity must be 1, unless a signal waits there already.
func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
