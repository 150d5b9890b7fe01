package ingest

import (
	"context"
	"fmt"
	"hash/fnv"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"weir/internal/kafka"
	"weir/internal/kafka/framing"
	"weir/internal/loss"
)

const (
	// recoverWithin bounds one recovery of an account.
	recoverWithin = 2 * time.Minute
	// recoverTurns is the number of turns, each accountEvery long, over which replicas are distributed.
	recoverTurns = 3
	// recoverEvery and recoverBurst limit the reads of the flows topic: a writer to the exporters topic
	// can claim replicas that do not exist.
	recoverEvery = 30 * time.Second
	recoverBurst = 16
)

// recoverer completes the accounts of replicas that were killed, until ctx ends.
//
// A replica that is killed has published flows since its last report, at most accountEvery ago. Without
// recovery, the datagrams of these flows would count as lost for ever. EXPORTER_OF_RECORD makes recovery
// impossible, since the flows on the topic no longer name the sender of their datagram.
func (r *Replica) recoverer(ctx context.Context, to *kafka.Producer) error {
	if r.c.ExporterOfRecord { // flows name the exporter of the record, accounts the sender of the datagram
		return nil
	}
	// Replicas take turns, so that usually the first has closed the account before the others look.
	h := fnv.New32a()
	_, _ = h.Write([]byte(r.c.Replica)) // never returns an error
	turn := time.Duration(h.Sum32()%recoverTurns) * accountEvery
	limit := rate.NewLimiter(rate.Every(recoverEvery), recoverBurst)
	return runEvery(ctx, accountEvery, func() {
		for _, ended := range r.accounts.lives.Ended(r.deps.Now().Add(-turn), r.accounts.self) {
			if !limit.AllowN(r.deps.Now(), 1) {
				return // Ended returns it again later
			}
			if err := r.recoverAccount(ctx, to, ended); err != nil && ctx.Err() == nil {
				r.log.Warn("the account of a replica that was killed is not completed: the flows after its last report seem lost",
					"of", ended.Replica, "err", err)
			}
		}
	})
}

// recoverAccount completes the account of a replica that ended without closing it: it adds the flows
// published since the last report, read from the flows topic, and closes the account. Reading is
// idempotent: if two replicas complete the same account, their reports have the same key and content.
func (r *Replica) recoverAccount(ctx context.Context, to *kafka.Producer, ended loss.Life) error {
	ctx, cancel := context.WithTimeout(ctx, recoverWithin)
	defer cancel()
	began := r.deps.Now()
	// The reports of the replica come first: they contain the datagrams that its account already has,
	// and whether the account is closed.
	a := loss.NewRecovery(ended)
	topic := r.c.Topics.Name(kafka.Exporters)
	addReports := func(records []kafka.Record) error {
		for i := range records {
			a.Report(records[i].Key, records[i].Value, records[i].Time)
		}
		return nil
	}
	err := kafka.ReadBetween(ctx, r.c.Kafka, topic, a.ReportsFrom(), began.Add(24*time.Hour), addReports)
	if err != nil || a.Closed() {
		return err
	}
	// Then the flows that it published after its last report, in windows of time.
	for from, to, more := a.Window(); more; from, to, more = a.Window() {
		err := kafka.ReadBetween(ctx, r.c.Kafka, r.c.Topics.Name(kafka.Flows), from, to, func(records []kafka.Record) error {
			for i := range records {
				_, _ = framing.Flows.Each(records[i].Value, a.Flow) // enrich counts malformed messages
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	// The completed account has the name of the replica that ended, so that it replaces the incomplete
	// account.
	if err := publishReports(ctx, to, a.Reports(), began); err != nil {
		return fmt.Errorf("topic %s: %w", topic, err)
	}
	flows, beyond := a.Flows()
	r.metrics.recovered.Add(float64(flows))
	r.log.Info("the account of a replica that was killed is completed from the flows topic",
		"of", ended.Replica, "flows", flows, "all", !beyond)
	return nil
}

// publishReports publishes reports and waits until Kafka has acknowledged all, or ctx ends. It must wait:
// an account that is closed without its flows cannot be completed again.
// After an error some reports may be published; the next attempt publishes equal reports.
func publishReports(ctx context.Context, to *kafka.Producer, reports []loss.Report, now time.Time) error {
	var all sync.WaitGroup
	var mu sync.Mutex
	var failed error
	for _, rep := range reports {
		all.Add(1)
		to.Produce(rep.Key, rep.Value, now, func(err error) {
			defer all.Done()
			if err != nil {
				mu.Lock()
				failed = err
				mu.Unlock()
			}
		})
	}
	acknowledged := make(chan struct{})
	// The goroutine ends without ctx: every done is called, at the latest when the producer is closed.
	go func() { all.Wait(); close(acknowledged) }()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-acknowledged:
	}
	mu.Lock()
	defer mu.Unlock()
	return failed
}
