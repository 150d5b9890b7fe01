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

	"weir/internal/kafka/batches"
	"weir/internal/kafka/framing"
)

// ErrBufferFull is the outcome of a record that a Producer refused because records up to its limits wait for
// Kafka.
var ErrBufferFull = batches.ErrBufferFull

// ErrClosed is the outcome of records that a Producer or TemplateLog still held when it was closed, and of those
// that were passed to it while it was not running.
var ErrClosed = batches.ErrClosed

// ProducerConfig bounds the records that a Producer holds while Kafka is away. Memory use is four to six times
// MaxOctets: of an Arena, 3.9 times for records of 100 octets and 5.5 for records of 67, garbage not included.
type ProducerConfig struct {
	Linger      time.Duration // delay in which a batch fills
	MaxRecords  int           // 0: 1 Mi
	MaxOctets   int           // of keys and values; 0: 64 MiB
	Compression string        // none, snappy (also ""), lz4, zstd
	// Batches, when set, makes the record batches of Producer.Batches, whose messages have this form.
	Batches *framing.Config
}

// A Producer publishes records to a topic. It never blocks a caller that produces; only Flush and Close wait. It is
// idempotent, requires the acknowledgement of all in-sync replicas, and retries without limit. Its methods may be
// called by any goroutine.
type Producer struct {
	cl         *kgo.Client
	topic      string
	max        int // records
	maxOctets  int
	pool       sync.Pool // of *pending
	linger     time.Duration
	batches    *batches.Producer // nil unless ProducerConfig.Batches is set
	slabs      sync.Pool         // of *slab, all empty
	slabOctets atomic.Int64      // memory of the slabs that wait for Kafka and take no more records
	partitions atomic.Int32      // of the topic; 0: not known yet
	ended      chan struct{}
	closing    sync.Once

	mu      sync.Mutex // guards the fields below
	packers []*Packer
	holding bool          // the topic was deleted and recreated: see holdForRetry
	held    []*kgo.Record // records to produce again
	// producingHeld counts the calls of produceHeld that pass held records back to the client.
	producingHeld int
	holdTimer     *time.Timer
	closed        bool
}

// A pending is a record of Produce on its way, with the callback for its outcome. The record's Context is the pending
// itself, so that no closure is allocated per record. It belongs to the client until finished is called.
type pending struct {
	context.Context // context.Background()

	rec    kgo.Record
	packed bool // rec has its partition already
	done   func(error)
	from   *Producer
}

// NewProducer returns a Producer to a topic, given its full name. The caller must call Close.
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
	p.cl, err = kgo.NewClient(append(c.withRole(role).opts(), append(producing(&c),
		kgo.ProducerLinger(pc.Linger),
		kgo.MaxBufferedRecords(maxRecords),
		kgo.MaxBufferedBytes(maxOctets),
		kgo.ProducerBatchCompression(codec, kgo.NoCompression()),
		kgo.RecordPartitioner(placing{p}),
	)...)...)
	if err != nil {
		return nil, fmt.Errorf("kafka producer of %s: %w", topic, err)
	}
	if pc.Batches != nil {
		p.batches, err = batches.New(batches.Config{
			Client: p.cl, Topic: topic, Form: *pc.Batches, Codec: codec, Linger: pc.Linger,
			MaxRecords: maxRecords, MaxOctets: maxOctets, Backoff: backoff, Log: c.Log, Written: batchWritten(p.cl, topic),
		})
		if err != nil {
			p.cl.Close()
			return nil, fmt.Errorf("kafka producer of %s: %w", topic, err)
		}
	}
	return p, nil
}

// batchWritten returns a function that passes a batch to the hooks of a client, as the client does for its own.
func batchWritten(cl *kgo.Client, topic string) func(node, partition int32, m kgo.ProduceBatchMetrics) {
	var hooks []kgo.HookProduceBatchWritten
	all, _ := cl.OptValue(kgo.WithHooks).([]kgo.Hook)
	for _, h := range all {
		if h, ok := h.(kgo.HookProduceBatchWritten); ok {
			hooks = append(hooks, h)
		}
	}
	return func(node, partition int32, m kgo.ProduceBatchMetrics) {
		for _, h := range hooks {
			h.OnProduceBatchWritten(kgo.BrokerMetadata{NodeID: node}, topic, partition, m)
		}
	}
}

