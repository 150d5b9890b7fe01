package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"sync"
	"time"
)

// MaxDatagram is the largest UDP payload, octets.
const MaxDatagram = 65535

// quiet is how long nothing may come before draining ends.
const quiet = time.Second

// A Socket is a UDP socket. One goroutine must read it; the other methods may be called by several.
type Socket struct {
	// Address is the local address, with the port that the system chose where 0 was asked for.
	Address netip.AddrPort
	// Buffer is the receive buffer that the system granted, octets; 0: unknown, or none was asked for.
	Buffer int

	conn   *net.UDPConn
	beside bool // the kernel's drop counter comes beside datagrams
	drops  dropCount
}

// dialect is a as package net wants it: [::] takes IPv4 too, and is 0.0.0.0
// where there is no IPv6.
func dialect(a netip.AddrPort) string {
	if a.Addr() == netip.IPv6Unspecified() {
		return ":" + strconv.Itoa(int(a.Port()))
	}
	return a.String()
}

// Bare returns a without zone, and as IPv4 where it is IPv4 in IPv6.
func Bare(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}

// ListenUDP opens sockets on address, [::] for IPv6 and IPv4, or none: sockets of them that share
// the port, 0 for one per CPU and at most 4. Each gets a receive buffer of buffer octets, past the
// system's limit where that is allowed; 0 keeps the system's default. The caller must close them.
func ListenUDP(ctx context.Context, address netip.AddrPort, sockets, buffer int) (all []*Socket, err error) {
	if sockets == 0 {
		sockets = min(runtime.GOMAXPROCS(0), 4)
	}
	if !shareable {
		sockets = 1
	}
	defer func() {
		if err != nil {
			CloseSockets(all)
			all = nil
		}
	}()
	// Sharing a port would let a second process take half of the datagrams
	// unseen: first see that nobody else has it.
	first, err := openUDP(ctx, address, false)
	if err != nil {
		return nil, err
	}
	at := first.LocalAddr().(*net.UDPAddr).AddrPort() // a UDP socket's
	if sockets == 1 {
		return []*Socket{newSocket(first, at, buffer)}, nil
	}
	_ = first.Close() // it only asked
	at = netip.AddrPortFrom(address.Addr(), at.Port())
	for range sockets {
		c, err := openUDP(ctx, at, true)
		if err != nil {
			return all, err
		}
		all = append(all, newSocket(c, at, buffer))
	}
	return all, nil
}

func newSocket(c *net.UDPConn, at netip.AddrPort, buffer int) *Socket {
	return &Socket{Address: at, Buffer: setBuffer(c, buffer), conn: c, beside: dropsBeside(c)}
}

// CloseSockets closes sockets.
func CloseSockets(all []*Socket) {
	for _, s := range all {
		s.Close()
	}
}

// Close closes s, which may be closed already, and ends Read.
func (s *Socket) Close() {
	_ = s.Drops()      // what is counted stays known
	_ = s.conn.Close() // nothing is buffered in it
}

// Drops returns how many datagrams the kernel dropped because the socket's buffer was full.
func (s *Socket) Drops() uint64 { return s.drops.read(s.conn) }

// A dropCount follows the kernel's counter of 32 bits.
type dropCount struct {
	mu    sync.Mutex // guards what follows, and orders readings of the kernel's counter
	last  uint32     // the kernel's
	total uint64
}

// set takes a reading of the kernel's counter. mu is held.
func (d *dropCount) set(n uint32) {
	d.total += uint64(n - d.last) // modulo 2^32
	d.last = n
}

// Read calls handle for each datagram until s is closed, or ctx has ended and draining is over:
// reading goes on for drain then, unless nothing comes for a second. pkt is valid during the call;
// from is bare. An error that ends nothing, of ICMP say, is passed to failed.
func (s *Socket) Read(ctx context.Context, drain time.Duration, handle func(pkt []byte, from netip.AddrPort), failed func(error)) {
	buf := make([]byte, MaxDatagram)
	var oob []byte // a read without it is faster
	if s.beside {
		oob = make([]byte, 128)
	}
	stop := context.AfterFunc(ctx, func() { _ = s.conn.SetReadDeadline(time.Now().Add(min(quiet, drain))) }) // wakes the read below
	defer stop()
	var until time.Time
	for {
		n, oobn, _, from, err := s.conn.ReadMsgUDPAddrPort(buf, oob)
		switch {
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() != nil, errors.Is(err, net.ErrClosed):
			return
		default:
			// ICMP errors and the like concern one datagram.
			failed(fmt.Errorf("receiving on %v: %w", s.Address, err))
			select {
			case <-ctx.Done():
				return
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		if oobn > 0 {
			s.drops.beside(oob[:oobn])
		}
		handle(buf[:n], Bare(from))
		if ctx.Err() != nil {
			now := time.Now()
			if until.IsZero() {
				until = now.Add(drain)
			}
			if now.After(until) {
				return
			}
			_ = s.conn.SetReadDeadline(earlier(until, now.Add(quiet)))
		}
	}
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
