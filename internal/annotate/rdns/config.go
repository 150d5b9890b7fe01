package rdns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// resolvConf is the file that names the resolvers of a system (resolv.conf(5)).
const resolvConf = "/etc/resolv.conf"

// Config holds the settings of a Resolver. The environment names have the prefix DNS_.
type Config struct {
	Enabled        bool          `env:"ENABLED" envDefault:"true" help:"look up host names of addresses"`
	Servers        []string      `env:"SERVERS" unit:"host:port list" help:"DNS resolvers for public addresses, comma separated, the first is preferred; empty: those in /etc/resolv.conf"`
	PrivateServers []string      `env:"PRIVATE_SERVERS" unit:"host:port list" help:"DNS resolvers for private and other special-use addresses; empty: such addresses are not looked up"`
	Verify         bool          `env:"VERIFY" envDefault:"true" help:"look up the addresses of each name; name_verified is set only if they contain the address"`
	Timeout        time.Duration `env:"TIMEOUT" envDefault:"2s" help:"time to wait for a reply; a query is sent at most twice"`
	Rate           int           `env:"RATE" envDefault:"500" unit:"queries/s" help:"limit on the rate of queries, verification and repeats included"`
	InFlight       int           `env:"IN_FLIGHT" envDefault:"256" unit:"addresses" help:"limit on concurrent lookups, of public and of special-use addresses each"`
	Queue          int           `env:"QUEUE" envDefault:"65536" unit:"addresses" help:"limit on addresses that wait for a lookup, public and special-use each; further addresses are dropped and counted"`
	CacheSize      int           `env:"CACHE_SIZE" envDefault:"500000" unit:"addresses" help:"limit on cached results, names and failures; they take at most 250 octets each on average"`

	// Dial, when set, opens the sockets to name servers, network "udp" or "tcp". nil selects the net package's. It
	// must return when ctx ends. Write and Read of a "udp" connection carry a message each; a connection carries
	// several queries, one after the other. Tests set Dial to simulate name servers.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error) `env:"-"`
}

// Validate reports all mistakes together, by variable and value.
// Settings of a disabled Resolver are not checked.
func (c Config) Validate() error {
	if !c.Enabled {
		return nil
	}
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	for _, s := range c.Servers {
		if err := checkServer(s); err != nil {
			bad("DNS_SERVERS: %w", err)
		}
	}
	for _, s := range c.PrivateServers {
		if err := checkServer(s); err != nil {
			bad("DNS_PRIVATE_SERVERS: %w", err)
		}
	}
	if c.Timeout < 10*time.Millisecond || c.Timeout > 30*time.Second {
		bad("DNS_TIMEOUT=%v: want 10ms to 30s", c.Timeout)
	}
	whole := func(name string, v, most int) {
		if v < 1 || v > most {
			bad("%s=%d: want 1 to %d", name, v, most)
		}
	}
	whole("DNS_RATE", c.Rate, 1_000_000)
	whole("DNS_IN_FLIGHT", c.InFlight, 10_000)
	whole("DNS_QUEUE", c.Queue, 10_000_000)
	whole("DNS_CACHE_SIZE", c.CacheSize, 100_000_000)
	return errors.Join(errs...)
}

// checkServer reports whether s is host:port, as an error.
// A host name is allowed: server.address looks it up by the resolver of the system.
func checkServer(s string) error {
	host, port, err := net.SplitHostPort(s)
	n, perr := strconv.Atoi(port)
	if err != nil || perr != nil || host == "" || n < 1 || n > 65535 {
		return fmt.Errorf("%q is not host:port with a port from 1 to 65535 (for example 127.0.0.1:53 or [2001:db8::1]:53)", s)
	}
	return nil
}

// systemServers returns the name servers in a resolv.conf as host:port; none if there is no such file.
// It reads "nameserver" lines alone (resolv.conf(5)): search lists do not apply to reverse names. Malformed lines
// are skipped.
func systemServers(file string) []string {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	var servers []string
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		if hp := net.JoinHostPort(fields[1], "53"); checkServer(hp) == nil && !slices.Contains(servers, hp) {
			servers = append(servers, hp)
		}
	}
	return servers
}

