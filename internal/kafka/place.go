package kafka

import (
	"github.com/twmb/franz-go/pkg/kgo"

	"weir/internal/kafka/recordbatch"
)

// keylessTurn is the number of records without key that go to the same partition in a row, unless their
// partition was chosen before: they share a batch.
const keylessTurn = 512

// placing is the partitioner of a Producer. A record keeps the partition that was chosen for the present number of
// partitions. Otherwise its key determines the partition; without a key, an earlier choice is taken modulo the number
// of partitions, and records without a choice fill one partition after another (keylessTurn). place stores the number
// of partitions for Arena and Packer. It must not implement OnNewBatch: the client would then hold the lock of the
// topic while it buffers a record.
type placing struct{ p *Producer }

// ForTopic implements kgo.Partitioner.
func (q placing) ForTopic(string) kgo.TopicPartitioner { return &place{p: q.p} }

// A place is the partitioner of a topic.
type place struct {
	p       *Producer
	keyless int // records without key so far
}

// RequiresConsistency implements kgo.TopicPartitioner.
func (*place) RequiresConsistency(r *kgo.Record) bool { return len(r.Key) > 0 || placedAmong(r) != 0 }

// Partition implements kgo.TopicPartitioner.
func (q *place) Partition(r *kgo.Record, n int) int {
	among := placedAmong(r)
	if len(r.Key) == 0 && among == 0 { // n counts the partitions that have a leader
		q.keyless++
		return q.keyless / keylessTurn % n
	}
	if int(q.p.partitions.Load()) != n { // n counts all partitions
		q.p.partitions.Store(int32(n)) // a topic has few partitions
	}
	switch {
	case among == int32(n):
		return int(r.Partition)
	case len(r.Key) > 0:
		return int(recordbatch.Partition(r.Key, n))
	}
	return int(r.Partition) % n
}

// placedAmong returns the number of partitions among which the partition of r was chosen: -1 for a record of a
// Packer, which does not say, and 0 if none was chosen.
func placedAmong(r *kgo.Record) int32 {
	switch d := r.Context.(type) {
	case *run:
		return d.slab.partitions
	case *pending:
		if d.packed {
			return -1
		}
	}
	return 0
}
