package transport

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"weir/internal/transport/proxyproto"
)

// Reasons for the end of a connection, a closed set: values of the metric label "reason".
const (
	EndClosed    = "closed"     // the exporter closed it, between two messages
	EndCut       = "cut"        // the exporter or the network cut it within a message
	EndIdle      = "idle"       // no message for TCP_IDLE_TIMEOUT
	EndSilent    = "silent"     // no message began within beginWithin
	EndSlow      = "slow"       // a message was not complete within messageWithin
	EndNoIPFIX   = "no_ipfix"   // the octets are not an IPFIX message
	EndTLS       = "tls"        // the TLS handshake failed or took longer than beginWithin
	EndProxy     = "proxy"      // a trusted proxy sent no PROXY header that names an exporter
	EndDenied    = "denied"     // EXPORTERS_FILE denies the exporter
	EndLimit     = "limit"      // TCP_MAX_CONNECTIONS connections are open
	EndPerSource = "limit_each" // the address has TCP_MAX_PER_ADDRESS open connections
	EndShutdown  = "shutdown"   // ctx of Run ended
)

// beginWithin bounds the PROXY header, the TLS handshake and the wait for the first message, each.
// messageWithin bounds a message from its first octet. Without these bounds a sender of single
// octets could hold a connection for ever.
const (
	beginWithin   = 10 * time.Second
	messageWithin = 30 * time.Second
)

// A StreamReceiver receives the sessions of connections. Its methods must be safe for concurrent
// use: each connection has a goroutine that calls them.
type StreamReceiver interface {
	// Allows reports whether an exporter may send.
	Allows(exporter netip.Addr) bool
	// Begin begins a session, which lasts as long as its connection: a transport session of RFC
	// 7011 section 2, the scope of its templates. exporter is bare.
	Begin(exporter netip.AddrPort) Session
	// Ended is called at the end of each connection, even without a session, and before the
	// connection is closed. reason is a constant End….
	Ended(reason string)
}

// A Session receives the messages of a connection. All its methods are called by the same goroutine.
type Session interface {
	// Wait returns when there is room for another message, or ctx ends. It is the flow control:
	// the connection is not read meanwhile, and the exporter blocks when TCP's buffers are full.
	Wait(ctx context.Context)
	// Message handles an IPFIX message; it must not keep msg after it returns. msg has a capacity of
	// at least spare octets beyond its length, which the decoder may read.
	Message(msg []byte)
	// Close is called exactly once, after the last message.
	Close()
}

// Streams holds the listeners of IPFIX over TCP and TLS and serves their connections.
type Streams struct {
	c        StreamConfig
	drain    time.Duration
	proxies  *Proxies
	log      *slog.Logger
	receiver StreamReceiver
	endLog   *rate.Limiter

	drained context.Context // ends DRAIN after ctx of Run; from then on Session.Wait returns at once
	ending  atomic.Int64    // end of ctx of Run, ns since the epoch; 0: it has not ended

	mu            sync.Mutex // guards the fields below
	plain, secure []net.Listener
	open          int
	each          map[netip.Addr]int // open connections by SourceOf of their exporter; at most as many as open
}

// SourceOf returns the address by which the connections of a are counted: an IPv4 address, or the
// /64 of an IPv6 address, since a host can commonly use every address of its /64.
func SourceOf(a netip.Addr) netip.Addr {
	if a.Is4() {
		return a
	}
	p, err := a.Prefix(64)
	if err != nil {
		return a // unreachable: a is an IPv6 address
	}
	return p.Addr()
}

// NewStreams returns Streams that are inert until Listen. Connections are read for drain after ctx of
// Run has ended.
func NewStreams(c StreamConfig, drain time.Duration, proxies *Proxies, log *slog.Logger, to StreamReceiver) *Streams {
	return &Streams{
		c: c, drain: drain, proxies: proxies, log: log, receiver: to,
		endLog: rate.NewLimiter(0.2, 10), each: map[netip.Addr]int{},
	}
}

