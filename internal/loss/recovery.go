package loss

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"weir/pkg/flowpb"
)

const (
	// reportsBefore is the time before the last report of a process at which a Recovery
	// begins to read reports. Every slot that may still change was reported since.
	reportsBefore = 2 * time.Minute
	// flowsBefore is the time before the last report of a process at which a Recovery
	// begins to read flows.
	flowsBefore = 2 * time.Second
	// firstFlows is the end of the first window of flows, counted from the last report; the next report
	// was due after 10 s. While a window contains unreported flows, another window of moreFlows is read,
	// until a window ends mostFlows or more after the last report.
	firstFlows = 14 * time.Second
	moreFlows  = 10 * time.Second
	mostFlows  = time.Minute
	// recoveryOctets bounds the reports that a Recovery holds, recoveryDatagrams the
	// datagrams (about 100 octets each), recoveryStreams the streams without a report.
	recoveryOctets    = 16 << 20
	recoveryDatagrams = 200_000
	recoveryStreams   = 1000
	// maxBoots bounds the remembered boot times of an exporter.
	maxBoots = 4
)

// A Recovery completes the account of a killed process: it counts the datagrams whose
// flows the process produced after its last report, which would else count as lost.
// The caller must pass all reports first, then the flows, window by window. Datagrams
// without a flow (templates, options data) leave no trace on the flows topic and cannot
// be recovered.
//
// A Recovery writes its reports under the keys of the process. If several replicas
// recover the same account, each replaces the reports of the last. It must be used by
// one goroutine at a time.
type Recovery struct {
	life      Life
	closed    bool
	octets    int  // of the held reports
	full      bool // a report was not held for lack of room
	streams   map[Stream]*lostStream
	unknown   int // number of streams without a report of the process
	datagrams map[datagramKey]*publishedDatagram
	beyond    bool // a datagram was not held for lack of room
	from, to  time.Time
	found     bool // the window has flows that were not reported
}

// A lostStream holds the reports of a stream.
type lostStream struct {
	summary    *flowpb.ExporterSummary // of the process; nil: no summary was read
	summaryKey []byte
	octets     int                 // of the summary
	slots      map[int64]*lostSlot // of the process, by begin
	sequenced  bool                // a process reported runs
	boots      []bootRange         // from all processes
	reported   bool                // the process made a report
	stale      bool                // a report of the process was not held
}

// A lostSlot is the last report of a slot by the process.
type lostSlot struct {
	key    []byte
	slot   *flowpb.ExporterSlot
	octets int
}

// A bootRange is the range of sequence numbers of one life of an exporter.
type bootRange struct {
	boot            int64
	least, greatest uint32
}

// A datagramKey identifies a datagram by the hash of its octets and its receive time,
// which all its flows carry.
type datagramKey struct {
	hash     uint64
	received int64 // ns since the epoch
}

// A publishedDatagram is a datagram whose flows are on the flows topic but in no report.
type publishedDatagram struct {
	stream   Stream
	export   int64 // s since the epoch
	sequence uint32
	flows    uint64
}

// NewRecovery returns a Recovery of the account of an ended process.
func NewRecovery(ended Life) *Recovery {
	return &Recovery{life: ended, streams: map[Stream]*lostStream{}, datagrams: map[datagramKey]*publishedDatagram{}}
}

// ReportsFrom returns the time of the first record of netflow.exporters that must be
// passed to Report.
func (r *Recovery) ReportsFrom() time.Time { return r.life.Reported.Add(-reportsBefore) }

