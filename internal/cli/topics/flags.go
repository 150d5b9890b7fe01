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

// Settings say where the topics are.
type Settings struct {
	Kafka  kafka.Config `envPrefix:"KAFKA_"`
	Topics kafka.TopicConfig
}

// FromEnvironment reads them as the services do.
func FromEnvironment() (Settings, error) {
	return settings.Parse[Settings](settings.WithPrefix(os.Environ(), "KAFKA_", "TOPIC_"))
}

// Flags say how a topic is read.
type Flags struct {
	Once, FromStart, Interim bool
	since                    time.Duration
}

// AddFlags adds them; newest is what --once prints.
func AddFlags(f *console.Flags, newest string) *Flags {
	o := &Flags{}
	f.BoolVar(&o.Once, "once", false, "read what is on the topic now, "+newest+", and end")
	f.BoolVar(&o.FromStart, "from-start", false, "read the topic from its first record on")
	f.DurationVar(&o.since, "since", 0, "read what was published in the last `DURATION` (10m), and go on")
	return o
}

// Check says what is wrong with the flags, which are for the topic only.
func (o *Flags) Check(f *console.Flags, files bool, names ...string) error {
	for _, name := range names {
		if files && f.Given(name) {
			return fmt.Errorf("--%s is for the topic, not for files", name)
		}
	}
	switch {
	case o.FromStart && o.since != 0:
		return errors.New("--from-start and --since: want one of them")
	case o.since < 0:
		return fmt.Errorf("--since %v: want more than 0", o.since)
	}
	return nil
}

// tail is what of the topic is read.
func (o *Flags) tail() kafka.Tail {
	t := kafka.Tail{Start: o.FromStart || o.Once && o.since == 0, Once: o.Once}
	if o.since > 0 {
		t.Since = time.Now().Add(-o.since)
	}
	return t
}
