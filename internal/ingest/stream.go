package ingest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"weir/internal/templates"
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
	endClosed    = "closed"     // by the exporter, between two messages
	endCut       = "cut"        // by the exporter or the network, within a message
	endIdle      = "idle"       // TCP_IDLE_TIMEOUT
	endSilent    = "silent"     // no message began within beginWithin
	endSlow      = "slow"       // a message or handshake that did not come to its end
	endNoIPFIX   = "no_ipfix"   // octets that are no IPFIX message
	endTLS       = "tls"        // the handshake failed
	endProxy     = "proxy"      // a trusted proxy, and no PROXY header that names an exporter
	endDenied    = "denied"     // the exporters file does not allow it
	endLimit     = "limit"      // too many connections
	endPerSource = "limit_each" // too many of one address
	endShutdown  = "shutdown"
)

// beginWithin bounds the PROXY header, the handshake and the wait for the first
// message, each; messageWithin bounds a message that has begun. A sender of one
// octet now and then holds its place no longer than that.
const (
	beginWithin   = 10 * time.Second
	messageWithin = 30 * time.Second
)

// streams are the listeners of IPFIX over TCP and TLS, and their connections.
type streams struct {
	r   *Replica
	log *rate.Limiter

	// workers are shared: what decoding needs beside a connection's templates is
	// held once per worker, not once per connection.
	workers chan *worker
	drained context.Context // ends DRAIN after run's: nothing waits for Kafka any longer
	ending  atomic.Int64    // when run's context ended, ns since the epoch; 0: it has not

	mu     sync.Mutex // guards what follows
	open   int
	each   map[netip.Addr]*source
	octets int // of the templates of all
}

// A source is what the connections of one exporter address hold: of one address of
// IPv4 or one /64 of IPv6, which is what one sender commonly has.
type source struct {
	connections int
	octets      int // of templates
}

// sourceOf returns the address by which the connections of a are counted.
func sourceOf(a netip.Addr) netip.Addr {
	if a.Is4() {
		return a
	}
	p, err := a.Prefix(64)
	if err != nil {
		return a // never: a is an address of IPv6
	}
	return p.Addr()
}

func (r *Replica) newStreams() *streams {
	n := max(4, 2*runtime.GOMAXPROCS(0))
	s := &streams{r: r, log: rate.NewLimiter(0.2, 10), each: map[netip.Addr]*source{}, workers: make(chan *worker, n)}
	for range n {
		w := r.worker(&r.accounts.shared)
		w.session = true
		s.workers <- &w
	}
	return s
}

// Parts of TCP_MAX_OCTETS that the templates of one address and of one connection
// may take.
const (
	addressPart    = 4
	connectionPart = 16
)

// A streamBudget bounds the octets of the templates of one connection, of its
// address and of all connections. It implements templates.Budget.
type streamBudget struct {
	s      *streams
	source netip.Addr
	octets int // of this connection
}

// Take implements templates.Budget.
func (b *streamBudget) Take(n int) bool {
	s := b.s
	limit := s.r.c.Streams.Octets
	s.mu.Lock()
	defer s.mu.Unlock()
	of := s.each[b.source] // there as long as the connection is
	refused := ""
	switch {
	case b.octets+n > limit/connectionPart:
		refused = "connection"
	case of.octets+n > limit/addressPart:
		refused = "address"
	case s.octets+n > limit:
		refused = "all"
	}
	if refused != "" {
		s.r.metrics.streamRefused.WithLabelValues(refused).Inc()
		return false
	}
	b.add(of, n)
	return true
}

// Give implements templates.Budget.
func (b *streamBudget) Give(n int) {
	b.s.mu.Lock()
	defer b.s.mu.Unlock()
	b.add(b.s.each[b.source], -n)
}

// add changes the counts. mu is held.
func (b *streamBudget) add(of *source, n int) {
	b.octets += n
	of.octets += n
	b.s.octets += n
	b.s.r.streamOctets.Store(int64(b.s.octets))
}

// listenStreams opens the listeners of every address, or none.
func (r *Replica) listenStreams(ctx context.Context) (plain, secure []net.Listener, err error) {
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
	plain, secure = open("LISTEN_TCP", r.c.Streams.TCP), open("LISTEN_TLS", r.c.Streams.TLS)
	if len(errs) > 0 {
		closeListeners(plain, secure)
		return nil, nil, errors.Join(errs...)
	}
	for i, l := range append(append([]net.Listener{}, plain...), secure...) {
		r.mu.Lock()
		r.open = append(r.open, "tcp "+l.Addr().String())
		r.mu.Unlock()
		r.log.Info("listening for IPFIX over TCP", "address", l.Addr(), "tls", i >= len(plain))
	}
	return plain, secure, nil
}

func closeListeners(all ...[]net.Listener) {
	for _, ls := range all {
		for _, l := range ls {
			_ = l.Close() // a second time, or nothing is buffered in it
		}
	}
}

