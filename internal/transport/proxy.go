package transport

import (
	"net/netip"
	"sync"
	"time"

	"weir/internal/transport/proxyproto"
)

// Reasons for which a datagram of a trusted proxy is dropped, a closed set.
const (
	ProxyBad     = "proxy_header_bad"     // a header that cannot be read
	ProxyMissing = "proxy_header_missing" // no header, and none came before it
	ProxyLocal   = "proxy_local"          // a header that names no exporter: the proxy's own, a health check say
	ProxyEmpty   = "proxy_empty"          // nothing behind the header
)

const (
	// proxyMemory is how long a proxy's address and port stand for the exporter
	// that a header named, since the last datagram from there.
	proxyMemory = 5 * time.Minute
	// maxProxyStreams bounds how many are remembered.
	maxProxyStreams = 65_536
)

// Proxies finds the exporter behind a balancer that puts a PROXY header in front
// of datagrams: of each, or of the first of a stream only. No one else's header
// is looked at: what he sends is no NetFlow then.
type Proxies struct {
	trusted []netip.Prefix

	mu      sync.Mutex
	streams map[netip.AddrPort]proxied // by the proxy's address and port
}

type proxied struct {
	exporter netip.AddrPort
	last     time.Time
}

// NewProxies returns the Proxies of trusted networks, which may be none.
func NewProxies(trusted []netip.Prefix) *Proxies {
	return &Proxies{trusted: trusted, streams: map[netip.AddrPort]proxied{}}
}

// Trusts reports whether a PROXY header from a is believed.
func (p *Proxies) Trusts(a netip.Addr) bool {
	for _, t := range p.trusted {
		if t.Contains(a) {
			return true
		}
	}
	return false
}

// Unwrap returns the datagram without its header and the exporter it is from.
// reason is not empty when it is to be dropped. from is unmapped.
func (p *Proxies) Unwrap(pkt []byte, from netip.AddrPort, at time.Time) (rest []byte, exporter netip.AddrPort, reason string) {
	if !p.Trusts(from.Addr()) {
		return pkt, from, ""
	}
	if !proxyproto.Has(pkt) {
		p.mu.Lock()
		defer p.mu.Unlock()
		s, ok := p.streams[from]
		if !ok || at.Sub(s.last) > proxyMemory {
			return nil, from, ProxyMissing
		}
		p.streams[from] = proxied{s.exporter, at}
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
	if _, known := p.streams[from]; !known && len(p.streams) >= maxProxyStreams {
		p.makeRoom(at)
	}
	p.streams[from] = proxied{exporter, at}
	if n == len(pkt) {
		return nil, exporter, ProxyEmpty
	}
	return pkt[n:], exporter, ""
}

// makeRoom forgets streams that are over, then others until an eighth of the room is
// free: the search is not repeated for each new stream. mu is held.
func (p *Proxies) makeRoom(now time.Time) {
	for from, s := range p.streams {
		if now.Sub(s.last) > proxyMemory {
			delete(p.streams, from)
		}
	}
	for from := range p.streams {
		if len(p.streams) <= maxProxyStreams-maxProxyStreams/8 {
			return
		}
		delete(p.streams, from)
	}
}
