package ingest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"weir/internal/decode"
	"weir/internal/exporters"
	"weir/internal/kafka"
	"weir/internal/loss"
	"weir/internal/wire"
)

// A worker decodes messages and produces their flows. It is not safe for concurrent use: each goroutine
// needs its own.
type worker struct {
	r     *Replica
	run   *running // of r; nil: the worker does not produce
	dec   decode.Decoder
	res   decode.Result
	out   flowWriter // nil if run is nil
	tally *loss.Tally
	known map[netip.Addr]*exporter // cache of r.exporters, at most maxKnown
	hides hidden

	causes []causeCount // of the current datagram; reused

	session bool // the worker decodes connections: templates have the scope of a session
}

// A flowWriter copies the flows that spans delimit in buf, received at the instant at, and passes them to
// Kafka's client. It does not block. of is notified of the outcome of each flow once. It must not keep buf,
// which the worker uses for the next message.
type flowWriter interface {
	Add(buf []byte, spans []decode.Span, at time.Time, of kafka.Account)
}

// keptBuf is the capacity of a decoder's output buffer that is kept for the next message, octets.
const keptBuf = 256 << 10

// dropped counts and logs flows that Kafka's client refused with err. The counter is exact, the log line is
// rate-limited.
func (r *Replica) dropped(x *exporter, flows int, err error) {
	reason := reasonKafka
	switch {
	case errors.Is(err, kafka.ErrBufferFull):
		reason = reasonBufferFull
	case errors.Is(err, kafka.ErrClosed):
		reason = reasonClosed
	}
	r.countDropped(x, flows, reason)
	if r.dropLog.AllowN(r.deps.Now(), 1) {
		r.log.Warn("flows are dropped", "exporter", x.addr, "reason", reason, "err", err, "dropped", r.stats.dropped.Load())
	}
}

// countDropped counts flows that are not published, by reason.
func (r *Replica) countDropped(x *exporter, flows int, reason string) {
	r.stats.dropped.Add(uint64(flows))
	r.metrics.dropped.WithLabelValues(r.exporters.name(x), reason).Add(float64(flows))
}

// datagram handles a datagram: it resolves the exporter behind a proxy, drops denied exporters and decodes
// the rest. from must be bare. The PROXY header is removed before the allow-list is consulted, so that the
// list applies to exporters, not to the balancer. A denied datagram is not decoded: its templates must not
// enter the store.
func (w *worker) datagram(pkt []byte, from netip.AddrPort, at time.Time) {
	r := w.r
	pkt, from, reason := r.proxies.Unwrap(pkt, from, at)
	if reason != "" {
		r.metrics.proxied.WithLabelValues(reason).Inc()
		r.watch.proxied(from, reason, at)
		return
	}
	if e := r.denies(from.Addr()); e != nil {
		r.stats.denied.Add(1)
		r.metrics.denied.WithLabelValues(e.Of.String()).Inc()
		return
	}
	w.message(pkt, from, at)
}

// denies returns the entry of EXPORTERS_FILE that denies an address, or nil if the address is allowed.
func (r *Replica) denies(a netip.Addr) *exporters.Entry {
	if e := r.file.Table().Lookup(a); e != nil && e.Denied {
		return e
	}
	return nil
}

// listsAddress reports whether EXPORTERS_FILE has an entry for this single address. An entry for a prefix
// does not count: its many addresses can be forged.
func (r *Replica) listsAddress(a netip.Addr) bool {
	e := r.file.Table().Lookup(a)
	return e != nil && !e.Denied && e.Of.IsSingleIP()
}

// exporter returns the exporter with address a. first reports whether the address is new. The cache spares
// the lock of seen for each datagram. Clearing it as a whole is cheap and bounds it.
func (w *worker) exporter(a netip.Addr) (x *exporter, first bool) {
	if x = w.known[a]; x != nil && !x.gone.Load() {
		return x, false
	}
	// unnamed has no address and is not cached: its addresses may get an entry of their own later.
	if x, first = w.r.exporters.get(a); x.addr == a {
		if len(w.known) >= maxKnown {
			clear(w.known)
		}
		w.known[a] = x
	}
	return x, first
}