// A class selects the servers that may be asked for an address.
type class uint8

const (
	never   class = iota // has no name anywhere
	special              // has a name in its own network at most
	public
)

// A classRange is a range of addresses that are not public.
type classRange struct {
	prefix netip.Prefix
	class  class
}

// ranges4 and ranges6 hold the ranges by the first octet of their addresses. Most addresses have an octet without any
// range and are public at once.
var ranges4, ranges6 = rangesByOctet(false), rangesByOctet(true)

// ranges are the addresses that have no name anywhere, and those in the special-purpose address registries (RFC 6890)
// that are not globally reachable: queries for them must not leak to public resolvers (RFC 6303).
var ranges = []struct {
	class class
	list  string
}{
	{never, "0.0.0.0/8 127.0.0.0/8 169.254.0.0/16 224.0.0.0/4 240.0.0.0/4"}, // RFC 6890
	{never, "::/127 fe80::/10 ff00::/8"},                                    // RFC 4291
	{special, "10.0.0.0/8 172.16.0.0/12 192.168.0.0/16"},                    // RFC 1918
	{special, "100.64.0.0/10"},                                              // RFC 6598, shared
	{special, "192.0.0.0/24"},                                               // RFC 6890, protocol assignments
	{special, "192.0.2.0/24 198.51.100.0/24 203.0.113.0/24"},                // RFC 5737, documentation
	{special, "198.18.0.0/15"},                                              // RFC 2544, benchmarking
	{special, "fc00::/7"},                                                   // RFC 4193, unique local
	{special, "2001:db8::/32 3fff::/20"},                                    // RFC 3849 and RFC 9637, documentation
	{special, "2001:2::/48"},                                                // RFC 5180, benchmarking
	{special, "2001:10::/28 2001:20::/28"},                                  // RFC 4843 and RFC 7343, ORCHID
	{special, "100::/64"},                                                   // RFC 6666, discard only
	{special, "64:ff9b:1::/48"},                                             // RFC 8215, local IPv4/IPv6 translation
	{special, "5f00::/16"},                                                  // RFC 9602, SRv6 SIDs
	{special, "fec0::/10"},                                                  // RFC 3879, site local
	{special, "::/96"},                                                      // RFC 4291 section 2.5.5.1, IPv4-compatible
}

// rangesByOctet returns the ranges of IPv4 or IPv6 by the first octet of their addresses.
// A range with a prefix shorter than /8 is in the list of each of its first octets: 224.0.0.0/4 in those of 224 to 239.
func rangesByOctet(v6 bool) (by [256][]classRange) {
	for _, r := range ranges {
		for text := range strings.FieldsSeq(r.list) {
			p := netip.MustParsePrefix(text)
			if p.Addr().Is6() != v6 {
				continue
			}
			first := int(p.Addr().AsSlice()[0])
			// IPv6 prefixes shorter than /8 occupy several first octets, too: fc00::/7 is fc and fd.
			for octet := first; octet < first+1<<max(0, 8-p.Bits()); octet++ {
				by[octet] = append(by[octet], classRange{p, r.class})
			}
		}
	}
	return by
}

// classify returns the class of a. It must not be IPv4-mapped.
// Each connection needs two calls: the table spares a comparison with all ranges for most addresses.
func classify(a netip.Addr) class {
	if !a.IsValid() || a.Zone() != "" {
		return never
	}
	octets := a.As16()
	// As16 maps an IPv4 address to ::ffff:0:0/96, so that its first octet is at index 12.
	list := ranges6[octets[0]]
	if a.Is4() {
		list = ranges4[octets[12]]
	}
	for i := range list {
		if list[i].prefix.Contains(a) {
			return list[i].class
		}
	}
	return public
}
