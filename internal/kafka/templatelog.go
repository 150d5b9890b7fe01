package kafka

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"weir/internal/templates"
)

// A TemplateLog is the compacted topic of exporter state, which every replica publishes to and reads as a whole.
// It has a client of its own, so that a full buffer of flows never delays a template.
//
// It does not use a group: each replica needs all records. It reads at read_uncommitted, since nobody writes the topic
// in transactions and a foreign open transaction must not hold templates back.
//
// Publish and Ready may be called by any goroutine at any time. The callbacks apply, Renewed and ReadToEnd run in Run's
// goroutine, never two at a time; they may call Publish and Ready.
type TemplateLog struct {
	// Renewed, when set before Run, is called from Run's goroutine when the topic was deleted and recreated.
	// The new topic holds no record of the old one: the owner must publish its state again.
	Renewed func()
	// ReadToEnd, when set before Run, is called from Run's goroutine, at most once: when all records that were on
	// the topic at the start of Run are applied. Ready returns nil from then on.
	ReadToEnd func()
	// Backlog, when set before Run, bounds the octets of the records that wait for the end of the topic. Beyond it
	// the oldest half is applied early. 0: 16 MiB.
	Backlog int

	c          Config
	topic      string
	barrier    templates.Record
	checkEvery time.Duration // interval at which the topic's id is compared
	losses     *reporter     // used by Run's goroutine only
	overflows  *reporter     // used by Run's goroutine only
	backlog    backlog       // used by Run's goroutine only; empty once the topic is read to its end

	barrierLost chan struct{} // of capacity 1: the barrier must be written, or was perhaps lost with the topic

	mu      sync.Mutex // guards the fields below
	cl      *kgo.Client
	ready   bool
	reason  error              // why the log is not ready; nil: not known
	renewed bool               // the topic has another id than the client may know; see noteRenewed
	wake    context.CancelFunc // ends the poll in progress; nil: none
}

// NewTemplateLog returns the log on a topic, given its full name. replica must be unique among the running
// replicas. The log does nothing before Run.
func NewTemplateLog(c Config, topic, replica string) (*TemplateLog, error) {
	nonce := make([]byte, 16)
	_, _ = rand.Read(nonce) // crypto/rand never fails
	l := &TemplateLog{
		c: *c.withRole("templates"), topic: topic, barrier: templates.Barrier(replica, nonce),
		checkEvery: topicStateEvery, barrierLost: make(chan struct{}, 1),
	}
	l.losses = logReporter(c.Log, "the template log lost records; reading goes on", topic)
	l.overflows = logReporter(c.Log,
		"the templates topic is large: a part of it is applied before it is read to its end", topic)
	if err := kgo.ValidateOpts(l.opts()...); err != nil {
		return nil, fmt.Errorf("template log %s: %w", topic, err)
	}
	return l, nil
}

// Limits of the octets that the client holds: of records that Kafka has not acknowledged, and of a response to a
// fetch. A batch above the second limit is still fetched, alone (KIP-74).
const (
	maxTemplatesBuffered = 16 << 20
	maxTemplatesFetched  = 8 << 20
)

// opts returns the options of the client, which produces and consumes.
func (l *TemplateLog) opts() []kgo.Opt {
	return append(append(l.c.opts(), producing(&l.c)...),
		kgo.ProducerLinger(0), // flows wait for their template: it must not wait for a batch to fill
		kgo.ProducerBatchCompression(kgo.NoCompression()),
		kgo.ProducerBatchMaxBytes(maxTemplateBatch-1024), // the broker counts its own framing too
		kgo.MaxBufferedBytes(maxTemplatesBuffered),
		kgo.FetchMaxBytes(maxTemplatesFetched),
		kgo.ConsumeTopics(l.topic),
		kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadUncommitted()),
		kgo.FetchMinBytes(1),
		kgo.WithHooks(connects{l}),
	)
}

// Run reads the topic from its start and hands its records but barriers to apply, one at a time, until ctx ends. A
// nil value is a tombstone; internal/templates defines the key. apply must not keep key or value. Run survives the
// absence of Kafka and the deletion of the topic.
//
// Run writes the barrier of this replica and reads on. Until the barrier comes back, records wait in the backlog,
// since a later record may replace them: apply gets the last one of each key, in the order of the topic. After the
// barrier it gets each record as it arrives.
func (l *TemplateLog) Run(ctx context.Context, apply func(key, value []byte)) error {
	client, giveUp := outlive(ctx, leaveWithin) // an unanswered fetch must not delay the end
	defer giveUp()
	cl, err := kgo.NewClient(append(l.opts(), kgo.WithContext(client))...)
	if err != nil {
		return fmt.Errorf("template log %s: %w", l.topic, err)
	}
	l.mu.Lock()
	l.cl = cl
	l.mu.Unlock()
	defer l.end(ctx)
	inner, stop := context.WithCancel(ctx)
	var helpers sync.WaitGroup
	defer helpers.Wait() // before end closes the client
	defer stop()
	helpers.Go(func() { l.writeBarriers(inner, cl) })
	helpers.Go(func() {
		is := topicCheck{topic: l.topic}
		is.watch(inner, cl, l.checkEvery, l.noteRenewed)
	})
	l.needBarrier()
	for try := 0; ctx.Err() == nil; {
		fetches := l.poll(ctx, cl)
		fetches.EachRecord(func(r *kgo.Record) {
			l.take(r.Key, r.Value, apply)
		})
		if err := l.failure(fetches); err == nil {
			try = 0
		} else if ctx.Err() == nil {
			l.recover(ctx, err, try, func() { l.backlog.removeOldest(-1, apply) })
			try++
		}
	}
	return nil
}

