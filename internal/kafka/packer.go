package kafka

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"weir/internal/decode"
	"weir/internal/kafka/framing"
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
	packs sync.Pool            // of *pack: empty ones
	room  atomic.Int64         // octets of the largest record so far, a little more

	mu      sync.Mutex // guards what follows
	filling []*pack    // by partition, as many as are known; nil: nothing there
	turn    int        // where messages without a key go
	key     kgo.Record // scratch
}

// A pack is a record that is being filled, or on its way.
type pack struct {
	buf   []byte
	at    time.Time // of the first message
	n     int
	aged  bool // there at the last tick already
	whose []share
	done  func(error)
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
	k.room.Store(4 << 10)
	k.packs.New = func() any {
		x := &pack{buf: make([]byte, 0, k.room.Load())}
		x.done = func(err error) { k.settled(x, err) }
		return x
	}
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
	if len(k.filling) < n {
		k.filling = append(k.filling, make([]*pack, n-len(k.filling))...)
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
		x := k.filling[to]
		if x == nil {
			x = k.packs.Get().(*pack) // the pool's own
			x.at, k.filling[to] = at, x
		}
		x.buf = framing.AppendDelimited(x.buf, message)
		x.n++
		if last := len(x.whose) - 1; last >= 0 && x.whose[last].of == of {
			x.whose[last].n++
		} else {
			x.whose = append(x.whose, share{of, 1})
		}
		if x.n >= k.most || len(x.buf) >= packOctets {
			k.send(to)
		}
	}
}

// send hands the record of a partition to the client. mu is held.
func (k *Packer) send(to int) {
	x := k.filling[to]
	k.filling[to] = nil
	if n := int64(len(x.buf)); n > k.room.Load() {
		k.room.Store(n + n/16) // a new one need not grow
	}
	k.turn++
	k.p.producePacked(int32(to), x.buf, x.at, x.done) // a topic has few partitions
}

// settled tells whose the messages of a record are, and keeps its room.
func (k *Packer) settled(x *pack, err error) {
	for _, w := range x.whose {
		w.of.Settled(w.n, err)
	}
	clear(x.whose) // a closed exporter's account is not kept
	x.buf, x.n, x.aged, x.whose = x.buf[:0], 0, false, x.whose[:0]
	k.packs.Put(x)
}

// flush sends what was there at the last flush already, or everything.
func (k *Packer) flush(everything bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i, x := range k.filling {
		switch {
		case x == nil:
		case x.aged || everything:
			k.send(i)
		default:
			x.aged = true
		}
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
