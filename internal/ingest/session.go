package ingest

import (
	"context"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"weir/internal/templates"
	"weir/internal/transport"
)

// sessions decodes the IPFIX messages received over TCP and TLS. It implements
// transport.StreamReceiver.
type sessions struct {
	r *Replica

	run *running // set by start
	// workers is the pool of workers, filled by start. All connections share them, so that the memory
	// of a connection is its templates alone.
	workers chan *worker

	octets atomic.Int64       // of the templates of all connections; written only with mu held
	mu     sync.Mutex         // guards the fields below
	each   map[netip.Addr]int // octets of templates by transport.SourceOf of the exporter; no entry: 0
}

// newSessions returns sessions without workers: start must be called before the first connection.
func newSessions(r *Replica) *sessions { return &sessions{r: r, each: map[netip.Addr]int{}} }

// start fills the pool of workers. It must be called before any session begins. The number of workers
// bounds the messages that are decoded at the same time. Twice GOMAXPROCS keeps the CPUs busy while some
// goroutines are between two messages.
func (s *sessions) start(run *running) {
	s.run = run
	n := max(4, 2*runtime.GOMAXPROCS(0))
	s.workers = make(chan *worker, n)
	for range n {
		w := s.r.worker(run, &s.r.accounts.shared)
		w.session = true
		s.workers <- w
	}
}

// Allows implements transport.StreamReceiver. It is called before a connection takes memory, with the
// exporter's address from the PROXY header if there is one.
func (s *sessions) Allows(exporter netip.Addr) bool { return s.r.denies(exporter) == nil }

// Ended implements transport.StreamReceiver. reason is one of a closed set of transport, since it is a
// label value.
func (s *sessions) Ended(reason string) {
	s.r.metrics.streamEnds.WithLabelValues(reason).Inc()
	if reason == transport.EndProxy {
		s.r.metrics.proxied.WithLabelValues(transport.ProxyBad).Inc()
	}
}

// Begin implements transport.StreamReceiver.
func (s *sessions) Begin(exporter netip.AddrPort) transport.Session {
	b := &sessionBudget{s: s, source: transport.SourceOf(exporter.Addr())}
	return &session{sessions: s, exporter: exporter, templates: s.r.store.NewSession(b)}
}

// A session decodes the messages of a connection. Its templates are valid within the connection only (RFC
// 7011 section 8.4). It implements transport.Session. Messages of a connection arrive in order, so that
// data without a template is an error of the exporter (RFC 7011 section 8): it is counted and dropped, not
// buffered.
type session struct {
	*sessions

	exporter  netip.AddrPort
	templates *templates.Session
}

// Close implements transport.Session.
func (s *session) Close() { s.templates.Close() }

// Message implements transport.Session. It waits for a worker, but not for long: neither decoding nor
// producing blocks. transport calls it for one message at a time, and must not reuse msg before it returns.
func (s *session) Message(msg []byte) {
	w := <-s.workers
	w.dec.State = s.templates
	w.message(msg, s.exporter, s.r.deps.Now())
	w.dec.State = nil
	s.workers <- w
}

// Wait implements transport.Session. It returns when Kafka's client has room for the flows of a message:
// TCP makes the exporter wait, so no flow needs to be dropped. It also returns when ctx ends; then messages
// are decoded regardless, and flows without room are dropped and counted. A full socket buffer makes the
// exporter's TCP window close (RFC 9293 section 3.8.6): its own buffer then holds the data.
func (s *session) Wait(ctx context.Context) {
	if s.run.producer.Room() || ctx.Err() != nil {
		return
	}
	s.r.metrics.streamWaits.Inc()
	t := time.NewTicker(5 * time.Millisecond)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			if s.run.producer.Room() {
				return
			}
		}
	}
}

// The templates of an exporter address may take TCP_MAX_OCTETS / addressPart, the templates of a
// connection TCP_MAX_OCTETS / connectionPart.
const (
	addressPart    = 4
	connectionPart = 16
)

// A sessionBudget bounds the octets of the templates of a connection, of its exporter address and of all
// connections. It implements templates.Budget. IPv6 addresses of a /64 count together (transport.SourceOf),
// since a host may use any of them.
type sessionBudget struct {
	s      *sessions
	source netip.Addr
	octets int // of this connection; guarded by s.mu
}

// Take implements templates.Budget. All three limits are checked before any is charged, so that a refusal
// changes nothing.
func (b *sessionBudget) Take(n int) bool {
	s := b.s
	limit := s.r.c.Streams.Octets
	s.mu.Lock()
	defer s.mu.Unlock()
	refused := ""
	switch {
	case b.octets+n > limit/connectionPart:
		refused = "connection"
	case s.each[b.source]+n > limit/addressPart:
		refused = "address"
	case int(s.octets.Load())+n > limit:
		refused = "all"
	}
	if refused != "" {
		s.r.metrics.streamRefused.WithLabelValues(refused).Inc()
		return false
	}
	b.add(n)
	return true
}

// Give implements templates.Budget. The caller must give back exactly the octets that it took, at the
// latest when the session closes.
func (b *sessionBudget) Give(n int) {
	b.s.mu.Lock()
	defer b.s.mu.Unlock()
	b.add(-n)
}

// add adds n octets, which may be negative, to the three counts. The caller must hold s.mu.
func (b *sessionBudget) add(n int) {
	b.octets += n
	b.s.octets.Add(int64(n))
	if b.s.each[b.source] += n; b.s.each[b.source] == 0 {
		delete(b.s.each, b.source)
	}
}
