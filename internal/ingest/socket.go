package ingest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"time"
)

// maxDatagram is the largest UDP payload, octets.
const maxDatagram = 65535

// quiet is how long nothing may come before draining ends.
const quiet = time.Second

// A socket is one UDP socket that is read by one goroutine.
type socket struct {
	*net.UDPConn
	address string
}

func closeAll(ss []*socket) {
	for _, s := range ss {
		_ = s.Close() // nothing is buffered in it
	}
}

// dialect is a as package net wants it: [::] takes IPv4 too, and is 0.0.0.0
// where there is no IPv6.
func dialect(a netip.AddrPort) string {
	if a.Addr() == netip.IPv6Unspecified() {
		return ":" + strconv.Itoa(int(a.Port()))
	}
	return a.String()
}

// listen opens the sockets of every address, or none.
func (r *Replica) listen(ctx context.Context) (ss []*socket, err error) {
	n := r.c.Receivers
	if n == 0 {
		n = min(runtime.GOMAXPROCS(0), 4)
	}
	if !shareable {
		n = 1
	}
	var errs []error
	for _, a := range r.c.Listen {
		granted := 0
		// Sharing a port would let a second process take half of the datagrams
		// unseen: first see that nobody else has it.
		probe, err := openUDP(ctx, a, false)
		if err != nil {
			errs = append(errs, fmt.Errorf("LISTEN_UDP %s: %w (is another collector listening there?)", a, err))
			continue
		}
		at := probe.LocalAddr().(*net.UDPAddr).AddrPort() // a UDP socket's
		if n > 1 {
			_ = probe.Close() // it only asked
			at = netip.AddrPortFrom(a.Addr(), at.Port())
			probe = nil
		}
		for range n {
			c := probe
			if c == nil {
				if c, err = openUDP(ctx, at, true); err != nil {
					errs = append(errs, fmt.Errorf("LISTEN_UDP %s: %w", a, err))
					break
				}
			}
			granted = setBuffer(c, r.c.RcvBuf)
			r.metrics.rcvbuf.WithLabelValues(at.String()).Set(float64(granted))
			watchDrops(c)
			ss = append(ss, &socket{c, at.String()})
			probe = nil
		}
		r.ports[at.Port()] = true
		r.mu.Lock()
		r.open = append(r.open, at.String())
		r.mu.Unlock()
		if granted > 0 && granted < r.c.RcvBuf {
			r.log.Warn("the kernel grants a smaller receive buffer: raise net.core.rmem_max", "address", at, "wanted", r.c.RcvBuf, "granted", granted)
		}
		r.log.Info("listening", "address", at, "sockets", n, "receive_buffer", granted)
	}
	if len(errs) > 0 {
		closeAll(ss)
		return nil, errors.Join(errs...)
	}
	return ss, nil
}

// read takes datagrams until ctx ends and draining is over.
func (r *Replica) read(ctx context.Context, s *socket) error {
	w := r.worker(r.accounts.tally())
	if r.pack != nil { // sockets do not wait for each other
		w.pack = r.producer.Load().Packer(r.c.Pack)
	}
	buf := make([]byte, maxDatagram)
	oob := make([]byte, 128)
	drops := r.metrics.kernelDrops.WithLabelValues(s.address)
	var dropped uint32
	stop := context.AfterFunc(ctx, func() { _ = s.SetReadDeadline(time.Now().Add(min(quiet, r.c.Drain))) }) // wakes the read below
	defer stop()
	var until time.Time
	for {
		n, oobn, _, from, err := s.ReadMsgUDPAddrPort(buf, oob)
		switch {
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() != nil, errors.Is(err, net.ErrClosed):
			return nil
		default:
			// ICMP errors and the like concern one datagram.
			r.log.Warn("reading from a socket", "address", s.address, "err", err)
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		if d, ok := kernelDrops(oob[:oobn]); ok && d != dropped {
			drops.Add(float64(d - dropped))
			dropped = d
		}
		w.datagram(buf[:n], from, r.deps.Now())
		if ctx.Err() != nil {
			now := time.Now()
			if until.IsZero() {
				until = now.Add(r.c.Drain)
			}
			if now.After(until) {
				return nil
			}
			_ = s.SetReadDeadline(earlier(until, now.Add(quiet)))
		}
	}
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
