package ingest

import (
	"context"
	"time"
)

// backlogPart is the part of TEMPLATES_MAX_OCTETS that records of the templates topic may take until it has been
// read to its end.
const backlogPart = 8

// passBarrier lets the publisher and the passes over undecoded sets begin: the store holds all records that were on
// the templates topic. TemplateLog calls it once. Buffered sets whose definitions were on the topic can be decoded from
// now on, and expire. docs/decisions/0002-barrier.md gives the reason for the barrier.
func (r *Replica) passBarrier() {
	r.barrierAt.Store(r.deps.Now().UnixNano())
	close(r.passed)
	r.log.Info("the templates topic is read to its end", "definitions", r.store.Stats().Definitions)
	r.wakeBuffer()
}

// merge merges a record of the templates topic into the store. An unusable record is counted and skipped; a record that
// this version cannot read stays on the topic for others. Replicas agree: the order of records with different keys does
// not matter, and all replicas read the records of a key in the order of the topic
// (docs/decisions/0001-template-key-with-hash.md).
func (r *Replica) merge(key, value []byte) {
	if err := r.store.Merge(key, value); err != nil {
		r.metrics.poison.Inc()
		if r.errorLog.AllowN(r.deps.Now(), 1) {
			r.log.Warn("a record of the templates topic is skipped", "err", err)
		}
	}
}

// publishEvery is the interval at which records due for a refresh are published. New definitions and
// facts wake the publisher at once.
const publishEvery = time.Second

// publisher publishes due records on the templates topic, from the barrier on, until ctx ends. After a failure it
// waits for the next publishEvery even if it is woken: that is the back-off. It must not publish before the barrier:
// the topic may already hold the definitions that it would write.
func (r *Replica) publisher(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-r.passed:
	}
	t := time.NewTicker(publishEvery)
	defer t.Stop()
	for {
		if !r.publishFailed.Load() {
			r.publishDue()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-r.publishNow:
		case <-t.C:
			r.publishFailed.Store(false)
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

// wakePublisher makes publisher publish due records now; wakeBuffer makes bufferLoop decode buffered sets now. Neither
// blocks.
func (r *Replica) wakePublisher() { wake(r.publishNow) }
func (r *Replica) wakeBuffer()    { wake(r.bufferNow) }

// wake sends on c, whose capacity must be 1, unless a signal waits there already.
func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
