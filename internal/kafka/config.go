package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/oauth"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
	"golang.org/x/time/rate"
)

// Config holds the settings of connections to Kafka. The environment names have the prefix KAFKA_. A Config may be
// copied; it must not be modified once a client was made from it.
type Config struct {
	Brokers        []string      `env:"BROKERS,required" unit:"host:port list" help:"brokers to start from, comma separated"`
	ClientID       string        `env:"CLIENT_ID" envDefault:"weir" help:"client id shown in the brokers' logs"`
	SessionTimeout time.Duration `env:"SESSION_TIMEOUT" envDefault:"15s" help:"a consumer silent for this long loses its partitions"`

	TLS           bool   `env:"TLS" envDefault:"false" help:"encrypt connections to the brokers"`
	TLSCAFile     string `env:"TLS_CA_FILE" unit:"path" help:"PEM file of the CAs that must have signed the brokers' certificates; default: the system's CAs"`
	TLSCertFile   string `env:"TLS_CERT_FILE" unit:"path" help:"PEM client certificate; read again for each connection"`
	TLSKeyFile    string `env:"TLS_KEY_FILE" unit:"path" help:"PEM key of KAFKA_TLS_CERT_FILE"`
	TLSServerName string `env:"TLS_SERVER_NAME" help:"name expected in the brokers' certificates; default: the host of the broker's address"`

	SASLMechanism      string `env:"SASL_MECHANISM" help:"plain, scram-sha-256, scram-sha-512 or oauthbearer; empty: none"`
	SASLUsername       string `env:"SASL_USERNAME" help:"user of the SASL mechanism"`
	SASLPasswordFile   string `env:"SASL_PASSWORD_FILE" unit:"path" help:"file with the password; read again for each connection"`
	SASLTokenFile      string `env:"SASL_TOKEN_FILE" unit:"path" help:"file with the token of oauthbearer; read again for each connection and each reauthentication"`
	SASLPlaintextAllow bool   `env:"SASL_ALLOW_PLAINTEXT" envDefault:"false" help:"allow SASL plain and oauthbearer to send the password or token without TLS"`

	// Metrics, when set, receives the clients' own metrics (weir_kafka_*), with one value of the label client_id
	// for each client.
	Metrics prometheus.Registerer `env:"-"`
	// Log, when set, receives the clients' warnings and errors.
	Log *slog.Logger `env:"-"`
	// Dial, when set, opens every client's connections to the brokers, below TLS. nil selects a net.Dialer. It
	// must return when ctx ends. Tests set it to reach brokers on a virtual network.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error) `env:"-"`
}

// Validate reports all mistakes together, by variable and value. It reads the files that the settings name.
func (c Config) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if len(c.Brokers) == 0 {
		bad("KAFKA_BROKERS is empty: want host:port, comma separated")
	}
	for _, b := range c.Brokers {
		host, port, err := net.SplitHostPort(b)
		n, perr := strconv.Atoi(port)
		if err != nil || perr != nil || host == "" || strings.Contains(b, "/") || n < 1 || n > 65535 {
			bad("KAFKA_BROKERS: %q is not host:port with a port from 1 to 65535 (for example kafka:9092)", b)
		}
	}
	if c.SessionTimeout < time.Second || c.SessionTimeout > 30*time.Minute {
		bad("KAFKA_SESSION_TIMEOUT=%v: want 1s to 30m (brokers refuse less than 6s unless set otherwise)", c.SessionTimeout)
	}
	errs = append(errs, c.validateTLS()...)
	errs = append(errs, c.validateSASL()...)
	return errors.Join(errs...)
}

