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
type Config struct {
	Listen           []netip.AddrPort `env:"LISTEN_UDP" envDefault:"[::]:2055" unit:"host:port list" help:"UDP addresses to receive on, all versions on each; [::] takes IPv4 too"`
	Receivers        int              `env:"RECEIVERS" envDefault:"0" unit:"sockets" help:"sockets per address, each with a goroutine of its own; 0: a socket per CPU, at most 4"`
	RcvBuf           int              `env:"RCVBUF" envDefault:"8388608" unit:"octets" help:"receive buffer per socket; the kernel may grant less"`
	Streams          transport.StreamConfig
	MetricsListen    string        `env:"METRICS_LISTEN" envDefault:"127.0.0.1:9108" unit:"host:port" help:"address of /metrics, /healthz and /readyz; empty: none"`
	Replica          string        `env:"REPLICA" help:"name of this replica, unique among those that run; default: host name and pid"`
	Drain            time.Duration `env:"DRAIN" envDefault:"5s" help:"how long reading goes on after SIGTERM, unless nothing comes for 1 s"`
	Flush            time.Duration `env:"FLUSH" envDefault:"5s" help:"how long SIGTERM waits for Kafka after that"`
	Linger           time.Duration `env:"PRODUCE_LINGER" envDefault:"10ms" help:"how long a flow waits for others to share its batch"`
	MaxRecords       int           `env:"PRODUCE_MAX_RECORDS" envDefault:"1048576" unit:"flows" help:"flows held while Kafka is away; more are dropped and counted"`
	MaxOctets        int           `env:"PRODUCE_MAX_OCTETS" envDefault:"67108864" unit:"octets" help:"octets of flows held while Kafka is away, memory is about six times that; more are dropped and counted"`
	OutputExtra      int           `env:"OUTPUT_EXTRA" envDefault:"33554432" unit:"octets per second" help:"output of flows of all exporters, on the flows topic, beyond 12 times the octets received, as datagrams of small records and long names cause; more flows are dropped and counted"`
	OutputExtraEach  int           `env:"OUTPUT_EXTRA_PER_EXPORTER" envDefault:"4194304" unit:"octets per second" help:"of OUTPUT_EXTRA, the output of flows of an exporter"`
	Form             framing.Config
	Pack             int           `env:"PACK" envDefault:"1" unit:"flows" help:"with FRAMING=delimited: up to so many flows of one partition in a record: most of what producing costs is per record"`
	Compression      string        `env:"PRODUCE_COMPRESSION" envDefault:"snappy" unit:"none, snappy, lz4 or zstd" help:"compression of batches of flows"`
	ParkMax          int           `env:"PARK_MAX_OCTETS" envDefault:"67108864" unit:"octets" help:"data sets held in memory until their template comes; more go to the undecoded topic at once"`
	ParkFor          time.Duration `env:"PARK_FOR" envDefault:"1s" help:"how long a data set waits in memory for its template; then it waits on the undecoded topic; 0s: there at once"`
	MemoryMax        int           `env:"MEMORY_MAX" envDefault:"0" unit:"octets" help:"memory that the process may take; those of PRODUCE_MAX_OCTETS, PARK_MAX_OCTETS, UNDECODED_BURST, TEMPLATES_MAX_OCTETS, TCP_MAX_CONNECTIONS and TCP_MAX_OCTETS that are not set are made to fit into it, those that are set must; 0: as much as they come to"`
	Templates        TemplatesConfig
	Undecoded        UndecodedConfig
	TrustedProxies   []netip.Prefix `env:"TRUSTED_PROXIES" unit:"CIDR list" help:"balancers whose PROXY protocol header (version 1 or 2) in front of datagrams is believed; their network has to be private, a UDP source can be forged"`
	ExporterOfRecord bool           `env:"EXPORTER_OF_RECORD" envDefault:"false" help:"take the exporter that a record names (exporterIPv4Address, exporterIPv6Address: IE 130, 131) for the flow's, for mediators that relay others' records"`
	ExportersFile    string         `env:"EXPORTERS_FILE" unit:"path" help:"YAML file of exporters: names, sites, sampling rates, interfaces, who is allowed; read again when it changes"`
	TemplatesFile    string         `env:"TEMPLATES_FILE" unit:"path" help:"file of templates, in the form that weir decode prints, for exporters whose templates never arrive; read at the start"`
	ElementsFile     string         `env:"ELEMENTS_FILE" unit:"path" help:"TSV file of Information Elements: names and types of those that Weir does not know, and fields of your own for them; read at the start"`
	MaxUptimeAge     time.Duration  `env:"UPTIME_MAX_AGE" envDefault:"24h" help:"flow times that are uptimes (NetFlow v1 to v9, IPFIX 21 and 22) after the header's are of before the clock wrapped, 49.7 days; those older than this are taken as wrong, and the flow has its export time"`
	Elements         bool           `env:"ELEMENTS" envDefault:"true" help:"write what has no field of its own into elements; false saves space on the topic and loses it"`
	Kafka            kafka.Config   `envPrefix:"KAFKA_"`
	Topics           kafka.TopicConfig
	// Chosen holds the variables that the operator set; nil if the Config was not read from the
	// environment.
	Chosen settings.Chosen `env:"-"`
}