// message decodes an export message, produces its flows and buffers its sets without a template. from must
// be bare. message does not keep pkt. It must not block. decode.Wire appends the flows to w.res.Buf, each
// as a protobuf message followed by its Kafka key.
func (w *worker) message(pkt []byte, from netip.AddrPort, at time.Time) {
	r, addr := w.r, from.Addr()
	m := decode.Meta{Exporter: addr, Port: from.Port(), Received: at.UnixNano()}
	// res is valid until the next message of this worker. Its spans refer to res.Buf, and its sets without a
	// template to pkt.
	w.limitOutput(len(pkt))
	w.dec.Wire(pkt, &m, &w.res)
	w.charge(addr, len(pkt), at)
	r.stats.datagrams.Add(1)
	r.metrics.received(w.res.Header.Version).Inc()
	x, first := w.exporter(addr)
	r.watch.datagram(from, &w.res.Header, first, at)
	if !w.session && w.hides.observe(from, &w.res.Header, at) {
		r.watch.hidden(from, &w.res.Header)
	}
	w.tallyMessage(addr, m.Received, len(pkt))
	w.outcome(&w.res, x, at)
	w.produce(x, at)
	for i := range w.res.Unknown {
		if w.session { // within a session a template precedes its data, RFC 7011 section 8
			r.lost.add(&w.res.Unknown[i], reasonSession, at)
			continue
		}
		w.bufferSet(&w.res.Unknown[i], at)
	}
	w.trim()
}

// trim releases the space that an extraordinary message left.
func (w *worker) trim() {
	w.dec.Trim(&w.res)
	if cap(w.res.Buf) > keptBuf {
		w.res.Buf = nil
	}
}

// outcome counts the errors, dropped records, options data and templates of a datagram: everything but its
// flows. It counts only: it must not change res.
func (w *worker) outcome(res *decode.Result, x *exporter, at time.Time) {
	r := w.r
	w.countErrors(res, x, at)
	if res.TooSmall > 0 {
		r.countDropped(x, res.TooSmall, reasonTooSmall)
	}
	if res.Beyond > 0 {
		r.countDropped(x, res.Beyond, reasonOutput)
		if r.dropLog.AllowN(at, 1) {
			r.log.Warn("flows are dropped: they take too many times the octets received",
				"exporter", x.addr, "flows", res.Beyond)
		}
	}
	if res.OldUptimes > 0 {
		r.metrics.oldUptimes.WithLabelValues(x.currentLabel()).Add(float64(res.OldUptimes))
	}
	if res.Misencoded > 0 {
		r.metrics.oddities.WithLabelValues("time_misencoded").Add(float64(res.Misencoded))
	}
	if res.BadRates > 0 {
		r.metrics.oddities.WithLabelValues("sampling_unusable").Add(float64(res.BadRates))
	}
	if n := res.OptionsRecords; n > 0 {
		r.stats.options.Add(uint64(n))
		r.metrics.options.Add(float64(n))
		w.exported(res, x)
	}
	for i := range res.Templates {
		r.stats.learnt.Add(1)
		r.metrics.learnt.Inc()
		r.watch.found(decode.TemplateKey{
			Exporter: decode.Map16(x.addr), Domain: res.Header.Domain,
			ID: res.Templates[i].Template.ID, Version: uint8(res.Header.Version),
		}, at)
	}
}

