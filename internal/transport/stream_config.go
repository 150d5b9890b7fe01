package transport

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"weir/internal/tlsfile"
)

// StreamConfig holds the settings of IPFIX over TCP and TLS (RFC 7011 sections 10.4, 11).
type StreamConfig struct {
	TCP        []netip.AddrPort `env:"LISTEN_TCP" unit:"host:port list" help:"TCP addresses to receive IPFIX on (port 4739 by convention); empty: none"`
	TLS        []netip.AddrPort `env:"LISTEN_TLS" unit:"host:port list" help:"TCP addresses to receive IPFIX over TLS on (port 4740 by convention); empty: none"`
	CertFile   string           `env:"TLS_CERT_FILE" unit:"path" help:"PEM certificate for LISTEN_TLS; read for each connection"`
	KeyFile    string           `env:"TLS_KEY_FILE" unit:"path" help:"PEM key of TLS_CERT_FILE"`
	ClientCA   string           `env:"TLS_CLIENT_CA_FILE" unit:"path" help:"PEM file of the CAs that must have signed the exporters' certificates; empty: exporters need none"`
	Max        int              `env:"TCP_MAX_CONNECTIONS" envDefault:"1024" help:"concurrent connections of exporters; beyond this, new connections are closed at once"`
	PerAddress int              `env:"TCP_MAX_PER_ADDRESS" envDefault:"64" help:"concurrent connections of an exporter address (IPv6: of a /64)"`
	Idle       time.Duration    `env:"TCP_IDLE_TIMEOUT" envDefault:"30m" help:"a connection is closed after this time without a message; the first message must begin within 10 s"`
	Octets     int              `env:"TCP_MAX_OCTETS" envDefault:"67108864" unit:"octets" help:"memory for the templates of all connections. An exporter address may take a quarter of it, a connection a sixteenth; templates beyond a limit are refused and counted"`
}

// Validate returns the mistakes of all settings, joined. It reads the certificate and key files.
func (c StreamConfig) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	seen := map[netip.AddrPort]bool{}
	for name, all := range map[string][]netip.AddrPort{"LISTEN_TCP": c.TCP, "LISTEN_TLS": c.TLS} {
		for _, a := range all {
			if seen[a] && a.Port() != 0 {
				bad("%s: %s is listed twice: want each address once", name, a)
			}
			seen[a] = true
		}
	}
	if c.Max < 0 || c.PerAddress < 0 {
		bad("TCP_MAX_CONNECTIONS=%d, TCP_MAX_PER_ADDRESS=%d: want 0 (the default) or more", c.Max, c.PerAddress)
	}
	if c.Idle < time.Second {
		bad("TCP_IDLE_TIMEOUT=%v: want at least 1s", c.Idle)
	}
	if c.Octets < 0 {
		bad("TCP_MAX_OCTETS=%d: want 0 (the default) or more", c.Octets)
	}
	if len(c.TLS) == 0 {
		files := map[string]string{
			"TLS_CERT_FILE": c.CertFile, "TLS_KEY_FILE": c.KeyFile, "TLS_CLIENT_CA_FILE": c.ClientCA,
		}
		for name, f := range files {
			if f != "" {
				bad("%s=%s has no effect without LISTEN_TLS", name, f)
			}
		}
		return errors.Join(errs...)
	}
	if c.CertFile == "" || c.KeyFile == "" {
		bad("LISTEN_TLS needs TLS_CERT_FILE and TLS_KEY_FILE")
	} else if _, err := c.tls(nil); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// tls reads the certificate, key and CA files. It is the tls.Config.GetConfigForClient of each
// connection, so that renewed files are used without a restart.
func (c *StreamConfig) tls(*tls.ClientHelloInfo) (*tls.Config, error) {
	cert, err := tlsfile.KeyPair(
		tlsfile.File{Setting: "TLS_CERT_FILE", Path: c.CertFile}, tlsfile.File{Setting: "TLS_KEY_FILE", Path: c.KeyFile})
	if err != nil {
		return nil, err
	}
	t := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}}
	if c.ClientCA == "" {
		return t, nil
	}
	t.ClientCAs, err = tlsfile.Pool(tlsfile.File{Setting: "TLS_CLIENT_CA_FILE", Path: c.ClientCA})
	if err != nil {
		return nil, err
	}
	t.ClientAuth = tls.RequireAndVerifyClientCert
	return t, nil
}