// poll waits for records, for errors, or for noteRenewed.
func (l *TemplateLog) poll(ctx context.Context, cl *kgo.Client) kgo.Fetches {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l.mu.Lock()
	l.wake = cancel
	if l.renewed {
		cancel()
	}
	l.mu.Unlock()
	return cl.PollFetches(ctx)
}

// noteProduced notes the outcome of a produced record. The producer and the consumer of a client may have
// different ids of a topic, so that only the producer or only the consumer fails.
func (l *TemplateLog) noteProduced(err error) {
	if errors.Is(err, kerr.UnknownTopicID) {
		l.noteRenewed()
	}
}

// noteRenewed notes that the topic was deleted and recreated, and wakes poll.
func (l *TemplateLog) noteRenewed() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.renewed = true
	if l.wake != nil {
		l.wake()
	}
}

// failure returns the failures of a fetch, and UNKNOWN_TOPIC_ID after noteRenewed. It returns nil if there are none
// or they pass by themselves.
func (l *TemplateLog) failure(fetches kgo.Fetches) error {
	var errs []error
	for _, err := range pollErrors(fetches) {
		if _, ok := errors.AsType[*kgo.ErrDataLoss](err); ok { // the client reads from the start again
			l.losses.report(err)
			continue
		}
		errs = append(errs, err)
	}
	l.mu.Lock()
	if l.renewed {
		errs = append(errs, fmt.Errorf("topic %s was deleted and recreated: %w", l.topic, kerr.UnknownTopicID))
	}
	l.mu.Unlock()
	return errors.Join(errs...)
}

// recover waits for the back-off. After a failure that shows a new topic id it makes the client forget the
// topic, writes the barrier again and calls Renewed. The purge comes first: it fails the records that are on their way
// to the old topic, so that none is acknowledged after Renewed. Records of the new topic are read from its start.
// applyBacklog applies the records of the old topic that still wait: Renewed publishes them again.
func (l *TemplateLog) recover(ctx context.Context, err error, try int, applyBacklog func()) {
	l.note(err)
	waitBackoff(ctx, try)
	if ctx.Err() != nil || !topicIsGone(err) {
		return
	}
	l.mu.Lock()
	cl, known := l.cl, l.ready
	l.renewed = false // the purge fails buffered records with another error
	l.mu.Unlock()
	cl.PurgeTopicsFromClient(l.topic)
	cl.AddConsumeTopics(l.topic)
	l.needBarrier()
	applyBacklog()
	if l.Renewed != nil && (known || errors.Is(err, kerr.UnknownTopicID)) {
		l.Renewed()
	}
}

// needBarrier makes writeBarriers write the barrier, unless it came back already.
func (l *TemplateLog) needBarrier() {
	select {
	case l.barrierLost <- struct{}{}:
	default:
	}
}

// writeBarriers publishes the barrier each time that needBarrier asks for it, and repeats that with the delay
// barrierRetry until it is acknowledged. It returns when ctx ends.
func (l *TemplateLog) writeBarriers(ctx context.Context, cl *kgo.Client) {
	outcome := make(chan error, 1)
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.barrierLost:
		}
		l.mu.Lock()
		ready := l.ready
		l.mu.Unlock()
		if ready {
			continue
		}
		r := &kgo.Record{Topic: l.topic, Key: l.barrier.Key, Value: l.barrier.Value}
		cl.TryProduce(context.Background(), r, func(_ *kgo.Record, err error) { outcome <- err })
		var err error
		select {
		case <-ctx.Done(): // end closes the client, which settles the record with an error
			return
		case err = <-outcome:
		}
		if err == nil {
			continue
		}
		l.noteProduced(err)
		l.note(fmt.Errorf("writing the barrier to %s: %w", l.topic, err))
		l.needBarrier()
		retry := time.NewTimer(barrierRetry)
		select {
		case <-ctx.Done():
		case <-retry.C:
		}
		retry.Stop()
	}
}