// Batches returns the producer of record batches that Weir builds itself. Its records count in Buffered, Used,
// Room, Flush and Close. It is nil unless ProducerConfig.Batches is set.
func (p *Producer) Batches() *batches.Producer { return p.batches }

// producing returns the options that keep a record once it is accepted. There is no limit of time or retries,
// since giving up on a record in flight breaks idempotence. When brokers lose acknowledged records, that is
// logged and production goes on.
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

// Produce hands over a record with its receive time. The caller must not modify key or value until done is
// called. done is called exactly once, from another goroutine, and must not block: with nil once the record is
// acknowledged, with ErrBufferFull at the limit, with ErrClosed at the end, or with Kafka's error. An empty key
// counts as none.
func (p *Producer) Produce(key, value []byte, at time.Time, done func(error)) {
	if len(key) == 0 {
		key = nil
	}
	d := p.pool.Get().(*pending) // the pool's own
	d.rec = kgo.Record{Topic: p.topic, Context: d, Key: key, Value: value, Timestamp: at}
	d.done = done
	p.cl.TryProduce(d, &d.rec, finished)
}

// producePacked produces a record to the given partition.
func (p *Producer) producePacked(partition int32, value []byte, at time.Time, done func(error)) {
	d := p.pool.Get().(*pending) // the pool's own
	d.rec = kgo.Record{Topic: p.topic, Context: d, Partition: partition, Value: value, Timestamp: at}
	d.packed, d.done = true, done
	p.cl.TryProduce(d, &d.rec, finished)
}

// finished is the promise of every record of every Producer. It takes r back from the client.
func finished(r *kgo.Record, err error) {
	if x, ok := r.Context.(*run); ok {
		if err != nil && x.slab.p.holdForRetry(r, err) {
			return
		}
		of := x.of
		x.slab.settle(1)
		of.Settled(1, translateError(err))
		return
	}
	d := r.Context.(*pending) // set by Produce or producePacked
	if err != nil && d.from.holdForRetry(r, err) {
		return
	}
	done := d.done
	d.rec, d.packed, d.done = kgo.Record{}, false, nil
	d.from.pool.Put(d)
	done(translateError(err))
}

// translateError maps franz-go's errors to those of this package.
func translateError(err error) error {
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

// Buffered returns the records that wait for their acknowledgement, and the octets of their keys and values.
// Messages that a Packer still gathers are not included.
func (p *Producer) Buffered() (records, octets int64) {
	p.mu.Lock()
	for _, r := range p.held {
		records, octets = records+1, octets+int64(len(r.Key)+len(r.Value))
	}
	p.mu.Unlock()
	if p.batches != nil {
		r, o := p.batches.Buffered()
		records, octets = records+r, octets+o
	}
	return records + p.cl.BufferedProduceRecords(), octets + p.cl.BufferedProduceBytes()
}

// Used returns the fill level of a Producer, from 0 to 1: the greater one of records and octets.
func (p *Producer) Used() float64 {
	records, octets := p.Buffered()
	return max(float64(records)/float64(p.max), float64(octets)/float64(p.maxOctets))
}

// Room reports whether a Producer is less than seven eighths full.
func (p *Producer) Room() bool { return p.Used() < 7./8 }

// Flush waits until all records are acknowledged or ctx ends. Records produced meanwhile prolong it.
func (p *Producer) Flush(ctx context.Context) error {
	p.flushPackers(true)
	for {
		err := p.cl.Flush(ctx)
		if err == nil {
			err = p.waitHeld(ctx)
		}
		if err == nil && p.batches != nil {
			err = p.batches.Flush(ctx)
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

// Close abandons buffered records (done is called with ErrClosed) and ends the Producer. It may be called more
// than once.
func (p *Producer) Close() {
	p.closing.Do(func() { close(p.ended) })
	p.flushPackers(true)
	p.failHeld()
	if p.batches != nil {
		p.batches.Close()
	}
	p.cl.Close()
}
