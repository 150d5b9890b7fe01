package ingest

import (
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"weir/internal/decode"
	"weir/internal/transport"
)

const (
	silence       = time.Minute      // without any datagram: say so
	repeatSilence = 10 * time.Minute // and again after this long
	repeatMissing = time.Minute      // a missing template is named again after this long
	maxMissing    = 10_000           // missing templates that are remembered
	missingVictim = 16               // how many of these are compared when one has to go
	missingIdle   = 10 * time.Minute // one without sets for so long goes first
	ownExportMin  = 200              // flows before an exporter's own share is judged
)

// watch says what people ask about: who sends, that nobody sends, which
// templates are missing.
type watch struct {
	log    *slog.Logger
	listen func() []string // what is listened on, for people

	last atomic.Int64 // when any datagram came, ns since the epoch; 0: none yet

	mu       sync.Mutex // guards what follows
	started  time.Time
	told     time.Time // silence was last told
	missing  map[decode.TemplateKey]*missing
	newcomer *rate.Limiter
	unknown  *rate.Limiter // of templates missing for less than repeatMissing
	lasting  *rate.Limiter // of those missing for longer: forged ones come once
	came     *rate.Limiter
	proxyLog *rate.Limiter
}

// A missing is a template that data waits for.
type missing struct {
	since        time.Time
	waits, drops time.Time // last told
	last         time.Time // last set
	sets         uint64
}

func newWatch(log *slog.Logger, now time.Time, listen func() []string) *watch {
	return &watch{
		log: log, listen: listen, started: now, missing: map[decode.TemplateKey]*missing{},
		newcomer: rate.NewLimiter(1, 100), unknown: rate.NewLimiter(1, 20), lasting: rate.NewLimiter(1, 20), came: rate.NewLimiter(1, 20), proxyLog: rate.NewLimiter(0.1, 1),
	}
}

// datagram notes that one came; of a new exporter it tells.
func (w *watch) datagram(from netip.AddrPort, h *decode.Header, first bool, now time.Time) {
	w.last.Store(now.UnixNano())
	if first && w.newcomer.AllowN(now, 1) {
		w.log.Info("first datagram of an exporter", "exporter", from.Addr(), "port", from.Port(), "version", h.Version, "domain", h.Domain)
	}
}

// proxied tells of a datagram that a trusted proxy sent and nobody can be charged
// with. Its own traffic, health checks say, is no news.
func (w *watch) proxied(from netip.AddrPort, reason string, now time.Time) {
	if reason == transport.ProxyLocal || reason == transport.ProxyEmpty || !w.proxyLog.AllowN(now, 1) {
		return
	}
	w.log.Warn("a datagram of a trusted proxy is dropped: nothing says which exporter it is from. Let the balancer put a PROXY protocol header "+
		"in front of each datagram (nginx: proxy_protocol on; proxy_responses 0;), or take it out of TRUSTED_PROXIES if it keeps the source address",
		"proxy", from, "reason", reason)
}

// waiting notes that a data set went to the topic of undecoded sets, since nobody
// knows its template yet.
func (w *watch) waiting(s *decode.Set, now time.Time) {
	if m := w.lacks(s, now, func(m *missing) *time.Time { return &m.waits }); m != nil {
		w.tell(m, s, "data of an unknown template waits on the undecoded topic: no replica got the template yet. It comes with the exporter's "+
			"next template refresh; shorten that (1 min is usual), restart the export, or send a datagram with the template to any replica by hand")
	}
}

// dropped notes that a data set was dropped since nobody knows its template.
func (w *watch) dropped(s *decode.Set, reason string, now time.Time) {
	if m := w.lacks(s, now, func(m *missing) *time.Time { return &m.drops }); m != nil {
		w.tell(m, s, "data of an unknown template is dropped", "reason", reason)
	}
}

// lacks counts a set that lacks its template; it returns what is known of that
// when it is time to tell, again.
func (w *watch) lacks(s *decode.Set, now time.Time, told func(*missing) *time.Time) *missing {
	w.mu.Lock()
	defer w.mu.Unlock()
	k := s.Key()
	m := w.missing[k]
	if m == nil {
		if len(w.missing) >= maxMissing {
			w.forgetOne(now)
		}
		m = &missing{since: now}
		w.missing[k] = m
	}
	m.sets++
	m.last = now
	last, limit := told(m), w.unknown
	if now.Sub(m.since) >= repeatMissing {
		limit = w.lasting
	}
	if now.Sub(*last) < repeatMissing || !limit.AllowN(now, 1) {
		return nil
	}
	*last = now
	is := *m
	return &is
}

// forgetOne forgets one of some missing templates: one that is not asked for any
// more, else the one with the fewest sets. mu is held.
func (w *watch) forgetOne(now time.Time) {
	var victim decode.TemplateKey
	var least *missing
	n := 0
	for k, m := range w.missing {
		if now.Sub(m.last) >= missingIdle {
			delete(w.missing, k)
			return
		}
		if least == nil || m.sets < least.sets {
			victim, least = k, m
		}
		if n++; n == missingVictim {
			break
		}
	}
	delete(w.missing, victim)
}

func (w *watch) tell(m *missing, s *decode.Set, text string, more ...any) {
	w.log.Warn(text, append(more, "exporter", s.Meta.Exporter, "version", s.Header.Version, "domain", s.Header.Domain, "template", s.ID,
		"waiting_since", m.since.UTC().Format(time.RFC3339), "sets", m.sets)...)
}

// found forgets a template that came, and tells if it was missed.
func (w *watch) found(k decode.TemplateKey, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if m := w.missing[k]; m != nil {
		delete(w.missing, k)
		if !w.came.AllowN(now, 1) {
			return
		}
		w.log.Info("a missing template came", "exporter", netip.AddrFrom16(k.Exporter).Unmap(), "domain", k.Domain, "template", k.ID, "sets", m.sets)
	}
}

// tick tells of silence.
func (w *watch) tick(now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	since := w.started
	if last := time.Unix(0, w.last.Load()); last.After(since) {
		since = last
	}
	if now.Sub(since) < silence || now.Sub(w.told) < repeatSilence {
		return
	}
	w.told = now
	w.log.Warn("no datagram for a while: check that the exporter's target is one of these addresses and ports, that no firewall is between "+
		"(nft list ruleset), and reverse path filtering (sysctl net.ipv4.conf.all.rp_filter) when the route back differs",
		"listening", strings.Join(w.listen(), " "), "since", since.UTC().Format(time.RFC3339))
}

// ownExport judges whether an exporter reports mostly its own export traffic.
func (w *watch) ownExport(x *exporter) {
	flows, own := x.flows.Load(), x.own.Load()
	if flows < ownExportMin || own*2 < flows || x.warnedOwnExport.Swap(true) {
		return
	}
	w.log.Warn("an exporter reports mostly its own export traffic: each datagram makes a flow that makes a datagram. "+
		"Leave this host and port out of what it meters", "exporter", x.addr, "flows", flows, "own", own)
}