// barrierRetry is the delay before a failed barrier is written again. The client repeats a failed request by itself:
// the barrier fails only when the topic is purged or Kafka refuses it, for example for want of the ACL Write.
const barrierRetry = 250 * time.Millisecond

// take passes a record of the topic to apply, or adds a copy of it to the backlog. The barrier of this run ends the
// backlog. take must be called by Run's goroutine only.
func (l *TemplateLog) take(key, value []byte, apply func(key, value []byte)) {
	l.mu.Lock()
	ready := l.ready
	l.mu.Unlock()
	switch {
	case templates.IsBarrier(key):
		// A barrier of another replica, or of an earlier run of this one, says nothing about this reader's position.
		if !ready && bytes.Equal(key, l.barrier.Key) && bytes.Equal(value, l.barrier.Value) {
			l.endBacklog(apply)
		}
	case ready, len(key) == 0: // Weir writes no record without a key; apply may reject it
		apply(key, value)
	default:
		l.addToBacklog(templates.Record{Key: bytes.Clone(key), Value: bytes.Clone(value)}, apply)
	}
}

// addToBacklog adds a record to the backlog. Beyond the bound it applies the older half: data may be decoded with an
// outdated definition until a later record replaces it.
func (l *TemplateLog) addToBacklog(rec templates.Record, apply func(key, value []byte)) {
	l.backlog.add(rec)
	if most := cmp.Or(l.Backlog, maxTemplateBacklog); l.backlog.octets > most {
		l.overflows.report(fmt.Errorf("%d records of %d octets wait: at most %d octets may",
			len(l.backlog.at), l.backlog.octets, most))
		l.backlog.removeOldest(most/2, apply)
	}
}

// endBacklog applies the backlog, makes the log ready and calls ReadToEnd.
func (l *TemplateLog) endBacklog(apply func(key, value []byte)) {
	l.backlog.removeOldest(-1, apply)
	l.backlog = backlog{}
	l.mu.Lock()
	l.ready, l.reason = true, nil
	l.mu.Unlock()
	if l.ReadToEnd != nil {
		l.ReadToEnd()
	}
}

// end writes the tombstone of the barrier, within 500 ms, and closes the client. Records that are not acknowledged then
// have ErrClosed as outcome.
func (l *TemplateLog) end(ctx context.Context) {
	l.mu.Lock()
	cl, ready := l.cl, l.ready
	l.cl = nil
	l.mu.Unlock()
	if ready {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 500*time.Millisecond)
		defer cancel()
		cl.TryProduce(ctx, &kgo.Record{Topic: l.topic, Key: l.barrier.Key}, nil)
		_ = cl.Flush(ctx) // a barrier without tombstone costs one small record
	}
	cl.Close()
}

// Ready returns nil once Run has read its own barrier from the topic: all records written before the barrier are then
// applied. Until then it returns the reason.
func (l *TemplateLog) Ready() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.ready:
		return nil
	case l.cl == nil: // comes first: a connection may fail before Run has set cl
		return fmt.Errorf("topic %s is not read to its end yet: not started", l.topic)
	case l.reason != nil:
		return fmt.Errorf("topic %s is not read to its end yet: %w", l.topic, l.reason)
	default:
		return fmt.Errorf("topic %s is not read to its end yet", l.topic)
	}
}

// note notes why the log is not ready; nil: not known. The reason is kept after the log is ready, but not used.
func (l *TemplateLog) note(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reason = err
}

// Publish writes a record, stamped with the wall clock. A nil value is a tombstone. The caller must not modify
// key or value until done is called. done is called exactly once, from another goroutine, with the outcome.
// While Kafka is away records wait, up to 10 000 of them and 16 MiB; beyond that the outcome is ErrBufferFull.
// Outside of Run it is ErrClosed.
func (l *TemplateLog) Publish(key, value []byte, done func(error)) {
	l.mu.Lock()
	cl := l.cl
	l.mu.Unlock()
	if cl == nil {
		go done(ErrClosed) // from another goroutine as always: the caller may hold a lock that done takes
		return
	}
	cl.TryProduce(context.Background(), &kgo.Record{Topic: l.topic, Key: key, Value: value},
		func(_ *kgo.Record, err error) {
			l.noteProduced(err)
			done(translateError(err))
		})
}

// connects notes failures to connect to a broker, for Ready. A connection that succeeds clears the reason.
type connects struct{ l *TemplateLog }

// OnBrokerConnect implements kgo.HookBrokerConnect.
func (h connects) OnBrokerConnect(b kgo.BrokerMetadata, _ time.Duration, _ net.Conn, err error) {
	if err != nil {
		err = fmt.Errorf("kafka at %s:%d: %w", b.Host, b.Port, err)
	}
	h.l.note(err)
}
