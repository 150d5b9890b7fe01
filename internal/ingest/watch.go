package ingest

import (
	"cmp"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"weir/internal/bounded"
	"weir/internal/decode"
	"weir/internal/transport"
)

const (
	silence       = time.Minute      // time without any datagram after which watch logs a warning
	repeatSilence = 10 * time.Minute // interval of repeated warnings of silence
	repeatMissing = time.Minute      // interval of repeated warnings of a missing template
	maxMissing    = 10_000           // entries of watch.missing
	missingVictim = 16               // entries compared for an eviction
	missingIdle   = 10 * time.Minute // an entry without a set for this long is evicted first
	ownExportMin  = 200              // flows of an exporter before its share of own export is judged
)

// watch logs operator hints: new exporters, silence, missing templates, exporters that report their own
// export. All messages are rate-limited, and it is safe for concurrent use.
//
// A message must name the observation, the likely causes and the command or setting that helps. Every map
// and rate is bounded, since forged datagrams can trigger each message.
type watch struct {
	log    *slog.Logger
	listen func() []string // returns the local addresses

	last atomic.Int64 // receipt of the last datagram, ns since the epoch; 0: none yet

	mu       sync.Mutex // guards the fields below
	started  time.Time
	warned   time.Time // last warning of silence
	missing  bounded.Map[decode.TemplateKey, *missing]
	newcomer *rate.Limiter // new exporters
	unknown  *rate.Limiter // templates missing for less than repeatMissing
	lasting  *rate.Limiter // templates missing for longer: forged sets do not come back that long
	came     *rate.Limiter // missing templates that arrived
	proxyLog *rate.Limiter // datagrams of trusted proxies that are dropped
}

// A missing is a template that is not known although data sets need it.
type missing struct {
	since        time.Time // receipt of the first set
	waits, drops time.Time // last warning of sets that wait, and of dropped sets
	last         time.Time // receipt of the last set
	sets         uint64
}

// newWatch returns a watch. The limiters allow a burst at the start, when all exporters are new, and a
// message a second or less afterwards.
func newWatch(log *slog.Logger, now time.Time, listen func() []string) *watch {
	return &watch{
		log: log, listen: listen, started: now, missing: bounded.New[decode.TemplateKey, *missing](maxMissing),
		newcomer: rate.NewLimiter(1, 100), unknown: rate.NewLimiter(1, 20), lasting: rate.NewLimiter(1, 20),
		came: rate.NewLimiter(1, 20), proxyLog: rate.NewLimiter(0.1, 1),
	}
}

// datagram records the receipt of a datagram. If it is the first of its exporter, datagram logs that. It is
// called for each datagram and must stay cheap: an atomic store.
func (w *watch) datagram(from netip.AddrPort, h *decode.Header, first bool, now time.Time) {
	w.last.Store(now.UnixNano())
	// A message beyond the limit is lost, not delayed.
	if first && w.newcomer.AllowN(now, 1) {
		w.log.Info("first datagram of an exporter",
			"exporter", from.Addr(), "port", from.Port(), "version", h.Version, "domain", h.Domain)
	}
}

// proxied logs that a datagram of a trusted proxy was dropped because its exporter is unknown. The
// proxy's own traffic, such as health checks, is not logged.
func (w *watch) proxied(from netip.AddrPort, reason string, now time.Time) {
	if reason == transport.ProxyLocal || reason == transport.ProxyEmpty || !w.proxyLog.AllowN(now, 1) {
		return
	}
	w.log.Warn("a datagram of a trusted proxy is dropped: nothing says which exporter it is from. Let the balancer "+
		"put a PROXY protocol header in front of each datagram (nginx: proxy_protocol on; proxy_responses 0;), or "+
		"remove it from TRUSTED_PROXIES if it keeps the source address",
		"proxy", from, "reason", reason)
}

// waiting records that a data set was appended to the undecoded topic because its template is unknown.
func (w *watch) waiting(s *decode.Set, now time.Time) {
	if m := w.countMissing(s, now, func(m *missing) *time.Time { return &m.waits }); m != nil {
		w.warnMissing(m, s, "data of an unknown template waits on the undecoded topic: no replica got the template "+
			"yet. It comes with the exporter's next template refresh; shorten that (1 min is usual), restart the "+
			"export, or send a datagram with the template to any replica by hand")
	}
}

