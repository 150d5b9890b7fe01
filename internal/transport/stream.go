package transport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
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

// StreamConfig is how IPFIX comes over TCP and TLS (RFC 7011 sections 10.4, 11).
type StreamConfig struct {
	TCP        []netip.AddrPort `env:"LISTEN_TCP" unit:"host:port list" help:"TCP addresses to receive IPFIX on (port 4739 by convention); empty: none"`
	TLS        []netip.AddrPort `env:"LISTEN_TLS" unit:"host:port list" help:"TCP addresses to receive IPFIX over TLS on (port 4740 by convention); empty: none"`
	CertFile   string           `env:"TLS_CERT_FILE" unit:"path" help:"PEM certificate for LISTEN_TLS; read anew for each connection"`
	KeyFile    string           `env:"TLS_KEY_FILE" unit:"path" help:"PEM key of TLS_CERT_FILE"`
	ClientCA   string           `env:"TLS_CLIENT_CA_FILE" unit:"path" help:"PEM certificates that have to have signed those of exporters; empty: exporters need none"`
	Max        int              `env:"TCP_MAX_CONNECTIONS" envDefault:"1024" help:"connections of exporters at a time; more are closed at once"`
	PerAddress int              `env:"TCP_MAX_PER_ADDRESS" envDefault:"64" help:"of these, of one exporter address (IPv6: of one /64)"`
	Idle       time.Duration    `env:"TCP_IDLE_TIMEOUT" envDefault:"30m" help:"a connection over which no message came for this long is closed; the first message must begin within 10 s"`
	Octets     int              `env:"TCP_MAX_OCTETS" envDefault:"67108864" unit:"octets" help:"memory for the templates of all connections; one address may take a quarter of it, one connection a sixteenth; templates beyond that are refused and counted"`
}

// Validate reports every mistake at once. It reads the files that are named.
func (c StreamConfig) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	seen := map[netip.AddrPort]bool{}
	for name, all := range map[string][]netip.AddrPort{"LISTEN_TCP": c.TCP, "LISTEN_TLS": c.TLS} {
		for _, a := range all {
			if seen[a] && a.Port() != 0 {
				bad("%s: %s is there twice: want each address once", name, a)
			}
			seen[a] = true
		}
	}
	if c.Max < 0 || c.PerAddress < 0 {
		bad("TCP_MAX_CONNECTIONS=%d, TCP_MAX_PER_ADDRESS=%d: want 0 (the default) or more", c.Max, c.PerAddress)
	}
	if c.Idle < time.Second {
		bad("TCP_IDLE_TIMEOUT=%v: want at least 1s", c.Idle)
	}
	if c.Octets < 0 {
		bad("TCP_MAX_OCTETS=%d: want 0 (the default) or more", c.Octets)
	}
	if len(c.TLS) == 0 {
		for name, f := range map[string]string{"TLS_CERT_FILE": c.CertFile, "TLS_KEY_FILE": c.KeyFile, "TLS_CLIENT_CA_FILE": c.ClientCA} {
			if f != "" {
				bad("%s=%s has no effect without LISTEN_TLS", name, f)
			}
		}
		return errors.Join(errs...)
	}
	if c.CertFile == "" || c.KeyFile == "" {
		bad("LISTEN_TLS needs TLS_CERT_FILE and TLS_KEY_FILE")
	} else if _, err := c.tls(nil); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// tls reads the files: for each connection, so that renewed ones are taken up
// without a restart. It has the form of tls.Config.GetConfigForClient.
func (c *StreamConfig) tls(*tls.ClientHelloInfo) (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("TLS_CERT_FILE=%s, TLS_KEY_FILE=%s: %w", c.CertFile, c.KeyFile, err)
	}
	t := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}}
	if c.ClientCA == "" {
		return t, nil
	}
	text, err := os.ReadFile(c.ClientCA)
	if err != nil {
		return nil, fmt.Errorf("TLS_CLIENT_CA_FILE: %w", err)
	}
	t.ClientAuth, t.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
	if !t.ClientCAs.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("TLS_CLIENT_CA_FILE: %s holds no certificate: want PEM", c.ClientCA)
	}
	return t, nil
}

// Ends of connections, a closed set.
const (
	EndClosed    = "closed"     // by the exporter, between two messages
	EndCut       = "cut"        // by the exporter or the network, within a message
	EndIdle      = "idle"       // TCP_IDLE_TIMEOUT
	EndSilent    = "silent"     // no message began within beginWithin
	EndSlow      = "slow"       // a message or handshake that did not come to its end
	EndNoIPFIX   = "no_ipfix"   // octets that are no IPFIX message
	EndTLS       = "tls"        // the handshake failed
	EndProxy     = "proxy"      // a trusted proxy, and no PROXY header that names an exporter
	EndDenied    = "denied"     // the exporters file does not allow it
	EndLimit     = "limit"      // too many connections
	EndPerSource = "limit_each" // too many of one address
	EndShutdown  = "shutdown"
)