// Listen opens the listeners of every address. After an error none is open. Either Run or Close must
// be called to close them.
func (s *Streams) Listen(ctx context.Context) error {
	var errs []error
	open := func(name string, addrs []netip.AddrPort) (ls []net.Listener) {
		for _, a := range addrs {
			l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", listenAddress(a))
			if err != nil {
				errs = append(errs, fmt.Errorf("%s %s: %w (is another collector listening there?)", name, a, err))
				continue
			}
			ls = append(ls, l)
		}
		return ls
	}
	plain, secure := open("LISTEN_TCP", s.c.TCP), open("LISTEN_TLS", s.c.TLS)
	s.mu.Lock()
	s.plain, s.secure = plain, secure
	s.mu.Unlock()
	if len(errs) > 0 {
		s.Close()
		return errors.Join(errs...)
	}
	for i, l := range slices.Concat(plain, secure) {
		s.log.Info("listening for IPFIX over TCP", "address", l.Addr(), "tls", i >= len(plain))
	}
	return nil
}

func (s *Streams) listeners() []net.Listener {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Concat(s.plain, s.secure)
}

// Addresses returns the local addresses of the listeners, TLS last.
func (s *Streams) Addresses() (all []net.Addr) {
	for _, l := range s.listeners() {
		all = append(all, l.Addr())
	}
	return all
}

// Close closes the listeners.
func (s *Streams) Close() {
	for _, l := range s.listeners() {
		_ = l.Close() // fails only if it is closed already
	}
}

// Open returns the number of open connections.
func (s *Streams) Open() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open
}

// Run accepts connections until ctx ends, then drains them as Socket.Read does. It returns when every
// connection has ended. It must be called at most once, after Listen.
func (s *Streams) Run(ctx context.Context) {
	drained, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	s.drained = drained
	draining := context.AfterFunc(ctx, func() {
		s.ending.Store(time.Now().UnixNano())
		time.AfterFunc(s.drain, cancel)
	})
	defer draining()
	stop := context.AfterFunc(ctx, s.Close)
	defer stop()
	var all sync.WaitGroup
	accept := func(l net.Listener, secure bool) {
		all.Go(func() {
			for {
				c, err := l.Accept()
				switch {
				case errors.Is(err, net.ErrClosed):
					return
				case err != nil: // for example too many open files
					s.log.Warn("cannot accept connections", "address", l.Addr(), "err", err)
					select {
					case <-ctx.Done():
						return
					case <-time.After(100 * time.Millisecond):
					}
					continue
				}
				if !s.reserve() {
					s.ended(c, EndLimit, nil)
					continue
				}
				all.Go(func() {
					defer s.release()
					reason, err := s.serve(ctx, c, secure)
					s.ended(c, reason, err)
				})
			}
		})
	}
	for _, l := range s.plain {
		accept(l, false)
	}
	for _, l := range s.secure {
		accept(l, true)
	}
	all.Wait()
}

// reserve counts a connection. It returns false at TCP_MAX_CONNECTIONS; else the caller must call
// release.
func (s *Streams) reserve() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open >= s.c.Max {
		return false
	}
	s.open++
	return true
}

func (s *Streams) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open--
}

// reserveSource counts a connection of an exporter. It returns false at TCP_MAX_PER_ADDRESS; else the
// caller must call releaseSource.
func (s *Streams) reserveSource(a netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	a = SourceOf(a)
	if s.each[a] >= s.c.PerAddress {
		return false
	}
	s.each[a]++
	return true
}

func (s *Streams) releaseSource(a netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a = SourceOf(a)
	if s.each[a]--; s.each[a] == 0 {
		delete(s.each, a)
	}
}

// ended counts the end of a connection, closes it and logs abnormal ends.
func (s *Streams) ended(c net.Conn, reason string, err error) {
	s.receiver.Ended(reason)
	_ = c.Close() // an error loses no data: nothing is sent
	if reason != EndClosed && reason != EndShutdown && s.endLog.Allow() {
		s.log.Warn("a connection of an exporter is closed", "from", c.RemoteAddr(), "reason", reason, "err", err)
	}
}