// validateSASL reports the mistakes in the settings of SASL. A mechanism that sends its secret in clear text (plain,
// oauthbearer) requires TLS or the operator's consent. SCRAM (RFC 5802) does not send the password.
func (c *Config) validateSASL() (errs []error) {
	switch strings.ToLower(c.SASLMechanism) {
	case "", "none":
		if c.SASLUsername != "" || c.SASLPasswordFile != "" || c.SASLTokenFile != "" {
			errs = append(errs, errors.New("KAFKA_SASL_USERNAME, KAFKA_SASL_PASSWORD_FILE or KAFKA_SASL_TOKEN_FILE is set, "+
				"KAFKA_SASL_MECHANISM is not: want "+mechanisms))
		}
		return errs
	case "oauthbearer":
		if !c.TLS && !c.SASLPlaintextAllow {
			errs = append(errs, errors.New("KAFKA_SASL_MECHANISM=oauthbearer without TLS shows the token on the network: "+
				"set KAFKA_TLS=true, or KAFKA_SASL_ALLOW_PLAINTEXT=true if that is meant"))
		}
		if c.SASLUsername != "" || c.SASLPasswordFile != "" {
			errs = append(errs, errors.New("KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD_FILE have no effect with "+
				"KAFKA_SASL_MECHANISM=oauthbearer: the token identifies the user"))
		}
		if c.SASLTokenFile == "" {
			return append(errs, errors.New("KAFKA_SASL_TOKEN_FILE is empty: "+
				"KAFKA_SASL_MECHANISM=oauthbearer needs the path of a file with the token"))
		}
		if _, err := secret("KAFKA_SASL_TOKEN_FILE", c.SASLTokenFile, "token"); err != nil {
			errs = append(errs, err)
		}
		return errs
	case "plain":
		if !c.TLS && !c.SASLPlaintextAllow {
			errs = append(errs, errors.New("KAFKA_SASL_MECHANISM=plain without TLS shows the password on the network: "+
				"set KAFKA_TLS=true, or KAFKA_SASL_ALLOW_PLAINTEXT=true if that is meant"))
		}
	case "scram-sha-256", "scram-sha-512":
	default:
		errs = append(errs, fmt.Errorf("KAFKA_SASL_MECHANISM=%q: want %s", c.SASLMechanism, mechanisms))
	}
	if c.SASLTokenFile != "" {
		errs = append(errs, fmt.Errorf("KAFKA_SASL_TOKEN_FILE has no effect with KAFKA_SASL_MECHANISM=%s: "+
			"want KAFKA_SASL_PASSWORD_FILE", c.SASLMechanism))
	}
	if c.SASLUsername == "" {
		errs = append(errs, fmt.Errorf("KAFKA_SASL_USERNAME is empty: KAFKA_SASL_MECHANISM=%s needs a user name",
			c.SASLMechanism))
	}
	if c.SASLPasswordFile == "" {
		errs = append(errs, fmt.Errorf("KAFKA_SASL_PASSWORD_FILE is empty: "+
			"KAFKA_SASL_MECHANISM=%s needs the path of a file with the password", c.SASLMechanism))
	} else if _, err := secret("KAFKA_SASL_PASSWORD_FILE", c.SASLPasswordFile, "password"); err != nil {
		errs = append(errs, err)
	}
	return errs
}

// secret reads the file that a variable names. It removes line ends at the end of the text.
func secret(variable, path, what string) (string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("%s: %w", variable, err)
	}
	s := strings.TrimRight(string(b), "\r\n")
	if s == "" {
		return "", fmt.Errorf("%s: %s is empty: want the %s", variable, path, what)
	}
	return s, nil
}

// mechanisms names the SASL mechanisms in error messages.
const mechanisms = "plain, scram-sha-256, scram-sha-512 or oauthbearer"

