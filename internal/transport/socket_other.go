//go:build !linux

package transport

import (
	"context"
	"net"
	"net/netip"
)

// shareable reports that an address has a single socket: SO_REUSEPORT distributes datagrams on Linux
// only.
const shareable = false

func openUDP(ctx context.Context, a netip.AddrPort, _ bool) (*net.UDPConn, error) {
	c, err := (&net.ListenConfig{}).ListenPacket(ctx, "udp", listenAddress(a))
	if err != nil {
		return nil, err
	}
	return c.(*net.UDPConn), nil // always a *net.UDPConn: the network is udp
}

func setBuffer(c *net.UDPConn, n int) (granted int) {
	if n > 0 && c.SetReadBuffer(n) == nil {
		return n
	}
	return 0
}

func requestDropControl(*net.UDPConn) bool { return false }

// read returns 0: drops are not counted on this system.
func (d *dropCount) read(*net.UDPConn) uint64 { return d.total }

func (d *dropCount) updateFromControl([]byte) {}
