package kafka

import (
	"encoding/binary"

	"github.com/twmb/franz-go/pkg/kgo"
)

// partitionOf returns the partition of a key in a topic of n partitions, as Kafka's Java client computes it:
// murmur2 of the key without its sign bit, modulo n.
func partitionOf(key []byte, n int) int32 { return int32(int(murmur2(key)&0x7fffffff) % n) }

// murmur2 is the hash of org.apache.kafka.common.utils.Utils.murmur2.
func murmur2(b []byte) uint32 {
	const m = 0x5bd1e995
	h := 0x9747b28c ^ uint32(len(b))
	for len(b) >= 4 {
		k := binary.LittleEndian.Uint32(b) * m
		h = h*m ^ (k^k>>24)*m
		b = b[4:]
	}
	switch len(b) {
	case 3:
		h ^= uint32(b[2]) << 16
		fallthrough
	case 2:
		h ^= uint32(b[1]) << 8
		fallthrough
	case 1:
		h = (h ^ uint32(b[0])) * m
	}
	h = (h ^ h>>13) * m
	return h ^ h>>15
}

// keylessTurn is the number of records without key that go to the same partition in a row, unless their
// partition was chosen before: they share a batch.
const keylessTurn = 512

// placing is the partitioner of a Producer. A record whose partition was chosen for the present number of
// partitions goes there; any other goes by its key. It notes the number of partitions, which Arena and Packer
// need. It has no method OnNewBatch, with which the client would hold the lock of the topic while it buffers a
// record.
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
		return int(partitionOf(r.Key, n))
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
