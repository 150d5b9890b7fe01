// Package kafka is Weir's side of Kafka: client options, the topics and their
// settings, the flow producer, the shared template log and the transactional
// consume-and-produce session. With internal/kafka/broker it alone imports franz-go.
package kafka
