package kafka

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caarlos0/env/v11"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/time/rate"
)

func write(t *testing.T, name, content string) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(p, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestTheDefaultsAreReadFromTheEnvironmentAndAreValid(t *testing.T) {
	c, err := env.ParseAsWithOptions[Config](env.Options{Environment: map[string]string{"KAFKA_BROKERS": "a:9092,[::1]:9093"}, Prefix: "KAFKA_"})
	if err != nil {
		t.Fatal(err)
	}
	want := Config{Brokers: []string{"a:9092", "[::1]:9093"}, ClientID: "weir", SessionTimeout: 15 * time.Second}
	if d := cmp.Diff(want, c); d != "" {
		t.Errorf("config (-want +got):\n%s", d)
	}
	if err := c.Validate(); err != nil {
		t.Errorf("defaults: %v", err)
	}
	tc, err := env.ParseAsWithOptions[TopicConfig](env.Options{Environment: map[string]string{}})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(TopicConfig{Prefix: "netflow.", Mode: "create", Partitions: 12, Replication: -1, FlowsRetention: 24 * time.Hour, ConnRetention: 168 * time.Hour}, tc); d != "" {
		t.Errorf("topic config (-want +got):\n%s", d)
	}
	if err := tc.Validate(); err != nil {
		t.Errorf("defaults: %v", err)
	}
}

func TestAMistakeInTheConfigIsNamedByVariableAndValue(t *testing.T) {
	good := func() Config { return config("kafka:9092") }
	noPEM := write(t, "no.pem", "hello")
	empty := write(t, "empty", "\n")
	tests := []struct {
		name string
		mar  func(*Config)
		want []string
	}{
		{"nothing wrong", func(*Config) {}, nil},
		{"no brokers", func(c *Config) { c.Brokers = nil }, []string{"KAFKA_BROKERS"}},
		{"a broker without port", func(c *Config) { c.Brokers = []string{"kafka"} }, []string{"KAFKA_BROKERS", `"kafka"`, "host:port"}},
		{"a broker that is a URL", func(c *Config) { c.Brokers = []string{"http://kafka:9092"} }, []string{"KAFKA_BROKERS", `"http://kafka:9092"`}},
		{"a broker without host", func(c *Config) { c.Brokers = []string{":9092"} }, []string{"KAFKA_BROKERS", `":9092"`}},
		{"a port that cannot be", func(c *Config) { c.Brokers = []string{"kafka:92000"} }, []string{`"kafka:92000"`, "65535"}},
		{"a short session", func(c *Config) { c.SessionTimeout = time.Millisecond }, []string{"KAFKA_SESSION_TIMEOUT=1ms", "1s"}},
		{"a TLS file without TLS", func(c *Config) { c.TLSCAFile = "ca.pem" }, []string{"KAFKA_TLS_CA_FILE=ca.pem", "KAFKA_TLS=true"}},
		{"a CA file that is absent", func(c *Config) { c.TLS, c.TLSCAFile = true, "/nonexistent/ca" }, []string{"KAFKA_TLS_CA_FILE", "/nonexistent/ca"}},
		{"a CA file that is no PEM", func(c *Config) { c.TLS, c.TLSCAFile = true, noPEM }, []string{"KAFKA_TLS_CA_FILE", noPEM, "PEM"}},
		{"a certificate without key", func(c *Config) { c.TLS, c.TLSCertFile = true, noPEM }, []string{"KAFKA_TLS_KEY_FILE"}},
		{"a key without certificate", func(c *Config) { c.TLS, c.TLSKeyFile = true, noPEM }, []string{"KAFKA_TLS_CERT_FILE"}},
		{"a certificate that is no PEM", func(c *Config) { c.TLS, c.TLSCertFile, c.TLSKeyFile = true, noPEM, noPEM }, []string{"KAFKA_TLS_CERT_FILE=" + noPEM}},
		{"an unknown mechanism", func(c *Config) { c.SASLMechanism = "gssapi" }, []string{`KAFKA_SASL_MECHANISM="gssapi"`, "scram-sha-512", "KAFKA_SASL_USERNAME", "KAFKA_SASL_PASSWORD_FILE"}},
		{"oauthbearer without TLS", func(c *Config) { c.SASLMechanism, c.SASLTokenFile = "oauthbearer", noPEM }, []string{"token on the network", "KAFKA_TLS=true", "KAFKA_SASL_ALLOW_PLAINTEXT"}},
		{"oauthbearer without token", func(c *Config) { c.TLS, c.SASLMechanism = true, "OAUTHBEARER" }, []string{"KAFKA_SASL_TOKEN_FILE is empty"}},
		{"an empty token, and a user", func(c *Config) {
			c.TLS, c.SASLMechanism, c.SASLTokenFile, c.SASLUsername = true, "oauthbearer", empty, "weir"
		}, []string{empty, "want the token", "KAFKA_SASL_USERNAME"}},
		{"a token for another mechanism", func(c *Config) {
			c.SASLMechanism, c.SASLUsername, c.SASLPasswordFile, c.SASLTokenFile = "scram-sha-256", "weir", noPEM, noPEM
		}, []string{"KAFKA_SASL_TOKEN_FILE has no effect"}},
		{"a token without mechanism", func(c *Config) { c.SASLTokenFile = noPEM }, []string{"KAFKA_SASL_MECHANISM is not", "oauthbearer"}},
		{"a user without mechanism", func(c *Config) { c.SASLUsername = "weir" }, []string{"KAFKA_SASL_MECHANISM"}},
		{"plain without TLS", func(c *Config) { c.SASLMechanism, c.SASLUsername, c.SASLPasswordFile = "plain", "weir", noPEM }, []string{"KAFKA_TLS=true", "KAFKA_SASL_ALLOW_PLAINTEXT"}},
		{"a password file that is empty", func(c *Config) { c.SASLMechanism, c.SASLUsername, c.SASLPasswordFile = "SCRAM-SHA-256", "weir", empty }, []string{"KAFKA_SASL_PASSWORD_FILE", empty}},
		{"two mistakes", func(c *Config) { c.Brokers, c.SASLMechanism = nil, "x" }, []string{"KAFKA_BROKERS", "KAFKA_SASL_MECHANISM"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := good()
			tt.mar(&c)
			wantNamed(t, c.Validate(), tt.want)
		})
	}
}

func wantNamed(t *testing.T, err error, want []string) {
	t.Helper()
	if (err != nil) != (len(want) > 0) {
		t.Fatalf("want an error with %q, got %v", want, err)
	}
	for _, w := range want {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("want %q in the error, got %v", w, err)
		}
	}
}