// Report adds a record of netflow.exporters, written at the instant at by any process.
// It keeps neither key nor value. Invalid records are ignored.
func (r *Recovery) Report(key, value []byte, at time.Time) {
	m, s, err := parseReport(value)
	if err != nil {
		return
	}
	own := clip(m.Replica) == r.life.Replica && m.StartedNs == r.life.Started
	// A paused process may resume after another replica closed its account: its later
	// reports open the account again.
	r.closed = r.closed || own && m.GetSummary().GetClosed() && !at.Before(r.life.Reported)
	if recovered(m) { // by an interrupted Recovery; the reports of the process are on the topic, too
		return
	}
	l := r.streams[s]
	if l == nil {
		if !r.reserve(accountOctets) {
			return
		}
		l = &lostStream{slots: map[int64]*lostSlot{}}
		r.streams[s] = l
	}
	if slot := m.GetSlot(); slot != nil {
		l.learn(slot)
	}
	if own {
		l.reported = true
		r.hold(l, m, key, len(key)+3*len(value))
	}
}

// hold stores a report of the process in place of its last report of the same slot or
// totals.
func (r *Recovery) hold(l *lostStream, m *flowpb.ExporterReport, key []byte, octets int) {
	slot := m.GetSlot()
	before := l.octets
	if slot != nil {
		if before = 0; l.slots[slot.Begin] != nil {
			before = l.slots[slot.Begin].octets
		}
	}
	switch {
	case !r.reserve(octets - before):
		l.stale = true
	case slot != nil:
		l.slots[slot.Begin] = &lostSlot{slices.Clone(key), slot, octets}
	default:
		l.summary, l.summaryKey, l.octets = m.GetSummary(), slices.Clone(key), octets
	}
}

// reserve reserves octets for reports. It returns false if there is no room.
func (r *Recovery) reserve(octets int) bool {
	if r.octets+octets > recoveryOctets {
		r.full = true
		return false
	}
	r.octets += octets
	return true
}

// learn adds the sequence numbers and boot times of a slot's runs to l.boots.
func (l *lostStream) learn(slot *flowpb.ExporterSlot) {
	l.sequenced = l.sequenced || len(slot.Runs) > 0
	for _, r := range slot.Runs {
		i := slices.IndexFunc(l.boots, func(b bootRange) bool { return b.boot == r.Boot })
		switch {
		case i >= 0:
			b := &l.boots[i]
			if int32(r.Greatest-b.greatest) > 0 {
				b.greatest = r.Greatest
			}
			if int32(b.least-r.Least) > 0 {
				b.least = r.Least
			}
			continue
		case len(l.boots) >= maxBoots:
			l.boots = slices.Delete(l.boots, 0, 1)
		}
		l.boots = append(l.boots, bootRange{r.Boot, r.Least, r.Greatest})
	}
}

// boot returns the boot time of the exporter life with the nearest sequence numbers.
// Flows do not carry it.
func (l *lostStream) boot(sequence uint32) int64 {
	boot, nearest := int64(0), int64(-1)
	for _, b := range l.boots {
		distance := max(0, int64(int32(sequence-b.greatest)), int64(int32(b.least-sequence)))
		if nearest < 0 || distance <= nearest {
			boot, nearest = b.boot, distance
		}
	}
	return boot
}

// Closed reports whether the account is closed already. It must be called after the last
// Report.
func (r *Recovery) Closed() bool { return r.closed }

// Window returns the next window of flows to read, as timestamps of their records. The
// caller must pass all flows of the window to Flow before it calls Window again. more is
// false after the last window.
func (r *Recovery) Window() (from, to time.Time, more bool) {
	switch {
	case r.to.IsZero():
		r.from, r.to = r.life.Reported.Add(-flowsBefore), r.life.Reported.Add(firstFlows)
	case !r.found || r.beyond || r.to.Sub(r.life.Reported) >= mostFlows:
		return from, to, false
	default:
		r.from, r.to = r.to, r.to.Add(moreFlows)
	}
	r.found = false
	return r.from, r.to, true
}

