package ingest

import (
	"context"
	"encoding/binary"
	"math"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// shareable: several sockets can take turns on one address.
const shareable = true

// openUDP opens a socket on a; [::] takes IPv4 too.
func openUDP(ctx context.Context, a netip.AddrPort, share bool) (*net.UDPConn, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		if !share {
			return nil
		}
		var err error
		if e := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) }); e != nil {
			return e
		}
		return err
	}}
	c, err := lc.ListenPacket(ctx, "udp", dialect(a))
	if err != nil {
		return nil, err
	}
	return c.(*net.UDPConn), nil // of network udp
}

// setBuffer asks for a receive buffer of n octets, past the system's limit
// where allowed, and returns what was granted.
func setBuffer(c *net.UDPConn, n int) (granted int) {
	rc, err := c.SyscallConn()
	if err != nil || n == 0 {
		return 0
	}
	n = min(n, math.MaxInt32)         // the socket option is an int of C
	_ = rc.Control(func(fd uintptr) { // what was granted tells how it went
		if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, n) != nil {
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, n)
		}
		granted, _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF)
		granted /= 2 // the kernel doubles it for its own bookkeeping, socket(7)
	})
	return granted
}

// watchDrops asks for the socket's drop counter beside each datagram.
func watchDrops(c *net.UDPConn) {
	if rc, err := c.SyscallConn(); err == nil {
		_ = rc.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RXQ_OVFL, 1) }) // without it, no counter
	}
}

// kernelDrops reads the counter (SO_RXQ_OVFL, socket(7)) from control messages.
func kernelDrops(oob []byte) (n uint32, ok bool) {
	for len(oob) > 0 {
		h, data, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			return 0, false
		}
		if h.Level == unix.SOL_SOCKET && h.Type == unix.SO_RXQ_OVFL && len(data) >= 4 {
			return binary.NativeEndian.Uint32(data), true
		}
		oob = rest
	}
	return 0, false
}
