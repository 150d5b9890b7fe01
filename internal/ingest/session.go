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

// sessions decodes what comes over TCP and TLS. It implements transport.StreamReceiver.
type sessions struct {
	r *Replica

	run *running // from start on
	// workers are shared, and made in start: what decoding needs beside a connection's
	// templates is held once per worker, not once per connection.
	workers chan *worker

	octets atomic.Int64 // of the templates of all connections; written with mu held
	mu     sync.Mutex   // guards what follows
	each   map[netip.Addr]int
}

func newSessions(r *Replica) *sessions { return &sessions{r: r, each: map[netip.Addr]int{}} }

// start makes the workers. It must be called before a session begins.
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

// Allows implements transport.StreamReceiver.
func (s *sessions) Allows(exporter netip.Addr) bool { return s.r.denies(exporter) == nil }

// Ended implements transport.StreamReceiver.
func (s *sessions) Ended(why string) {
	s.r.metrics.streamEnds.WithLabelValues(why).Inc()
	if why == transport.EndProxy {
		s.r.metrics.proxied.WithLabelValues(transport.ProxyBad).Inc()
	}
}

// Begin implements transport.StreamReceiver.
func (s *sessions) Begin(exporter netip.AddrPort) transport.Session {
	b := &sessionBudget{s: s, source: transport.SourceOf(exporter.Addr())}
	return &session{sessions: s, exporter: exporter, templates: s.r.store.NewSession(b)}
}

// A session decodes the messages of one connection. It implements transport.Session.
type session struct {
	*sessions

	exporter  netip.AddrPort
	templates *templates.Session
}

// Close implements transport.Session.
func (s *session) Close() { s.templates.Close() }

// Message implements transport.Session. A worker is always given back soon: decoding and
// producing never wait.
func (s *session) Message(msg []byte) {
	w := <-s.workers
	w.dec.State = s.templates
	w.message(msg, s.exporter, s.r.deps.Now())
	w.dec.State = nil
	s.workers <- w
}

// Wait implements transport.Session: it waits until Kafka's client has room for the flows of a message.
// What comes over TCP can wait at the exporter instead of being dropped here. When ctx ends
// nothing waits any longer: what is received is decoded, and dropped where there is no room,
// so that it is counted.
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

// Parts of TCP_MAX_OCTETS that the templates of one address and of one connection
// may take.
const (
	addressPart    = 4
	connectionPart = 16
)

// A sessionBudget bounds the octets of the templates of one connection, of its
// address and of all connections. It implements templates.Budget.
type sessionBudget struct {
	s      *sessions
	source netip.Addr
	octets int // of this connection
}

// Take implements templates.Budget.
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

// Give implements templates.Budget.
func (b *sessionBudget) Give(n int) {
	b.s.mu.Lock()
	defer b.s.mu.Unlock()
	b.add(-n)
}

// add changes the counts. mu is held.
func (b *sessionBudget) add(n int) {
	b.octets += n
	b.s.octets.Add(int64(n))
	if b.s.each[b.source] += n; b.s.each[b.source] == 0 {
		delete(b.s.each, b.source)
	}
}