// countErrors counts the errors of a datagram by cause. A datagram can hold an error per four octets, so
// the look-up of a counter is per cause, not per error.
func (w *worker) countErrors(res *decode.Result, x *exporter, at time.Time) {
	r := w.r
	if len(res.Errors) == 0 {
		return
	}
	counts, logs := w.causes[:0], true
	for i := range res.Errors {
		e := &res.Errors[i]
		k := slices.IndexFunc(counts, func(c causeCount) bool { return c.cause == e.Cause })
		if k < 0 {
			// Causes are few, so that a linear search is cheaper than a map.
			k, counts = len(counts), append(counts, causeCount{cause: e.Cause})
		}
		counts[k].n++
		if logs = logs && r.errorLog.AllowN(at, 1); logs {
			r.log.Warn("a part of a datagram could not be decoded",
				"exporter", x.addr, "version", res.Header.Version, "err", e)
		}
	}
	w.causes = counts
	r.stats.errors.Add(uint64(len(res.Errors)))
	for _, c := range counts {
		r.metrics.errors.WithLabelValues(x.currentLabel(), string(c.cause)).Add(float64(c.n))
	}
}

// A causeCount counts the errors of a datagram with the same cause.
type causeCount struct {
	cause wire.Cause
	n     int
}

// exported exports the totals that the exporting process reports: exportedOctetTotalCount,
// exportedMessageTotalCount and exportedFlowRecordTotalCount (IE 40, 41, 42). Their differences to the
// received counts are losses between exporter and replicas that sequence numbers may not show.
func (w *worker) exported(res *decode.Result, x *exporter) {
	e := &res.Exported
	if !e.Has {
		return
	}
	name, domain := w.r.exporters.name(x), w.r.exporters.domain(x, res.Header.Domain)
	for what, n := range map[string]uint64{"octets": e.Octets, "messages": e.Messages, "records": e.Records} {
		w.r.metrics.exported.WithLabelValues(name, domain, what).Set(float64(n))
	}
}

// produce counts the flows of w.res and passes them to Kafka's client. It does not block. It must be called
// at most once for a message: the flows are counted before they are passed on.
func (w *worker) produce(x *exporter, at time.Time) {
	r, res := w.r, &w.res
	n := len(res.Flows)
	if n == 0 {
		return
	}
	r.stats.flows.Add(uint64(n))
	// These counters are of decoded flows. Flows that Kafka does not take are counted as dropped in addition.
	r.exporters.decoded(x).Add(float64(n))
	x.flows.Add(uint64(n))
	r.ownExports(res.Buf, res.Flows, x)
	r.examiner.offer(x, res, res.Buf, at)
	if !r.deps.Discard {
		w.out.Add(res.Buf, res.Flows, at, x)
	}
}

// ownExports counts the flows that are the export traffic of the exporter itself. An exporter that meters
// its own export feeds itself: every datagram makes another flow.
func (r *Replica) ownExports(buf []byte, flows []decode.Span, x *exporter) {
	as16 := x.addr.As16()
	addr := as16[:]
	if x.addr.Is4() {
		addr = as16[12:]
	}
	own := 0
	for _, s := range flows {
		if r.isOwnExport(buf[s.ValueEnd:s.KeyEnd], addr) {
			own++
		}
	}
	if own > 0 {
		x.own.Add(uint64(own))
		r.metrics.ownExport.WithLabelValues(r.exporters.name(x)).Add(float64(own))
		r.watch.ownExport(x)
	}
}

// isOwnExport reports whether a flow with this key carries the exporter's own export to this replica: UDP between the
// exporter's address, of 4 or 16 octets, and a port of LISTEN_UDP. A key consists of protocol, lower address, higher
// address, and their ports. Example for 192.0.2.1:40000 to 198.51.100.7:2055: 11 | c0000201 | c6336407 | 9c40 | 0807.
func (r *Replica) isOwnExport(key, exporter []byte) bool {
	n := len(exporter)
	if len(key) != 5+2*n || key[0] != 17 {
		return false
	}
	lo, hi, ports := key[1:1+n], key[1+n:1+2*n], key[1+2*n:]
	return bytes.Equal(lo, exporter) && r.ports[binary.BigEndian.Uint16(ports[2:])] ||
		bytes.Equal(hi, exporter) && r.ports[binary.BigEndian.Uint16(ports)]
}

