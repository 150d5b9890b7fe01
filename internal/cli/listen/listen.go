// Package listen opens the UDP sockets of the flag --listen and receives datagrams on them, for the
// verbs collect, doctor and up.
package listen

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"time"

	"weir/internal/transport"
)

// Buffer is the receive buffer requested from the kernel for each socket, octets. It equals the
// default of RCVBUF.
const Buffer = 8 << 20

// Drain is the time for which sockets are read after the context has ended, unless no datagram arrives
// for a second. It equals the default of DRAIN.
const Drain = 5 * time.Second

// Sockets are the sockets of all addresses.
type Sockets []*transport.Socket

// Options are the options of Open.
type Options struct {
	Sockets int // number per address, which share the port; 0: a socket per CPU, at most 4
	Buffer  int // receive buffer of each, octets; 0: Buffer
}

// Open opens sockets on each address: host:port, or :port for IPv6 and IPv4. After an error no socket
// is open. The caller must call Close.
func Open(ctx context.Context, addrs []string, o Options) (all Sockets, err error) {
	var errs []error
	for _, a := range addrs {
		at, err := resolve(strings.TrimSpace(a))
		if err != nil {
			errs = append(errs, fmt.Errorf("--listen %s: want host:port or :port, comma separated: %w", a, err))
			continue
		}
		s, err := transport.ListenUDP(ctx, at, o.Sockets, cmp.Or(o.Buffer, Buffer))
		switch {
		case errors.Is(err, syscall.EADDRINUSE):
			errs = append(errs, fmt.Errorf("--listen %s: the port is in use, perhaps by another collector: "+
				"end that, or choose other ports (for example --listen :12055)", a))
		case err != nil:
			errs = append(errs, fmt.Errorf("--listen %s: %w", a, err))
		default:
			all = append(all, s...)
		}
	}
	if len(errs) > 0 {
		all.Close()
		return nil, errors.Join(errs...)
	}
	return all, nil
}

// resolve returns the address that a names; without a host it is [::].
func resolve(a string) (netip.AddrPort, error) {
	u, err := net.ResolveUDPAddr("udp", a)
	if err != nil {
		return netip.AddrPort{}, err
	}
	at := u.AddrPort()
	if u.IP == nil {
		return netip.AddrPortFrom(netip.IPv6Unspecified(), at.Port()), nil
	}
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port()), nil
}

// Close closes the sockets and ends Receive.
func (s Sockets) Close() { transport.CloseSockets(s) }

// Addresses returns the local addresses, each once.
func (s Sockets) Addresses() (all []net.Addr) {
	var last netip.AddrPort
	for _, x := range s { // sockets of the same address are adjacent
		if x.Address != last {
			all = append(all, net.UDPAddrFromAddrPort(x.Address))
			last = x.Address
		}
	}
	return all
}

// String returns the addresses as "a and b".
func (s Sockets) String() string {
	var list []string
	for _, a := range s.Addresses() {
		list = append(list, a.String())
	}
	return strings.Join(list, " and ")
}

// Drops returns how many datagrams the kernel dropped because a socket's buffer was full.
func (s Sockets) Drops() (n uint64) {
	for _, x := range s {
		n += x.Drops()
	}
	return n
}

// DropsText describes the drops of the kernel and their remedy for the operator. It is empty if there
// are none.
func (s Sockets) DropsText() string {
	n := s.Drops()
	if n == 0 {
		return ""
	}
	text := fmt.Sprintf(
		"the kernel dropped %d datagrams before they were read: they came faster than they are processed", n)
	if granted := s[0].Buffer; granted > 0 && granted < Buffer {
		text += fmt.Sprintf("; the receive buffer is %d octets, raise net.core.rmem_max to %d", granted, Buffer)
	}
	return text
}

// A Handler handles a datagram with its source, which is bare, and its time of receipt. It must not
// keep pkt after it returns.
type Handler func(pkt []byte, from netip.AddrPort, at time.Time)

// Receive reads every socket until ctx has ended and draining is over, see transport.Socket.Read. It
// calls handler once per socket; the returned Handlers are called concurrently with each other.
// Receive passes temporary errors to failed, which must be safe for concurrent use.
func (s Sockets) Receive(ctx context.Context, drain time.Duration, handler func() Handler, failed func(error)) {
	var readers sync.WaitGroup
	for _, x := range s {
		handle := handler()
		readers.Go(func() {
			x.Read(ctx, drain, func(pkt []byte, from netip.AddrPort) { handle(pkt, from, time.Now()) }, failed)
		})
	}
	readers.Wait()
}
