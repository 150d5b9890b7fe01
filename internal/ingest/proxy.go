package ingest

import (
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"weir/internal/transport/proxyproto"
)

// Reasons for which a datagram of a trusted proxy is dropped, a closed set.
const (
	proxyBad     = "proxy_header_bad"     // a header that cannot be read
	proxyMissing = "proxy_header_missing" // no header, and none came before it
	proxyLocal   = "proxy_local"          // a header that names no exporter: the proxy's own, a health check say
	proxyEmpty   = "proxy_empty"          // nothing behind the header
)

const (
	// proxyMemory is how long a proxy's address and port stand for the exporter
	// that a header named, since the last datagram from there.
	proxyMemory = 5 * time.Minute
	// maxProxyStreams bounds how many are remembered.
	maxProxyStreams = 65_536
)

// proxies finds the exporter behind a balancer that puts a PROXY header in front
// of datagrams: of each, or of the first of a stream only. No one else's header
// is looked at: what he sends is no NetFlow then.
type proxies struct {
	trusted []netip.Prefix

	mu      sync.Mutex
	streams map[netip.AddrPort]proxied // by the proxy's address and port
}

type proxied struct {
	exporter netip.AddrPort
	last     time.Time
}

func newProxies(trusted []netip.Prefix) *proxies {
	return &proxies{trusted: trusted, streams: map[netip.AddrPort]proxied{}}
}

// warnWideProxies warns of trusted networks that cannot be private: whoever forges a
// source address of theirs then names any exporter. The widest private networks are
// 10.0.0.0/8 (RFC 1918) and fc00::/7 (RFC 4193).
func warnWideProxies(log *slog.Logger, trusted []netip.Prefix) {
	for _, p := range trusted {
		if p.Addr().Is4() && p.Bits() >= 8 || p.Addr().Is6() && p.Bits() >= 7 {
			continue
		}
		log.Warn("TRUSTED_PROXIES holds a network that is not private: whoever sends from it, or forges an address of it, "+
			"can send flows in the name of any exporter. Name the balancers' own addresses", "network", p)
	}
}

func (p *proxies) trusts(a netip.Addr) bool {
	for _, t := range p.trusted {
		if t.Contains(a) {
			return true
		}
	}
	return false
}

// unwrap returns the datagram without its header and the exporter it is from.
// reason is not empty when it is to be dropped. from is unmapped.
func (p *proxies) unwrap(pkt []byte, from netip.AddrPort, at time.Time) (rest []byte, exporter netip.AddrPort, reason string) {
	if !p.trusts(from.Addr()) {
		return pkt, from, ""
	}
	if !proxyproto.Has(pkt) {
		p.mu.Lock()
		defer p.mu.Unlock()
		s, ok := p.streams[from]
		if !ok || at.Sub(s.last) > proxyMemory {
			return nil, from, proxyMissing
		}
		p.streams[from] = proxied{s.exporter, at}
		return pkt, s.exporter, ""
	}
	exporter, n, err := proxyproto.Parse(pkt)
	switch {
	case err != nil:
		return nil, from, proxyBad
	case !exporter.IsValid():
		return nil, from, proxyLocal
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, known := p.streams[from]; !known && len(p.streams) >= maxProxyStreams {
		p.makeRoom(at)
	}
	p.streams[from] = proxied{exporter, at}
	if n == len(pkt) {
		return nil, exporter, proxyEmpty
	}
	return pkt[n:], exporter, ""
}

// makeRoom forgets streams that are over, then others until an eighth of the room is
// free: the search is not repeated for each new stream. mu is held.
func (p *proxies) makeRoom(now time.Time) {
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
