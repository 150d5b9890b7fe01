package ingest

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strconv"
	"time"

	"weir/internal/decode"
	"weir/internal/kafka"
	"weir/internal/kafka/framing"
	"weir/internal/settings"
	"weir/internal/transport"
)

// Config holds the settings of ingest.
//
// The tags are the documentation: env and envDefault name the variable and its default, unit its form, and
// help its meaning. docs/configuration.md and ingest -h are generated from them.
// New completes its own copy: 0 in a memory setting, and an empty Replica, become their defaults there. A
// setting that is renamed or removed must be announced in CHANGELOG.md.
type Config struct {
	Listen           []netip.AddrPort `env:"LISTEN_UDP" envDefault:"[::]:2055" unit:"host:port list" help:"UDP addresses to receive on, each for all versions; [::] includes IPv4"`
	Receivers        int              `env:"RECEIVERS" envDefault:"0" unit:"sockets" help:"sockets per address, each read by its own goroutine; 0: a socket per CPU, at most 4"`
	RcvBuf           int              `env:"RCVBUF" envDefault:"8388608" unit:"octets" help:"receive buffer per socket; the kernel may grant less"`
	Streams          transport.StreamConfig
	MetricsListen    string        `env:"METRICS_LISTEN" envDefault:"127.0.0.1:9108" unit:"host:port" help:"address of /metrics, /healthz and /readyz; empty: none"`
	Replica          string        `env:"REPLICA" help:"name of this replica, must be unique among running replicas; default: host name and pid"`
	Drain            time.Duration `env:"DRAIN" envDefault:"5s" help:"after SIGTERM, sockets are read for this time, or until no datagram has arrived for 1 s"`
	Flush            time.Duration `env:"FLUSH" envDefault:"5s" help:"after DRAIN, time to wait for acknowledgements"`
	Linger           time.Duration `env:"PRODUCE_LINGER" envDefault:"50ms" help:"time that a flow waits for further flows of its batch"`
	MaxRecords       int           `env:"PRODUCE_MAX_RECORDS" envDefault:"1048576" unit:"flows" help:"flows buffered while Kafka is unavailable; further flows are dropped and counted"`
	MaxOctets        int           `env:"PRODUCE_MAX_OCTETS" envDefault:"67108864" unit:"octets" help:"octets of flows buffered while Kafka is unavailable; they take about six times as much memory. Further flows are dropped and counted"`
	OutputExtra      int           `env:"OUTPUT_EXTRA" envDefault:"33554432" unit:"octets per second" help:"rate at which flows may be published beyond 12 times the octets received, for all exporters together; small records with long names need it. Further flows are dropped and counted"`
	OutputExtraEach  int           `env:"OUTPUT_EXTRA_PER_EXPORTER" envDefault:"4194304" unit:"octets per second" help:"maximum part of OUTPUT_EXTRA for a single exporter"`
	Form             framing.Config
	Pack             int           `env:"PACK" envDefault:"1" unit:"flows" help:"with FRAMING=delimited: maximum number of flows of a partition in a Kafka record; fewer records cost less CPU"`
	Compression      string        `env:"PRODUCE_COMPRESSION" envDefault:"snappy" unit:"none, snappy, lz4 or zstd" help:"compression of batches of flows"`
	Producer         string        `env:"PRODUCER" envDefault:"kgo" unit:"kgo or batches" help:"what makes the record batches of flows: kgo, the Kafka client, or batches, Weir itself, which produces with less CPU and has one batch of a partition in flight; not with PACK"`
	ParkMax          int           `env:"PARK_MAX_OCTETS" envDefault:"67108864" unit:"octets" help:"data sets buffered in memory until their template arrives; further sets go to the undecoded topic at once"`
	ParkFor          time.Duration `env:"PARK_FOR" envDefault:"1s" help:"time that a data set waits in memory for its template before it moves to the undecoded topic; 0s: it moves at once"`
	MemoryMax        int           `env:"MEMORY_MAX" envDefault:"0" unit:"octets" help:"memory limit of the process. Of PRODUCE_MAX_OCTETS, PARK_MAX_OCTETS, UNDECODED_BURST, TEMPLATES_MAX_OCTETS, TCP_MAX_CONNECTIONS and TCP_MAX_OCTETS, those that are not set are reduced to fit, those that are set must fit; 0: no limit beyond theirs"`
	Templates        TemplatesConfig
	Undecoded        UndecodedConfig
	TrustedProxies   []netip.Prefix `env:"TRUSTED_PROXIES" unit:"CIDR list" help:"load balancers whose PROXY protocol header (version 1 or 2) names the exporter of a datagram; they must be in a private network, since a UDP source address can be forged"`
	ExporterOfRecord bool           `env:"EXPORTER_OF_RECORD" envDefault:"false" help:"use the exporter address in a record (exporterIPv4Address, exporterIPv6Address: IE 130, 131) as the flow's exporter; for mediators that relay records of other exporters"`
	ExportersFile    string         `env:"EXPORTERS_FILE" unit:"path" help:"YAML file of exporters: names, sites, sampling rates, interfaces, allow-list; read again when it changes"`
	TemplatesFile    string         `env:"TEMPLATES_FILE" unit:"path" help:"file of templates, in the output format of weir decode, for exporters whose templates never arrive; read at startup"`
	ElementsFile     string         `env:"ELEMENTS_FILE" unit:"path" help:"TSV file of Information Elements: names and types of elements unknown to Weir, and output fields for them; read at startup"`
	MaxUptimeAge     time.Duration  `env:"UPTIME_MAX_AGE" envDefault:"24h" help:"a flow time given as an uptime (NetFlow v1 to v9, IPFIX IE 21 and 22) that exceeds the header's uptime is from before the clock's last wrap (every 49.7 days); if it is older than this, it is taken as wrong and replaced by the export time"`
	Elements         bool           `env:"ELEMENTS" envDefault:"true" help:"publish Information Elements without a field of their own in the field elements; false drops them, which saves space on the topic"`
	Kafka            kafka.Config   `envPrefix:"KAFKA_"`
	Topics           kafka.TopicConfig
	// Chosen holds the variables that the operator set; nil if the Config was not read from the
	// environment.
	Chosen settings.Chosen `env:"-"`
}

