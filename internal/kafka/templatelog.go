package kafka

import (
	"bytes"
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

// A TemplateLog is the compacted topic of exporter state: published by and
// tailed by every replica. It has a client of its own, so that a full buffer of
// flows never holds up a template.
type TemplateLog struct {
	// Renewed, when set before Run, is called (from Run's goroutine) when the
	// topic was deleted and made again: nothing of what was published is on it.
	Renewed func()

	c       Config
	topic   string
	barrier templates.Record
	losses  *reporter // for Run's goroutine

	mu      sync.Mutex // guards what follows
	cl      *kgo.Client
	ready   bool
	writing bool               // a barrier is on its way, or will be tried again
	reason  error              // why it is not ready, as far as known
	gone    bool               // a record failed with UNKNOWN_TOPIC_ID since the topic was forgotten
	wake    context.CancelFunc // ends the poll under way; nil: none
}

// NewTemplateLog returns the log on topic (full name) for replica (its name,
// unique among those that run). It is inert until Run.
func NewTemplateLog(c Config, topic, replica string) (*TemplateLog, error) {
	nonce := make([]byte, 16)
	_, _ = rand.Read(nonce) // never fails, crypto/rand
	l := &TemplateLog{c: *c.as("templates"), topic: topic, barrier: templates.Barrier(replica, nonce)}
	l.losses = logReporter(c.Log, "the template log lost records; reading goes on", topic)
	if err := kgo.ValidateOpts(l.opts()...); err != nil {
		return nil, fmt.Errorf("template log %s: %w", topic, err)
	}
	return l, nil
}

// Bounds of what the client holds, octets: of records that Kafka has not acknowledged,
// and of an answer to a fetch.
const (
	maxTemplatesBuffered = 16 << 20
	maxTemplatesFetched  = 8 << 20
)

func (l *TemplateLog) opts() []kgo.Opt {
	return append(append(l.c.opts(), producing(&l.c)...),
		kgo.ProducerLinger(0), // whoever waits for a template waits for this
		kgo.ProducerBatchCompression(kgo.NoCompression()),
		kgo.ProducerBatchMaxBytes(maxTemplateBatch-1024), // the broker counts its own framing, too
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

// Run reads the topic from its start and hands every record but barriers to
// apply (value nil: tombstone; key as internal/templates defines it), one at a
// time, until ctx ends. It survives Kafka's absence and the topic's deletion.
// The barrier of this replica is written and looked for.
func (l *TemplateLog) Run(ctx context.Context, apply func(key, value []byte)) error {
	client, giveUp := outlive(ctx, leaveWithin) // a fetch that is not answered must not delay the end
	defer giveUp()
	cl, err := kgo.NewClient(append(l.opts(), kgo.WithContext(client))...)
	if err != nil {
		return fmt.Errorf("template log %s: %w", l.topic, err)
	}
	l.mu.Lock()
	l.cl = cl
	l.mu.Unlock()
	defer l.end(ctx)
	l.writeBarrier(cl)
	for try := 0; ctx.Err() == nil; {
		fetches := l.poll(ctx, cl)
		fetches.EachRecord(func(r *kgo.Record) {
			if templates.IsBarrier(r.Key) {
				l.sawBarrier(r)
				return
			}
			apply(r.Key, r.Value)
		})
		if err := l.failure(fetches); err == nil {
			try = 0
		} else if ctx.Err() == nil {
			l.recover(ctx, err, try)
			try++
		}
	}
	return nil
}

// poll waits for records, errors, or a produced record that failed because the
// topic has another id.
func (l *TemplateLog) poll(ctx context.Context, cl *kgo.Client) kgo.Fetches {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l.mu.Lock()
	l.wake = cancel
	if l.gone {
		cancel()
	}
	l.mu.Unlock()
	return cl.PollFetches(ctx)
}

// noteProduced notes the outcome of a produced record. The producer and the consumer
// of a client may know different ids of one topic, so that only one of them fails.
func (l *TemplateLog) noteProduced(err error) {
	if !errors.Is(err, kerr.UnknownTopicID) {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.gone = true
	if l.wake != nil {
		l.wake()
	}
}

// failure returns what went wrong with a fetch or a produced record, nil for what
// passes by itself.
func (l *TemplateLog) failure(fetches kgo.Fetches) error {
	var errs []error
	for _, err := range pollErrors(fetches) {
		if _, ok := errors.AsType[*kgo.ErrDataLoss](err); ok { // and read again from the start
			l.losses.report(err)
			continue
		}
		errs = append(errs, err)
	}
	l.mu.Lock()
	if l.gone {
		errs = append(errs, fmt.Errorf("topic %s: producing: %w", l.topic, kerr.UnknownTopicID))
	}
	l.mu.Unlock()
	return errors.Join(errs...)
}

// recover waits after a failure. A topic that was deleted and made again has to
// be forgotten first: its id is another.
func (l *TemplateLog) recover(ctx context.Context, err error, try int) {
	l.note(err)
	waitBackoff(ctx, try)
	if ctx.Err() != nil || !topicIsGone(err) {
		return
	}
	l.mu.Lock()
	cl, known := l.cl, l.ready
	l.gone = false // the purge fails what is buffered with another error
	l.mu.Unlock()
	cl.PurgeTopicsFromClient(l.topic)
	cl.AddConsumeTopics(l.topic)
	l.writeBarrier(cl)
	if l.Renewed != nil && (known || errors.Is(err, kerr.UnknownTopicID)) {
		l.Renewed()
	}
}

// writeBarrier publishes the barrier, unless it came back or is on its way,
// until it is acknowledged or the client closed.
func (l *TemplateLog) writeBarrier(cl *kgo.Client) {
	l.mu.Lock()
	skip := l.ready || l.writing
	l.writing = true
	l.mu.Unlock()
	if skip {
		return
	}
	r := &kgo.Record{Topic: l.topic, Key: l.barrier.Key, Value: l.barrier.Value}
	cl.TryProduce(context.Background(), r, func(_ *kgo.Record, err error) {
		l.noteProduced(err)
		if err == nil || errors.Is(err, kgo.ErrClientClosed) {
			l.written()
			return
		}
		l.note(fmt.Errorf("writing the barrier to %s: %w", l.topic, err))
		time.AfterFunc(barrierRetry, func() {
			l.written()
			l.writeBarrier(cl)
		})
	})
}

// barrierRetry is how long after a failure the barrier is written again.
const barrierRetry = 250 * time.Millisecond

func (l *TemplateLog) written() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.writing = false
}

func (l *TemplateLog) sawBarrier(r *kgo.Record) {
	if !bytes.Equal(r.Key, l.barrier.Key) || !bytes.Equal(r.Value, l.barrier.Value) {
		return // another replica's, or an earlier life's
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ready, l.reason = true, nil
}

// end takes the barrier back and closes the client.
func (l *TemplateLog) end(ctx context.Context) {
	l.mu.Lock()
	cl, ready := l.cl, l.ready
	l.cl = nil
	l.mu.Unlock()
	if ready {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 500*time.Millisecond)
		defer cancel()
		cl.TryProduce(ctx, &kgo.Record{Topic: l.topic, Key: l.barrier.Key}, nil)
		_ = cl.Flush(ctx) // a barrier that stays costs one small record
	}
	cl.Close()
}

// Ready returns nil once the barrier has come back: all that was on the topic
// before is applied. Else the reason.
func (l *TemplateLog) Ready() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.ready:
		return nil
	case l.cl == nil: // first: its first connection may have failed before it is here
		return fmt.Errorf("topic %s is not read to its end yet: not started", l.topic)
	case l.reason != nil:
		return fmt.Errorf("topic %s is not read to its end yet: %w", l.topic, l.reason)
	default:
		return fmt.Errorf("topic %s is not read to its end yet", l.topic)
	}
}

func (l *TemplateLog) note(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reason = err
}

// Publish writes one record (value nil: tombstone), stamped with the wall
// clock; key and value stay untouched until done is called, exactly once and
// from another goroutine, with the outcome. While Kafka is away it waits, up to
// 10 000 records and 16 MiB; beyond that the outcome is ErrBufferFull. Outside Run
// the outcome is ErrClosed.
func (l *TemplateLog) Publish(key, value []byte, done func(error)) {
	l.mu.Lock()
	cl := l.cl
	l.mu.Unlock()
	if cl == nil {
		go done(ErrClosed) // as ever from another goroutine: the caller may hold a lock
		return
	}
	cl.TryProduce(context.Background(), &kgo.Record{Topic: l.topic, Key: key, Value: value},
		func(_ *kgo.Record, err error) {
			l.noteProduced(err)
			done(ours(err))
		})
}

// connects keeps why a broker cannot be reached, for Ready.
type connects struct{ l *TemplateLog }

// OnBrokerConnect implements kgo.HookBrokerConnect.
func (h connects) OnBrokerConnect(b kgo.BrokerMetadata, _ time.Duration, _ net.Conn, err error) {
	if err != nil {
		err = fmt.Errorf("kafka at %s:%d: %w", b.Host, b.Port, err)
	}
	h.l.note(err)
}