// serve reads the messages of a connection until its end and returns a constant End….
func (s *Streams) serve(ctx context.Context, c net.Conn, secure bool) (reason string, err error) {
	from, err := netip.ParseAddrPort(c.RemoteAddr().String())
	if err != nil {
		return EndNoIPFIX, err
	}
	from = Bare(from)
	wake := context.AfterFunc(ctx, func() { // wakes a read
		_ = c.SetReadDeadline(time.Now().Add(min(quiet, s.drain)))
	})
	defer wake()
	in := &messages{conn: c, raw: c, idle: s.c.Idle, ending: ctx, endedAt: &s.ending, drain: s.drain}
	if s.proxies.Trusts(from.Addr()) {
		if from, err = in.readProxyHeader(); err != nil {
			return EndProxy, err
		}
	}
	if !s.receiver.Allows(from.Addr()) {
		return EndDenied, nil
	}
	if !s.reserveSource(from.Addr()) {
		return EndPerSource, nil
	}
	defer s.releaseSource(from.Addr())
	if secure {
		// Octets read together with the PROXY header belong to the handshake.
		raw := &prefixedConn{Conn: c, prefix: in.detachUnread()}
		t := tls.Server(raw, &tls.Config{GetConfigForClient: s.c.tls, MinVersion: tls.VersionTLS12})
		handshake, cancel := context.WithTimeout(ctx, beginWithin)
		err := t.HandshakeContext(handshake)
		cancel()
		if err != nil {
			return EndTLS, err
		}
		in.conn = t
	}
	session := s.receiver.Begin(from)
	defer session.Close()
	for {
		session.Wait(s.drained)
		msg, err := in.next()
		switch {
		case err == nil:
			session.Message(msg)
			continue
		case ctx.Err() != nil:
			return EndShutdown, err
		case errors.Is(err, errNoIPFIX):
			return EndNoIPFIX, err
		case errors.Is(err, os.ErrDeadlineExceeded) && in.partly():
			return EndSlow, err
		case errors.Is(err, os.ErrDeadlineExceeded) && !in.spoken && in.idle > beginWithin:
			return EndSilent, err
		case errors.Is(err, os.ErrDeadlineExceeded):
			return EndIdle, err
		case in.partly():
			return EndCut, err
		}
		return EndClosed, nil
	}
}

// A prefixedConn is a connection whose first octets, prefix, have been read already. Read returns
// them first.
type prefixedConn struct {
	net.Conn

	prefix []byte
}

// Read implements io.Reader.
func (c *prefixedConn) Read(b []byte) (int, error) {
	if len(c.prefix) > 0 {
		n := copy(b, c.prefix)
		c.prefix = c.prefix[n:]
		return n, nil
	}
	return c.Conn.Read(b)
}

const (
	ipfixVersion = 10
	ipfixHeader  = 16      // octets of a message header, RFC 7011 section 3.1
	firstBuffer  = 4 << 10 // octets; the buffer grows to the largest message of its connection
	spare        = 1 << 10 // octets of capacity after a message: the decoder reads windows beyond its end
)

var errNoIPFIX = errors.New("not IPFIX")

// messages splits the octets of a connection into IPFIX messages by the Length field of their headers
// (RFC 7011 sections 3.1, 10.4). A single goroutine uses it.
type messages struct {
	conn   io.Reader
	raw    net.Conn // the TCP connection, for deadlines; with TLS, conn is the tls.Conn above it
	idle   time.Duration
	ending context.Context // its end begins draining
	drain  time.Duration
	// endedAt is the time at which ending was cancelled, ns since the epoch; 0 or nil: now. The
	// drain period is counted from it, so it includes the wait for Kafka.
	endedAt *atomic.Int64

	spoken bool      // a message has been received
	since  time.Time // start of the wait for the first message

	buf        []byte
	start, end int       // buf[start:end] has been read and not returned yet
	begun      time.Time // arrival of the first octet of an incomplete message
	until      time.Time // end of draining
}

