package geo

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/maxmind/mmdbwriter/mmdbtype"

	"weir/internal/weirtest/maxmind"
)

func as(n uint32) mmdbtype.DataType {
	return mmdbtype.Map{"autonomous_system_number": mmdbtype.Uint32(n)}
}

func in(key, code string) mmdbtype.DataType {
	return mmdbtype.Map{mmdbtype.String(key): mmdbtype.Map{"iso_code": mmdbtype.String(code)}}
}

func write(t testing.TB, path string, text []byte, at time.Time) {
	t.Helper()
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, at, at); err != nil {
		t.Fatal(err)
	}
}

func TestTheFilesAreReadAgainWhenTheyChange(t *testing.T) {
	dir, now := t.TempDir(), time.Unix(1_700_000_000, 0)
	asns, countries := filepath.Join(dir, "asn.mmdb"), filepath.Join(dir, "country.mmdb")
	write(t, asns, maxmind.Database(t, "ASN", map[string]mmdbtype.DataType{"192.0.2.0/24": as(64500), "2001:db8::/32": as(64501)}), now)
	write(t, countries, maxmind.Database(t, "Country", map[string]mmdbtype.DataType{
		"192.0.2.0/25": in("country", "DE"), "198.51.100.0/24": in("registered_country", "FR"),
	}), now)
	f, err := Open([]string{asns, countries})
	if err != nil {
		t.Fatal(err)
	}
	check := func(addr string, asn uint32, country string) {
		t.Helper()
		if a, c := f.Lookup(netip.MustParseAddr(addr)); a != asn || c != country {
			t.Errorf("%s: want %d %q, got %d %q", addr, asn, country, a, c)
		}
	}
	check("192.0.2.1", 64500, "DE")
	check("::ffff:192.0.2.1", 64500, "DE")
	check("192.0.2.200", 64500, "")
	check("198.51.100.1", 0, "FR")
	check("2001:db8::1", 64501, "")
	check("203.0.113.1", 0, "")

	if changed, err := f.Reload(); err != nil || len(changed) != 0 {
		t.Errorf("nothing has changed: %v, %v", changed, err)
	}
	write(t, asns, maxmind.Database(t, "ASN", map[string]mmdbtype.DataType{"192.0.2.0/24": as(64999)}), now.Add(time.Minute))
	if changed, err := f.Reload(); err != nil || len(changed) != 1 || changed[0] != asns {
		t.Errorf("after a change of one file: %v, %v", changed, err)
	}
	check("192.0.2.1", 64999, "DE")

	write(t, asns, []byte("half a file"), now.Add(2*time.Minute))
	if _, err := f.Reload(); err == nil || !strings.Contains(err.Error(), asns) {
		t.Errorf("a file that is not a database: %v", err)
	}
	check("192.0.2.1", 64999, "DE")
	if err := os.Remove(countries); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Reload(); err == nil || !strings.Contains(err.Error(), countries) {
		t.Errorf("a missing file: %v", err)
	}
	check("192.0.2.1", 64999, "DE")
}

func TestWrongFilesAreNamed(t *testing.T) {
	none, err := Open(nil)
	if a, c := none.Lookup(netip.MustParseAddr("192.0.2.1")); err != nil || a != 0 || c != "" {
		t.Errorf("no files: %d %q %v", a, c, err)
	}
	other := filepath.Join(t.TempDir(), "domain.mmdb")
	write(t, other, maxmind.Database(t, "Domain", map[string]mmdbtype.DataType{"192.0.2.0/24": mmdbtype.Map{"domain": mmdbtype.String("example.org")}}),
		time.Now())
	_, err = Open([]string{"/nowhere/x.mmdb", other})
	if err == nil || !strings.Contains(err.Error(), "/nowhere/x.mmdb: no such file") ||
		!strings.Contains(err.Error(), `type "Domain"`) {
		t.Errorf("got %v", err)
	}
}
