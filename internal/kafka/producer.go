package kafka

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// ErrBufferFull is why a Producer refused a record: as much as it may hold
// waits for Kafka.
var ErrBufferFull = errors.New("buffer full: kafka is away or too slow")

// ErrClosed is why records fail that a Producer or TemplateLog still held when
// it was closed, or got when it was not running.
var ErrClosed = errors.New("kafka client closed")

// ProducerConfig bounds what a Producer holds while Kafka is away. Memory in
// use is about six times MaxOctets for records of 100 octets.
type ProducerConfig struct {
	Linger      time.Duration // wait for a batch to fill
	MaxRecords  int           // 0: 1 Mi
	MaxOctets   int           // of keys and values; 0: 64 MiB
	Compression string        // none, snappy (also ""), lz4, zstd
}

// A Producer publishes records without ever making its caller wait:
// idempotent, acknowledged by all replicas in sync, retried without end.
type Producer struct {
	cl         *kgo.Client
	topic      string
	max        int // records
	maxOctets  int
	pool       sync.Pool // of *pending
	linger     time.Duration
	partitions atomic.Int32 // of the topic; 0: not known yet
	ended      chan struct{}
	closing    sync.Once

	mu      sync.Mutex // guards what follows
	packers []*Packer
	mending bool       // the topic was deleted and made again
	held    []*pending // records that failed for that
	mender  *time.Timer
	closed  bool
}

// A pending is a record on its way with what is to be called at its end. Its
// record's Context leads back to it, so that no closure is made per record.
type pending struct {
	context.Context // context.Background()

	rec    kgo.Record
	packed bool // rec has its partition already
	slab   bool // it is part of a Slab
	done   func(error)
	from   *Producer
}

// NewProducer returns a Producer to topic (full name).
func NewProducer(c Config, topic string, pc ProducerConfig) (*Producer, error) {
	codec, err := codec(pc.Compression)
	if err != nil {
		return nil, err
	}
	maxRecords := cmp.Or(pc.MaxRecords, 1<<20)
	role := topic[strings.LastIndexByte(topic, '.')+1:]
	maxOctets := cmp.Or(pc.MaxOctets, 64<<20)
	p := &Producer{topic: topic, max: maxRecords, maxOctets: maxOctets, linger: pc.Linger, ended: make(chan struct{})}
	p.pool.New = func() any { return &pending{Context: context.Background(), from: p} }
	p.cl, err = kgo.NewClient(append(c.as(role).opts(), append(producing(&c),
		kgo.ProducerLinger(pc.Linger),
		kgo.MaxBufferedRecords(maxRecords),
		kgo.MaxBufferedBytes(maxOctets),
		kgo.ProducerBatchCompression(codec, kgo.NoCompression()),
		kgo.RecordPartitioner(placing{p}),
	)...)...)
	if err != nil {
		return nil, fmt.Errorf("kafka producer of %s: %w", topic, err)
	}
	return p, nil
}

// producing are the options that keep a record once it is accepted: no limit of
// time or retries, since giving up on a record in flight is what breaks
// idempotence. A data loss on the broker's side is told, and production goes on.
func producing(c *Config) []kgo.Opt {
	log := c.Log
	return []kgo.Opt{
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.UnknownTopicRetries(-1),
		kgo.ProducerOnDataLossDetected(func(topic string, partition int32) {
			if log != nil {
				log.Error("kafka lost records that it had acknowledged; producing goes on", "topic", topic, "partition", partition)
			}
		}),
	}
}

func codec(name string) (kgo.CompressionCodec, error) {
	switch name {
	case "none":
		return kgo.NoCompression(), nil
	case "", "snappy":
		return kgo.SnappyCompression(), nil
	case "lz4":
		return kgo.Lz4Compression(), nil
	case "zstd":
		return kgo.ZstdCompression(), nil
	default:
		return kgo.CompressionCodec{}, fmt.Errorf("compression %q: want none, snappy, lz4 or zstd", name)
	}
}

