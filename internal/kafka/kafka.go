// Package kafka is Weir's side of Kafka: client options, the topics and their
// settings, the flow producer, the shared template log and the transactional
// consume-and-produce session. With internal/broker it alone imports franz-go.
package kafka

import (
	"context"
	"time"
)

// TopicConfig is what the topics are called and how they are made.
type TopicConfig struct {
	Prefix         string        `env:"TOPIC_PREFIX" envDefault:"netflow." help:"what the names of all topics begin with"`
	Mode           string        `env:"TOPIC_MODE" envDefault:"create" help:"create: create missing topics, verify existing ones; verify: verify only; off: neither"`
	Partitions     int32         `env:"TOPIC_PARTITIONS" envDefault:"12" help:"partitions of flows, undecoded, pairing and connections when created; fixed for life"`
	Replication    int16         `env:"TOPIC_REPLICATION" envDefault:"-1" help:"replicas of a created topic; -1: the broker's default"`
	FlowsRetention time.Duration `env:"TOPIC_FLOWS_RETENTION" envDefault:"24h" help:"how long flows are kept"`
	ConnRetention  time.Duration `env:"TOPIC_CONNECTIONS_RETENTION" envDefault:"168h" help:"how long connections are kept"`
}

// A Topic is one of Weir's topics, by its name without prefix.
type Topic string

// The topics.
const (
	Flows       Topic = "flows"
	Templates   Topic = "templates"
	Undecoded   Topic = "undecoded"
	Exporters   Topic = "exporters"
	Pairing     Topic = "pairing"
	Connections Topic = "connections"
)

// Name returns the topic's full name.
func (c *TopicConfig) Name(t Topic) string { return c.Prefix + string(t) }

// Ensure creates what is missing of topics and verifies what exists, by
// tc.Mode. It waits for Kafka with backoff until ctx ends, telling status (may
// be nil) why it waits. A mismatch is an error that names the topic, what is and
// what should be.
func Ensure(ctx context.Context, c Config, tc TopicConfig, status func(error), topics ...Topic) error {
	panic("stub")
}

// A Producer publishes records without ever making its caller wait.
type Producer struct{}

// ProducerConfig bounds what a Producer holds while Kafka is away.
type ProducerConfig struct {
	Linger      time.Duration // wait for a batch to fill
	MaxRecords  int
	MaxOctets   int
	Compression string // none, snappy, lz4, zstd
}

// NewProducer returns a Producer to topic (full name).
func NewProducer(c Config, topic string, pc ProducerConfig) (*Producer, error) { panic("stub") }

// Produce hands over one record; key and value stay untouched until done is
// called. done is called exactly once, from another goroutine and never
// waiting: nil when acknowledged, else why not (ErrBufferFull at the limit).
func (p *Producer) Produce(key, value []byte, at time.Time, done func(error)) { panic("stub") }

// Buffered is what waits to be acknowledged.
func (p *Producer) Buffered() (records, octets int64) { panic("stub") }

// Flush waits until everything is acknowledged or ctx ends.
func (p *Producer) Flush(ctx context.Context) error { panic("stub") }

// Close gives up on what is buffered (done gets an error) and ends.
func (p *Producer) Close() { panic("stub") }

// A TemplateLog is the compacted topic of exporter state: published by and
// tailed by every replica.
type TemplateLog struct{}

// NewTemplateLog returns the log on topic (full name) for replica (its name).
func NewTemplateLog(c Config, topic, replica string) (*TemplateLog, error) { panic("stub") }

// Run reads the topic from its start and hands every record to apply (value nil:
// tombstone; key as internal/templates defines it) until ctx ends. It survives
// Kafka's absence. The barrier of this replica is written and looked for.
func (l *TemplateLog) Run(ctx context.Context, apply func(key, value []byte)) error { panic("stub") }

// Ready returns nil once the barrier has come back: all that was on the topic
// before is applied. Else the reason.
func (l *TemplateLog) Ready() error { panic("stub") }

// Publish writes one record; done is called exactly once with the outcome.
func (l *TemplateLog) Publish(key, value []byte, done func(error)) { panic("stub") }
