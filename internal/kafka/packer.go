package kafka

import (
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"weir/internal/decode"
	"weir/internal/framing"
)

// An Account is told what became of messages.
type Account interface {
	// Settled is called once for every message, some at a time: nil when they are
	// acknowledged, else why not, as Producer.Produce has it.
	Settled(messages int, err error)
}

// A Packer puts messages of one partition into one record, each with its length
// before it: what a client costs a record it then costs several messages. The
// partition is that of the messages' own keys; the record has none.
type Packer struct {
	p     *Producer
	most  int                  // messages of a record
	place kgo.TopicPartitioner // which partition a key belongs to
	space sync.Pool            // of *[]byte: messages of records

	mu    sync.Mutex // guards what follows
	packs []pack     // by partition, as many as are known
	turn  int        // where messages without a key go
	key   kgo.Record // scratch
}

// A pack is a record that is being filled.
type pack struct {
	buf   *[]byte
	at    time.Time // of the first message
	n     int
	aged  bool // there at the last tick already
	whose []share
}

// A share is how many messages of a record are whose.
type share struct {
	of Account
	n  int
}

// packOctets is when a record is full whatever the number of its messages: far
// below what brokers take.
const packOctets = 128 << 10

// Packer returns a Packer of at most most messages a record. A record that does
// not fill leaves after the producer's linger, twice that at most.
func (p *Producer) Packer(most int) *Packer {
	k := &Packer{p: p, most: most, place: kgo.StickyKeyPartitioner(nil).ForTopic(p.topic)}
	k.space.New = func() any { b := make([]byte, 0, 8<<10); return &b }
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.packers == nil {
		go p.tick()
	}
	p.packers = append(p.packers, k)
	return k
}

// Add adds the messages that spans tell of in buf, received at the instant at, to
// records. It copies them, and never waits for Kafka.
func (k *Packer) Add(buf []byte, spans []decode.Span, at time.Time, of Account) {
	n := int(k.p.partitions.Load())
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.packs) < n {
		k.packs = append(k.packs, make([]pack, n-len(k.packs))...)
	}
	for _, s := range spans {
		message, key := buf[s.Start:s.ValueEnd], buf[s.ValueEnd:s.KeyEnd]
		if n == 0 { // nothing has told yet how many partitions there are: the client finds it
			k.p.Produce(append([]byte(nil), key...), framing.AppendDelimited(nil, message), at, func(err error) { of.Settled(1, err) })
			continue
		}
		to := k.turn % n
		if len(key) > 0 {
			k.key.Key = key
			to = k.place.Partition(&k.key, n)
		}
		x := &k.packs[to]
		if x.n == 0 {
			x.buf, x.at = k.space.Get().(*[]byte), at // the pool's own
		}
		*x.buf = framing.AppendDelimited(*x.buf, message)
		x.n++
		if last := len(x.whose) - 1; last >= 0 && x.whose[last].of == of {
			x.whose[last].n++
		} else {
			x.whose = append(x.whose, share{of, 1})
		}
		if x.n >= k.most || len(*x.buf) >= packOctets {
			k.send(int32(to), x)
		}
	}
}

// send hands a record to the client; the pack is empty then. mu is held.
func (k *Packer) send(partition int32, x *pack) {
	buf, whose := x.buf, x.whose
	k.p.producePacked(partition, *buf, x.at, func(err error) {
		for _, w := range whose {
			w.of.Settled(w.n, err)
		}
		*buf = (*buf)[:0]
		k.space.Put(buf)
	})
	*x = pack{}
	k.turn++
}

// flush sends what was there at the last flush already, or everything.
func (k *Packer) flush(everything bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i := range k.packs {
		x := &k.packs[i]
		if x.n > 0 && (x.aged || everything) {
			k.send(int32(i), x)
		}
		x.aged = x.n > 0
	}
}

// tick flushes the packers until the producer ends.
func (p *Producer) tick() {
	t := time.NewTicker(max(p.linger, time.Millisecond))
	defer t.Stop()
	for {
		select {
		case <-p.ended:
			return
		case <-t.C:
			p.flushPackers(false)
		}
	}
}

func (p *Producer) flushPackers(everything bool) {
	p.mu.Lock()
	packers := p.packers
	p.mu.Unlock()
	for _, k := range packers {
		k.flush(everything)
	}
}

// placing is the partitioner of a Producer: that of the key, as the Java client's
// (murmur2); of a record of a Packer the one it was packed for. It notes how many
// partitions there are.
type placing struct{ p *Producer }

// ForTopic implements kgo.Partitioner.
func (q placing) ForTopic(topic string) kgo.TopicPartitioner {
	return &place{kgo.StickyKeyPartitioner(nil).ForTopic(topic), q.p}
}

type place struct {
	byKey kgo.TopicPartitioner
	p     *Producer
}

// RequiresConsistency implements kgo.TopicPartitioner.
func (q *place) RequiresConsistency(r *kgo.Record) bool {
	return isPacked(r) || q.byKey.RequiresConsistency(r)
}

// Partition implements kgo.TopicPartitioner.
func (q *place) Partition(r *kgo.Record, n int) int {
	switch {
	case isPacked(r):
		return int(r.Partition) % n
	case q.byKey.RequiresConsistency(r) && int(q.p.partitions.Load()) != n: // then n counts all of them
		q.p.partitions.Store(int32(n)) // a topic has few partitions
	}
	return q.byKey.Partition(r, n)
}

// OnNewBatch implements kgo.TopicPartitionerOnNewBatch, for records without key.
func (q *place) OnNewBatch() {
	if o, ok := q.byKey.(kgo.TopicPartitionerOnNewBatch); ok {
		o.OnNewBatch()
	}
}

func isPacked(r *kgo.Record) bool {
	d, ok := r.Context.(*pending)
	return ok && d.packed
}
