package kafka

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"time"

	"weir/internal/tlsfile"
)

// dialTimeout bounds one attempt to connect, TLS handshake included.
const dialTimeout = 10 * time.Second

// validateTLS reports the mistakes in the settings of TLS. It reads the files, as a connection does later.
func (c *Config) validateTLS() (errs []error) {
	if !c.TLS {
		for _, f := range []struct{ name, value string }{
			{"KAFKA_TLS_CA_FILE", c.TLSCAFile},
			{"KAFKA_TLS_CERT_FILE", c.TLSCertFile},
			{"KAFKA_TLS_KEY_FILE", c.TLSKeyFile},
			{"KAFKA_TLS_SERVER_NAME", c.TLSServerName},
		} {
			if f.value != "" {
				errs = append(errs, fmt.Errorf("%s=%s has no effect without KAFKA_TLS=true", f.name, f.value))
			}
		}
		return errs
	}
	if _, err := c.roots(); err != nil {
		errs = append(errs, err)
	}
	if _, err := c.certificates(); err != nil {
		errs = append(errs, err)
	}
	return errs
}

// roots returns the certificates of the authorities that may sign the brokers' certificates; nil selects the
// system's.
func (c *Config) roots() (*x509.CertPool, error) {
	if c.TLSCAFile == "" {
		return nil, nil // crypto/tls reads a nil pool as the system's
	}
	return tlsfile.Pool(tlsfile.File{Setting: "KAFKA_TLS_CA_FILE", Path: c.TLSCAFile})
}

// certificates returns the client certificate, none when no file is set. Brokers ask for it with ssl.client.auth.
func (c *Config) certificates() ([]tls.Certificate, error) {
	switch {
	case c.TLSCertFile == "" && c.TLSKeyFile == "":
		return nil, nil
	case c.TLSKeyFile == "":
		return nil, errors.New("KAFKA_TLS_CERT_FILE is set, KAFKA_TLS_KEY_FILE is not: want both")
	case c.TLSCertFile == "":
		return nil, errors.New("KAFKA_TLS_KEY_FILE is set, KAFKA_TLS_CERT_FILE is not: want both")
	}
	cert, err := tlsfile.KeyPair(
		tlsfile.File{Setting: "KAFKA_TLS_CERT_FILE", Path: c.TLSCertFile},
		tlsfile.File{Setting: "KAFKA_TLS_KEY_FILE", Path: c.TLSKeyFile})
	if err != nil {
		return nil, err
	}
	return []tls.Certificate{cert}, nil
}

// dial connects to a broker, with TLS where it is set. All connections to Kafka are opened here. It closes the
// connection if the handshake fails; else the client owns it.
func (c *Config) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	open := c.Dial
	if open == nil {
		open = new(net.Dialer).DialContext
	}
	if !c.TLS {
		return open(ctx, network, addr)
	}
	conf, err := c.clientTLS(addr)
	if err != nil {
		return nil, err
	}
	plain, err := open(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(plain, conf)
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(err, plain.Close())
	}
	return conn, nil
}

// clientTLS returns the TLS settings of a connection to addr, host:port. It reads the files each time, so that
// renewed certificates are used without a restart.
func (c *Config) clientTLS(addr string) (*tls.Config, error) {
	roots, err := c.roots()
	if err != nil {
		return nil, err
	}
	certs, err := c.certificates()
	if err != nil {
		return nil, err
	}
	name := c.TLSServerName
	if name == "" {
		if name, _, err = net.SplitHostPort(addr); err != nil {
			return nil, fmt.Errorf("broker address %q: %w", addr, err)
		}
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, Certificates: certs, ServerName: name}, nil
}