// beginWithin bounds the PROXY header, the handshake and the wait for the first
// message, each; messageWithin bounds a message that has begun. A sender of one
// octet now and then holds its place no longer than that.
const (
	beginWithin   = 10 * time.Second
	messageWithin = 30 * time.Second
)

// A StreamReceiver takes what connections bring. Its methods are called by the goroutines of
// connections, several at a time.
type StreamReceiver interface {
	// Allows reports whether an exporter may send.
	Allows(exporter netip.Addr) bool
	// Begin begins a session, which lasts as long as its connection. exporter is bare.
	Begin(exporter netip.AddrPort) Session
	// Ended is called at the end of each connection, also of one that never had a session, before
	// the exporter can notice the end. why is one of the constants End….
	Ended(why string)
}

// A Session takes the messages of one connection, from one goroutine.
type Session interface {
	// Wait returns when there is room for another message, or ctx ends. Meanwhile the exporter
	// waits: TCP does not take more from it than buffers hold.
	Wait(ctx context.Context)
	// Message takes an IPFIX message, valid during the call. Its slice has capacity for spare
	// octets more.
	Message(msg []byte)
	// Close is called once, after the last message.
	Close()
}

// Streams are the listeners of IPFIX over TCP and TLS, and their connections.
type Streams struct {
	c        StreamConfig
	drain    time.Duration
	proxies  *Proxies
	log      *slog.Logger
	receiver StreamReceiver
	endLog   *rate.Limiter

	drained context.Context // ends DRAIN after Run's: nothing waits for room any longer
	ending  atomic.Int64    // when Run's context ended, ns since the epoch; 0: it has not

	mu            sync.Mutex // guards what follows
	plain, secure []net.Listener
	open          int
	each          map[netip.Addr]int // connections by SourceOf their exporters
}

// SourceOf returns the address by which the connections of a are counted: an address of IPv4 or a /64
// of IPv6, which is what one sender commonly has.
func SourceOf(a netip.Addr) netip.Addr {
	if a.Is4() {
		return a
	}
	p, err := a.Prefix(64)
	if err != nil {
		return a // never: a is an address of IPv6
	}
	return p.Addr()
}

// NewStreams returns Streams that are inert until Listen. Reading goes on for drain after Run's
// context has ended.
func NewStreams(c StreamConfig, drain time.Duration, proxies *Proxies, log *slog.Logger, to StreamReceiver) *Streams {
	return &Streams{
		c: c, drain: drain, proxies: proxies, log: log, receiver: to,
		endLog: rate.NewLimiter(0.2, 10), each: map[netip.Addr]int{},
	}
}

