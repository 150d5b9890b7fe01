package batches

import (
	"context"
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/internal/kafka/recordbatch"
)

const (
	// metadataMinAge is the least time between two questions, metadataMaxAge the greatest.
	metadataMinAge = 250 * time.Millisecond
	metadataMaxAge = 5 * time.Minute
	// maxOlder is the number of answers in a row whose epoch of a leader is older than the known epoch, and which
	// are ignored. More of them are no answers of a broker that lags: without topic ids (before Kafka 2.8), a
	// topic that was recreated is known by its epochs alone, and these begin anew.
	maxOlder = 5
	// lookTimeout bounds a question to the brokers.
	lookTimeout = 15 * time.Second
)

// maintain asks for metadata and producer ids when they are wanted, until the Producer is closed.
func (p *Producer) maintain() {
	age := time.NewTimer(metadataMaxAge)
	defer age.Stop()
	for {
		select {
		case <-p.ctx.Done():
			return
		case <-p.look:
		case <-age.C:
		}
		for tries := 0; ; tries++ {
			err := p.refresh()
			if err == nil {
				break
			}
			if p.ctx.Err() != nil || !p.rest(max(p.c.Backoff(tries), metadataMinAge)) {
				return
			}
			if tries%logTries == 1 {
				p.c.Log.Warn("the metadata of a topic are not usable yet", "topic", p.c.Topic, "tries", tries+1, "err", err)
			}
		}
		signal(p.wake)
		age.Reset(metadataMaxAge)
		if !p.rest(metadataMinAge) {
			return
		}
	}
}

// rest waits for d. It returns false if the Producer is closed meanwhile.
func (p *Producer) rest(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-p.ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// refresh asks for the topic's metadata and, if a partition has no producer id, for an id.
func (p *Producer) refresh() error {
	ctx, cancel := context.WithTimeout(p.ctx, lookTimeout)
	defer cancel()
	if err := p.askMetadata(ctx); err != nil {
		return err
	}
	if err := p.askProducerID(ctx); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, x := range p.parts {
		if x.leader < 0 && len(x.queue) > 0 && !p.moving {
			return errNoLeader
		}
	}
	return nil
}

var errNoLeader = errors.New("a partition with records has no leader")

func (p *Producer) askMetadata(ctx context.Context) error {
	req := kmsg.NewPtrMetadataRequest()
	t := kmsg.NewMetadataRequestTopic()
	t.Topic = new(p.c.Topic)
	req.Topics = append(req.Topics, t)
	req.AllowAutoTopicCreation = false
	resp, err := req.RequestWith(ctx, p.c.Client)
	if err != nil {
		return err
	}
	if len(resp.Topics) != 1 {
		return errors.New("the metadata lack the topic")
	}
	if err := kerr.ErrorForCode(resp.Topics[0].ErrorCode); err != nil {
		return err
	}
	return p.apply(&resp.Topics[0])
}

// maxPast bounds the ids of former topics that are remembered. Ids are random (KIP-516), and no broker lags behind by
// that many topics.
const maxPast = 16

// apply applies the metadata of the topic. A topic that was deleted and recreated has another id (KIP-516): its
// partitions know nothing of the producer. If it has another number of partitions as well, records move to the
// partitions of their keys. Fewer partitions with the same id are the answer of a broker that has not heard yet that
// the topic grew. The id of a former topic is the answer of a broker that has not heard of its deletion. Neither
// changes anything.
func (p *Producer) apply(t *kmsg.MetadataResponseTopic) error {
	n := len(t.Partitions)
	if n == 0 {
		return errors.New("the topic has no partitions")
	}
	for _, x := range t.Partitions {
		if x.Partition < 0 || int(x.Partition) >= n {
			return errors.New("the numbers of the topic's partitions have gaps")
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	none := [16]byte{}
	id, again, err := p.identify(t.TopicID)
	if err != nil {
		return err
	}
	if p.known && !again && id != none && n < p.topic.parts {
		n = p.topic.parts
	}
	p.moving = p.moving || (!p.known || again) && n != len(p.parts) || n < len(p.parts)
	p.topic = topic{id: id, parts: n}
	p.known = true
	for !p.moving && len(p.parts) < n {
		p.parts = append(p.parts, newPart(int32(len(p.parts))))
	}
	if again {
		for _, x := range p.parts {
			x.leader, x.epoch, x.older, x.retryAt, x.tries, x.anew = -1, -1, 0, time.Time{}, 0, true
		}
	}
	if p.moving && p.inFlight > 0 {
		return nil // takeReady moves the records, and asks for the leaders again
	}
	if p.moving {
		p.redistribute()
	}
	for _, m := range t.Partitions {
		x := p.parts[m.Partition]
		x.follow(m.Leader, m.LeaderEpoch)
	}
	return nil
}

// identify returns the topic's id, given that of metadata, which is zero from a broker before Kafka 2.8, and whether
// the topic was recreated. The id of a former topic is an error. p.mu must be held.
func (p *Producer) identify(id [16]byte) (now [16]byte, again bool, err error) {
	none := [16]byte{}
	if id == none {
		id = p.topic.id
	}
	if p.past[id] {
		return id, false, errors.New("a broker still answers with the id of a deleted topic of this name")
	}
	again = p.known && p.topic.id != none && id != p.topic.id
	if again {
		if len(p.past) >= maxPast || p.past == nil {
			p.past = map[[16]byte]bool{}
		}
		p.past[p.topic.id] = true
	}
	return id, again, nil
}

// follow takes the leader of metadata, unless they are older than what is known.
func (x *part) follow(leader, epoch int32) {
	if epoch >= 0 && epoch < x.epoch && x.older < maxOlder {
		x.older++
		return
	}
	x.leader, x.epoch, x.older = leader, epoch, 0
}

// redistribute moves all records to the partitions of their keys among the topic's present number. Nothing is in
// flight. p.mu must be held.
func (p *Producer) redistribute() {
	parts := make([]*part, p.topic.parts)
	for i := range parts {
		parts[i] = newPart(int32(i))
	}
	for _, x := range p.parts {
		for _, b := range x.queue {
			b.each(func(key, value []byte, ms int64, of Account) { p.put(parts, key, value, ms, of) })
			p.recycle(b)
		}
	}
	p.parts, p.moving = parts, false
}

// askProducerID gives each partition without a producer id a new id.
func (p *Producer) askProducerID(ctx context.Context) error {
	p.mu.Lock()
	wanted := false
	for _, x := range p.parts {
		wanted = wanted || x.id.ProducerID < 0
	}
	p.mu.Unlock()
	if !wanted {
		return nil
	}
	req := kmsg.NewPtrInitProducerIDRequest()
	req.TransactionTimeoutMillis = 60_000 // not used: there are no transactions
	resp, err := req.RequestWith(ctx, p.c.Client)
	if err != nil {
		return err
	}
	if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, x := range p.parts {
		if x.id.ProducerID < 0 {
			x.id = recordbatch.Stamp{ProducerID: resp.ProducerID, Epoch: resp.ProducerEpoch}
		}
	}
	return nil
}