func TestAMistakeInTheTopicConfigIsNamedByVariableAndValue(t *testing.T) {
	tests := []struct {
		name string
		mar  func(*TopicConfig)
		want []string
	}{
		{"nothing wrong", func(*TopicConfig) {}, nil},
		{"a prefix with a space", func(c *TopicConfig) { c.Prefix = "net flow." }, []string{`TOPIC_PREFIX="net flow."`}},
		{"a prefix that is too long", func(c *TopicConfig) { c.Prefix = strings.Repeat("x", 239) }, []string{"TOPIC_PREFIX", "238"}},
		{"an unknown mode", func(c *TopicConfig) { c.Mode = "maybe" }, []string{`TOPIC_MODE="maybe"`, "create, verify or off"}},
		{"no partitions", func(c *TopicConfig) { c.Partitions = 0 }, []string{"TOPIC_PARTITIONS=0"}},
		{"no replicas", func(c *TopicConfig) { c.Replication = 0 }, []string{"TOPIC_REPLICATION=0"}},
		{"short retentions", func(c *TopicConfig) { c.FlowsRetention, c.ConnRetention = 0, time.Second }, []string{"TOPIC_FLOWS_RETENTION=0s", "TOPIC_CONNECTIONS_RETENTION=1s"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := topicConfig()
			tt.mar(&c)
			wantNamed(t, c.Validate(), tt.want)
		})
	}
}

// selfSigned returns a certificate for 127.0.0.1 that is signed with its own key.
func selfSigned(t *testing.T) (cert tls.Certificate, certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	cert, err = tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	return cert, write(t, "cert.pem", string(certPEM)), write(t, "key.pem", string(keyPEM))
}

func TestAClientConnectsWithMutualTLSAndEachMechanism(t *testing.T) {
	cert, certFile, keyFile := selfSigned(t)
	pool := x509.NewCertPool()
	pool.AddCert(cert.Leaf)
	for _, mechanism := range []string{"plain", "scram-sha-256", "SCRAM-SHA-512"} {
		t.Run(mechanism, func(t *testing.T) {
			b, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.EnableSASL(),
				kfake.Superuser(strings.ToUpper(mechanism), "weir", "secret word"),
				kfake.TLS(&tls.Config{Certificates: []tls.Certificate{cert}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS12}))
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			c := config(b.ListenAddrs()[0])
			c.TLS, c.TLSCAFile, c.TLSCertFile, c.TLSKeyFile = true, certFile, certFile, keyFile
			c.SASLMechanism, c.SASLUsername, c.SASLPasswordFile = mechanism, "weir", write(t, "password", "wrong\n")
			if err := c.Validate(); err != nil {
				t.Fatal(err)
			}
			cl, err := kgo.NewClient(append(c.opts(), kgo.RequestRetries(0))...)
			if err != nil {
				t.Fatal(err)
			}
			defer cl.Close()
			if err := cl.Ping(testContext(t)); err == nil {
				t.Error("connected with a wrong password")
			}
			if err := os.WriteFile(c.SASLPasswordFile, []byte("secret word\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := cl.Ping(testContext(t)); err != nil { // the same client: the file is read again
				t.Errorf("with the right password: %v", err)
			}
			c.TLSCAFile = ""
			stranger, err := kgo.NewClient(append(c.opts(), kgo.RequestRetries(0))...)
			if err != nil {
				t.Fatal(err)
			}
			defer stranger.Close()
			if err := stranger.Ping(testContext(t)); err == nil || !strings.Contains(err.Error(), "certificate") {
				t.Errorf("a broker signed by nobody known: want a certificate error, got %v", err)
			}
		})
	}
}

