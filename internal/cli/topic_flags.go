package cli

import (
	"errors"
	"fmt"
	"os"
	"time"

	"weir/internal/cli/console"
	"weir/internal/kafka"
	"weir/internal/settings"
)

// kafkaSettings say where the topics are.
type kafkaSettings struct {
	Kafka  kafka.Config `envPrefix:"KAFKA_"`
	Topics kafka.TopicConfig
}

// kafkaFromEnvironment reads them as the services do.
func kafkaFromEnvironment() (kafkaSettings, error) {
	return settings.Parse[kafkaSettings](settings.WithPrefix(os.Environ(), "KAFKA_", "TOPIC_"))
}

// topicFlags say how a topic is read.
type topicFlags struct {
	once, start, interim bool
	since                time.Duration
}

// topicFlagsOf adds them; newest is what --once prints.
func topicFlagsOf(f *console.Flags, newest string) *topicFlags {
	o := &topicFlags{}
	f.BoolVar(&o.once, "once", false, "read what is on the topic now, "+newest+", and end")
	f.BoolVar(&o.start, "from-start", false, "read the topic from its first record on")
	f.DurationVar(&o.since, "since", 0, "read what was published in the last `DURATION` (10m), and go on")
	return o
}

// check says what is wrong with the flags, which are for the topic only.
func (o *topicFlags) check(f *console.Flags, files bool, names ...string) error {
	for _, name := range names {
		if files && f.Given(name) {
			return fmt.Errorf("--%s is for the topic, not for files", name)
		}
	}
	switch {
	case o.start && o.since != 0:
		return errors.New("--from-start and --since: want one of them")
	case o.since < 0:
		return fmt.Errorf("--since %v: want more than 0", o.since)
	}
	return nil
}

// tail is what of the topic is read.
func (o *topicFlags) tail() kafka.Tail {
	t := kafka.Tail{Start: o.start || o.once && o.since == 0, Once: o.once}
	if o.since > 0 {
		t.Since = time.Now().Add(-o.since)
	}
	return t
}