// TemplatesConfig bounds the template store, which forged exporters could fill.
type TemplatesConfig struct {
	Octets      int    `env:"TEMPLATES_MAX_OCTETS" envDefault:"671088640" unit:"octets" help:"memory for template definitions and options facts of all exporters; beyond that, definitions that have not decoded any data are evicted first"`
	PerExporter int    `env:"TEMPLATES_PER_EXPORTER" envDefault:"4096" unit:"definitions" help:"maximum number of template definitions of an exporter, and of its options facts; beyond that its oldest are evicted"`
	Max         int    `env:"TEMPLATES_MAX" envDefault:"1000000" unit:"definitions and facts" help:"maximum number for all exporters; beyond that, the definitions that have decoded the fewest data sets are evicted"`
	Unconfirmed int    `env:"TEMPLATES_MAX_UNCONFIRMED" envDefault:"65536" unit:"definitions" help:"maximum number of definitions with which no replica has decoded data yet, for example forged definitions; beyond that the oldest are evicted"`
	Keys        string `env:"TEMPLATES_KEYS" envDefault:"both" unit:"both or new" help:"kinds of records written to the templates topic: both, or only the new kind, which older versions of ingest cannot read; both kinds are always read"`
}

// HashKeys reports whether definitions are published under both keys.
// While replicas of the earlier version run, both keys are needed
// (docs/decisions/0001-template-key-with-hash.md).
func (c TemplatesConfig) HashKeys() bool { return c.Keys != "new" }

// perExporter returns the octets that the definitions and facts of an exporter may take: an eighth of
// TEMPLATES_MAX_OCTETS, but at least 2 MiB, which holds thousands of ordinary definitions, and at most 32 MiB.
func (c TemplatesConfig) perExporter() int64 {
	return int64(max(min(c.Octets, 2<<20), min(c.Octets/8, 32<<20)))
}

// UndecodedConfig bounds the undecoded topic, on which data sets wait for their template. Anyone can send
// data with forged template IDs, which never gets its template: rate, burst and the limit per exporter
// bound the topic, in addition to its retention.
type UndecodedConfig struct {
	Keep     time.Duration `env:"UNDECODED_KEEP" envDefault:"24h" help:"time that a data set waits on the undecoded topic for its template, while replicas run; then it is dropped and counted"`
	Rate     int           `env:"UNDECODED_RATE" envDefault:"1048576" unit:"octets per second" help:"rate at which this replica may append to the undecoded topic, a protection against forged data; further sets are dropped and counted"`
	Burst    int           `env:"UNDECODED_BURST" envDefault:"67108864" unit:"octets" help:"octets that this replica may append to the undecoded topic at once"`
	Exporter int           `env:"UNDECODED_PER_EXPORTER" envDefault:"16777216" unit:"octets per hour" help:"rate at which this replica may append sets of a single exporter to the undecoded topic"`
}

