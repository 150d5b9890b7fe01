// Package sink defines where consumed messages are stored together with their Kafka offsets, and feeds a sink from
// a topic.
package sink

import (
	"context"
	"errors"
	"time"
)

// ErrFull reports that the file system has no room for a write. Trim may make room.
var ErrFull = errors.New("no room on the disk")

// Options configure a Sink.
type Options struct {
	Path  string
	Rows  string // kind of messages: flows or connections
	Topic string // full name, with the prefix

	Keep    time.Duration // age at which rows are deleted, by record time; 0: never
	MaxSize int64         // size of the topic's rows and indexes in octets; 0: unlimited
}

// A Record is a record of the topic.
type Record struct {
	Partition int32
	Offset    int64
	Epoch     int32 // leader epoch; -1: none
	Time      time.Time
	Messages  [][]byte // encoded protobuf messages
}

// A Topic describes the state of a topic in Kafka.
type Topic struct {
	ID    string          // topic id; it changes when the topic is deleted and recreated
	First map[int32]int64 // first available offset, by partition
	End   map[int32]int64 // offset after the last record, by partition
	// EpochEnds is the offset after the last record that Kafka holds of the leader epochs of Sink.Epochs, by
	// partition. A partition is absent when its leader did not answer.
	EpochEnds map[int32]int64
}

// A Beginning is the position from which a topic must be read.
type Beginning struct {
	From   map[int32]int64 // next offset to read, by partition
	Missed int64           // records deleted from Kafka before they were read
	Lost   int64           // stored records that Kafka lost
	Anew   bool            // the topic was recreated under the same name
}

// A Sink stores the messages of one topic. It must not be used concurrently. The caller must call Close.
type Sink interface {
	// Epochs returns the leader epoch of the last stored record of each partition. Partitions without a known
	// epoch are absent.
	Epochs(ctx context.Context) (map[int32]int32, error)
	// Begin returns the position from which the topic must be read. It must be called before Write, and again
	// after the topic changed.
	Begin(ctx context.Context, topic Topic) (Beginning, error)
	// Write stores records and their offsets in one transaction. bad is the number of messages that are not of the
	// kind of the topic. On a full disk it stores nothing and returns ErrFull; it may be called again.
	Write(ctx context.Context, records []Record) (rows, bad int, err error)
	// Trim deletes rows of the topic beyond the limits of age and size, and returns their number.
	Trim(ctx context.Context, now time.Time) (deleted int64, err error)
	Close() error
}
