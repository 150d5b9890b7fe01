// Package batches produces messages to a topic in record batches that it builds itself, from the buffer of the
// decoder, and sends over the connections of a franz-go client. It keeps the guarantees of a Kafka producer: records
// of a partition in order, each of them once (idempotence, KIP-98), and none lost while brokers fail,
// leaders move, or the topic is recreated. A partition has one batch in flight at a time, so that a
// partition takes at most one batch of 1 MB per round trip.
package batches

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"weir/internal/decode"
	"weir/internal/kafka/framing"
	"weir/internal/kafka/recordbatch"
)

// ErrBufferFull is the outcome of a message that was refused because messages up to the limits wait for Kafka.
var ErrBufferFull = errors.New("buffer full: kafka is away or too slow")

// ErrClosed is the outcome of messages that were still held when the Producer was closed, and of later messages.
var ErrClosed = errors.New("kafka client closed")

// An Account is notified of the outcome of messages.
type Account interface {
	// Settled is called exactly once for each message, for several messages at a time. err is nil once they are
	// acknowledged, ErrBufferFull, ErrClosed or Kafka's error. It must not block and may be called by any
	// goroutine.
	Settled(messages int, err error)
}

// Config holds the settings of a Producer. All but Log and Written must be set.
type Config struct {
	Client     *kgo.Client // must not be closed before the Producer
	Topic      string      // full name
	Form       framing.Config
	Codec      kgo.CompressionCodec
	Linger     time.Duration // how long a batch that is not full waits
	MaxRecords int           // that wait for Kafka
	MaxOctets  int           // of keys and values that wait for Kafka
	// Backoff returns the delay before try n+1 of a request.
	Backoff func(n int) time.Duration
	Log     *slog.Logger
	// Written, when set, is called for each batch that Kafka has acknowledged.
	Written func(node, partition int32, m kgo.ProduceBatchMetrics)
}

const (
	// maxBatch is the length of a batch before compression, octets: Kafka's default limit is 1 MiB.
	maxBatch = 1_000_000
	// leastBatch is the length below which a batch is not made smaller after Kafka refused one for its length.
	leastBatch = 16 << 10
	// maxRequest bounds the batches of a request, octets before compression, unless it has a single batch.
	maxRequest = 16 << 20
	// keptScratch is the largest capacity, in octets, of a scratch buffer that is kept for reuse.
	keptScratch = 256 << 10
	// keptBatch is the memory in octets up to which recycle always returns a batch to the pool.
	keptBatch = 64 << 10
)

// A Producer produces to a topic. New makes it; the caller must call Close. Its methods may be called by any
// goroutine.
type Producer struct {
	c        Config
	compress kgo.Compressor // nil: none
	ctx      context.Context
	cancel   context.CancelFunc
	wake     chan struct{} // capacity 1: a batch may be sent
	look     chan struct{} // capacity 1: metadata or a producer id are wanted
	all      sync.WaitGroup
	pool     sync.Pool // of *batch, empty
	buffers  sync.Pool // of *bytes.Buffer, for compression

	mu       sync.Mutex // guards the fields below
	topic    topic
	past     map[[16]byte]bool // ids of former topics of that name, at most maxPast
	parts    []*part
	known    bool // parts are those of the topic; else there is a single part, which has no leader
	moving   bool // records must move to other partitions before anything is sent
	inFlight int  // batches
	turn     int  // selects the partition of messages without key
	most     int  // length of a batch before compression, octets
	records  int  // that wait for Kafka
	octets   int  // of their keys and values
	flushing int  // calls of Flush
	closed   bool
	scratch  []byte // a message in its form
}

// A topic is the metadata of the topic.
type topic struct {
	id    [16]byte
	parts int
}

// A part is a partition of the topic.
type part struct {
	number   int32
	leader   int32 // node; -1: none is known
	epoch    int32 // of the leader; -1: not known
	older    int   // answers with an older epoch in a row
	queue    []*batch
	open     *batch            // the last of queue, if it takes records; else nil
	inFlight bool              // the first of queue is being sent
	id       recordbatch.Stamp // of the next batch; ProducerID is -1 while there is none
	anew     bool              // the topic was recreated: records are to be numbered from 0
	tries    int               // of the first of queue
	retryAt  time.Time         // when the first of queue may be sent
}

// A share is a number of records of a batch, in a row, that belong to an account.
type share struct {
	of Account
	n  int
}

// A batch holds records of a partition. While it is in flight, only its sender may use it.
type batch struct {
	recordbatch.Batch
	shares []share
	octets int    // of keys and values
	out    []byte // as sent: room for the header and the records in the form of codec; nil: not made yet
	codec  int8
	packed []byte // memory of out if the records are compressed
}

