package rdns

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func testConfig() Config {
	return Config{
		Enabled: true, Servers: []string{"192.0.2.53:53"}, Verify: true, Timeout: 2 * time.Second,
		Rate: 100_000, InFlight: 16, Queue: 64, CacheSize: 1000,
	}
}

func TestValidateNamesEveryMistakeAtOnce(t *testing.T) {
	c := testConfig()
	c.Servers = []string{"127.0.0.1", "127.0.0.1:53"}
	c.PrivateServers = []string{"10.0.0.1:dns", "10.0.0.1:0"}
	c.Timeout, c.Rate, c.InFlight, c.Queue, c.CacheSize = time.Hour, 0, -1, 0, 0
	err := c.Validate()
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{
		`DNS_SERVERS: "127.0.0.1" is not host:port`, `DNS_PRIVATE_SERVERS: "10.0.0.1:dns"`, `DNS_PRIVATE_SERVERS: "10.0.0.1:0"`,
		"DNS_TIMEOUT=1h0m0s: want 10ms to 30s", "DNS_RATE=0", "DNS_IN_FLIGHT=-1", "DNS_QUEUE=0", "DNS_CACHE_SIZE=0",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in:\n%v", want, err)
		}
	}
	if n := strings.Count(err.Error(), "\n") + 1; n != 8 {
		t.Errorf("%d mistakes, want 8:\n%v", n, err)
	}
	if err := testConfig().Validate(); err != nil {
		t.Errorf("a good configuration: %v", err)
	}
	if err := (Config{}).Validate(); err != nil {
		t.Errorf("switched off, nothing else matters: %v", err)
	}
}

func TestAddressesAreAskedByWhatTheyAreFor(t *testing.T) {
	tests := []struct {
		addr string
		want class
	}{
		{"8.8.8.8", public}, {"2606:4700::1111", public}, {"172.32.0.1", public}, {"100.128.0.1", public},
		{"64:ff9b::808:808", public}, {"198.20.0.1", public}, {"192.0.1.1", public},
		{"10.1.2.3", special}, {"172.16.0.1", special}, {"172.31.255.255", special}, {"192.168.0.1", special},
		{"100.64.0.1", special}, {"192.0.2.1", special}, {"198.51.100.1", special}, {"203.0.113.9", special},
		{"198.18.0.1", special}, {"fd00::1", special}, {"2001:db8::1", special}, {"3fff::1", special}, {"100::1", special},
		{"0.0.0.0", never}, {"127.0.0.1", never}, {"169.254.1.1", never}, {"224.0.0.251", never}, {"240.0.0.1", never},
		{"255.255.255.255", never}, {"::", never}, {"::1", never}, {"fe80::1", never}, {"ff02::fb", never},
		{"2001:db8::1%eth0", never}, {"fe80::1%eth0", never},
	}
	for _, tt := range tests {
		if got := classify(netip.MustParseAddr(tt.addr)); got != tt.want {
			t.Errorf("classify(%s) = %d, want %d", tt.addr, got, tt.want)
		}
	}
	if got := classify(netip.Addr{}); got != never {
		t.Errorf("classify of no address = %d, want never", got)
	}
}

func TestSystemServersComeFromResolvConf(t *testing.T) {
	file := filepath.Join(t.TempDir(), "resolv.conf")
	text := "# by hand\nsearch example.com\nnameserver 192.0.2.1\nnameserver 2001:db8::1\nnameserver 192.0.2.1\noptions ndots:2\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"192.0.2.1:53", "[2001:db8::1]:53"}, systemServers(file)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if got := systemServers(file + ".absent"); len(got) != 0 {
		t.Errorf("no file gives %q", got)
	}
}
