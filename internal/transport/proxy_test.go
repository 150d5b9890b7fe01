package transport

import (
	"net/netip"
	"testing"
	"time"
)

const (
	header1 = "PROXY TCP4 192.0.2.1 198.51.100.2 40000 2055\r\n"
	header6 = "PROXY TCP6 2001:db8::1 2001:db8::2 40000 2055\r\n"
	local2  = "\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"
)

func TestUnwrapNamesTheExporterBehindABalancer(t *testing.T) {
	const balancer, other, stranger = "10.0.0.1:7000", "[fd00::1]:7001", "203.0.113.5:9"
	begin := time.Unix(1_700_000_000, 0)
	type datagram struct {
		after            time.Duration // since the previous datagram
		from, pkt        string
		exporter, reason string
		rest             string
	}
	for _, tt := range []struct {
		name string
		in   []datagram
	}{
		{"each has a header", []datagram{
			{0, balancer, header1 + "a", "192.0.2.1:40000", "", "a"},
			{0, balancer, header6 + "b", "[2001:db8::1]:40000", "", "b"},
		}},
		{"only the first has a header: each datagram renews the stream", []datagram{
			{0, balancer, header1 + "a", "192.0.2.1:40000", "", "a"},
			{5 * time.Minute, balancer, "b", "192.0.2.1:40000", "", "b"},
			{5 * time.Minute, balancer, "c", "192.0.2.1:40000", "", "c"},
			{5*time.Minute + 1, balancer, "d", balancer, ProxyMissing, ""},
		}},
		{"another port of the balancer is another stream", []datagram{
			{0, balancer, header1 + "a", "192.0.2.1:40000", "", "a"},
			{0, "10.0.0.1:7002", "b", "10.0.0.1:7002", ProxyMissing, ""},
		}},
		{"a new header on the port replaces the exporter", []datagram{
			{0, balancer, header1 + "a", "192.0.2.1:40000", "", "a"},
			{0, balancer, header6 + "b", "[2001:db8::1]:40000", "", "b"},
			{0, balancer, "c", "[2001:db8::1]:40000", "", "c"},
		}},
		{"an IPv6 balancer", []datagram{{0, other, header6 + "a", "[2001:db8::1]:40000", "", "a"}}},
		{"a sender outside the trusted networks is the exporter, header or not", []datagram{
			{0, stranger, header1 + "a", stranger, "", header1 + "a"},
			{0, stranger, "b", stranger, "", "b"},
		}},
		{"no exporter can be determined", []datagram{
			{0, balancer, "PROXY TCP4 router\r\na", balancer, ProxyBad, ""},
			{0, balancer, "PROXY UNKNOWN\r\na", balancer, ProxyLocal, ""},
			{0, balancer, local2, balancer, ProxyLocal, ""},
			{0, balancer, "a", balancer, ProxyMissing, ""},
		}},
		{"a header alone names the exporter of later datagrams", []datagram{
			{0, balancer, header1, "192.0.2.1:40000", ProxyEmpty, ""},
			{0, balancer, "a", "192.0.2.1:40000", "", "a"},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := NewProxies([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")})
			at := begin
			for i, d := range tt.in {
				at = at.Add(d.after)
				rest, exporter, reason := p.Unwrap([]byte(d.pkt), netip.MustParseAddrPort(d.from), at)
				if string(rest) != d.rest || exporter.String() != d.exporter || reason != d.reason {
					t.Errorf("datagram %d: want %q of %s, reason %q; got %q of %s, %q", i, d.rest, d.exporter, d.reason, rest, exporter, reason)
				}
			}
		})
	}
}

// TestRoomForStreamsIsMadeInOneSearch checks that a new stream frees an eighth of the table although a
// single stream has expired: a full table must not be searched for each new stream.
func TestRoomForStreamsIsMadeInOneSearch(t *testing.T) {
	p := NewProxies([]netip.Prefix{netip.MustParsePrefix("::/0")})
	at := time.Unix(1_700_000_000, 0)
	for i := range maxProxyStreams {
		a := netip.AddrFrom16([16]byte{0xfd, 1: byte(i >> 8), 2: byte(i)})
		p.streams.PutOrRefuse(netip.AddrPortFrom(a, 1), proxied{last: at.Add(time.Duration(min(i, 1)))})
	}
	p.Unwrap([]byte(header1+"a"), netip.MustParseAddrPort("[fd00::2]:2"), at.Add(proxyMemory+1)) // a single stream has expired
	if n := p.streams.Len(); n > maxProxyStreams-maxProxyStreams/8+1 {
		t.Errorf("want an eighth of %d free, got %d streams", maxProxyStreams, n)
	}
}

// TestStreamsOfProxiesAreBounded checks that a full table drops expired streams first.
func TestStreamsOfProxiesAreBounded(t *testing.T) {
	p := NewProxies([]netip.Prefix{netip.MustParsePrefix("::/0")})
	at := time.Unix(1_700_000_000, 0)
	from := func(i int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte{0xfd, 1: byte(i >> 24), 2: byte(i >> 16)}), uint16(i))
	}
	for i := range maxProxyStreams {
		p.Unwrap([]byte(header1+"a"), from(i), at)
	}
	p.Unwrap([]byte(header1+"a"), from(maxProxyStreams), at.Add(proxyMemory))
	if n := p.streams.Len(); n != maxProxyStreams-maxProxyStreams/8+1 {
		t.Errorf("streams at the limit: want an eighth removed and the new stream added, got %d", n)
	}
	for i := range maxProxyStreams / 8 {
		p.Unwrap([]byte(header1+"a"), from(2*maxProxyStreams+i), at.Add(proxyMemory+1))
	}
	if n := p.streams.Len(); n != 1+maxProxyStreams/8 {
		t.Errorf("want the expired streams removed and %d left, got %d", 1+maxProxyStreams/8, n)
	}
}