// New returns a Producer. It asks for the topic's metadata in the background.
func New(c Config) (*Producer, error) {
	compress, err := kgo.DefaultCompressor(c.Codec)
	if err != nil {
		return nil, fmt.Errorf("compression: %w", err)
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	p := &Producer{
		c: c, compress: compress, most: maxBatch,
		wake: make(chan struct{}, 1), look: make(chan struct{}, 1),
		parts: []*part{newPart(0)},
	}
	p.pool.New = func() any { return &batch{} }
	p.buffers.New = func() any { return &bytes.Buffer{} }
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.all.Go(p.run)
	p.all.Go(p.maintain)
	signal(p.look)
	return p, nil
}

func newPart(number int32) *part {
	return &part{number: number, leader: -1, epoch: -1, id: recordbatch.Stamp{ProducerID: -1, Epoch: -1, Sequence: -1}}
}

// signal sends on a channel of capacity 1 without waiting.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Add produces the messages that spans delimit in buf, received at the instant at. It copies them and never waits
// for Kafka. of is notified of each message once.
func (p *Producer) Add(buf []byte, spans []decode.Span, at time.Time, of Account) {
	ms := at.UnixMilli()
	refused := 0
	full := false
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		of.Settled(len(spans), ErrClosed)
		return
	}
	for _, s := range spans {
		value, key := buf[s.Start:s.ValueEnd], buf[s.ValueEnd:s.KeyEnd]
		if !p.c.Form.Plain() {
			p.scratch, _ = p.c.Form.Append(p.scratch[:0], framing.Flows, value) // cannot fail: the decoder's messages are valid
			value = p.scratch
		}
		size := len(key) + len(value)
		if p.records >= p.c.MaxRecords || p.octets+size > p.c.MaxOctets {
			refused++
			continue
		}
		p.records, p.octets = p.records+1, p.octets+size
		full = p.put(p.parts, key, value, ms, of) || full
	}
	if cap(p.scratch) > keptScratch {
		p.scratch = nil
	}
	p.mu.Unlock()
	if full {
		signal(p.wake)
	}
	if refused > 0 {
		of.Settled(refused, ErrBufferFull)
	}
}

// put appends a record to the open batch of its partition, and reports whether it ended a batch. p.mu must be
// held.
func (p *Producer) put(parts []*part, key, value []byte, ms int64, of Account) (ended bool) {
	to := p.turn % len(parts)
	if len(key) > 0 {
		to = int(recordbatch.Partition(key, len(parts)))
	}
	x := parts[to]
	b := x.open
	if b != nil && b.Len()+recordbatch.MaxRecord(len(key), len(value)) > p.most {
		b, ended = nil, true
		p.turn++
	}
	if b == nil {
		b = p.pool.Get().(*batch) // of the pool, which holds nothing else
		x.open = b
		x.queue = append(x.queue, b)
	}
	b.add(key, value, ms, of)
	return ended
}

// add appends a record that belongs to an account.
func (b *batch) add(key, value []byte, ms int64, of Account) {
	b.Append(key, value, ms)
	b.octets += len(key) + len(value)
	if last := len(b.shares) - 1; last >= 0 && b.shares[last].of == of {
		b.shares[last].n++
	} else {
		b.shares = append(b.shares, share{of, 1})
	}
}

// each calls f for each record and the account that it belongs to, in order.
func (b *batch) each(f func(key, value []byte, ms int64, of Account)) {
	i, left := 0, 0
	if len(b.shares) > 0 {
		left = b.shares[0].n
	}
	b.Each(func(key, value []byte, ms int64) {
		if left == 0 {
			i++
			left = b.shares[i].n
		}
		left--
		f(key, value, ms, b.shares[i].of)
	})
}

// recycle empties b for its next use. The pool must not keep the account of a closed exporter, nor memory that a
// peak took: the next user of b may be a partition with few records.
func (p *Producer) recycle(b *batch) {
	if most := max(keptBatch, 4*b.Len()); b.Cap()+cap(b.packed) > most {
		return
	}
	clear(b.shares)
	b.Reset()
	b.shares, b.octets, b.out = b.shares[:0], 0, nil
	p.pool.Put(b)
}

// Buffered returns the records that wait for their acknowledgement, and the octets of their keys and values.
func (p *Producer) Buffered() (records, octets int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return int64(p.records), int64(p.octets)
}

// flushPoll is the interval at which Flush looks whether all is acknowledged.
const flushPoll = 2 * time.Millisecond

// Flush sends the held messages without waiting for more, and returns when all is acknowledged or ctx ends. Records
// produced meanwhile prolong it.
func (p *Producer) Flush(ctx context.Context) error {
	p.addFlush(1)
	defer p.addFlush(-1)
	t := time.NewTicker(flushPoll)
	defer t.Stop()
	for {
		if n, _ := p.Buffered(); n == 0 {
			return nil
		}
		signal(p.wake)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
		}
	}
}

func (p *Producer) addFlush(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.flushing += n
}

// Close abandons the held messages: accounts are notified of them with ErrClosed. It may be called more than once.
func (p *Producer) Close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.cancel()
	p.all.Wait()
	p.mu.Lock()
	var left []*batch
	for _, x := range p.parts {
		left = append(left, x.queue...)
		x.queue, x.open = nil, nil
	}
	p.records, p.octets = 0, 0
	p.mu.Unlock()
	for _, b := range left {
		for _, s := range b.shares {
			s.of.Settled(s.n, ErrClosed)
		}
	}
}
