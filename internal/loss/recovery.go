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
	// reportsBefore is how long before the last report of a process the reports begin
	// that a Recovery needs: a slot that may still change was reported since.
	reportsBefore = 2 * time.Minute
	// flowsBefore is how long before the last report of a process the flows begin.
	flowsBefore = 2 * time.Second
	// firstFlows is how long after that report flows are read first: the next report was
	// due after 10 s. As long as there are flows, moreFlows are read again, up to mostFlows.
	firstFlows = 14 * time.Second
	moreFlows  = 10 * time.Second
	mostFlows  = time.Minute
	// recoveryOctets bounds the reports that a Recovery holds, recoveryDatagrams the
	// datagrams (about 100 octets each), recoveryStreams the streams without a report.
	recoveryOctets    = 16 << 20
	recoveryDatagrams = 200_000
	recoveryStreams   = 1000
	// maxBoots bounds the starts that are remembered of an exporter.
	maxBoots = 4
)

// A Recovery adds to the account of a process that was killed what it had published on the
// flows topic since its last report: that was received and is not lost. It takes the
// reports first, then the flows, window by window. Templates, options data and other
// datagrams without a flow are not on that topic and cannot be found.
//
// The keys of its reports are those of the process, so that of several replicas that
// recover the same account each replaces the reports of the one before.
type Recovery struct {
	life      Life
	closed    bool
	octets    int  // of reports
	full      bool // there are more reports than are held
	streams   map[Stream]*lostStream
	unknown   int // streams of which the process made no report
	datagrams map[datagramKey]*publishedDatagram
	beyond    bool // there are more datagrams than are held
	from, to  time.Time
	found     bool // flows, in the window
}

// A lostStream is what the reports say of a stream.
type lostStream struct {
	summary    *flowpb.ExporterSummary // of the process; nil: it made none
	summaryKey []byte
	octets     int                 // of the summary
	slots      map[int64]*lostSlot // of the process, by begin
	sequenced  bool                // any process reported runs
	boots      []bootRange         // of all processes
	reported   bool                // by the process
	stale      bool                // a report of the process is not held
}

type lostSlot struct {
	key    []byte
	slot   *flowpb.ExporterSlot
	octets int
}

// A bootRange holds the sequence numbers of an exporter since it started.
type bootRange struct {
	boot            int64
	least, greatest uint32
}

type datagramKey struct {
	hash     uint64
	received int64
}

type publishedDatagram struct {
	stream   Stream
	export   int64 // s since the epoch
	sequence uint32
	flows    uint64
}

// NewRecovery returns the recovery of the account of a process that ended.
func NewRecovery(ended Life) *Recovery {
	return &Recovery{life: ended, streams: map[Stream]*lostStream{}, datagrams: map[datagramKey]*publishedDatagram{}}
}

// ReportsFrom returns from when on Report needs the records of the exporters topic.
func (r *Recovery) ReportsFrom() time.Time { return r.life.Reported.Add(-reportsBefore) }

