package batches

import (
	"bytes"
	"errors"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/internal/kafka/recordbatch"
)

// produceTimeout limits the time that a broker waits for its followers.
const produceTimeout = 10 * time.Second

// logTries is the number of tries after which a failure is logged again.
const logTries = 30

// corruptTries is the number of tries after which a batch fails that Kafka calls corrupt. Octets that changed on
// the way are sent again; octets that Kafka always refuses must not block their partition.
const corruptTries = 5

// A request holds the first batches of partitions with the same leader.
type request struct {
	node   int32
	topic  topic
	parts  []*part
	octets int // before compression
}

// run sends batches until the Producer is closed: full batches at once, others at each linger.
func (p *Producer) run() {
	t := time.NewTicker(max(p.c.Linger, time.Millisecond))
	defer t.Stop()
	for {
		due := false
		select {
		case <-p.ctx.Done():
			return
		case <-t.C:
			due = true
		case <-p.wake:
		}
		for _, r := range p.takeReady(time.Now(), due) {
			p.all.Go(func() { p.send(r) })
		}
	}
}

// takeReady marks the first batch of each partition as in flight, if it may be sent, and returns requests with these
// batches. A batch that is not full is included only if due is true or during a flush.
func (p *Producer) takeReady(now time.Time, due bool) (all []*request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.moving {
		if p.inFlight > 0 {
			return nil
		}
		p.redistribute()
	}
	for _, x := range p.parts {
		if x.inFlight || len(x.queue) == 0 || now.Before(x.retryAt) {
			continue
		}
		if x.anew {
			x.anew = false
			x.id.ProducerID = -1
		}
		if x.leader < 0 || x.id.ProducerID < 0 {
			signal(p.look)
			continue
		}
		b := x.queue[0]
		if b == x.open {
			if !due && p.flushing == 0 {
				continue
			}
			x.open = nil
			p.turn++
		}
		x.inFlight = true
		p.inFlight++
		i := slices.IndexFunc(all, func(r *request) bool { return r.node == x.leader && r.octets+b.Len() <= maxRequest })
		if i < 0 {
			i = len(all)
			all = append(all, &request{node: x.leader, topic: p.topic})
		}
		all[i].parts, all[i].octets = append(all[i].parts, x), all[i].octets+b.Len()
	}
	return all
}

// encode compresses b, unless that was done for an earlier try, and writes its header.
func (p *Producer) encode(b *batch, id recordbatch.Stamp) {
	if b.out == nil {
		b.out, b.codec = b.Plain(), recordbatch.None
		if p.compress != nil {
			dst := p.buffers.Get().(*bytes.Buffer) // of the pool, which holds nothing else
			dst.Reset()
			if packed, codec := p.compress.Compress(dst, b.Octets()); codec > 0 && len(packed) < len(b.Octets()) {
				var header [recordbatch.HeaderOctets]byte
				b.packed = append(append(b.packed[:0], header[:]...), packed...)
				b.out, b.codec = b.packed, int8(codec)
			}
			p.buffers.Put(dst)
		}
	}
	b.WriteHeader(b.out, b.codec, id)
}

// send sends a request and handles the outcome of each of its batches. The partitions' first batches and ids do
// not change while they are in flight.
func (p *Producer) send(r *request) {
	req := kmsg.NewPtrProduceRequest()
	req.Acks, req.TimeoutMillis = -1, int32(produceTimeout.Milliseconds())
	t := kmsg.NewProduceRequestTopic()
	t.Topic, t.TopicID = p.c.Topic, r.topic.id
	heads := make([]*batch, len(r.parts))
	p.mu.Lock()
	for i, x := range r.parts {
		heads[i] = x.queue[0]
	}
	p.mu.Unlock()
	for i, x := range r.parts {
		p.encode(heads[i], x.id)
		tp := kmsg.NewProduceRequestTopicPartition()
		tp.Partition, tp.Records = x.number, heads[i].out
		t.Partitions = append(t.Partitions, tp)
	}
	req.Topics = append(req.Topics, t)
	response, err := p.c.Client.Broker(int(r.node)).Request(p.ctx, req)
	answers := map[int32]*kmsg.ProduceResponseTopicPartition{}
	if err == nil {
		for i := range response.(*kmsg.ProduceResponse).Topics { // of the request's kind
			rt := &response.(*kmsg.ProduceResponse).Topics[i]
			for j := range rt.Partitions {
				answers[rt.Partitions[j].Partition] = &rt.Partitions[j]
			}
		}
	}
	for i, x := range r.parts {
		e := err
		answer := answers[x.number]
		switch {
		case e != nil:
		case answer == nil:
			e = errNoAnswer
		default:
			e = kerr.ErrorForCode(answer.ErrorCode)
		}
		p.handle(r.node, x, heads[i], e, answer)
	}
	signal(p.wake)
}

var errNoAnswer = errors.New("the broker's response lacks the partition")

