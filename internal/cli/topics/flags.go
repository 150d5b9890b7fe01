// Package topics reads and prints the topics for an operator: flows, connections, exporters and templates. It also
// changes shared templates and feeds the page of weir up.
package topics

import (
	"errors"
	"fmt"
	"os"
	"time"

	"weir/internal/cli/console"
	"weir/internal/kafka"
	"weir/internal/settings"
)

// Settings holds the connection to Kafka and the names of the topics.
type Settings struct {
	Kafka  kafka.Config `envPrefix:"KAFKA_"`
	Topics kafka.TopicConfig
}

// FromEnvironment reads KAFKA_* and TOPIC_* from the environment as the services do. The error names each wrong
// variable on its own line.
func FromEnvironment() (Settings, error) {
	return settings.Parse[Settings](settings.WithPrefix(os.Environ(), "KAFKA_", "TOPIC_"))
}

// Flags are the flags that select the part of a topic to read.
type Flags struct {
	Once      bool // stop at the end offsets of the topic at the start of the reading
	FromStart bool // start with the first record of the topic
	Interim   bool // print reports of open connections too; AddFlags adds no flag for it
	since     time.Duration
}

// AddFlags adds --once, --from-start and --since. newest describes the output of --once in the help text.
func AddFlags(f *console.Flags, newest string) *Flags {
	o := &Flags{}
	f.BoolVar(&o.Once, "once", false, "read the topic to its present end, "+newest+", and exit")
	f.BoolVar(&o.FromStart, "from-start", false, "read the topic from its first record on")
	f.DurationVar(&o.since, "since", 0, "begin with the messages of the last `DURATION` (10m), and follow the topic")
	return o
}

// Check returns an error when the flags contradict each other. When files are read, it also returns an error when
// any of the flags in names was given, since they apply to the topic only.
func (o *Flags) Check(f *console.Flags, files bool, names ...string) error {
	for _, name := range names {
		if files && f.IsSet(name) {
			return fmt.Errorf("--%s is for the topic, not for files", name)
		}
	}
	switch {
	case o.FromStart && o.since != 0:
		return errors.New("--from-start and --since: want only one of these")
	case o.since < 0:
		return fmt.Errorf("--since %v: want more than 0", o.since)
	}
	return nil
}

// tail returns the part of the topic to read.
func (o *Flags) tail() kafka.Tail {
	t := kafka.Tail{Start: o.FromStart || o.Once && o.since == 0, Once: o.Once}
	if o.since > 0 {
		t.Since = time.Now().Add(-o.since)
	}
	return t
}
