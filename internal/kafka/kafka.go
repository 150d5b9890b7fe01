// Package kafka contains client options, the topics and their settings, the producer of flows, the shared
// template log, readers without a consumer group, and the transactional session that consumes and produces. It
// and internal/kafka/broker are the only packages that import franz-go.
//
// Terms of Kafka in this package:
//
//   - A topic has partitions; each is a log of records, numbered by offsets without a guarantee that every number
//     occurs: compaction, aborted transactions and control records leave gaps.
//   - A topic id (KIP-516) distinguishes a topic from one of the same name that was deleted before. Offsets,
//     committed positions and producer state are void in the new topic.
//   - A leader epoch (KIP-320) counts the leaders of a partition. With it a reader notices that a log was cut below
//     its position and has grown again.
//   - Reading at read_committed ends at the last stable offset: before the first record of an open transaction.
//   - A group distributes partitions among members; each distribution is a generation. Brokers refuse commits of a
//     generation that has ended.
//
// Each kind of client has a role, which is part of its client id in the brokers' logs and in the metrics (withRole).
//
// A lock of this package must not be held during a call of a kgo.Client: most calls wait for the client's own
// goroutines, and those may wait in a callback for the lock.
package kafka
