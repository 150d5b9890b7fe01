//go:build !linux

package transport

import (
	"context"
	"net"
	"net/netip"
)

// shareable: elsewhere one socket has an address for itself.
const shareable = false

func openUDP(ctx context.Context, a netip.AddrPort, _ bool) (*net.UDPConn, error) {
	c, err := (&net.ListenConfig{}).ListenPacket(ctx, "udp", dialect(a))
	if err != nil {
		return nil, err
	}
	return c.(*net.UDPConn), nil // of network udp
}

func setBuffer(c *net.UDPConn, n int) (granted int) {
	if n > 0 && c.SetReadBuffer(n) == nil {
		return n
	}
	return 0
}

func dropsBeside(*net.UDPConn) bool { return false }

// read returns 0: the count is not known here.
func (d *dropCount) read(*net.UDPConn) uint64 { return d.total }

func (d *dropCount) beside([]byte) {}
