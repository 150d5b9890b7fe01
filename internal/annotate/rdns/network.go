package rdns

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"
)

const (
	// queriesPerSocket is the number of queries that a socket carries, one after the other.
	queriesPerSocket = 16
	// socketLife is the age at which a socket is not taken for another query.
	socketLife = 2 * time.Second
	// idleSockets bounds the idle sockets of a server. More are closed after their query.
	idleSockets = 16
	// strayReplies bounds the datagrams that are passed over while a query waits for its reply, so that a flood does
	// not cost more than that.
	strayReplies = 100
)

// A transport sends queries to servers. Tests use a transport that answers from memory.
type transport interface {
	// exchange sends q and returns the reply to it. proto is "udp" or "tcp", server is an address with a port. It must
	// return when ctx ends, and within timeout. An error means that no readable reply was received; a reply with any
	// RCODE is not an error. It may be called by several goroutines at once. ctx must be that of Run: sockets
	// belong to it.
	exchange(ctx context.Context, q *question, proto, server string, timeout time.Duration) (reply, error)

	// close closes idle sockets. It must not be called while exchange is running.
	close()
}

// A socket is a UDP socket that is connected to a server: the kernel discards datagrams of other senders. One query at
// a time may use it.
type socket struct {
	net.Conn
	opened time.Time
	uses   int // queries that were answered

	// buf holds the query until it is sent, then the reply. A reply beyond the size that EDNS allows is cut, and then
	// malformed.
	buf [maxUDPPayload]byte

	// detach ends the tie to the context whose end closes the socket.
	detach func() bool

	raw syscall.RawConn // nil: a socket of Config.Dial that is none of the system
}

// newSocket returns a socket without a tie to a context.
func newSocket(conn net.Conn, opened time.Time) *socket {
	s := &socket{Conn: conn, opened: opened}
	if c, ok := conn.(syscall.Conn); ok {
		s.raw, _ = c.SyscallConn() // an error means that the socket is closed: its next query fails
	}
	return s
}

// isEmpty reports whether neither a datagram nor an error waits in the socket.
func (s *socket) isEmpty() bool { return s.raw == nil || isEmpty(s.raw) }

// end closes the socket. It must be called for each socket that take returned and release did not get.
func (s *socket) end() {
	s.detach()
	_ = s.Close()
}

// network is the transport of production. A forged reply must guess the port and the id of a query (RFC 5452). Each
// UDP socket has a port that the kernel chooses at random. It carries one query at a time, queriesPerSocket in all and
// for socketLife at most: a blind guess is as hard as with a socket for each query, since take refuses a socket that
// received a datagram between queries, and a port that leaks is of use for a moment only.
type network struct {
	dial func(ctx context.Context, network, addr string) (net.Conn, error) // nil: the net package's

	mu    sync.Mutex           // guards the fields below
	idle  map[string][]*socket // by server
	swept time.Time            // time of the last removeOld
}

// exchange implements transport.
// ctx must be that of Run: a socket outlives the query and is tied to the ctx of its first query.
func (n *network) exchange(
	ctx context.Context, q *question, proto, server string, timeout time.Duration,
) (reply, error) {
	if proto == "tcp" {
		return n.exchangeTCP(ctx, q, server, timeout)
	}
	// From here s belongs to this call, which must pass it to end or to release.
	s, err := n.take(ctx, server)
	if err != nil {
		return reply{}, err
	}
	r, err := s.ask(q, time.Now().Add(timeout))
	if err != nil {
		s.end() // its reply may come yet
		return reply{}, errors.Join(ctx.Err(), err)
	}
	n.release(server, s)
	return r, nil
}

// take returns an idle socket, or a new one, which is closed when ctx ends. An idle socket in which a datagram waits is
// closed: nothing was asked, so that it is forged, or a duplicate. A forged reply must arrive while a query is open, as
// with a socket for each query; otherwise an attacker could fill a socket with guesses before its next query.
func (n *network) take(ctx context.Context, server string) (*socket, error) {
	now := time.Now()
	for s := n.pop(server); s != nil; s = n.pop(server) {
		if now.Sub(s.opened) < socketLife && s.isEmpty() {
			return s, nil
		}
		s.end()
	}
	conn, err := n.open(ctx, server)
	if err != nil {
		return nil, err
	}
	s := newSocket(conn, now)
	s.detach = context.AfterFunc(ctx, func() { _ = conn.Close() }) // ends a read at once
	return s, nil
}