// Validate returns the mistakes of ingest's own settings, joined. Each error begins with the variable, see
// settings.Validator. It must not depend on the machine, so that a configuration can be checked elsewhere.
// The order of the errors is not fixed.
func (c Config) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	seen := map[netip.AddrPort]bool{}
	for _, a := range c.Listen {
		if seen[a] {
			bad("LISTEN_UDP: %s is listed twice: want each address once", a)
		}
		seen[a] = true
	}
	if c.Receivers < 0 || c.Receivers > 64 {
		bad("RECEIVERS=%d: want 0 to 64", c.Receivers)
	}
	if c.RcvBuf < 0 {
		bad("RCVBUF=%d: want 0 (the kernel's default) or more octets", c.RcvBuf)
	}
	for name, d := range map[string]time.Duration{
		"DRAIN": c.Drain, "FLUSH": c.Flush, "PRODUCE_LINGER": c.Linger, "PARK_FOR": c.ParkFor,
	} {
		if d < 0 || d > time.Minute {
			bad("%s=%v: want 0s to 1m", name, d)
		}
	}
	errs = append(errs, notNegative("0 (the default) or more", map[string]int{
		"PRODUCE_MAX_RECORDS": c.MaxRecords, "PRODUCE_MAX_OCTETS": c.MaxOctets, "PARK_MAX_OCTETS": c.ParkMax,
		"OUTPUT_EXTRA": c.OutputExtra, "OUTPUT_EXTRA_PER_EXPORTER": c.OutputExtraEach,
		"TEMPLATES_MAX_OCTETS": c.Templates.Octets, "TEMPLATES_PER_EXPORTER": c.Templates.PerExporter,
		"TEMPLATES_MAX": c.Templates.Max, "TEMPLATES_MAX_UNCONFIRMED": c.Templates.Unconfirmed,
	})...)
	if a := c.MaxUptimeAge; a != 0 && (a < decode.MinUptimeAge || a > decode.MaxUptimeAge) {
		bad("UPTIME_MAX_AGE=%v: want %v to %v", a, decode.MinUptimeAge, decode.MaxUptimeAge)
	}
	if c.Undecoded.Keep < 0 || c.Undecoded.Keep > maxUndecodedKeep {
		bad("UNDECODED_KEEP=%v: want 0s to %v, less than the retention of the undecoded topic",
			c.Undecoded.Keep, maxUndecodedKeep)
	}
	errs = append(errs, notNegative("0 or more octets", map[string]int{
		"UNDECODED_RATE": c.Undecoded.Rate, "UNDECODED_BURST": c.Undecoded.Burst,
		"UNDECODED_PER_EXPORTER": c.Undecoded.Exporter,
	})...)
	switch c.Templates.Keys {
	case "", "both", "new":
	default:
		bad("TEMPLATES_KEYS=%q: want both (while replicas of an earlier version run) or new", c.Templates.Keys)
	}
	switch {
	case c.Pack < 0 || c.Pack > maxPack:
		bad("PACK=%d: want 1 to %d", c.Pack, maxPack)
	// A record without FRAMING=delimited is a single message: its consumers cannot split it.
	case c.Pack > 1 && !c.Form.Delimited():
		bad("PACK=%d: several flows in a record need FRAMING=delimited", c.Pack)
	}
	switch c.Producer {
	case "", producerKgo:
	case producerBatches:
		if c.Pack > 1 {
			bad("PRODUCER=batches with PACK=%d: want PACK=1: a record per flow costs little with batches", c.Pack)
		}
	default:
		bad("PRODUCER=%q: want kgo or batches", c.Producer)
	}
	switch c.Compression {
	case "", "none", "snappy", "lz4", "zstd":
	default:
		bad("PRODUCE_COMPRESSION=%q: want none, snappy, lz4 or zstd", c.Compression)
	}
	return errors.Join(append(errs, c.validateMemory())...)
}

// notNegative returns an error for each setting below zero.
// want describes the valid values for the message.
func notNegative(want string, settings map[string]int) (errs []error) {
	for name, n := range settings {
		if n < 0 {
			errs = append(errs, fmt.Errorf("%s=%d: want %s", name, n, want))
		}
	}
	return errs
}

// Values of PRODUCER.
const producerKgo, producerBatches = "kgo", "batches"

// maxPack bounds the flows of a record: larger records save nothing more, and a consumer must hold a whole
// record.
const maxPack = 1000

// maxUndecodedKeep must be below the retention of the undecoded topic: Kafka would delete waiting sets.
const maxUndecodedKeep = 47 * time.Hour

// replicaName returns the default name of a replica: host name and pid.
// The pid keeps replicas on a host apart. A fixed REPLICA lets a restarted replica fence its predecessor.
func replicaName() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return host + "-" + strconv.Itoa(os.Getpid())
}

// warnWideProxies warns of trusted networks that cannot be private: a host that forges a source address of
// such a network can name any exporter. The widest private networks are 10.0.0.0/8 (RFC 1918) and fc00::/7
// (RFC 4193).
func warnWideProxies(log *slog.Logger, trusted []netip.Prefix) {
	for _, p := range trusted {
		if p.Addr().Is4() && p.Bits() >= 8 || p.Addr().Is6() && p.Bits() >= 7 {
			continue
		}
		log.Warn("TRUSTED_PROXIES contains a public network: any host in it, or any sender that forges an address in it, "+
			"can send flows as any exporter. List only the load balancers' addresses", "network", p)
	}
}