// Listen opens the listeners of every address, or none. Run or Close closes them.
func (s *Streams) Listen(ctx context.Context) error {
	var errs []error
	open := func(name string, addrs []netip.AddrPort) (ls []net.Listener) {
		for _, a := range addrs {
			l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", dialect(a))
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

// Addresses returns the addresses listened on, those of TLS last.
func (s *Streams) Addresses() (all []net.Addr) {
	for _, l := range s.listeners() {
		all = append(all, l.Addr())
	}
	return all
}

// Close closes the listeners.
func (s *Streams) Close() {
	for _, l := range s.listeners() {
		_ = l.Close() // a second time, or nothing is buffered in it
	}
}

// Open returns the number of connections.
func (s *Streams) Open() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open
}

// Run accepts connections until ctx ends, then reads on as sockets do, and returns when every
// connection has ended.
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
				case err != nil: // too many open files, say
					s.log.Warn("accepting connections", "address", l.Addr(), "err", err)
					select {
					case <-ctx.Done():
						return
					case <-time.After(100 * time.Millisecond):
					}
					continue
				}
				if !s.enter() {
					s.ended(c, EndLimit, nil)
					continue
				}
				all.Go(func() {
					defer s.leave()
					why, err := s.serve(ctx, c, secure)
					s.ended(c, why, err)
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

func (s *Streams) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open >= s.c.Max {
		return false
	}
	s.open++
	return true
}

func (s *Streams) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open--
}

// takes counts a connection of an exporter; false at the limit.
func (s *Streams) takes(a netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	a = SourceOf(a)
	if s.each[a] >= s.c.PerAddress {
		return false
	}
	s.each[a]++
	return true
}

func (s *Streams) gives(a netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a = SourceOf(a)
	if s.each[a]--; s.each[a] == 0 {
		delete(s.each, a)
	}
}

// ended closes a connection and says why.
func (s *Streams) ended(c net.Conn, why string, err error) {
	s.receiver.Ended(why)
	_ = c.Close() // what it held is read
	if why != EndClosed && why != EndShutdown && s.endLog.Allow() {
		s.log.Warn("a connection of an exporter is closed", "from", c.RemoteAddr(), "reason", why, "err", err)
	}
}

// serve reads the messages of one connection.
func (s *Streams) serve(ctx context.Context, c net.Conn, secure bool) (why string, err error) {
	from, err := netip.ParseAddrPort(c.RemoteAddr().String())
	if err != nil {
		return EndNoIPFIX, err
	}
	from = Bare(from)
	wake := context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Now().Add(min(quiet, s.drain))) }) // wakes a read
	defer wake()
	in := &messages{conn: c, raw: c, idle: s.c.Idle, ending: ctx, endedAt: &s.ending, drain: s.drain}
	if s.proxies.Trusts(from.Addr()) {
		if from, err = in.proxy(); err != nil {
			return EndProxy, err
		}
	}
	if !s.receiver.Allows(from.Addr()) {
		return EndDenied, nil
	}
	if !s.takes(from.Addr()) {
		return EndPerSource, nil
	}
	defer s.gives(from.Addr())
	if secure {
		// What came behind a PROXY header is the handshake's already.
		t := tls.Server(&rest{Conn: c, first: in.take()}, &tls.Config{GetConfigForClient: s.c.tls, MinVersion: tls.VersionTLS12})
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

// rest is a connection of which a part was read already.
type rest struct {
	net.Conn

	first []byte
}

// Read implements io.Reader.
func (c *rest) Read(b []byte) (int, error) {
	if len(c.first) > 0 {
		n := copy(b, c.first)
		c.first = c.first[n:]
		return n, nil
	}
	return c.Conn.Read(b)
}

const (
	ipfixVersion = 10
	ipfixHeader  = 16
	firstBuffer  = 4 << 10
	spare        = 1 << 10 // behind a message, for the decoder's windows
)

var errNoIPFIX = errors.New("not IPFIX")

// messages cuts the octets of a connection into IPFIX messages (RFC 7011 section
// 10.4.3): each states its length.
type messages struct {
	conn   io.Reader
	raw    net.Conn // for deadlines
	idle   time.Duration
	ending context.Context // shutting down: what still comes is read for drain
	drain  time.Duration
	// endedAt is when ending ended, ns since the epoch; 0 or nil: in this moment. The time
	// in which the connection waited for Kafka counts for drain.
	endedAt *atomic.Int64

	spoken bool      // a message has come
	since  time.Time // when waiting for the first message began

	buf        []byte
	start, end int       // what is read and not yet given out
	begun      time.Time // when the first octet of a message came
	until      time.Time // the end of draining
}

// partly reports whether a part of a message is there.
func (m *messages) partly() bool { return m.end > m.start }

// take gives out what is read, whatever it is.
func (m *messages) take() []byte {
	b := m.buf[m.start:m.end]
	m.buf, m.start, m.end = nil, 0, 0
	return b
}

// next returns the next message; it is good until the next call.
func (m *messages) next() ([]byte, error) {
	need := 4
	for {
		have := m.buf[m.start:m.end]
		if len(have) >= 4 {
			version, length := binary.BigEndian.Uint16(have), int(binary.BigEndian.Uint16(have[2:]))
			switch {
			case version != ipfixVersion:
				return nil, fmt.Errorf("%w: version %d, over TCP there is only 10", errNoIPFIX, version)
			case length < ipfixHeader:
				return nil, fmt.Errorf("%w: a message of %d octets, its header has %d", errNoIPFIX, length, ipfixHeader)
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

// read reads some more octets into the buffer, which has room for need.
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
	if m.ending.Err() != nil { // also when it ended in this moment, and the deadline above came after the one that it set
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

// drainsFrom returns when draining began.
func (m *messages) drainsFrom(now time.Time) time.Time {
	if m.endedAt == nil || m.endedAt.Load() == 0 {
		return now
	}
	return time.Unix(0, m.endedAt.Load())
}

// proxy reads the PROXY header that a trusted proxy puts first.
func (m *messages) proxy() (exporter netip.AddrPort, err error) {
	within := m.idle
	m.idle = beginWithin
	defer func() { m.idle, m.begun, m.since = within, time.Time{}, time.Time{} }()
	for !proxyproto.Whole(m.buf[m.start:m.end]) {
		if err := m.read(m.end - m.start + 1); err != nil {
			return exporter, fmt.Errorf("no PROXY header: %w", err)
		}
	}
	exporter, n, err := proxyproto.Parse(m.buf[m.start:m.end])
	switch {
	case err != nil:
		return exporter, err
	case !exporter.IsValid():
		return exporter, errors.New("the PROXY header names no exporter: a health check, say")
	}
	m.start += n
	return exporter, nil
}
