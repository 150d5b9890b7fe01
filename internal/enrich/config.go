package enrich

import (
	"errors"
	"fmt"
	"time"

	"weir/internal/annotate"
	"weir/internal/kafka"
	"weir/internal/kafka/framing"
	"weir/internal/pair"
)

// Config holds the settings of enrich. Validate checks enrich's own settings; those of Kafka, Pair and Annotate are
// checked by their packages. The environment names are part of the interface for operators: a renamed setting must be
// announced in CHANGELOG.md. docs/configuration.md is generated from the tags.
type Config struct {
	MetricsListen string        `env:"METRICS_LISTEN" envDefault:"127.0.0.1:9108" unit:"host:port" help:"address of /metrics, /healthz and /readyz; empty: none"`
	Instance      string        `env:"INSTANCE" help:"name of this member, must be unique among running members: part of its transactional id; default: host name and pid"`
	Group         string        `env:"GROUP" envDefault:"enrich" help:"consumer group"`
	CommitRecords int           `env:"COMMIT_RECORDS" envDefault:"20000" unit:"flows" help:"a transaction is committed after this number of flows, or of connections ended by timeouts"`
	CommitEvery   time.Duration `env:"COMMIT_INTERVAL" envDefault:"500ms" help:"a transaction commits after this time"`
	StateLost     string        `env:"STATE_LOST" envDefault:"refuse" unit:"refuse or continue" help:"if the pairing state of a partition is lost (deleted from the pairing topic, or the offset was committed by another program): refuse stops the service, continue starts with empty state, and open connections are reported in parts"`
	StateFormat   int           `env:"STATE_FORMAT" envDefault:"2" unit:"2 or 3" help:"format in which the pairing state is written; both are read. Set 3 only when every member's version reads it, and 2 again before a member of an older version starts"`
	Form          framing.Config
	MetricsSeries int          `env:"METRICS_SERIES" envDefault:"10000" unit:"series" help:"maximum number of series of the traffic metrics; traffic beyond it is counted as other"`
	Kafka         kafka.Config `envPrefix:"KAFKA_"`
	Topics        kafka.TopicConfig
	Pair          pair.Config `envPrefix:"PAIR_"`
	Annotate      annotate.Config
}

// Validate returns all mistakes in enrich's own settings, joined into one error.
func (c Config) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.Group == "" {
		bad("GROUP is empty: want the consumer group's name")
	}
	if c.CommitRecords < 1 {
		bad("COMMIT_RECORDS=%d: want at least 1", c.CommitRecords)
	}
	if c.CommitEvery < time.Millisecond || c.CommitEvery > 10*time.Second {
		bad("COMMIT_INTERVAL=%v: want 1ms to 10s", c.CommitEvery)
	}
	if c.StateLost != "" && c.StateLost != "refuse" && c.StateLost != "continue" {
		bad("STATE_LOST=%q: want refuse or continue", c.StateLost)
	}
	if f := c.StateFormat; f != 0 && (f < pair.FirstFormat || f > pair.LastFormat) {
		bad("STATE_FORMAT=%d: want %d or %d", f, pair.FirstFormat, pair.LastFormat)
	}
	if c.MetricsSeries < 100 {
		bad("METRICS_SERIES=%d: want at least 100", c.MetricsSeries)
	}
	return errors.Join(errs...)
}