// Report takes a record of the exporters topic, of any process, written at the instant at.
func (r *Recovery) Report(key, value []byte, at time.Time) {
	m, s, err := parseReport(value)
	if err != nil {
		return
	}
	own := clip(m.Replica) == r.life.Replica && m.StartedNs == r.life.Started
	// A silent process can be taken to have ended, and goes on: its later reports open
	// the account again.
	r.closed = r.closed || own && m.GetSummary().GetClosed() && !at.Before(r.life.Reported)
	if recovered(m) { // by a replica that did not finish; the reports before are there too
		return
	}
	l := r.streams[s]
	if l == nil {
		if !r.take(accountOctets) {
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

// hold keeps a report of the process in place of the one before it.
func (r *Recovery) hold(l *lostStream, m *flowpb.ExporterReport, key []byte, octets int) {
	slot := m.GetSlot()
	before := l.octets
	if slot != nil {
		if before = 0; l.slots[slot.Begin] != nil {
			before = l.slots[slot.Begin].octets
		}
	}
	switch {
	case !r.take(octets - before):
		l.stale = true
	case slot != nil:
		l.slots[slot.Begin] = &lostSlot{slices.Clone(key), slot, octets}
	default:
		l.summary, l.summaryKey, l.octets = m.GetSummary(), slices.Clone(key), octets
	}
}

// take takes octets for reports; false: there is no room.
func (r *Recovery) take(octets int) bool {
	if r.octets+octets > recoveryOctets {
		r.full = true
		return false
	}
	r.octets += octets
	return true
}

// learn notes what the runs of a slot say of the exporter.
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

// boot returns the start of the exporter whose sequence numbers are nearest; flows do not
// state it.
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

// Closed reports whether the account is closed already.
func (r *Recovery) Closed() bool { return r.closed }

// Window returns of what time flows are to be read next, by the timestamps of their
// records; false when no more are needed.
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

// Flow takes a message of the flows topic, in protobuf's wire format.
func (r *Recovery) Flow(message []byte) {
	f, ok := parseOrigin(message, r.life.Replica)
	if !ok || f.received < r.life.Started || r.life.Next != 0 && f.received >= r.life.Next {
		return
	}
	l := r.streams[f.stream]
	if l == nil && r.full || l != nil && l.stale {
		return // it may have been counted
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
		return // it was counted
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

// Flows returns how many flows were found that the process had not reported, and whether
// there are more than can be held.
func (r *Recovery) Flows() (flows uint64, beyond bool) {
	for _, d := range r.datagrams {
		flows += d.flows
	}
	return flows, r.beyond || r.full
}

// Reports returns the reports of the process with what was found, the last of them closes
// its account.
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
			out = append(out, r.record(m, o.key, "slot %s %d %d %d %d %d %s", name(s.Exporter), s.Version, s.Domain, begin, 0, r.life.Started, r.life.Replica))
		}
	}
	return append(out, r.summaries(changed)...)
}

// summaries returns the summaries of the streams that have changed, at least of one.
func (r *Recovery) summaries(changed map[Stream]map[int64]bool) (out []Report) {
	for s, l := range r.streams {
		if l.summary == nil || changed[s] == nil && (len(changed) > 0 || len(out) > 0) {
			continue
		}
		l.summary.Closed, l.summary.Recovered = true, true
		m := r.report(s)
		m.Report = &flowpb.ExporterReport_Summary{Summary: l.summary}
		out = append(out, r.record(m, l.summaryKey, "total %s %d %d %d %s", name(s.Exporter), s.Version, s.Domain, r.life.Started, r.life.Replica))
	}
	return out
}

// add counts a datagram, received at the instant received, in the slot that begins at begin
// and in the summary. Without a summary the process may have made one long before: what it
// counted in its life is not known, and stays as it is.
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
		return // a version without sequence numbers, or TCP; or nothing is known of it
	}
	rs, boot := runsOf(o.slot), l.boot(d.sequence)
	if !rs.extend(d.sequence, boot, &u) {
		rs.begin(d.sequence, boot, &u, len(rs) < maxRuns)
	}
	o.slot.Runs = rs.proto()
}

func plus(p *flowpb.ExportUnits, u *Units) *flowpb.ExportUnits {
	sum := unitsFrom(p)
	sum.add(u)
	return sum.proto()
}

func (r *Recovery) report(s Stream) *flowpb.ExporterReport {
	return &flowpb.ExporterReport{
		Schema: schema, Replica: r.life.Replica, StartedNs: r.life.Started, Exporter: s.Exporter.AsSlice(),
		Version: uint32(s.Version), Domain: s.Domain,
	}
}

// record makes a record under the key that the process used, or would have used.
func (r *Recovery) record(m *flowpb.ExporterReport, key []byte, format string, parts ...any) Report {
	if key == nil {
		key = fmt.Appendf(nil, format, parts...)
	}
	value, _ := proto.Marshal(m) // it was unmarshaled before
	return Report{Key: key, Value: value}
}

// An origin is what a flow says of the datagram that it came in.
type origin struct {
	stream           Stream
	received, export int64 // ns since the epoch
	hash             uint64
	sequence         uint32
}

// versions are the versions of export protocols, by type of flow.
var versions = map[flowpb.FlowMessage_FlowType]uint16{
	flowpb.FlowMessage_NETFLOW_V1: 1, flowpb.FlowMessage_NETFLOW_V5: 5, flowpb.FlowMessage_NETFLOW_V7: 7,
	flowpb.FlowMessage_NETFLOW_V9: 9, flowpb.FlowMessage_IPFIX: 10,
}

// parseOrigin reads the origin of a flow; false when another replica decoded it, or b is no
// FlowMessage. It looks at every flow of the topic for a while, and allocates nothing.
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