// mechanism returns the SASL mechanism, or nil for none. The file with the password or token is read for each
// connection, so that it can be changed without a restart. Before a token expires the client authenticates again on the
// same connection (KIP-368), for which it reads the file too.
func (c *Config) mechanism() sasl.Mechanism {
	auth := func(context.Context) (user, password string, err error) {
		password, err = secret("KAFKA_SASL_PASSWORD_FILE", c.SASLPasswordFile, "password")
		return c.SASLUsername, password, err
	}
	scramAuth := func(ctx context.Context) (scram.Auth, error) {
		u, p, err := auth(ctx)
		return scram.Auth{User: u, Pass: p}, err
	}
	switch strings.ToLower(c.SASLMechanism) {
	case "plain":
		return plain.Plain(func(ctx context.Context) (plain.Auth, error) {
			u, p, err := auth(ctx)
			return plain.Auth{User: u, Pass: p}, err
		})
	case "scram-sha-256":
		return scram.Sha256(scramAuth)
	case "scram-sha-512":
		return scram.Sha512(scramAuth)
	case "oauthbearer":
		return oauth.Oauth(func(context.Context) (oauth.Auth, error) {
			token, err := secret("KAFKA_SASL_TOKEN_FILE", c.SASLTokenFile, "token")
			return oauth.Auth{Token: token}, err
		})
	default:
		return nil
	}
}

// withRole returns a copy for the client with this role. The role is part of the client id, which distinguishes
// the clients of one process in the brokers' logs and in the metrics. Quotas of brokers may be set by client id: for
// example weir-templates for the template log of a replica with the default KAFKA_CLIENT_ID.
func (c *Config) withRole(role string) *Config {
	d := *c
	if d.ClientID == "" {
		d.ClientID = "weir"
	}
	d.ClientID += "-" + role
	return &d
}

// opts returns the options that every client needs to reach Kafka. The clients keep c: the caller must not
// modify it. Without further options a client repeats requests without a limit: a caller that must give up sets
// kgo.RetryTimeout or passes a context with a deadline.
func (c *Config) opts() []kgo.Opt {
	o := []kgo.Opt{
		kgo.SeedBrokers(c.Brokers...),
		kgo.SoftwareNameAndVersion("weir", "1"),
		kgo.RetryBackoffFn(backoff),
		kgo.MetadataMinAge(metadataMinAge),
	}
	if c.ClientID != "" {
		o = append(o, kgo.ClientID(c.ClientID))
	}
	if c.TLS || c.Dial != nil {
		o = append(o, kgo.Dialer(c.dial))
	}
	if m := c.mechanism(); m != nil {
		o = append(o, kgo.SASL(m))
	}
	if c.Log != nil {
		o = append(o, kgo.WithLogger(clientLog{c.Log, rate.NewLimiter(0.1, 5)}))
	}
	if c.Metrics != nil {
		o = append(o, kgo.WithHooks(clientMetrics(c.Metrics, c.ClientID)...))
	}
	return o
}

// metadataMinAge is the least time between two metadata requests of a client. Records wait while the leader of
// their partition is not known. franz-go's default is 5 s.
const metadataMinAge = 250 * time.Millisecond

// backoff returns the delay before try number n+1: 50 ms, doubling up to 1 s, shortened by up to a fifth.
// franz-go's own delay grows to 5 s: a few passing faults would then cost ten seconds.
func backoff(n int) time.Duration {
	d := time.Second
	if n = max(n, 0); n < 5 {
		d = 50 * time.Millisecond << n
	}
	return d - rand.N(d/5)
}

// clientLog passes franz-go's warnings and errors to slog at a bounded rate: while Kafka is away the client logs
// each try. It implements kgo.Logger and may be used by many goroutines at once.
type clientLog struct {
	log   *slog.Logger
	limit *rate.Limiter
}

// Level implements kgo.Logger.
func (clientLog) Level() kgo.LogLevel { return kgo.LogLevelWarn }

// Log implements kgo.Logger.
func (l clientLog) Log(level kgo.LogLevel, msg string, keyvals ...any) {
	if !l.limit.Allow() {
		return
	}
	at := slog.LevelWarn
	if level == kgo.LogLevelError {
		at = slog.LevelError
	}
	l.log.Log(context.Background(), at, msg, keyvals...)
}