// Produce hands over one record with its receive time; key and value stay
// untouched until done is called. done is called exactly once, from another
// goroutine and never waiting: nil when acknowledged, else why not
// (ErrBufferFull at the limit, ErrClosed at the end). An empty key is none.
func (p *Producer) Produce(key, value []byte, at time.Time, done func(error)) {
	p.produce(p.pool.Get().(*pending), key, value, at, done) // the pool's own
}

// A Slab is room for records that are produced together: one after the other in
// memory, and used again once done has been called for all of them.
type Slab struct{ all []pending }

// Grow makes room for n records; none of the slab may be on its way.
func (s *Slab) Grow(n int) {
	if n <= len(s.all) {
		return
	}
	s.all = make([]pending, n)
	for i := range s.all {
		// Written once: the client may look at the context of a record that is done.
		s.all[i].Context = context.Background()
	}
}

// Len returns the room of the slab, records.
func (s *Slab) Len() int { return len(s.all) }

// ProduceIn is Produce with place i of a slab.
func (p *Producer) ProduceIn(s *Slab, i int, key, value []byte, at time.Time, done func(error)) {
	d := &s.all[i]
	d.from, d.slab = p, true
	p.produce(d, key, value, at, done)
}

func (p *Producer) produce(d *pending, key, value []byte, at time.Time, done func(error)) {
	if len(key) == 0 {
		key = nil
	}
	d.rec = kgo.Record{Topic: p.topic, Context: d, Key: key, Value: value, Timestamp: at}
	d.done = done
	p.cl.TryProduce(d, &d.rec, finished)
}

// producePacked produces a record to its partition.
func (p *Producer) producePacked(partition int32, value []byte, at time.Time, done func(error)) {
	d := p.pool.Get().(*pending) // the pool's own
	d.rec = kgo.Record{Topic: p.topic, Context: d, Partition: partition, Value: value, Timestamp: at}
	d.packed, d.done = true, done
	p.cl.TryProduce(d, &d.rec, finished)
}

// finished is the promise of every record of every Producer.
func finished(r *kgo.Record, err error) {
	d := r.Context.(*pending) // set by Produce
	if err != nil && d.from.again(d, err) {
		return
	}
	done := d.done
	if !d.slab {
		d.rec, d.packed, d.done = kgo.Record{}, false, nil
		d.from.pool.Put(d)
	}
	done(ours(err))
}

// ours gives franz-go's errors our names.
func ours(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, kgo.ErrMaxBuffered):
		return ErrBufferFull
	case errors.Is(err, kgo.ErrClientClosed):
		return ErrClosed
	default:
		return err
	}
}

// Buffered is what waits to be acknowledged; octets are those of keys and values.
// What a Packer still gathers is not in it.
func (p *Producer) Buffered() (records, octets int64) {
	p.mu.Lock()
	for _, d := range p.held {
		records, octets = records+1, octets+int64(len(d.rec.Key)+len(d.rec.Value))
	}
	p.mu.Unlock()
	return records + p.cl.BufferedProduceRecords(), octets + p.cl.BufferedProduceBytes()
}

// Used is how full a Producer is, from 0 to 1.
func (p *Producer) Used() float64 {
	records, octets := p.Buffered()
	return max(float64(records)/float64(p.max), float64(octets)/float64(p.maxOctets))
}

// Room reports whether a Producer is less than seven eighths full.
func (p *Producer) Room() bool { return p.Used() < 7./8 }

// Flush waits until everything is acknowledged or ctx ends.
func (p *Producer) Flush(ctx context.Context) error {
	p.flushPackers(true)
	for {
		err := p.cl.Flush(ctx)
		if err == nil {
			err = p.settled(ctx)
		}
		n, _ := p.Buffered()
		switch {
		case err != nil:
			return fmt.Errorf("%d records for %s are not acknowledged: %w", n, p.topic, err)
		case n == 0:
			return nil
		}
	}
}

// Close gives up on what is buffered (done gets ErrClosed) and ends.
func (p *Producer) Close() {
	p.closing.Do(func() { close(p.ended) })
	p.flushPackers(true)
	p.letGo()
	p.cl.Close()
}
