package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/time/rate"
)

// topicStateEvery is the interval at which a running consumer looks for added partitions and for another topic
// of the same name.
const topicStateEvery = 10 * time.Second

// readTopicState asks the cluster for the state of a topic. It takes 5 s at most. Any broker may answer, also one that
// lags behind the controller: after a topic was deleted and recreated, the old id or no topic may come back for a
// moment.
func readTopicState(ctx context.Context, cl *kgo.Client, topic string) (topicState, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	topics, err := kadm.NewClient(cl).ListTopics(ctx, topic)
	if err == nil {
		err = topics[topic].Err
	}
	if err != nil {
		return topicState{}, fmt.Errorf("topic %s at %v: %w", topic, cl.OptValue(kgo.SeedBrokers), err)
	}
	return topicState{topics[topic].ID, len(topics[topic].Partitions)}, nil
}

// A topicChange is the result of comparing the topic that a consumer reads with the cluster's topic of that name.
type topicChange int

const (
	topicSame    topicChange = iota
	topicStale               // the id is that of an earlier topic: a broker that lags behind answered
	topicRenewed             // the topic was deleted and recreated
	topicGrown               // partitions were added
)

// A topicCheck finds out that a topic was deleted and recreated, or that partitions were added. A consumer must
// not rely on errors for that: a client that forgot the topic after the deletion learns the id of the new topic
// from metadata, without an error. It must be used by one goroutine.
type topicCheck struct {
	topic string
	state topicState // of the topic that is read; zero until the first adopt
	past  pastTopics // earlier topics of that name
}

// compare asks the cluster for the topic's state and compares it with the adopted state. It takes 5 s at most.
// After an error nothing is known: the topic may be the same.
func (c *topicCheck) compare(ctx context.Context, cl *kgo.Client) (now topicState, change topicChange, err error) {
	now, err = readTopicState(ctx, cl, c.topic)
	switch {
	case err != nil:
		return topicState{}, topicSame, err
	case now.id != c.state.id && c.past[now.id]:
		return now, topicStale, nil
	case now.id != c.state.id:
		return now, topicRenewed, nil
	case now.partitions > c.state.partitions:
		return now, topicGrown, nil
	}
	return now, topicSame, nil
}

// begin adopts the state that the topic has now. It tries a few times: a broker that lags behind does not know a
// topic that was just created.
func (c *topicCheck) begin(ctx context.Context, cl *kgo.Client) error {
	for try := 0; ; try++ {
		now, err := readTopicState(ctx, cl, c.topic)
		if err == nil {
			c.adopt(now)
		}
		if err == nil || try == 5 || ctx.Err() != nil {
			return err
		}
		waitBackoff(ctx, try)
	}
}

// adopt makes now the state that the next compare compares with.
func (c *topicCheck) adopt(now topicState) {
	if now.id != c.state.id && c.state != (topicState{}) {
		if c.past == nil {
			c.past = pastTopics{}
		}
		c.past.add(c.state.id)
	}
	c.state = now
}

// watch calls renewed each time that it finds the topic deleted and recreated, until ctx ends. It looks for it at
// the interval every: a metadata request each. The topic that it finds first is the one to compare with; until then
// it tries again with back-off.
func (c *topicCheck) watch(ctx context.Context, cl *kgo.Client, every time.Duration, renewed func()) {
	t := time.NewTicker(every)
	defer t.Stop()
	for try := 0; ctx.Err() == nil; try++ {
		first := c.state == (topicState{})
		now, change, err := c.compare(ctx, cl)
		if err != nil && first {
			waitBackoff(ctx, try)
			continue
		}
		if err == nil && change != topicStale {
			c.adopt(now)
		}
		if change == topicRenewed && !first {
			renewed()
		}
		select {
		case <-ctx.Done():
		case <-t.C:
		}
	}
}

// maxPastTopics bounds the ids of deleted topics that a consumer remembers.
const maxPastTopics = 64

// pastTopics is the set of ids of deleted topics of a name. A broker that lags behind may still answer with
// such an id.
type pastTopics map[[16]byte]bool

// add adds the id of a deleted topic, and forgets the others at the limit: ids are random (KIP-516), and a broker that
// lags behind by that many topics does not occur.
func (p pastTopics) add(id [16]byte) {
	if len(p) >= maxPastTopics {
		clear(p)
	}
	p[id] = true
}

// ErrTopicChanged is the error of Tail.Read with From when the positions are no longer those of the topic. The
// caller must call Begins and choose its positions again.
var ErrTopicChanged = errors.New("the topic changed")

// topicIsGone reports whether err means that the topic was deleted, and perhaps recreated. Kafka also returns these
// errors for a moment after the creation of a topic, until all brokers know it.
func topicIsGone(err error) bool {
	return errors.Is(err, kerr.UnknownTopicID) || errors.Is(err, kerr.UnknownTopicOrPartition)
}

// A reporter passes the failures of a loop on, at a bounded rate: each text once in 30 s, and after the first 5
// one failure in 10 s in all. It must be used by one goroutine.
type reporter struct {
	to    func(error)
	limit *rate.Limiter
	last  map[string]time.Time // last report, by text
}

// maxReported bounds the texts that a reporter remembers.
const maxReported = 64

func newReporter(to func(error)) *reporter {
	return &reporter{to: to, limit: rate.NewLimiter(0.1, 5), last: map[string]time.Time{}}
}

// logReporter returns a reporter that logs warnings to log, which may be nil.
func logReporter(log *slog.Logger, msg, topic string) *reporter {
	return newReporter(func(err error) {
		if log != nil {
			log.Warn(msg, "topic", topic, "err", err)
		}
	})
}

// report passes err to r.to. It drops err if the same text was passed within repeatWait, or if the rate limit is used
// up.
func (r *reporter) report(err error) {
	text, now := err.Error(), time.Now()
	if at, ok := r.last[text]; ok && now.Sub(at) < repeatWait || !r.limit.AllowN(now, 1) {
		return
	}
	if len(r.last) >= maxReported {
		clear(r.last)
	}
	r.last[text] = now
	r.to(err)
}

// pollErrors returns the errors of a poll, except those of its context, which have no topic: the caller ended
// the poll on purpose.
func pollErrors(fetches kgo.Fetches) (errs []error) {
	for _, e := range fetches.Errors() {
		if e.Topic == "" && (errors.Is(e.Err, context.Canceled) || errors.Is(e.Err, context.DeadlineExceeded)) {
			continue
		}
		errs = append(errs, &fetchError{e.Topic, e.Partition, e.Err})
	}
	return errs
}

// waitBackoff waits for backoff(try), or until ctx ends. try counts failures in a row, from 0.
func waitBackoff(ctx context.Context, try int) {
	t := time.NewTimer(backoff(try))
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
