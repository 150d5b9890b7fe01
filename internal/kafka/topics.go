package kafka

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"time"
)

// TopicConfig holds the settings of Weir's topics. The prefix of a topic's name separates two installations on
// one cluster.
type TopicConfig struct {
	Prefix         string        `env:"TOPIC_PREFIX" envDefault:"netflow." help:"prefix of the names of all topics"`
	Mode           string        `env:"TOPIC_MODE" envDefault:"create" help:"create: create missing topics, verify existing ones; verify: verify only; off: neither"`
	Partitions     int32         `env:"TOPIC_PARTITIONS" envDefault:"12" help:"partitions of flows, undecoded, pairing and connections when created; must not be changed later"`
	Replication    int16         `env:"TOPIC_REPLICATION" envDefault:"-1" help:"replicas of a created topic; -1: the broker's default"`
	FlowsRetention time.Duration `env:"TOPIC_FLOWS_RETENTION" envDefault:"24h" help:"retention of the flows topic"`
	ConnRetention  time.Duration `env:"TOPIC_CONNECTIONS_RETENTION" envDefault:"168h" help:"retention of the connections topic"`
}

// A Topic is the name of a topic without the prefix. Names are part of the contract with consumers: they must not
// change.
type Topic string

// Weir's topics.
const (
	Flows       Topic = "flows"
	Templates   Topic = "templates"
	Undecoded   Topic = "undecoded"
	Exporters   Topic = "exporters"
	Pairing     Topic = "pairing"
	Connections Topic = "connections"
)

// Name returns the topic's full name, for example netflow.flows with the default prefix.
func (c *TopicConfig) Name(t Topic) string { return c.Prefix + string(t) }

// The modes of TopicConfig.
const (
	modeCreate = "create"
	modeVerify = "verify"
	modeOff    = "off"
)

// legalPrefix matches the prefixes that Kafka allows. A name has at most 249 characters; the longest Topic takes
// 11 of them.
var legalPrefix = regexp.MustCompile(`^[a-zA-Z0-9._-]{0,238}$`)

// Validate reports all mistakes together, by variable and value.
func (c TopicConfig) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if !legalPrefix.MatchString(c.Prefix) {
		bad("TOPIC_PREFIX=%q: want at most 238 of a-z, A-Z, 0-9, '.', '_' and '-'", c.Prefix)
	}
	switch c.Mode {
	case modeCreate, modeVerify, modeOff:
	default:
		bad("TOPIC_MODE=%q: want create, verify or off", c.Mode)
	}
	if c.Partitions < 1 {
		bad("TOPIC_PARTITIONS=%d: want at least 1", c.Partitions)
	}
	if c.Replication < -1 || c.Replication == 0 {
		bad("TOPIC_REPLICATION=%d: want at least 1, or -1 for the broker's default", c.Replication)
	}
	if c.FlowsRetention < time.Minute {
		bad("TOPIC_FLOWS_RETENTION=%v: want at least 1m", c.FlowsRetention)
	}
	if c.ConnRetention < time.Minute {
		bad("TOPIC_CONNECTIONS_RETENTION=%v: want at least 1m", c.ConnRetention)
	}
	return errors.Join(errs...)
}

// cleanupPolicy is a setting that must match the table: Ensure refuses a topic with another value. Without compaction
// the templates topic would lose definitions that are still in use; with it the flows topic would keep one record of
// each key.
const cleanupPolicy = "cleanup.policy"

// A spec holds the wanted properties of a topic.
type spec struct {
	partitions int32
	configs    map[string]string
	// least holds settings that must be -1 (unlimited) or at least this value: with less, Kafka deletes records
	// that are still needed. Ensure refuses such a topic.
	least map[string]int64
}

// defaultFlowsRetention is the default of TOPIC_FLOWS_RETENTION.
const defaultFlowsRetention = 24 * time.Hour

// keep is Kafka's value for an unlimited retention.
const keep = "-1"

// millis formats a duration in milliseconds, the unit of Kafka's *.ms settings.
func millis(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

// spec returns the wanted properties of a topic. The timestamp of every record is its receive time or the wall
// clock, so retention counts from there; brokers delete by it and refuse timestamps that are more than an hour
// in the future.
func (c *TopicConfig) spec(t Topic) (spec, error) {
	s := spec{partitions: c.Partitions, configs: map[string]string{
		cleanupPolicy:            "delete",
		"message.timestamp.type": "CreateTime",
	}}
	switch t {
	case Flows:
		s.configs["retention.ms"] = millis(c.FlowsRetention)
	case Connections:
		s.configs["retention.ms"] = millis(c.ConnRetention)
	case Undecoded:
		s.configs["retention.ms"] = millis(48 * time.Hour)
	case Exporters:
		s.partitions = 1
		s.configs[cleanupPolicy] = "compact,delete"
		s.configs["retention.ms"] = millis(7 * 24 * time.Hour)
		s.configs["segment.ms"] = millis(time.Hour) // the newest segment is never compacted
	case Pairing:
		// enrich deletes records before its restore point itself. Kafka frees whole segments: small ones hold
		// few old records.
		s.configs["retention.ms"] = keep
		s.configs["retention.bytes"] = keep
		s.configs["segment.bytes"] = strconv.Itoa(16 << 20)
		s.configs["unclean.leader.election.enable"] = "false"
		// Pairing state must be retained at least as long as the flows: a member that was down for less than the
		// retention of the flows needs both to continue. A limit in octets (retention.bytes) does not guarantee that.
		s.least = map[string]int64{
			"retention.ms":    cmp.Or(c.FlowsRetention, defaultFlowsRetention).Milliseconds(),
			"retention.bytes": math.MaxInt64,
		}
	case Templates:
		// One partition gives all replicas the same order, and needs one barrier. Segments are rolled each hour,
		// since the newest is never compacted. Tombstones stay a day, so that a reader that takes less than that
		// sees them.
		s.partitions = 1
		s.configs[cleanupPolicy] = "compact"
		s.configs["min.cleanable.dirty.ratio"] = "0.1"
		s.configs["segment.ms"] = millis(time.Hour)
		s.configs["segment.bytes"] = strconv.Itoa(64 << 20)
		s.configs["max.compaction.lag.ms"] = millis(6 * time.Hour)
		s.configs["delete.retention.ms"] = millis(24 * time.Hour)
		s.configs["max.message.bytes"] = strconv.Itoa(maxTemplateBatch)
		s.configs["unclean.leader.election.enable"] = "false"
	default:
		return spec{}, fmt.Errorf("no topic %q: want flows, templates, undecoded, exporters, pairing or connections",
			string(t))
	}
	return s, nil
}

// maxTemplateBatch is the largest batch on the templates topic, octets.
const maxTemplateBatch = 128 << 10