// pop removes an idle socket of server, the one that was used last, and returns it; nil if there is none.
func (n *network) pop(server string) *socket {
	n.mu.Lock()
	defer n.mu.Unlock()
	list := n.idle[server]
	if len(list) == 0 {
		return nil
	}
	s := list[len(list)-1]
	list[len(list)-1] = nil
	n.idle[server] = list[:len(list)-1]
	return s
}

// open opens a UDP socket. The kernel chooses its port: net.ipv4.ip_local_port_range, 28 232 ports by default.
func (n *network) open(ctx context.Context, server string) (net.Conn, error) {
	if n.dial != nil {
		return n.dial(ctx, "udp", server)
	}
	to, err := netip.ParseAddrPort(server)
	if err != nil {
		return nil, err
	}
	return net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
}

// release makes a socket idle, or closes it. It must be called only after a reply: no other may be on its way.
func (n *network) release(server string, s *socket) {
	now := time.Now()
	n.mu.Lock()
	var unused []*socket
	if now.Sub(n.swept) >= socketLife {
		n.swept = now
		unused = n.removeOld(now)
	}
	list := n.idle[server]
	if s.uses++; s.uses < queriesPerSocket && len(list) < idleSockets {
		if n.idle == nil {
			n.idle = map[string][]*socket{}
		}
		n.idle[server] = append(list, s)
	} else {
		unused = append(unused, s)
	}
	n.mu.Unlock()
	for _, s := range unused {
		s.end()
	}
}

// removeOld removes the sockets that are as old as socketLife, and servers without sockets, from idle. A server with a
// host name may have another address every minute: the sockets to the former are not taken any more. n.mu must be held.
func (n *network) removeOld(now time.Time) (old []*socket) {
	for server, list := range n.idle {
		n.idle[server] = slices.DeleteFunc(list, func(s *socket) bool {
			if now.Sub(s.opened) < socketLife {
				return false
			}
			old = append(old, s)
			return true
		})
		if len(n.idle[server]) == 0 {
			delete(n.idle, server)
		}
	}
	return old
}

// close implements transport. Run has ended, so no exchange can make another socket idle.
func (n *network) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, list := range n.idle {
		for _, s := range list {
			s.end()
		}
	}
	clear(n.idle)
}

// ask sends a query and waits for the reply until deadline. Other datagrams are passed over (RFC 5452 section 9.1).
// After an error the socket must be closed: a late reply would be read by the next query.
func (s *socket) ask(q *question, deadline time.Time) (reply, error) {
	id := queryID()
	if err := s.SetDeadline(deadline); err != nil {
		return reply{}, err
	}
	if _, err := s.Write(appendQuery(s.buf[:0], id, q)); err != nil {
		return reply{}, err
	}
	for range strayReplies {
		// The query is sent: buf is free for the reply. The deadline bounds the loop beside strayReplies.
		n, err := s.Read(s.buf[:])
		if err != nil {
			return reply{}, err
		}
		r, err := parseReply(s.buf[:n], id, q)
		if !errors.Is(err, errOther) {
			return r, err
		}
	}
	return reply{}, errOther
}

// exchangeTCP sends a query over a connection of its own (RFC 7766 section 8: two octets of length, then the message).
// Few replies are truncated, so that connections are not kept. A message has 65 535 octets at most.
func (n *network) exchangeTCP(ctx context.Context, q *question, server string, timeout time.Duration) (reply, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	dial := n.dial
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	conn, err := dial(ctx, "tcp", server)
	if err != nil {
		return reply{}, err
	}
	// If ctx ends, AfterFunc closes conn, and stop returns false: conn is closed exactly once.
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer func() {
		if stop() {
			_ = conn.Close()
		}
	}()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return reply{}, err
		}
	}
	id := queryID()
	// The first two octets are the length, known only after the query is appended.
	query := appendQuery(make([]byte, 2, maxQuery), id, q)
	binary.BigEndian.PutUint16(query, uint16(len(query)-2))
	if _, err := conn.Write(query); err != nil {
		return reply{}, err
	}
	var length [2]byte
	if _, err := io.ReadFull(conn, length[:]); err != nil {
		return reply{}, err
	}
	// The server chooses the length: at most 64 KiB for each query in flight.
	message := make([]byte, binary.BigEndian.Uint16(length[:]))
	if _, err := io.ReadFull(conn, message); err != nil {
		return reply{}, err
	}
	return parseReply(message, id, q)
}

// queryID returns an id that cannot be guessed (RFC 5452 section 9.2).
func queryID() uint16 {
	var b [2]byte
	_, _ = rand.Read(b[:]) // never fails
	return binary.BigEndian.Uint16(b[:])
}
