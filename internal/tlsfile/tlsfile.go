// Package tlsfile reads certificates and keys of TLS from the PEM files that settings name. An error names the setting
// and the file.
package tlsfile

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
)

// A File is the value of a setting.
type File struct {
	Setting string // name of the variable
	Path    string
}

// Pool returns the certificates of the authorities in a file.
func Pool(f File) (*x509.CertPool, error) {
	b, err := os.ReadFile(f.Path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Setting, err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return nil, fmt.Errorf("%s: %s holds no certificate: want PEM", f.Setting, f.Path)
	}
	return pool, nil
}

// KeyPair returns the certificate in cert, with its intermediates, and its private key in key.
func KeyPair(cert, key File) (tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(cert.Path, key.Path)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("%s=%s, %s=%s: %w", cert.Setting, cert.Path, key.Setting, key.Path, err)
	}
	return pair, nil
}
