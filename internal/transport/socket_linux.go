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

// shareable reports that several sockets can share an address (SO_REUSEPORT).
const shareable = true

// openUDP opens a socket on a; [::] receives IPv4 too. With share, the socket sets SO_REUSEPORT.
func openUDP(ctx context.Context, a netip.AddrPort, share bool) (*net.UDPConn, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		if !share {
			return nil
		}
		var err error
		set := func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) }
		if e := c.Control(set); e != nil {
			return e
		}
		return err
	}}
	c, err := lc.ListenPacket(ctx, "udp", listenAddress(a))
	if err != nil {
		return nil, err
	}
	return c.(*net.UDPConn), nil // always a *net.UDPConn: the network is udp
}

// setBuffer requests a receive buffer of n octets and returns the size that the kernel granted; 0:
// unknown. SO_RCVBUFFORCE exceeds net.core.rmem_max and needs CAP_NET_ADMIN.
func setBuffer(c *net.UDPConn, n int) (granted int) {
	rc, err := c.SyscallConn()
	if err != nil || n == 0 {
		return 0
	}
	n = min(n, math.MaxInt32)         // the socket option is a C int
	_ = rc.Control(func(fd uintptr) { // on an error granted stays 0
		if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, n) != nil {
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, n)
		}
		granted, _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF)
		granted /= 2 // the kernel doubles the value for its own bookkeeping, socket(7)
	})
	return granted
}

// socketDrops reads the drop counter of a socket. SO_MEMINFO (Linux 4.12) fills an array of 32-bit
// numbers, in the order of sock_diag(7).
func socketDrops(fd uintptr) (n uint32, ok bool) {
	var info [unix.SK_MEMINFO_VARS]uint32
	size := uint32(unsafe.Sizeof(info))
	//nolint:gosec // G103: x/sys has no call for an option that is an array
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 || uintptr(size) < unsafe.Sizeof(info) {
		return 0, false
	}
	return info[unix.SK_MEMINFO_DROPS], true
}

// requestDropControl makes a kernel without SO_MEMINFO send the socket's drop counter in a control
// message of each datagram (SO_RXQ_OVFL), and reports whether it does. SO_MEMINFO is preferred: with
// SO_RXQ_OVFL, drops after the last queued datagram stay uncounted until another datagram arrives.
func requestDropControl(c *net.UDPConn) (requested bool) {
	rc, err := c.SyscallConn()
	if err != nil {
		return false
	}
	_ = rc.Control(func(fd uintptr) {
		if _, ok := socketDrops(fd); !ok { // if both options fail, drops are not counted
			requested = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RXQ_OVFL, 1) == nil
		}
	})
	return requested
}

// read returns the count of the socket c. If c is closed, it returns the last reading.
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

// updateFromControl reads the counter (SO_RXQ_OVFL, socket(7)) from the control messages of a
// datagram.
func (d *dropCount) updateFromControl(oob []byte) {
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