// bufferSet stores a data set until its template arrives: in memory for PARK_FOR or, if the buffer is full,
// on the undecoded topic. It copies s. Ready is asked again after put: a template that arrived between
// decoding and put would otherwise not wake the buffer.
func (w *worker) bufferSet(s *decode.Set, at time.Time) {
	r := w.r
	if r.c.ParkFor > 0 && r.buffer.put(s, at) {
		r.stats.buffered.Add(1)
		if k := s.Key(); r.store.Ready(&k, &s.Meta, &s.Header) { // it arrived since the set was decoded
			r.changed.add(k.Exporter)
			r.wakeBuffer()
		}
		return
	}
	w.run.undecoded.put(s, at)
}

// droppedSets counts dropped data sets and warns of their missing templates.
type droppedSets struct {
	exporters *seen
	metrics   *metrics
	watch     *watch
}

// add counts a dropped set and warns of its missing template.
func (d droppedSets) add(s *decode.Set, reason string, at time.Time) {
	d.count(s.Meta.Exporter, reason)
	d.watch.dropped(s, reason, at)
}

// count counts a dropped set of an exporter.
// Callbacks of Kafka's client call it, so that it must not use the cache of a worker.
func (d droppedSets) count(exporter netip.Addr, reason string) {
	x, _ := d.exporters.get(exporter)
	d.metrics.sets.WithLabelValues(x.currentLabel(), reason).Inc()
}

// decodeBuffered decodes the buffered sets whose template has arrived. Expired sets are decoded with an
// older definition if the store accepts it, else appended to the undecoded topic. It must be called from
// the goroutine that owns w. Its work per call is bounded by the limits of removeReady and by the sets that
// expired.
func (r *Replica) decodeBuffered(w *worker, now time.Time) {
	since := time.Time{}
	if ns := r.barrierAt.Load(); ns != 0 {
		since = time.Unix(0, ns)
	}
	exporters, all := r.changed.takeAll()
	// Ready looks up a plan without counting a use; Plan counts it, and only for a set that is decoded.
	ready := r.buffer.removeReady(exporters, all, func(s *decode.Set) bool {
		k := s.Key()
		return r.store.Ready(&k, &s.Meta, &s.Header)
	})
	expired := r.buffer.removeExpired(now, since)
	for i := range ready {
		s := &ready[i]
		k := s.Key()
		if p := r.store.Plan(&k, &s.Meta, &s.Header); p != nil {
			w.decodeSet(s, p, now)
		} else { // the definition was removed since
			w.bufferSet(s, now)
		}
	}
	for i := range expired {
		s := &expired[i]
		k := s.Key()
		if p := r.store.Settle(&k, &s.Meta, &s.Header); p != nil {
			w.decodeSet(s, p, now)
		} else {
			w.run.undecoded.put(s, now)
		}
	}
}

// decodeSet decodes a set that waited in memory, and produces its flows. The flows have the receive time of
// their datagram, so that stream time and retention are those of its arrival.
func (w *worker) decodeSet(s *decode.Set, p *decode.Plan, now time.Time) {
	r := w.r
	w.limitOutput(setOctets(s))
	w.dec.WireSet(s, p, &w.res)
	w.charge(s.Meta.Exporter, setOctets(s), now)
	x, _ := w.exporter(s.Meta.Exporter)
	w.outcome(&w.res, x, now)
	d := w.lateDatagram(s)
	w.tally.Add(&d)
	w.produce(x, time.Unix(0, s.Meta.Received))
	w.trim()
	r.watch.found(s.Key(), now)
}

// version returns the label value of an export version: the versions decoded, 8, or "other".
func version(v uint16) string {
	switch v {
	case 1, 5, 7, 8, 9, 10:
		return strconv.Itoa(int(v))
	}
	return "other"
}
