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
	if len(key) > 0 && r.barrierAt.Load() == 0 { // without a key it is no record of ours
		if r.tlog.Ready() != nil {
			r.wait(rec)
			return
		}
		r.passBarrier()
	}
	r.merge(rec)
}

// wait adds a record to the backlog. When its octets are too many the older half of
// them is merged before the barrier: a definition among these may be decoded with
// until a later record replaces it. logMu is held.
func (r *Replica) wait(rec templates.Record) {
	r.backlog.add(rec)
	if most := r.c.Templates.Octets / backlogPart; r.backlog.octets > most {
		if r.errorLog.AllowN(r.deps.Now(), 1) {
			r.log.Warn("the templates topic is large: a part of it is taken before it is read to its end", "records", len(r.backlog.at), "octets", r.backlog.octets)
		}
		r.backlog.take(most/2, r.merge)
	}
}

// backlogPart is the part of TEMPLATES_MAX_OCTETS that the backlog may take.
const backlogPart = 8

// A backlog holds records of the templates topic in their order, of each key the last.
type backlog struct {
	records []templates.Record // without a key: replaced by a later one
	at      map[string]int     // index in records, by key
	octets  int                // of heap, about
}

// backlogOctets is the heap that a record takes.
func backlogOctets(rec *templates.Record) int { return 192 + 2*len(rec.Key) + len(rec.Value) }

// add adds a record, which has a key.
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

// take removes records, the oldest first, until at most so many octets are left; less
// than 0 means all. It hands each to f.
func (b *backlog) take(octets int, f func(templates.Record)) {
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

// compact removes the places of records that are gone.
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

// passBarrier merges what waited. logMu is held.
func (r *Replica) passBarrier() {
	if r.barrierAt.Load() != 0 {
		return
	}
	r.backlog.take(-1, r.merge)
	r.backlog = backlog{}
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

// publisher writes what is due to the shared log until ctx ends. After a failure
// it waits for the next publishEvery, however often it is woken.
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
