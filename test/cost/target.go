package main

import (
	"fmt"
	"net/netip"
	"time"

	"weir/internal/decode"
	"weir/internal/loss"
	"weir/internal/templates"
)

// start is the wall clock at the beginning of every sequence.
var start = time.Unix(1_760_000_000, 0)

const (
	// publishEvery is the number of datagrams after which the shared state is published.
	publishEvery = 16
	// maxSessions bounds the TCP sessions of a sequence.
	maxSessions = 8
)

// A target does the work of ingest without Kafka: it decodes datagrams, stores state, counts
// streams, and publishes shared state, which a second replica reads.
type target struct {
	now      time.Time
	udp      *worker
	sessions map[netip.AddrPort]*worker
	store    *templates.Store // of the replica that receives
	tail     *templates.Store // of the second replica, which reads the records of the first
	tally    *loss.Tally
	book     *loss.Book

	streams       map[loss.Stream]struct{}
	sessionOctets sessionBudget // of the templates of sessions
	output        *outputBudget // of flows

	received               uint64 // octets
	changes                int    // new or changed definitions and options facts
	flows, shared, reports uint64 // octets to Kafka, by topic
}

// A worker decodes for the UDP socket or for a TCP session.
type worker struct {
	decoder decode.Decoder
	result  decode.Result
}

// newTarget returns a target without state. The caller owns the worker of the UDP socket: a socket
// outlives all exporters.
func newTarget(udp *worker) *target {
	t := &target{now: start, udp: udp, sessions: map[netip.AddrPort]*worker{}, tally: &loss.Tally{}, streams: map[loss.Stream]struct{}{}}
	clock := func() time.Time { return t.now }
	t.output = newOutputBudget(extraOutput)
	t.store, t.tail = newStore("a", clock), newStore("b", clock)
	t.book = loss.NewBook("a", start)
	udp.decoder.State, udp.decoder.Replica = &counted{t.store, &t.changes}, "a"
	return t
}

// take processes a sequence.
func (t *target) take(packets []packet) {
	for i := range packets {
		p := &packets[i]
		t.now = t.now.Add(time.Duration(p.gap) * time.Millisecond)
		w := t.udp
		if p.stream {
			if w = t.session(p.from); w == nil {
				continue
			}
		}
		t.received += uint64(len(p.octets))
		t.datagram(w, p)
		if i%publishEvery == publishEvery-1 || p.gap >= 1000 {
			t.publish()
		}
	}
	t.publish()
	t.now = t.now.Add(10 * time.Second)
	t.account()
}

// session returns the worker of a TCP session, nil beyond maxSessions.
func (t *target) session(from netip.AddrPort) *worker {
	w := t.sessions[from]
	if w == nil && len(t.sessions) < maxSessions {
		w = &worker{decoder: decode.Decoder{State: &countedSession{newSession(t), &t.changes}, Replica: "a"}}
		t.sessions[from] = w
	}
	return w
}

func (t *target) datagram(w *worker, p *packet) {
	m := decode.Meta{Exporter: p.from.Addr(), Port: p.from.Port(), Received: t.now.UnixNano()}
	r := &w.result
	decodeWithin(t.output, w, p.octets, &m)
	d := loss.Of(p.from.Addr(), &r.Header, len(r.Flows), optionsRecords(r), len(r.Templates))
	d.Received, d.Octets, d.Errors, d.Undecoded = m.Received, len(p.octets), len(r.Errors), len(r.Unknown)
	d.Units[loss.Datagrams] = 1
	if len(r.Flows) > 0 {
		d.Flow = r.Buf[r.Flows[0].Start:r.Flows[0].ValueEnd]
	}
	t.tally.Add(&d)
	t.streams[d.Stream] = struct{}{}
	for _, f := range r.Flows {
		t.flows += uint64(f.KeyEnd - f.Start)
	}
}

// publish passes the records that are due to the second replica.
func (t *target) publish() {
	for _, rec := range t.store.Due() {
		t.shared += uint64(len(rec.Key) + len(rec.Value))
		if err := t.tail.Merge(rec.Key, rec.Value); err != nil && !full(err) {
			panic(fmt.Sprintf("a replica publishes what another one refuses: %v", err))
		}
		t.store.Published(rec, nil)
	}
}

func (t *target) account() {
	for _, r := range t.book.Gather(t.now, []*loss.Tally{t.tally}) {
		t.reports += uint64(len(r.Key) + len(r.Value))
		t.book.Published(r, nil)
	}
}

// A counted store counts new and changed definitions and facts.
type counted struct {
	*templates.Store
	changes *int
}

// Learn implements decode.State.
func (s *counted) Learn(k *decode.TemplateKey, m *decode.Meta, h *decode.Header, t *decode.Template) (*decode.Plan, error) {
	*s.changes++
	return s.Store.Learn(k, m, h, t)
}

// LearnFact implements decode.State.
func (s *counted) LearnFact(k *decode.TemplateKey, m *decode.Meta, h *decode.Header, f decode.OptionsFact) {
	*s.changes++
	s.Store.LearnFact(k, m, h, f)
}

// A countedSession counts new and changed definitions and facts.
type countedSession struct {
	*templates.Session
	changes *int
}

// Learn implements decode.State.
func (s *countedSession) Learn(k *decode.TemplateKey, m *decode.Meta, h *decode.Header, t *decode.Template) (*decode.Plan, error) {
	*s.changes++
	return s.Session.Learn(k, m, h, t)
}

// LearnFact implements decode.State.
func (s *countedSession) LearnFact(k *decode.TemplateKey, m *decode.Meta, h *decode.Header, f decode.OptionsFact) {
	*s.changes++
	s.Session.LearnFact(k, m, h, f)
}