// Dial opens the connections with and without TLS. Under TLS the certificate must be checked against the host
// that was dialled.
func TestDialOpensConnections(t *testing.T) {
	cert, certFile, _ := selfSigned(t)
	for _, tt := range []struct {
		name string
		tls  bool
		addr string // of the bootstrap broker, which only Dial can reach
		want string // part of the error; "": none
	}{
		{"plain", false, "broker.invalid:9092", ""},
		{"TLS", true, "127.0.0.1:1", ""},
		{"TLS, a name that the certificate lacks", true, "broker.invalid:9092", "certificate"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			opts := []kfake.Opt{kfake.NumBrokers(1)}
			if tt.tls {
				opts = append(opts, kfake.TLS(&tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}))
			}
			b, err := kfake.NewCluster(opts...)
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			c := config(tt.addr)
			if c.TLS = tt.tls; tt.tls {
				c.TLSCAFile = certFile
			}
			var dialled atomic.Int64
			c.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
				if addr == tt.addr {
					dialled.Add(1)
				}
				return new(net.Dialer).DialContext(ctx, network, b.ListenAddrs()[0])
			}
			cl, err := kgo.NewClient(append(c.opts(), kgo.RequestRetries(0))...)
			if err != nil {
				t.Fatal(err)
			}
			defer cl.Close()
			err = cl.Ping(testContext(t))
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("ping: %v, want an error with %q", err, tt.want)
			}
			if dialled.Load() == 0 {
				t.Errorf("Dial was not asked for %s", tt.addr)
			}
		})
	}
}

func TestClientsOfOneProcessHaveMetricsOfTheirOwn(t *testing.T) {
	b := startBroker(t, "127.0.0.1:0")
	ctx := testContext(t)
	ensure(ctx, t, b.Addr(), Flows, Templates)
	reg := prometheus.NewRegistry()
	c := config(b.Addr())
	c.Metrics = reg
	for range 2 { // the second client replaces the first
		cl, err := kgo.NewClient(c.withRole("flows").opts()...)
		if err != nil {
			t.Fatal(err)
		}
		defer cl.Close()
		if err := cl.Ping(ctx); err != nil {
			t.Fatal(err)
		}
	}
	other, err := kgo.NewClient(c.withRole("templates").opts()...)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := other.Ping(ctx); err != nil {
		t.Fatal(err)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("promlint: %v, %v", problems, err)
	}
	ids := map[string]bool{}
	gauges := 0
	for _, f := range families {
		if f.GetName() == "weir_kafka_buffered_produce_records" || f.GetName() == "weir_kafka_buffered_fetch_records" {
			gauges += len(f.GetMetric())
		}
		if f.GetName() != "weir_kafka_connects_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == "client_id" {
					ids[l.GetValue()] = true
				}
			}
		}
	}
	if d := cmp.Diff(map[string]bool{"test-flows": true, "test-templates": true}, ids); d != "" {
		t.Errorf("client ids with connections (-want +got):\n%s", d)
	}
	if gauges != 4 {
		t.Errorf("%d gauges of buffered records, want two of each client", gauges)
	}
}

func TestAClientsWarningsReachTheLog(t *testing.T) {
	var out bytes.Buffer
	l := clientLog{slog.New(slog.NewTextHandler(&out, nil)), rate.NewLimiter(0.1, 5)}
	if l.Level() != kgo.LogLevelWarn {
		t.Errorf("level: want warn, got %v", l.Level())
	}
	l.Log(kgo.LogLevelWarn, "leader moved", "topic", "t.flows")
	l.Log(kgo.LogLevelError, "broken", "n", 1)
	for _, want := range []string{`level=WARN msg="leader moved" topic=t.flows`, `level=ERROR msg=broken n=1`} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("want %s in the log, got %s", want, out.String())
		}
	}
}

func TestBackoffGrowsToASecondAndNoFurther(t *testing.T) {
	for n, most := range map[int]time.Duration{-1: 50, 0: 50, 1: 100, 4: 800, 5: 1000, 1000: 1000} {
		for range 100 {
			if d := backoff(n); d > most*time.Millisecond || d <= most*time.Millisecond*4/5 {
				t.Fatalf("try %d: want up to a fifth less than %v, got %v", n, most*time.Millisecond, d)
			}
		}
	}
}