// Flow adds a message of the flows topic, in protobuf wire format, if the process
// produced it and had not reported its datagram. It does not keep message.
func (r *Recovery) Flow(message []byte) {
	f, ok := parseOrigin(message, r.life.Replica)
	if !ok || f.received < r.life.Started || r.life.Next != 0 && f.received >= r.life.Next {
		return
	}
	l := r.streams[f.stream]
	if l == nil && r.full || l != nil && l.stale {
		return // a report that is not held may have counted it
	}
	if l == nil || !l.reported {
		if l == nil {
			if r.unknown >= recoveryStreams {
				return
			}
			r.unknown++
			l = &lostStream{slots: map[int64]*lostSlot{}}
			r.streams[f.stream] = l
		}
	} else if l.summary == nil || f.received <= l.summary.LastReceivedNs {
		return // the summary counts it
	}
	r.found = true
	k := datagramKey{f.hash, f.received}
	d := r.datagrams[k]
	if d == nil {
		if r.beyond = len(r.datagrams) >= recoveryDatagrams; r.beyond {
			return
		}
		d = &publishedDatagram{stream: f.stream, export: f.export / int64(time.Second), sequence: f.sequence}
		r.datagrams[k] = d
	}
	d.flows++
}

// Flows returns the number of recovered flows, which the process had not reported.
// beyond reports whether there were more than a Recovery can hold.
func (r *Recovery) Flows() (flows uint64, beyond bool) {
	for _, d := range r.datagrams {
		flows += d.flows
	}
	return flows, r.beyond || r.full
}

// Reports returns the reports of the process, completed by the recovered datagrams. The
// summaries come last and close the account; the caller must produce the reports in
// order. It must be called once, after the last window.
func (r *Recovery) Reports() []Report {
	var out []Report
	changed := map[Stream]map[int64]bool{}
	for _, k := range slices.SortedFunc(maps.Keys(r.datagrams), func(a, b datagramKey) int {
		return cmp.Or(cmp.Compare(a.received, b.received), cmp.Compare(a.hash, b.hash))
	}) {
		d := r.datagrams[k]
		begin := floor(d.export)
		if begin < 0 || begin > maxTime {
			continue
		}
		l := r.streams[d.stream]
		if l.summary == nil && r.life.Started >= r.ReportsFrom().UnixNano() {
			l.summary = &flowpb.ExporterSummary{FirstReceivedNs: k.received}
		}
		l.add(d, k.received, begin)
		if changed[d.stream] == nil {
			changed[d.stream] = map[int64]bool{}
		}
		changed[d.stream][begin] = true
	}
	for s, begins := range changed {
		l := r.streams[s]
		for begin := range begins {
			o := l.slots[begin]
			m := r.report(s)
			m.Report = &flowpb.ExporterReport_Slot{Slot: o.slot}
			out = append(out, r.record(m, o.key, slotKey,
				name(s.Exporter), s.Version, s.Domain, begin, 0, r.life.Started, r.life.Replica))
		}
	}
	return append(out, r.summaries(changed)...)
}

// summaries returns the closing summaries of the changed streams. If none has changed,
// it returns the summary of any stream, since an account must be closed by one.
func (r *Recovery) summaries(changed map[Stream]map[int64]bool) (out []Report) {
	for s, l := range r.streams {
		if l.summary == nil || changed[s] == nil && (len(changed) > 0 || len(out) > 0) {
			continue
		}
		l.summary.Closed, l.summary.Recovered = true, true
		m := r.report(s)
		m.Report = &flowpb.ExporterReport_Summary{Summary: l.summary}
		out = append(out, r.record(m, l.summaryKey, summaryKey,
			name(s.Exporter), s.Version, s.Domain, r.life.Started, r.life.Replica))
	}
	return out
}

