//go:build synctests

package simulation

import (
	"context"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
)

// A host is the network of a process. Its connections can be cut, held in one or both directions, and
// delayed. Like TCP, a held direction keeps its octets and delivers them when it is released.
type host struct {
	network *kfake.VirtualNetwork

	mu      sync.Mutex // guards the fields below; must not be held while waiting
	refuse  bool       // connections are closed and no new one is made
	hold    [2]chan struct{}
	latency time.Duration
	conns   []*conn
}

// The directions of a connection, as seen by its client.
const (
	sending = iota
	receiving
)

// errCut is the error of package net's dialer when there is no route.
var errCut = &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ENETUNREACH)}

// dial implements kafka.Config.Dial.
func (h *host) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	h.mu.Lock()
	refuse, hold := h.refuse, h.hold[sending]
	h.mu.Unlock()
	if refuse {
		return nil, errCut
	}
	if hold != nil { // a SYN without an answer
		select {
		case <-hold:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	inner, err := h.network.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: inner, host: h, closed: make(chan struct{})}
	h.mu.Lock()
	h.conns = append(h.conns, c)
	h.mu.Unlock()
	return c, nil
}

// cut closes all connections and refuses new ones until mend.
func (h *host) cut() {
	h.mu.Lock()
	h.refuse = true
	all := h.conns
	h.conns = nil
	h.mu.Unlock()
	for _, c := range all {
		_ = c.Close()
	}
}

// blackhole holds sent or received octets until mend.
func (h *host) blackhole(direction int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.hold[direction] == nil {
		h.hold[direction] = make(chan struct{})
	}
}

// slow delays all octets sent.
func (h *host) slow(by time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.latency = by
}

// mend restores the network.
func (h *host) mend() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.refuse, h.latency = false, 0
	for d, held := range h.hold {
		if held != nil {
			close(held)
			h.hold[d] = nil
		}
	}
}

func (h *host) forget(c *conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if i := slices.Index(h.conns, c); i >= 0 {
		h.conns = slices.Delete(h.conns, i, i+1)
	}
}

// A conn is a connection of a host.
type conn struct {
	net.Conn
	host   *host
	once   sync.Once
	closed chan struct{}

	mu        sync.Mutex
	deadlines [2]time.Time
	changed   chan struct{} // closed when a deadline is set, and then another one; nil: nobody waits
}

// wait blocks while a direction is held, until the direction's deadline or the connection's end.
func (c *conn) wait(direction int) error {
	for first := true; ; first = false {
		c.host.mu.Lock()
		hold, latency := c.host.hold[direction], c.host.latency
		c.host.mu.Unlock()
		if first && direction == sending && latency > 0 {
			time.Sleep(latency)
		}
		if hold == nil {
			return nil
		}
		c.mu.Lock()
		deadline := c.deadlines[direction]
		if c.changed == nil {
			c.changed = make(chan struct{})
		}
		changed := c.changed
		c.mu.Unlock()
		var expired <-chan time.Time
		if !deadline.IsZero() {
			t := time.NewTimer(time.Until(deadline))
			defer t.Stop()
			expired = t.C
		}
		select {
		case <-hold:
		case <-changed:
		case <-c.closed:
			return net.ErrClosed
		case <-expired:
			return os.ErrDeadlineExceeded
		}
	}
}

// Write implements net.Conn.
func (c *conn) Write(p []byte) (int, error) {
	if err := c.wait(sending); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// Read implements net.Conn. Octets that were read while the direction is held are delivered when it is
// released.
func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil {
		return n, err
	}
	if err := c.wait(receiving); err != nil {
		return 0, err
	}
	return n, nil
}

// SetDeadline implements net.Conn.
func (c *conn) SetDeadline(t time.Time) error {
	c.setDeadlines(t, sending, receiving)
	return c.Conn.SetDeadline(t)
}

// SetReadDeadline implements net.Conn.
func (c *conn) SetReadDeadline(t time.Time) error {
	c.setDeadlines(t, receiving)
	return c.Conn.SetReadDeadline(t)
}

// SetWriteDeadline implements net.Conn.
func (c *conn) SetWriteDeadline(t time.Time) error {
	c.setDeadlines(t, sending)
	return c.Conn.SetWriteDeadline(t)
}

// setDeadlines also wakes reads and writes that are waiting.
func (c *conn) setDeadlines(t time.Time, directions ...int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, d := range directions {
		c.deadlines[d] = t
	}
	if c.changed != nil {
		close(c.changed)
		c.changed = nil
	}
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.once.Do(func() {
		close(c.closed)
		c.host.forget(c)
	})
	return c.Conn.Close()
}
