package tlsfile

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// write writes a self-signed certificate and its key, and returns their files.
func write(t *testing.T) (cert, key File) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<33, 0),
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	file := func(setting, kind string, der []byte) File {
		f := File{setting, filepath.Join(t.TempDir(), setting)}
		if err := os.WriteFile(f.Path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return f
	}
	return file("CERT", "CERTIFICATE", der), file("KEY", "PRIVATE KEY", pkcs8)
}

func TestFilesAreRead(t *testing.T) {
	cert, key := write(t)
	pair, err := KeyPair(cert, key)
	if err != nil || len(pair.Certificate) != 1 {
		t.Fatalf("%d certificates, %v", len(pair.Certificate), err)
	}
	pool, err := Pool(cert)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: pool, CurrentTime: time.Unix(1<<30, 0)}); err != nil {
		t.Errorf("the pool does not verify its certificate: %v", err)
	}
}

func TestErrorsNameTheSettingAndTheFile(t *testing.T) {
	cert, key := write(t)
	missing := File{"MISSING", filepath.Join(t.TempDir(), "none.pem")}
	otherCert, _ := write(t)
	for name, c := range map[string]struct {
		load func() error
		want []string
	}{
		"no CA file":             {func() error { _, err := Pool(missing); return err }, []string{"MISSING: ", missing.Path}},
		"a CA file of keys":      {func() error { _, err := Pool(key); return err }, []string{"KEY: ", key.Path, "no certificate"}},
		"no key":                 {func() error { _, err := KeyPair(cert, missing); return err }, []string{"CERT=" + cert.Path, "MISSING=" + missing.Path}},
		"key of another":         {func() error { _, err := KeyPair(otherCert, key); return err }, []string{"KEY=" + key.Path, "match"}},
		"certificate and no key": {func() error { _, err := KeyPair(cert, cert); return err }, []string{"CERT=" + cert.Path}},
	} {
		err := c.load()
		if err == nil {
			t.Errorf("%s: no error", name)
			continue
		}
		for _, part := range c.want {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %v: want %q in it", name, err, part)
			}
		}
	}
}