// partly reports whether the buffer holds a part of a message.
func (m *messages) partly() bool { return m.end > m.start }

// detachUnread returns the octets that have been read and not returned, and empties the buffer. The
// caller owns them.
func (m *messages) detachUnread() []byte {
	b := m.buf[m.start:m.end]
	m.buf = nil
	m.start, m.end = 0, 0
	return b
}

// next returns the next message, which is valid until the next call.
func (m *messages) next() ([]byte, error) {
	need := 4
	for {
		have := m.buf[m.start:m.end]
		if len(have) >= 4 {
			version, length := binary.BigEndian.Uint16(have), int(binary.BigEndian.Uint16(have[2:]))
			switch {
			case version != ipfixVersion:
				return nil, fmt.Errorf("%w: version %d: want 10 over TCP", errNoIPFIX, version)
			case length < ipfixHeader:
				return nil, fmt.Errorf("%w: message length %d: want at least %d", errNoIPFIX, length, ipfixHeader)
			case length <= len(have):
				m.start += length
				m.begun, m.spoken = time.Time{}, true
				return have[:length], nil
			}
			need = length
		}
		if err := m.read(need); err != nil {
			return nil, err
		}
	}
}

// read reads at least an octet into the buffer after it made room for need octets in all. It sets the
// deadline of the read: of the message that has begun, of the first message, or of an idle connection;
// while draining, the end of draining.
func (m *messages) read(need int) error {
	if m.start > 0 {
		m.end, m.start = copy(m.buf, m.buf[m.start:m.end]), 0
	}
	if want := max(need, firstBuffer) + spare; len(m.buf) < want {
		m.buf = append(make([]byte, 0, want), m.buf[:m.end]...)[:want]
	}
	at := time.Now()
	if m.partly() && m.begun.IsZero() {
		m.begun = at
	}
	if m.since.IsZero() {
		m.since = at
	}
	deadline := at.Add(m.idle)
	switch {
	case m.partly():
		deadline = m.begun.Add(messageWithin)
	case !m.spoken:
		deadline = earlier(deadline, m.since.Add(beginWithin))
	}
	_ = m.raw.SetReadDeadline(deadline)
	// While draining, an earlier deadline applies. ending must be checked after the call above, which may
	// have replaced the deadline that AfterFunc set when ending ended.
	if m.ending.Err() != nil {
		if m.until.IsZero() {
			m.until = m.drainsFrom(at).Add(m.drain + min(quiet, m.drain))
		}
		_ = m.raw.SetReadDeadline(earlier(m.until, at.Add(quiet)))
	}
	n, err := m.conn.Read(m.buf[m.end : len(m.buf)-spare])
	if m.end += n; n > 0 {
		return nil
	}
	return err
}

// drainsFrom returns the time at which draining began.
func (m *messages) drainsFrom(now time.Time) time.Time {
	if m.endedAt == nil || m.endedAt.Load() == 0 {
		return now
	}
	return time.Unix(0, m.endedAt.Load())
}

// readProxyHeader reads the PROXY header at the start of a trusted proxy's connection and returns the
// exporter that it names. The header must be complete within beginWithin.
func (m *messages) readProxyHeader() (exporter netip.AddrPort, err error) {
	within := m.idle
	m.idle = beginWithin
	defer func() { m.idle = within; m.begun, m.since = time.Time{}, time.Time{} }()
	for !proxyproto.Complete(m.buf[m.start:m.end]) {
		if err := m.read(m.end - m.start + 1); err != nil {
			return exporter, fmt.Errorf("no PROXY header: %w", err)
		}
	}
	exporter, n, err := proxyproto.Parse(m.buf[m.start:m.end])
	switch {
	case err != nil:
		return exporter, err
	case !exporter.IsValid():
		return exporter, errors.New("the PROXY header names no exporter: probably a health check")
	}
	m.start += n
	return exporter, nil
}