// TemplatesConfig bounds the template store, which forged exporters could fill.
type TemplatesConfig struct {
	Octets      int    `env:"TEMPLATES_MAX_OCTETS" envDefault:"671088640" unit:"octets" help:"memory for the template definitions and facts of all exporters; beyond that, definitions with which no data was decoded are evicted first"`
	PerExporter int    `env:"TEMPLATES_PER_EXPORTER" envDefault:"4096" unit:"definitions" help:"template definitions kept of an exporter, and as many facts of options data; beyond that its oldest are evicted"`
	Max         int    `env:"TEMPLATES_MAX" envDefault:"1000000" unit:"definitions and facts" help:"kept of all exporters; beyond that, definitions with which the fewest data sets were decoded are evicted"`
	Unconfirmed int    `env:"TEMPLATES_MAX_UNCONFIRMED" envDefault:"65536" unit:"definitions" help:"kept definitions with which no replica has decoded data yet, for example forged definitions; beyond that the oldest are evicted"`
	Keys        string `env:"TEMPLATES_KEYS" envDefault:"both" unit:"both or new" help:"records of the templates topic that are written: both kinds, or the new kind alone, which ingest of the versions before cannot read; both are always read"`
}

// HashKeys reports whether definitions are published under both keys.
func (c TemplatesConfig) HashKeys() bool { return c.Keys != "new" }

// perExporter returns the octets that the definitions and facts of an exporter may take: an eighth of
// TEMPLATES_MAX_OCTETS, but at least 2 MiB, which holds thousands of ordinary definitions, and at most 32 MiB.
func (c TemplatesConfig) perExporter() int64 {
	return int64(max(min(c.Octets, 2<<20), min(c.Octets/8, 32<<20)))
}

// UndecodedConfig bounds the undecoded topic, on which data sets wait for their template.
type UndecodedConfig struct {
	Keep     time.Duration `env:"UNDECODED_KEEP" envDefault:"24h" help:"how long a data set waits on the undecoded topic for its template, while replicas run; then it is dropped and counted"`
	Rate     int           `env:"UNDECODED_RATE" envDefault:"1048576" unit:"octets per second" help:"rate at which this replica may append to the undecoded topic, so that forged data cannot fill it; more is dropped and counted"`
	Burst    int           `env:"UNDECODED_BURST" envDefault:"67108864" unit:"octets" help:"octets that this replica may append at once"`
	Exporter int           `env:"UNDECODED_PER_EXPORTER" envDefault:"16777216" unit:"octets per hour" help:"octets that this replica may append of an exporter"`
}

// Validate returns the mistakes of ingest's own settings, joined.
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
		bad("UNDECODED_KEEP=%v: want 0s to %v, the topic keeps no longer", c.Undecoded.Keep, maxUndecodedKeep)
	}
	errs = append(errs, notNegative("0 or more octets", map[string]int{
		"UNDECODED_RATE": c.Undecoded.Rate, "UNDECODED_BURST": c.Undecoded.Burst,
		"UNDECODED_PER_EXPORTER": c.Undecoded.Exporter,
	})...)
	switch c.Templates.Keys {
	case "", "both", "new":
	default:
		bad("TEMPLATES_KEYS=%q: want both (while ingests of the version before run) or new", c.Templates.Keys)
	}
	switch {
	case c.Pack < 0 || c.Pack > maxPack:
		bad("PACK=%d: want 1 to %d", c.Pack, maxPack)
	case c.Pack > 1 && !c.Form.Delimited():
		bad("PACK=%d: several flows in a record need FRAMING=delimited", c.Pack)
	}
	switch c.Compression {
	case "", "none", "snappy", "lz4", "zstd":
	default:
		bad("PRODUCE_COMPRESSION=%q: want none, snappy, lz4 or zstd", c.Compression)
	}
	return errors.Join(append(errs, c.validateMemory())...)
}

// notNegative returns an error for each setting below zero.
func notNegative(want string, settings map[string]int) (errs []error) {
	for name, n := range settings {
		if n < 0 {
			errs = append(errs, fmt.Errorf("%s=%d: want %s", name, n, want))
		}
	}
	return errs
}

// maxPack bounds the flows of a record: larger records save nothing more, and a consumer must hold a whole
// record.
const maxPack = 1000

// maxUndecodedKeep must be below the retention of the undecoded topic: Kafka would delete waiting sets.
const maxUndecodedKeep = 47 * time.Hour

// replicaName returns the default name of a replica: host name and pid.
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
