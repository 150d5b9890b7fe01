package kafka

import (
	"context"
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// A topic that was deleted and recreated has another id (KIP-516). franz-go keeps the old id and fails every
// buffered and every later record with UNKNOWN_TOPIC_ID until the client forgets the topic. A Producer must not
// lose those records: it holds them, forgets the topic, and produces them again.

// forgetAfter is the delay between the first such failure and the moment at which the client forgets the topic.
// Records gather meanwhile, so that a topic that is deleted over and over costs few requests.
const forgetAfter = 200 * time.Millisecond

// holdForRetry reports whether r, which failed with err, is held and will be produced again. The caller must not
// use r then. Records that Kafka refuses for their size, and those of a full or closed client, are not held.
// At most p.max records are held. The records that fail after the first are held whatever their error: the purge
// fails them with others.
func (p *Producer) holdForRetry(r *kgo.Record, err error) bool {
	if errors.Is(err, kgo.ErrMaxBuffered) || errors.Is(err, kgo.ErrClientClosed) || errors.Is(err, kerr.MessageTooLarge) {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.holding && !errors.Is(err, kerr.UnknownTopicID) || len(p.held) >= p.max || p.closed {
		return false
	}
	p.held = append(p.held, r)
	if !p.holding {
		p.holding = true
		p.holdTimer = time.AfterFunc(forgetAfter, p.produceHeld)
	}
	return true
}

// produceHeld makes the client forget the topic and produces the held records again. It runs on the timer's
// goroutine.
func (p *Producer) produceHeld() {
	p.cl.PurgeTopicsFromProducing(p.topic)
	p.mu.Lock()
	held := p.held
	p.held, p.holding = nil, false
	p.producingHeld++ // a topic that is deleted again may start another call beside this
	p.mu.Unlock()
	for _, r := range held {
		*r = kgo.Record{
			Topic: p.topic, Partition: r.Partition, Key: r.Key, Value: r.Value, Timestamp: r.Timestamp, Context: r.Context,
		}
		p.cl.TryProduce(r.Context, r, finished)
	}
	p.mu.Lock()
	p.producingHeld--
	p.mu.Unlock()
}

// failHeld ends the retries at Close: held records fail with ErrClosed, and none is held from now on.
func (p *Producer) failHeld() {
	p.mu.Lock()
	p.closed = true
	held := p.held
	p.held, p.holding = nil, false
	if p.holdTimer != nil {
		p.holdTimer.Stop()
	}
	p.mu.Unlock()
	for _, r := range held {
		finished(r, kgo.ErrClientClosed)
	}
}

// waitHeld waits until no record is held or on its way from there to the client, or ctx ends.
func (p *Producer) waitHeld(ctx context.Context) error {
	for {
		p.mu.Lock()
		holding := p.holding || p.producingHeld > 0
		p.mu.Unlock()
		if !holding {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(forgetAfter / 4):
		}
	}
}