// handle handles the outcome of the first batch of a partition. answer is nil if the broker gave none.
func (p *Producer) handle(node int32, x *part, b *batch, err error, answer *kmsg.ProduceResponseTopicPartition) {
	is := func(errs ...*kerr.Error) bool {
		return slices.ContainsFunc(errs, func(e *kerr.Error) bool { return errors.Is(err, e) })
	}
	switch {
	case err == nil || is(kerr.DuplicateSequenceNumber): // the broker has had it since an earlier try
		p.written(node, x, b)
		p.finish(x, b, nil)
	case p.ctx.Err() != nil: // Close settles the rest
		p.land(x)
	case is(kerr.MessageTooLarge, kerr.RecordListTooLarge):
		p.split(x, b, err)
	case is(kerr.OutOfOrderSequenceNumber, kerr.UnknownProducerID, kerr.InvalidProducerEpoch,
		kerr.InvalidProducerIDMapping, kerr.ProducerFenced):
		// The broker's log ends before records that it had acknowledged, or does not know the producer any more.
		// The batch is not in the log: it would be a duplicate. A new producer id begins at sequence 0. Other
		// partitions keep theirs, and with it the broker's memory of batches whose answer was lost.
		p.c.Log.Error("kafka lost records that it had acknowledged, or the state of the producer; producing goes on",
			"topic", p.c.Topic, "partition", x.number, "err", err)
		p.retry(x, err, func() { x.id.ProducerID = -1 })
	case is(kerr.CorruptMessage) && p.triesOf(x) >= corruptTries:
		p.finish(x, b, err)
	case answer == nil || kerr.IsRetriable(err) || is(kerr.UnknownTopicID, kerr.UnknownTopicOrPartition):
		p.retry(x, err, func() { x.leader = -1 }, answer)
	default:
		p.finish(x, b, err)
	}
}

// triesOf returns the number of failed tries of the first batch of a partition.
func (p *Producer) triesOf(x *part) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return x.tries
}

// written reports a batch to the metrics.
func (p *Producer) written(node int32, x *part, b *batch) {
	if p.c.Written != nil {
		p.c.Written(node, x.number, kgo.ProduceBatchMetrics{
			NumRecords: b.Records(), UncompressedBytes: len(b.Octets()),
			CompressedBytes: len(b.out) - recordbatch.HeaderOctets, CompressionType: uint8(b.codec),
		})
	}
}

// finish removes the first batch of a partition and notifies its accounts.
func (p *Producer) finish(x *part, b *batch, err error) {
	for _, s := range b.shares {
		s.of.Settled(s.n, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	x.queue[0] = nil
	if x.queue = x.queue[1:]; len(x.queue) == 0 {
		x.queue = nil
	}
	switch {
	case err == nil:
		x.id.Sequence = recordbatch.NextSequence(x.id.Sequence, b.Records())
	case x.tries > 0 || errors.Is(err, kerr.UnknownServerError):
		// An earlier try may be in the log. The broker would treat the next batch, with the same sequence numbers, as a
		// duplicate: it would acknowledge the batch without appending it.
		x.id.ProducerID = -1
	default: // the records are not in the log, and their numbers are free
	}
	p.records, p.octets = p.records-b.Records(), p.octets-b.octets
	x.tries, x.retryAt = 0, time.Time{}
	p.landLocked(x)
	p.recycle(b)
}

// land ends the flight of the first batch of a partition.
func (p *Producer) land(x *part) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.landLocked(x)
}

func (p *Producer) landLocked(x *part) {
	x.inFlight = false
	p.inFlight--
}

// retry ends the flight of the first batch of a partition, which stays there, after a change of the partition. An
// answer with a newer leader (KIP-951) replaces the change, and the batch is sent to that leader at once.
func (p *Producer) retry(x *part, err error, change func(), answers ...*kmsg.ProduceResponseTopicPartition) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.landLocked(x)
	for _, a := range answers {
		if a != nil && a.CurrentLeader.LeaderID >= 0 && a.CurrentLeader.LeaderEpoch > x.epoch {
			x.leader, x.epoch, x.older = a.CurrentLeader.LeaderID, a.CurrentLeader.LeaderEpoch, 0
			x.retryAt = time.Time{}
			x.tries++ // the former leader may have appended the batch
			return
		}
	}
	change()
	x.retryAt = time.Now().Add(p.c.Backoff(x.tries))
	if x.tries++; x.tries%logTries == 0 {
		p.c.Log.Warn("records of a partition cannot be produced; trying on",
			"topic", p.c.Topic, "partition", x.number, "tries", x.tries, "err", err)
	}
	signal(p.look)
}

// split replaces the first batch of a partition, which is too large for Kafka, with its halves. A record that is
// too large alone fails with err.
func (p *Producer) split(x *part, b *batch, err error) {
	if b.Records() < 2 {
		p.finish(x, b, err)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	halves := [2]*batch{p.pool.Get().(*batch), p.pool.Get().(*batch)} // of the pool, which holds nothing else
	i := 0
	b.each(func(key, value []byte, ms int64, of Account) {
		halves[i*2/b.Records()].add(key, value, ms, of)
		i++
	})
	x.queue = slices.Replace(x.queue, 0, 1, halves[:]...)
	p.most = min(p.most, max(leastBatch, b.Len()/2))
	x.retryAt = time.Time{}
	p.landLocked(x)
	p.recycle(b)
}