// add counts a datagram in the summary and in the slot that begins at begin. received is
// in ns, begin in s since the epoch. A summary that was not read may be on the topic, of
// a time before ReportsFrom: its totals are unknown and stay as they are.
func (l *lostStream) add(d *publishedDatagram, received, begin int64) {
	u := Units{1, d.flows, d.flows, d.flows}
	if l.summary != nil {
		l.summary.LastReceivedNs = max(l.summary.LastReceivedNs, received)
		l.summary.Received = plus(l.summary.Received, &u)
	}
	o := l.slots[begin]
	if o == nil {
		o = &lostSlot{slot: &flowpb.ExporterSlot{Begin: begin}}
		l.slots[begin] = o
	}
	o.slot.Received, o.slot.Recovered = plus(o.slot.Received, &u), plus(o.slot.Recovered, &u)
	if !l.sequenced {
		return // NetFlow v1, a reliable transport, or a stream without reports
	}
	rs, boot := runsOf(o.slot), l.boot(d.sequence)
	if !rs.extend(d.sequence, boot, &u) {
		rs.begin(d.sequence, boot, &u, len(rs) < maxRuns)
	}
	o.slot.Runs = rs.proto()
}

// plus returns p + u as a new message.
func plus(p *flowpb.ExportUnits, u *Units) *flowpb.ExportUnits {
	sum := unitsFrom(p)
	sum.add(u)
	return sum.proto()
}

// report returns a report of the ended process without its slot or summary.
func (r *Recovery) report(s Stream) *flowpb.ExporterReport {
	return &flowpb.ExporterReport{
		Schema: schema, Replica: r.life.Replica, StartedNs: r.life.Started, Exporter: s.Exporter.AsSlice(),
		Version: uint32(s.Version), Domain: s.Domain,
	}
}

// record makes a record under key, the key that the process used. A nil key is made
// from format and parts.
func (r *Recovery) record(m *flowpb.ExporterReport, key []byte, format string, parts ...any) Report {
	if key == nil {
		key = fmt.Appendf(nil, format, parts...)
	}
	value, _ := proto.Marshal(m) // cannot fail: its texts were valid when it was unmarshaled
	return Report{Key: key, Value: value}
}

// An origin holds the fields of a flow that describe its datagram.
type origin struct {
	stream           Stream
	received, export int64 // ns since the epoch
	hash             uint64
	sequence         uint32
}

// versions maps the type of a flow to the version of its export protocol.
var versions = map[flowpb.FlowMessage_FlowType]uint16{
	flowpb.FlowMessage_NETFLOW_V1: 1, flowpb.FlowMessage_NETFLOW_V5: 5, flowpb.FlowMessage_NETFLOW_V7: 7,
	flowpb.FlowMessage_NETFLOW_V9: 9, flowpb.FlowMessage_IPFIX: 10,
}

// parseOrigin returns the origin of a flow. It returns false if another replica decoded the flow or b is
// not a FlowMessage. A Recovery calls it for every flow of a window, of all replicas; it allocates
// nothing.
func parseOrigin(b []byte, replica string) (f origin, ok bool) {
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return f, false
		}
		b = b[n:]
		var v uint64
		var octets []byte
		switch kind {
		case protowire.VarintType:
			v, n = protowire.ConsumeVarint(b)
		case protowire.Fixed64Type:
			v, n = protowire.ConsumeFixed64(b)
		case protowire.BytesType:
			octets, n = protowire.ConsumeBytes(b)
		default:
			n = protowire.ConsumeFieldValue(number, kind, b)
		}
		if n < 0 {
			return f, false
		}
		b = b[n:]
		switch number {
		case 1:
			f.stream.Version = versions[flowpb.FlowMessage_FlowType(v)]
		case 4:
			f.sequence = uint32(v)
		case 11:
			f.stream.Exporter, _ = netip.AddrFromSlice(octets)
		case 70:
			f.stream.Domain = uint32(v)
		case 110:
			f.received = int64(v)
		case 200:
			f.export = int64(v)
		case 203:
			f.hash = v
		case 263:
			ok = string(octets) == replica
		}
	}
	return f, ok && f.stream.Version != 0 && f.stream.Exporter.IsValid()
}
