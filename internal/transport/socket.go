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

// MaxDatagram bounds the octets of a UDP payload: the UDP Length field has 16 bits (RFC 768).
const MaxDatagram = 65535

// quiet is the time without a datagram after which draining ends early.
const quiet = time.Second

// A Socket is a UDP socket. Only a single goroutine may call Read; the other methods are safe for
// concurrent use. The owner must call Close.
type Socket struct {
	// Address is the local address. If port 0 was requested, it has the port that the system chose.
	Address netip.AddrPort
	// Buffer is the receive buffer that the system granted, octets; 0: unknown, or none was requested.
	Buffer int

	conn           *net.UDPConn
	dropsInControl bool // datagrams carry the kernel's drop counter in a control message
	drops          dropCount
}

// listenAddress returns a in the form that package net expects. [::] becomes an empty host, which
// listens on IPv6 and IPv4, or on 0.0.0.0 if the system has no IPv6.
func listenAddress(a netip.AddrPort) string {
	if a.Addr() == netip.IPv6Unspecified() {
		return ":" + strconv.Itoa(int(a.Port()))
	}
	return a.String()
}

// Bare returns a without its zone; an IPv4-mapped IPv6 address becomes IPv4. Exporters are
// identified by bare addresses.
func Bare(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}

// ListenUDP opens sockets that share address; [::] receives IPv6 and IPv4. sockets is their number;
// 0 opens a socket per CPU, at most 4. Each gets a receive buffer of buffer octets, beyond the
// system's limit if the process may exceed it; 0 keeps the system's default. After an error no
// socket is open. The caller must close the sockets.
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
	// With SO_REUSEPORT, a second process on the same port would silently receive half of the
	// datagrams. An exclusive socket fails if the port is in use.
	first, err := openUDP(ctx, address, false)
	if err != nil {
		return nil, err
	}
	at := first.LocalAddr().(*net.UDPAddr).AddrPort() // always a *net.UDPAddr: the socket is UDP
	if sockets == 1 {
		return []*Socket{newSocket(first, at, buffer)}, nil
	}
	_ = first.Close() // it only tested that the port is free
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
	return &Socket{Address: at, Buffer: setBuffer(c, buffer), conn: c, dropsInControl: requestDropControl(c)}
}

// CloseSockets closes all sockets.
func CloseSockets(all []*Socket) {
	for _, s := range all {
		s.Close()
	}
}

// Close closes s and ends Read. It may be called again.
func (s *Socket) Close() {
	_ = s.Drops()      // the last reading of the counter: Drops returns it after Close
	_ = s.conn.Close() // an error loses no data: nothing is sent
}

// Drops returns how many datagrams the kernel dropped because the socket's buffer was full.
func (s *Socket) Drops() uint64 { return s.drops.read(s.conn) }

// A dropCount extends the kernel's 32-bit drop counter, which wraps, to 64 bits.
type dropCount struct {
	mu    sync.Mutex // guards the fields below; held while the kernel's counter is read, so that readings are in order
	last  uint32     // last reading of the kernel's counter
	total uint64
}

// set adds a reading of the kernel's counter. The caller must hold mu.
func (d *dropCount) set(n uint32) {
	d.total += uint64(n - d.last) // modulo 2^32
	d.last = n
}

// Read calls handle for each datagram until s is closed or draining is over. Draining begins when ctx
// ends and lasts for drain, or until no datagram has arrived for a second. handle must not keep pkt
// after it returns; from is bare. Read passes temporary errors, for example of ICMP, to failed and
// continues after 100 ms.
func (s *Socket) Read(
	ctx context.Context, drain time.Duration, handle func(pkt []byte, from netip.AddrPort), failed func(error),
) {
	buf := make([]byte, MaxDatagram)
	var oob []byte // nil makes each read faster
	if s.dropsInControl {
		oob = make([]byte, 128)
	}
	stop := context.AfterFunc(ctx, func() { // wakes the read below
		_ = s.conn.SetReadDeadline(time.Now().Add(min(quiet, drain)))
	})
	defer stop()
	var until time.Time
	for {
		n, oobn, _, from, err := s.conn.ReadMsgUDPAddrPort(buf, oob)
		switch {
		case err == nil:
			if oobn > 0 {
				s.drops.updateFromControl(oob[:oobn])
			}
			handle(buf[:n], Bare(from))
		case errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() != nil, errors.Is(err, net.ErrClosed):
			return
		default:
			// Errors such as ICMP's concern a single datagram, not the socket: they do not end draining either.
			failed(fmt.Errorf("receiving on %v: %w", s.Address, err))
			pause(ctx)
		}
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

// errorPause is the time for which Read pauses after an error.
const errorPause = 100 * time.Millisecond

// pause waits for errorPause, or until ctx ends. If ctx has ended already it waits for errorPause: an error that
// repeats while a socket is drained must not make Read spin.
func pause(ctx context.Context) {
	done := ctx.Done()
	if ctx.Err() != nil {
		done = nil
	}
	t := time.NewTimer(errorPause)
	defer t.Stop()
	select {
	case <-done:
	case <-t.C:
	}
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
