// Package udp opens the sockets of verbs that receive datagrams themselves.
package udp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"time"
)

// receiveBuffer is asked of the kernel for each socket, in octets; it may grant less.
const receiveBuffer = 8 << 20

// Receive calls to for each datagram from c until c is closed; the error is nil then. to must not keep the octets.
func Receive(c *net.UDPConn, to func([]byte, netip.AddrPort, time.Time)) error {
	_ = c.SetReadBuffer(receiveBuffer) // a smaller one works, too
	buf := make([]byte, 65535)
	for {
		n, from, err := c.ReadFromUDPAddrPort(buf)
		switch {
		case errors.Is(err, net.ErrClosed):
			return nil
		case err != nil:
			return fmt.Errorf("receiving on %v: %w", c.LocalAddr(), err)
		}
		to(buf[:n], netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), time.Now())
	}
}

// LocalAddrs returns the addresses of conns.
func LocalAddrs(conns []*net.UDPConn) []net.Addr {
	list := make([]net.Addr, len(conns))
	for i, c := range conns {
		list[i] = c.LocalAddr()
	}
	return list
}

// Describe returns the addresses of conns for a message.
func Describe(conns []*net.UDPConn) string {
	list := make([]string, len(conns))
	for i, c := range conns {
		list[i] = c.LocalAddr().String()
	}
	return strings.Join(list, " and ")
}

// Listen opens UDP addresses; one without host receives IPv6 and IPv4. It opens all or none: the error names each
// address that failed and the flag --listen.
func Listen(addrs []string) (conns []*net.UDPConn, err error) {
	var errs []error
	for _, a := range addrs {
		ua, err := net.ResolveUDPAddr("udp", strings.TrimSpace(a))
		if err != nil {
			errs = append(errs, fmt.Errorf("--listen %s: want host:port or :port, comma separated: %w", a, err))
			continue
		}
		c, err := net.ListenUDP("udp", ua)
		switch {
		case errors.Is(err, syscall.EADDRINUSE):
			errs = append(errs, fmt.Errorf("--listen %s: the port is taken, by another collector perhaps: end that, or choose other ports (for example --listen :12055)", a))
		case err != nil:
			errs = append(errs, fmt.Errorf("--listen %s: %w", a, err))
		default:
			conns = append(conns, c)
		}
	}
	if len(errs) > 0 {
		Close(conns)
		return nil, errors.Join(errs...)
	}
	return conns, nil
}

// Close closes conns.
func Close(conns []*net.UDPConn) {
	for _, c := range conns {
		_ = c.Close() // nothing is written to it
	}
}
