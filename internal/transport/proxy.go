package transport

import (
	"net/netip"
	"sync"
	"time"

	"weir/internal/bounded"
	"weir/internal/transport/proxyproto"
)

// Reasons for which a datagram of a trusted proxy is dropped, a closed set.
const (
	ProxyBad     = "proxy_header_bad"     // the header is malformed
	ProxyMissing = "proxy_header_missing" // no header, nor on an earlier datagram from that address and port
	ProxyLocal   = "proxy_local"          // the header names no exporter: the proxy's own traffic, e.g. a health check
	ProxyEmpty   = "proxy_empty"          // the datagram ends with the header
)

const (
	// proxyMemory is the time, since the last datagram from a proxy's address and port, for which
	// datagrams without a header are attributed to the exporter of the last header from there.
	proxyMemory = 5 * time.Minute
	// maxProxyStreams bounds the proxy addresses and ports that are remembered.
	maxProxyStreams = 65_536
)

// Proxies determines the exporter of datagrams that a balancer forwards with a PROXY protocol header
// in front of each datagram, or of the first datagram of a stream only. Headers of senders outside the
// trusted networks are not parsed: their datagrams fail as malformed NetFlow. Proxies is safe for
// concurrent use.
type Proxies struct {
	trusted []netip.Prefix // immutable

	mu      sync.Mutex
	streams bounded.Map[netip.AddrPort, proxied] // by the proxy's address and port; guarded by mu
}

// A proxied holds the exporter that a proxy named for one of its addresses and ports.
type proxied struct {
	exporter netip.AddrPort
	last     time.Time // receipt of the last datagram
}

// NewProxies returns the Proxies of trusted networks. trusted may be empty.
func NewProxies(trusted []netip.Prefix) *Proxies {
	return &Proxies{trusted: trusted, streams: bounded.New[netip.AddrPort, proxied](maxProxyStreams)}
}

// Trusts reports whether PROXY headers from a are accepted.
func (p *Proxies) Trusts(a netip.Addr) bool {
	for _, t := range p.trusted {
		if t.Contains(a) {
			return true
		}
	}
	return false
}

// Unwrap returns the datagram without its PROXY header, and its exporter. If reason is not empty, the
// caller must drop the datagram and count it with that reason. from must be bare. rest shares the
// octets of pkt.
func (p *Proxies) Unwrap(
	pkt []byte, from netip.AddrPort, at time.Time,
) (rest []byte, exporter netip.AddrPort, reason string) {
	if !p.Trusts(from.Addr()) {
		return pkt, from, ""
	}
	if !proxyproto.HasHeader(pkt) {
		p.mu.Lock()
		defer p.mu.Unlock()
		s, ok := p.streams.Lookup(from)
		if !ok || at.Sub(s.last) > proxyMemory {
			return nil, from, ProxyMissing
		}
		p.streams.PutOrRefuse(from, proxied{s.exporter, at}) // known: it is not refused
		return pkt, s.exporter, ""
	}
	exporter, n, err := proxyproto.Parse(pkt)
	switch {
	case err != nil:
		return nil, from, ProxyBad
	case !exporter.IsValid():
		return nil, from, ProxyLocal
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.streams.PutOrFree(from, proxied{exporter, at}, func(s proxied) bool { return at.Sub(s.last) > proxyMemory })
	if n == len(pkt) {
		return nil, exporter, ProxyEmpty
	}
	return pkt[n:], exporter, ""
}
