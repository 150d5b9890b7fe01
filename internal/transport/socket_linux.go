package transport

import (
	"context"
	"encoding/binary"
	"math"
	"net"
	"net/netip"
	"syscall"
	"unsafe"

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

// socketDrops reads the drop counter of a socket: SO_MEMINFO (Linux 4.12) fills an array of 32-bit
// numbers, sock_diag(7) names them.
func socketDrops(fd uintptr) (n uint32, ok bool) {
	var info [unix.SK_MEMINFO_VARS]uint32
	size := uint32(unsafe.Sizeof(info))
	//nolint:gosec // G103: x/sys has no call for an option that is an array
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_MEMINFO, uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 || uintptr(size) < unsafe.Sizeof(info) {
		return 0, false
	}
	return info[unix.SK_MEMINFO_DROPS], true
}

// dropsBeside asks an older kernel for the socket's drop counter beside each datagram and reports
// whether it did. It is the worse source: what is dropped behind the last datagram that was queued
// stays unknown until another one comes.
func dropsBeside(c *net.UDPConn) (asked bool) {
	rc, err := c.SyscallConn()
	if err != nil {
		return false
	}
	_ = rc.Control(func(fd uintptr) {
		if _, ok := socketDrops(fd); !ok { // without either, no counter
			asked = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RXQ_OVFL, 1) == nil
		}
	})
	return asked
}

// read returns the count of the socket c; of a closed one, the last that is known.
func (d *dropCount) read(c *net.UDPConn) uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	if rc, err := c.SyscallConn(); err == nil {
		_ = rc.Control(func(fd uintptr) { // fails once c is closed
			if n, ok := socketDrops(fd); ok {
				d.set(n)
			}
		})
	}
	return d.total
}

// beside reads the counter (SO_RXQ_OVFL, socket(7)) from the control messages of a datagram.
func (d *dropCount) beside(oob []byte) {
	for len(oob) > 0 {
		h, data, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			return
		}
		if h.Level == unix.SOL_SOCKET && h.Type == unix.SO_RXQ_OVFL && len(data) >= 4 {
			d.mu.Lock()
			d.set(binary.NativeEndian.Uint32(data))
			d.mu.Unlock()
			return
		}
		oob = rest
	}
}
