// Package sink defines where a topic's messages are kept together with their offsets, and feeds it.
package sink

import (
	"context"
	"time"
)

// Options are what a Sink is opened with.
type Options struct {
	Path  string
	Rows  string // what the messages are: flows or connections
	Topic string // full name

	Keep    time.Duration // rows, since their records' time; 0: for ever
	MaxSize int64         // of the file, octets; 0: any
}

// A Record is one of the topic's.
type Record struct {
	Partition int32
	Offset    int64
	Epoch     int32 // leader epoch; -1: none
	Time      time.Time
	Messages  [][]byte // protobuf
}

// A Topic is what Kafka has of a topic.
type Topic struct {
	ID    string          // another one once the topic was deleted and made again
	First map[int32]int64 // the first offset that is there, by partition
	End   map[int32]int64 // the offset after the last one, by partition
	// EpochEnds is the offset after the last record that Kafka holds of the epochs that
	// Sink.Epochs returned, by partition. A partition whose leader did not say is missing.
	EpochEnds map[int32]int64
}

// A Beginning is where a topic is to be read from.
type Beginning struct {
	From   map[int32]int64 // the next offset, by partition
	Missed int64           // records that the topic lost before they were read
	Lost   int64           // records that the topic lost after they were kept
	Anew   bool            // it is another topic of the same name
}

// A Sink keeps the messages of one topic. It is for one goroutine.
type Sink interface {
	// Epochs returns the leader epoch of the last record that is kept of each partition,
	// where it is known.
	Epochs(ctx context.Context) (map[int32]int32, error)
	// Begin returns where the topic is to be read from. It must come before Write, and
	// again when the topic changed.
	Begin(ctx context.Context, topic Topic) (Beginning, error)
	// Write keeps records and their offsets, all or none. bad are messages that are
	// none of the topic's.
	Write(ctx context.Context, records []Record) (rows, bad int, err error)
	// Trim deletes what is too old or too much, and returns how many rows.
	Trim(ctx context.Context, now time.Time) (deleted int64, err error)
	Close() error
}
