package kafka

import (
	"context"
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// A topic that was deleted and made again has another id. franz-go then fails
// what is buffered and all that follows with UNKNOWN_TOPIC_ID, until the client
// is told to forget the topic. The records are still wanted: they are held,
// the topic is forgotten, and they are produced once more.

// mendAfter is how long to wait before the topic is forgotten and tried again:
// until then records gather, so that a topic that goes on vanishing costs little.
const mendAfter = 200 * time.Millisecond

// again reports whether d, which failed with err, is kept to be produced again.
func (p *Producer) again(d *pending, err error) bool {
	if errors.Is(err, kgo.ErrMaxBuffered) || errors.Is(err, kgo.ErrClientClosed) || errors.Is(err, kerr.MessageTooLarge) {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.mending && !errors.Is(err, kerr.UnknownTopicID) || len(p.held) >= p.max || p.closed {
		return false
	}
	p.held = append(p.held, d)
	if !p.mending {
		p.mending = true
		p.mender = time.AfterFunc(mendAfter, p.mend)
	}
	return true
}

// mend forgets the topic and produces again what was held.
func (p *Producer) mend() {
	p.cl.PurgeTopicsFromProducing(p.topic)
	p.mu.Lock()
	held := p.held
	p.held, p.mending = nil, false
	p.mu.Unlock()
	for _, d := range held {
		d.rec = kgo.Record{Topic: p.topic, Partition: d.rec.Partition, Key: d.rec.Key, Value: d.rec.Value, Timestamp: d.rec.Timestamp, Context: d}
		p.cl.TryProduce(d, &d.rec, finished)
	}
}

// letGo ends mending: what is held fails.
func (p *Producer) letGo() {
	p.mu.Lock()
	p.closed = true
	held := p.held
	p.held, p.mending = nil, false
	if p.mender != nil {
		p.mender.Stop()
	}
	p.mu.Unlock()
	for _, d := range held {
		finished(&d.rec, kgo.ErrClientClosed)
	}
}

// settled waits until nothing is held.
func (p *Producer) settled(ctx context.Context) error {
	for {
		p.mu.Lock()
		mending := p.mending
		p.mu.Unlock()
		if !mending {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(mendAfter / 4):
		}
	}
}