// run accepts connections until ctx ends, and then reads on as sockets do.
func (s *streams) run(ctx context.Context, plain, secure []net.Listener) {
	drained, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	s.drained = drained
	draining := context.AfterFunc(ctx, func() {
		s.ending.Store(time.Now().UnixNano())
		time.AfterFunc(s.r.c.Drain, cancel)
	})
	defer draining()
	stop := context.AfterFunc(ctx, func() { closeListeners(plain, secure) })
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
					s.r.log.Warn("accepting connections", "address", l.Addr(), "err", err)
					select {
					case <-ctx.Done():
						return
					case <-time.After(100 * time.Millisecond):
					}
					continue
				}
				if !s.enter() {
					s.ended(c, endLimit, nil)
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
	for _, l := range plain {
		accept(l, false)
	}
	for _, l := range secure {
		accept(l, true)
	}
	all.Wait()
}

func (s *streams) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open >= s.r.c.Streams.Max {
		return false
	}
	s.open++
	s.r.metrics.streams.Set(float64(s.open))
	s.r.streamsOpen.Store(int64(s.open))
	return true
}

func (s *streams) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open--
	s.r.metrics.streams.Set(float64(s.open))
	s.r.streamsOpen.Store(int64(s.open))
}

// takes counts a connection of an exporter; false at the limit.
func (s *streams) takes(a netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	a = sourceOf(a)
	of := s.each[a]
	if of == nil {
		of = &source{}
		s.each[a] = of
	}
	if of.connections >= s.r.c.Streams.PerAddress {
		return false
	}
	of.connections++
	return true
}

func (s *streams) gives(a netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a = sourceOf(a)
	if of := s.each[a]; of.connections > 1 {
		of.connections--
		return
	}
	delete(s.each, a)
}

// ended closes a connection and says why.
func (s *streams) ended(c net.Conn, why string, err error) {
	s.r.metrics.streamEnds.WithLabelValues(why).Inc() // before the exporter can notice the end
	_ = c.Close()                                     // what it held is read
	if why != endClosed && why != endShutdown && s.log.Allow() {
		s.r.log.Warn("a connection of an exporter is closed", "from", c.RemoteAddr(), "reason", why, "err", err)
	}
}

// serve reads the messages of one connection.
func (s *streams) serve(ctx context.Context, c net.Conn, secure bool) (why string, err error) {
	r := s.r
	from, err := netip.ParseAddrPort(c.RemoteAddr().String())
	if err != nil {
		return endNoIPFIX, err
	}
	from = bare(from)
	wake := context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Now().Add(min(quiet, r.c.Drain))) }) // wakes a read
	defer wake()
	in := &messages{conn: c, raw: c, idle: r.c.Streams.Idle, ending: ctx, endedAt: &s.ending, drain: r.c.Drain}
	if r.proxies.trusts(from.Addr()) {
		if from, err = in.proxy(); err != nil {
			r.metrics.proxied.WithLabelValues(proxyBad).Inc()
			return endProxy, err
		}
	}
	if r.denies(from.Addr()) != nil {
		return endDenied, nil
	}
	if !s.takes(from.Addr()) {
		return endPerSource, nil
	}
	defer s.gives(from.Addr())
	if secure {
		// What came behind a PROXY header is the handshake's already.
		t := tls.Server(&rest{Conn: c, first: in.take()}, &tls.Config{GetConfigForClient: r.c.Streams.tls, MinVersion: tls.VersionTLS12})
		handshake, cancel := context.WithTimeout(ctx, beginWithin)
		err := t.HandshakeContext(handshake)
		cancel()
		if err != nil {
			return endTLS, err
		}
		in.conn = t
	}
	session := r.store.NewSession(&streamBudget{s: s, source: sourceOf(from.Addr())})
	defer session.Close()
	for {
		r.room(s.drained)
		msg, err := in.next()
		switch {
		case err == nil:
			s.decode(session, msg, from)
			continue
		case ctx.Err() != nil:
			return endShutdown, err
		case errors.Is(err, errNoIPFIX):
			return endNoIPFIX, err
		case errors.Is(err, os.ErrDeadlineExceeded) && in.partly():
			return endSlow, err
		case errors.Is(err, os.ErrDeadlineExceeded) && !in.spoken && in.idle > beginWithin:
			return endSilent, err
		case errors.Is(err, os.ErrDeadlineExceeded):
			return endIdle, err
		case in.partly():
			return endCut, err
		}
		return endClosed, nil
	}
}

// decode decodes a message with one of the shared workers. A worker is always
// given back soon: decoding and producing never wait.
func (s *streams) decode(session *templates.Session, msg []byte, from netip.AddrPort) {
	w := <-s.workers
	w.dec.State = session
	w.message(msg, from, s.r.deps.Now())
	w.dec.State = nil
	s.workers <- w
}

// room waits until Kafka's client has room for the flows of a message: what comes
// over TCP can wait at the exporter instead of being dropped here. When drained ends
// nothing waits any longer: what is received is decoded, and dropped where there is
// no room, so that it is counted.
func (r *Replica) room(drained context.Context) {
	if r.producer.Load().Room() || drained.Err() != nil {
		return
	}
	r.metrics.streamWaits.Inc()
	t := time.NewTicker(5 * time.Millisecond)
	defer t.Stop()
	for {
		select {
		case <-drained.Done():
			return
		case <-t.C:
			if r.producer.Load().Room() {
				return
			}
		}
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
