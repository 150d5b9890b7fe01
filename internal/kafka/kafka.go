// Package kafka contains client options, the topics and their settings, the producer of flows, the shared
// template log, readers without a consumer group, and the transactional session that consumes and produces. It
// and internal/kafka/broker are the only packages that import franz-go.
package kafka
