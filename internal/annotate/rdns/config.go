package rdns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/miekg/dns"
)

// resolvConf is the file that names the resolvers of a system (resolv.conf(5)).
const resolvConf = "/etc/resolv.conf"

// Config holds the settings of a Resolver. The environment names have the prefix DNS_.
type Config struct {
	Enabled        bool          `env:"ENABLED" envDefault:"true" help:"ask for names"`
	Servers        []string      `env:"SERVERS" unit:"host:port list" help:"resolvers for public addresses, comma separated, the first is preferred; empty: those of /etc/resolv.conf"`
	PrivateServers []string      `env:"PRIVATE_SERVERS" unit:"host:port list" help:"resolvers for private and other special-use addresses; empty: such addresses are never asked"`
	Verify         bool          `env:"VERIFY" envDefault:"true" help:"ask for the addresses of each name; name_verified only when they contain the address"`
	Timeout        time.Duration `env:"TIMEOUT" envDefault:"2s" help:"wait for one answer; one question is asked at most twice"`
	Rate           int           `env:"RATE" envDefault:"500" unit:"questions/s" help:"limit on questions"`
	InFlight       int           `env:"IN_FLIGHT" envDefault:"256" unit:"addresses" help:"limit on addresses being asked at a time, of public and of special-use ones each"`
	Queue          int           `env:"QUEUE" envDefault:"65536" unit:"addresses" help:"addresses that wait to be asked, of each kind; more are dropped and counted"`
	CacheSize      int           `env:"CACHE_SIZE" envDefault:"500000" unit:"addresses" help:"addresses whose name or failure is remembered, about 250 octets each"`

	// Dial, when set, opens the sockets to name servers, network "udp" or "tcp", a socket for each query. nil
	// selects a net.Dialer. It must return when ctx ends. A connection of "udp" must be a net.PacketConn too.
	// Tests set it to simulate name servers.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error) `env:"-"`
}

// Validate reports all mistakes together, by variable and value.
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
func checkServer(s string) error {
	host, port, err := net.SplitHostPort(s)
	n, perr := strconv.Atoi(port)
	if err != nil || perr != nil || host == "" || n < 1 || n > 65535 {
		return fmt.Errorf("%q is not host:port with a port from 1 to 65535 (for example 127.0.0.1:53 or [2001:db8::1]:53)", s)
	}
	return nil
}

// systemServers returns the name servers in a resolv.conf as host:port; none if there is no such file.
func systemServers(file string) []string {
	c, err := dns.ClientConfigFromFile(file)
	if err != nil {
		return nil
	}
	var servers []string
	for _, s := range c.Servers {
		if hp := net.JoinHostPort(s, c.Port); checkServer(hp) == nil && !slices.Contains(servers, hp) {
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

// neverAsked are the ranges of class never.
var neverAsked = prefixes(
	"0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4",
	"::/127", "fe80::/10", "ff00::/8",
)

// specialUse are ranges in the special-purpose address registries (RFC 6890) that are not globally reachable.
// Queries for them must not leak to public resolvers (RFC 6303).
var specialUse = prefixes(
	"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", // RFC 1918
	"100.64.0.0/10",                                     // shared, RFC 6598
	"192.0.0.0/24",                                      // protocol assignments, RFC 6890
	"192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", // documentation, RFC 5737
	"198.18.0.0/15",              // benchmarking, RFC 2544
	"fc00::/7",                   // unique local, RFC 4193
	"2001:db8::/32", "3fff::/20", // documentation, RFC 3849 and RFC 9637
	"2001:2::/48",                  // benchmarking, RFC 5180
	"2001:10::/28", "2001:20::/28", // ORCHID, RFC 4843 and RFC 7343
	"100::/64",       // discard only, RFC 6666
	"64:ff9b:1::/48", // local IPv4/IPv6 translation, RFC 8215
	"5f00::/16",      // SRv6 SIDs, RFC 9602
	"fec0::/10",      // site local, RFC 3879
	"::/96",          // IPv4-compatible, RFC 4291 section 2.5.5.1
)

func prefixes(list ...string) []netip.Prefix {
	ps := make([]netip.Prefix, len(list))
	for i, s := range list {
		ps[i] = netip.MustParsePrefix(s)
	}
	return ps
}

// classify returns the class of a. It must not be IPv4-mapped.
func classify(a netip.Addr) class {
	in := func(p netip.Prefix) bool { return p.Contains(a) }
	switch {
	case !a.IsValid() || a.Zone() != "" || slices.ContainsFunc(neverAsked, in):
		return never
	case slices.ContainsFunc(specialUse, in):
		return special
	default:
		return public
	}
}
