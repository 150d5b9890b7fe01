package ingest

import (
	"bytes"
	"context"
	"time"

	"google.golang.org/protobuf/proto"

	"weir/internal/templates"
	"weir/pkg/flowpb"
)

// apply takes a record of the shared log. Until the barrier has passed records
// wait: a definition that an old record brings may be replaced by a later one.
func (r *Replica) apply(key, value []byte) {
	r.logMu.Lock()
	defer r.logMu.Unlock()
	rec := templates.Record{Key: bytes.Clone(key), Value: bytes.Clone(value)}
	if r.tlog.Ready() != nil && r.barrierAt.Load() == 0 {
		r.backlog = append(r.backlog, rec)
		return
	}
	r.passBarrier()
	r.merge(rec)
}

// passBarrier merges what waited. logMu is held.
func (r *Replica) passBarrier() {
	if r.barrierAt.Load() != 0 {
		return
	}
	for _, rec := range r.backlog {
		r.merge(rec)
	}
	r.backlog = nil
	r.barrierAt.Store(r.deps.Now().UnixNano())
	close(r.passed)
	r.log.Info("the templates topic is read to its end", "definitions", r.store.Stats().Definitions)
	r.wakeParking()
	r.wakePublisher()
}

func (r *Replica) merge(rec templates.Record) {
	before := r.store.Stats().Definitions
	if err := r.store.Merge(rec.Key, rec.Value); err != nil {
		r.metrics.poison.Inc()
		if r.errorLog.AllowN(r.deps.Now(), 1) {
			r.log.Warn("a record of the templates topic is skipped", "err", err)
		}
		return
	}
	if r.store.Stats().Definitions > before && r.ofAnother(rec.Value) {
		r.stats.fromOthers.Add(1)
		r.metrics.fromOthers.Inc()
	}
}

// ofAnother tells whether another replica published a value.
func (r *Replica) ofAnother(value []byte) bool {
	var s flowpb.ExporterState
	return proto.Unmarshal(value, &s) == nil && s.GetReplica() != r.c.Replica
}

// publishEvery is how often refreshes are looked for; what is new wakes the
// publisher at once.
const publishEvery = time.Second

// publisher writes what is due to the shared log until ctx ends.
func (r *Replica) publisher(ctx context.Context) error {
	t := time.NewTicker(publishEvery / 10)
	defer t.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return nil
		case <-r.publishNow:
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
			r.publishDue()
		}
	}
}

func (r *Replica) publishDue() {
	for _, rec := range r.store.Due() {
		r.publishing.Add(1)
		r.tlog.Publish(rec.Key, rec.Value, func(err error) {
			defer r.publishing.Add(-1)
			r.store.Published(rec, err)
			if err != nil {
				r.metrics.published.WithLabelValues("failed").Inc()
				if r.errorLog.AllowN(r.deps.Now(), 1) {
					r.log.Warn("a template could not be published; it will be tried again", "err", err)
				}
				return
			}
			r.stats.published.Add(1)
			r.metrics.published.WithLabelValues("done").Inc()
		})
	}
}

// wakePublisher and wakeParking never wait.
func (r *Replica) wakePublisher() { wake(r.publishNow) }
func (r *Replica) wakeParking()   { wake(r.parkNow) }

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