// dropped records that a data set was dropped because its template is unknown.
func (w *watch) dropped(s *decode.Set, reason string, now time.Time) {
	if m := w.countMissing(s, now, func(m *missing) *time.Time { return &m.drops }); m != nil {
		w.warnMissing(m, s, "data of an unknown template is dropped", "reason", reason)
	}
}

// countMissing counts a set whose template is unknown. If a warning is due, it sets the time that warned
// points to, the last warning, and returns a copy of the entry; else it returns nil. Two limiters separate
// short and lasting cases, so that a flood of forged template IDs cannot suppress the warning about a
// template that has been missing for minutes.
func (w *watch) countMissing(s *decode.Set, now time.Time, warned func(*missing) *time.Time) *missing {
	w.mu.Lock()
	defer w.mu.Unlock()
	k := s.Key()
	m := w.missing.Get(k)
	if m == nil {
		m = &missing{since: now}
		w.missing.PutOrEvict(k, m, missingVictim, func(a, b *missing) int { // idle entries first, then few sets
			return cmp.Or(compareBool(b.isIdle(now), a.isIdle(now)), cmp.Compare(a.sets, b.sets))
		})
	}
	m.sets++
	m.last = now
	last, limit := warned(m), w.unknown
	if now.Sub(m.since) >= repeatMissing {
		limit = w.lasting
	}
	if now.Sub(*last) < repeatMissing || !limit.AllowN(now, 1) {
		return nil
	}
	*last = now
	// The caller logs the copy after mu is released: a log handler may block.
	snapshot := *m
	return &snapshot
}

// isIdle reports whether no set came for so long that the entry is evicted first.
func (m *missing) isIdle(now time.Time) bool { return now.Sub(m.last) >= missingIdle }

// warnMissing logs a warning with the attributes of a missing template.
func (w *watch) warnMissing(m *missing, s *decode.Set, text string, more ...any) {
	w.log.Warn(text, append(more,
		"exporter", s.Meta.Exporter, "version", s.Header.Version, "domain", s.Header.Domain, "template", s.ID,
		"waiting_since", m.since.UTC().Format(time.RFC3339), "sets", m.sets)...)
}

// found removes a template that arrived from the missing templates. If it was missing, found logs that. It
// is called for each template received, mostly without an entry.
func (w *watch) found(k decode.TemplateKey, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if m := w.missing.Get(k); m != nil {
		w.missing.Delete(k)
		if !w.came.AllowN(now, 1) {
			return
		}
		w.log.Info("a missing template came", "exporter", netip.AddrFrom16(k.Exporter).Unmap(),
			"domain", k.Domain, "template", k.ID, "sets", m.sets)
	}
}

// tick logs a warning of silence if it is due. It must be called at least once a second. The time since the
// start counts if no datagram has arrived yet.
func (w *watch) tick(now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	since := w.started
	// Workers write last without mu, so that the silence may end while it is logged.
	if last := time.Unix(0, w.last.Load()); last.After(since) {
		since = last
	}
	if now.Sub(since) < silence || now.Sub(w.warned) < repeatSilence {
		return
	}
	w.warned = now
	w.log.Warn("no datagram for a while: check that the exporter's target is one of these addresses and ports, that "+
		"no firewall is between (nft list ruleset), and reverse path filtering (sysctl net.ipv4.conf.all.rp_filter) "+
		"when the route back differs",
		"listening", strings.Join(w.listen(), " "), "since", since.UTC().Format(time.RFC3339))
}

// ownExport logs a warning, once per exporter, if at least half of its flows are its own export traffic.
// Both counters grow from the start, so that the judgement is about the whole time of the exporter.
func (w *watch) ownExport(x *exporter) {
	flows, own := x.flows.Load(), x.own.Load()
	if flows < ownExportMin || own*2 < flows || x.warnedOwnExport.Swap(true) {
		return
	}
	w.log.Warn("an exporter reports mostly its own export traffic: each exported datagram is metered and exported again. "+
		"Exclude traffic to this host and port from metering on the exporter", "exporter", x.addr, "flows", flows, "own", own)
}
