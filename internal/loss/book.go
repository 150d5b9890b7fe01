package loss

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"weir/pkg/flowpb"
)

const (
	// slotLife is the number of gatherings after which a slot without new datagrams is
	// deleted.
	slotLife = 6
	// forgetAfter is the silence after which an established stream is forgotten,
	// newcomerAfter that of a newcomer.
	forgetAfter   = 24 * time.Hour
	newcomerAfter = time.Hour
	// baseSlots is the number of slots guaranteed to each stream.
	baseSlots = 2
	// bookSlots bounds the octets of slots beyond the guaranteed slots of all streams.
	// Each stream has an equal share.
	bookSlots = bookMax - maxStreams*(accountOctets+placeOctets+baseSlots*(slotOctets+runOctets))
	// streamMost bounds the octets of a stream's slots, however few streams there are.
	streamMost = 64 << 10
)

// A Book holds the counts of a replica and marks those that must be published. It is
// safe for concurrent use.
type Book struct {
	// Listed reports whether the operator listed an exporter: its streams are
	// established at once. Nil lists no exporter. It must be set before the first use
	// and must not call the Book, whose lock is held.
	Listed func(netip.Addr) bool

	replica string
	started int64
	reports int // approximate bound of the octets of the reports of a Gather
	room    room

	mu         sync.Mutex // guards all fields below
	streams    map[Stream]*account
	newcomers  int    // streams that are not established
	unproven   int    // newcomers without a decoded record
	slots      int64  // octets of the slots of all streams
	turn       uint64 // number of gatherings
	dropped    uint64
	idle       []Stream // newcomers not active in this turn, the longest silent last
	idleAt     uint64   // turn of idle
	longIdle   []Stream // established streams that were silent for idleTurns
	longIdleAt uint64   // turn of longIdle
	noUnproven uint64   // turn in which no unproven stream is idle
	closed     bool     // the next reports are the last
}

// NewBook returns the book of a replica that started at the instant at.
func NewBook(replica string, at time.Time) *Book {
	return &Book{replica: replica, started: at.UnixNano(), reports: reportsMax, streams: map[Stream]*account{}}
}

// Attach makes a tally share the memory of the book with other tallies. It must be
// called before the first Add to the tally.
func (b *Book) Attach(t *Tally) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.room = &b.room
}

// A Report is a record of the topic netflow.exporters.
type Report struct {
	Key, Value []byte

	of *mark // of the reported slot or account
}

// A mark holds the publishing state of a slot or account.
type mark struct {
	dirty bool // changed since the last report
	out   bool // the last report has no outcome yet
}

// Gather empties tallies into the book and returns reports of the slots and accounts
// that have changed since they were published, up to reportsMax octets; the next call
// returns the rest. The caller must call it every 10 s and must pass each Report to
// Published.
func (b *Book) Gather(now time.Time, tallies []*Tally) []Report {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.turn++
	b.takeIn(tallies)
	var out []Report
	octets := 0
	for _, established := range []bool{true, false} {
		for s, a := range b.streams {
			if a.established == established && a.proven && octets < b.reports {
				before := len(out)
				out = b.due(out, s, a)
				for _, r := range out[before:] {
					octets += len(r.Key) + len(r.Value)
				}
			}
		}
	}
	for s, a := range b.streams {
		b.expire(s, a, now)
	}
	return out
}

// Close is the last Gather. Its summaries are marked closed, so other replicas do not
// recover the account.
func (b *Book) Close(now time.Time, tallies []*Tally) []Report {
	b.mu.Lock()
	b.closed = true
	for _, a := range b.streams {
		if a.proven && !a.out { // a summary must be published as closed, even without a change
			a.dirty = true
			break
		}
	}
	b.mu.Unlock()
	return b.Gather(now, tallies)
}

// takeIn merges the counts of tallies. Known streams come first, so that they are
// active in this turn before unknown streams evict idle streams. b.mu must be held.
func (b *Book) takeIn(tallies []*Tally) {
	type counted struct {
		of Stream
		a  *account
	}
	var unknown []counted
	for _, t := range tallies {
		for s, a := range t.empty() {
			if b.streams[s] == nil {
				unknown = append(unknown, counted{s, a})
				continue
			}
			b.merge(s, a)
		}
	}
	for _, c := range unknown {
		b.merge(c.of, c.a)
	}
}

// expire deletes the old slots of a stream, and the stream after a long silence.
func (b *Book) expire(s Stream, a *account, now time.Time) {
	a.slots = slices.DeleteFunc(a.slots, func(s *slot) bool {
		old := (!s.dirty && !s.out || !a.proven) && b.turn-s.touched >= slotLife
		if old {
			b.grow(a, -s.size())
		}
		return old
	})
	keep := forgetAfter
	if !a.established {
		keep = newcomerAfter
	}
	if len(a.slots) == 0 && now.UnixNano()-a.last > int64(keep) {
		b.forget(s, a)
	}
}

// Published records the outcome of producing a report. A report that failed is made
// again by the next Gather.
func (b *Book) Published(r Report, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r.of.out = false
	r.of.dirty = r.of.dirty || err != nil
}

// Dropped returns the number of datagrams for which no slot or run was left. Their
// sequence numbers count as lost.
func (b *Book) Dropped() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.dropped
}

// merge adds a tally's counts of a stream. b.mu must be held.
func (b *Book) merge(s Stream, more *account) {
	a, s := b.account(s, more.received[Records] > 0)
	if a == nil { // too many streams without a decoded record
		return
	}
	if a.turn != b.turn {
		a.turn = b.turn
		a.turns++
	}
	a.sum(more)
	if s == (Stream{}) {
		for _, o := range more.slots {
			o.runs = nil
		}
	} else if more.name != "" || more.site != "" {
		a.name, a.site = more.name, more.site
	}
	b.dropped += more.unplaced
	if !a.proven && a.received[Records] > 0 {
		a.proven = true
		b.unproven--
	}
	b.establish(s, a)
	for _, o := range more.slots {
		b.mergeSlot(a, o)
	}
}

// sum adds the totals of more; slots are left out.
func (a *account) sum(more *account) {
	if a.first == 0 || more.first < a.first {
		a.first = more.first
	}
	a.last = max(a.last, more.last)
	a.received.add(&more.received)
	a.octetsReceived += more.octetsReceived
	a.errors += more.errors
	a.undecoded += more.undecoded
	if more.source != 0 || more.rate != 0 {
		a.rate, a.source = more.rate, more.source
	}
	a.dirty = true
}

// size returns the heap octets of s, an estimate.
func (s *slot) size() int64 { return slotOctets + int64(len(s.runs))*runOctets }

// grow adds to the octets of a stream's slots; octets may be negative.
func (b *Book) grow(a *account, octets int64) {
	a.octets += octets
	b.slots += octets
}

// fits reports whether a stream may use more octets for slots.
func (b *Book) fits(a *account, octets int64) bool {
	const base = baseSlots * (slotOctets + runOctets)
	n := int64(len(b.streams))
	most := base + min(bookSlots/n, streamMost)
	return a.octets+octets <= base || a.octets+octets <= most && b.slots+octets <= bookSlots+n*base
}

// mergeSlot adds the slot o to a. The book owns o afterwards.
func (b *Book) mergeSlot(a *account, o *slot) {
	for _, s := range a.slots {
		if s.begin != o.begin {
			continue
		}
		s.received.add(&o.received)
		s.octets += o.octets
		for i := range o.runs {
			before := s.size()
			if !s.runs.merge(&o.runs[i], b.fits(a, runOctets)) {
				b.dropped += o.runs[i].received[Datagrams]
			}
			b.grow(a, s.size()-before)
		}
		s.touched, s.dirty = b.turn, true
		return
	}
	if !b.fits(a, o.size()) {
		b.dropped += o.received[Datagrams]
		return
	}
	o.part, o.touched, o.dirty = b.turn, b.turn, true
	a.slots = append(a.slots, o)
	b.grow(a, o.size())
}

// account returns the account that counts a stream, and its Stream: the zero Stream
// if there is no room for another stream. It returns nil if nothing of the stream was
// decoded and maxUnproven such streams are active.
func (b *Book) account(s Stream, decoded bool) (*account, Stream) {
	if a := b.streams[s]; a != nil {
		return a, s
	}
	if s == (Stream{}) {
		return b.add(s), s
	}
	full := b.newcomers >= maxNewcomers || len(b.streams) >= maxStreams || !decoded && b.unproven >= maxUnproven
	switch {
	case !full, b.evictNewcomer(!decoded && b.unproven >= maxUnproven):
		return b.add(s), s
	case !decoded:
		return nil, s
	}
	return b.account(Stream{}, true)
}

func (b *Book) add(s Stream) *account {
	a := &account{}
	b.streams[s] = a
	b.newcomers++
	b.unproven++
	return a
}

// evictNewcomer forgets the newcomer with the longest silence. With unproven it must
// be a newcomer without a decoded record. It returns false if all candidates are active
// in this turn. The list of idle newcomers is made once a turn, so that a flood of
// forged addresses does not sort it for each datagram.
func (b *Book) evictNewcomer(unproven bool) bool {
	if b.idleAt != b.turn {
		b.idleAt = b.turn
		b.idle = b.silent(b.idle[:0], func(a *account) bool { return !a.established && a.turn < b.turn })
	}
	if unproven && b.noUnproven == b.turn {
		return false
	}
	for i, s := range slices.Backward(b.idle) {
		a := b.streams[s]
		if a == nil || a.turn == b.turn {
			b.idle = slices.Delete(b.idle, i, i+1)
			continue
		}
		if unproven && a.proven {
			continue
		}
		b.idle = slices.Delete(b.idle, i, i+1)
		b.forget(s, a)
		b.unreported(a)
		return true
	}
	if unproven {
		b.noUnproven = b.turn
	}
	return false
}

// unreported accounts for the unpublished counts of a forgotten stream: it adds the datagrams
// of its slots to dropped and, if there is no summary, the totals to the zero Stream.
func (b *Book) unreported(a *account) {
	if !a.proven {
		return
	}
	for _, s := range a.slots {
		if s.dirty {
			b.dropped += s.received[Datagrams]
		}
	}
	if !a.reported {
		other, _ := b.account(Stream{}, true)
		other.sum(a)
	}
}

// silent appends the streams for which choose returns true, the longest silent last.
func (b *Book) silent(out []Stream, choose func(*account) bool) []Stream {
	for s, a := range b.streams {
		if choose(a) {
			out = append(out, s)
		}
	}
	slices.SortFunc(out, func(x, y Stream) int { return cmp.Compare(b.streams[y].turn, b.streams[x].turn) })
	return out
}

// establish makes a newcomer established if it is listed, or was active for long
// enough, and there is room.
func (b *Book) establish(s Stream, a *account) {
	const most = maxStreams - maxNewcomers
	if a.established || s != (Stream{}) && !lists(b.Listed, s.Exporter) && (!a.proven || a.turns < provenTurns) {
		return
	}
	if len(b.streams)-b.newcomers >= most && !b.evictEstablished() {
		return
	}
	a.established = true
	b.newcomers--
	b.room.established.Store(s, struct{}{})
}

// evictEstablished forgets the established stream with the longest silence. It returns
// false if no stream has been silent for idleTurns.
func (b *Book) evictEstablished() bool {
	if b.longIdleAt != b.turn {
		b.longIdleAt = b.turn
		b.longIdle = b.silent(b.longIdle[:0], func(a *account) bool { return a.established && b.turn-a.turn >= idleTurns })
	}
	for n := len(b.longIdle); n > 0; n = len(b.longIdle) {
		s := b.longIdle[n-1]
		b.longIdle = b.longIdle[:n-1]
		if a := b.streams[s]; a != nil && a.established && s != (Stream{}) && b.turn-a.turn >= idleTurns {
			b.forget(s, a)
			b.unreported(a)
			return true
		}
	}
	return false
}

// forget deletes a stream and returns its memory.
func (b *Book) forget(s Stream, a *account) {
	delete(b.streams, s)
	b.slots -= a.octets
	if a.established {
		b.room.established.Delete(s)
	} else {
		b.newcomers--
	}
	if !a.proven {
		b.unproven--
	}
}

// Octets returns the heap octets of the book and its tallies, as estimated by the
// constants in octets.go.
func (b *Book) Octets() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	established := int64(len(b.streams) - b.newcomers)
	return b.room.used.Load() + b.slots + int64(len(b.streams))*accountOctets + established*placeOctets
}

// due appends the reports of a stream's changed slots and totals, and marks them as
// sent.
func (b *Book) due(out []Report, s Stream, a *account) []Report {
	for _, o := range a.slots {
		if !o.dirty {
			continue
		}
		o.mark = mark{out: true}
		m := b.report(s)
		slot := &flowpb.ExporterSlot{Begin: o.begin, Received: o.received.proto(), Octets: o.octets}
		if s != (Stream{}) {
			slot.Runs = o.runs.proto()
		}
		m.Report = &flowpb.ExporterReport_Slot{Slot: slot}
		out = append(out, b.record(m, &o.mark, slotKey,
			name(s.Exporter), s.Version, s.Domain, o.begin, o.part, b.started, b.replica))
	}
	if !a.dirty {
		return out
	}
	a.mark, a.reported = mark{out: true}, true
	m := b.report(s)
	m.Report = &flowpb.ExporterReport_Summary{Summary: &flowpb.ExporterSummary{
		FirstReceivedNs: a.first, LastReceivedNs: a.last, Received: a.received.proto(), Octets: a.octetsReceived,
		Errors: a.errors, UndecodedSets: a.undecoded, SamplingRate: a.rate, SamplingSource: a.source,
		Name: a.name, Site: a.site, Closed: b.closed,
	}}
	return append(out, b.record(m, &a.mark, summaryKey,
		name(s.Exporter), s.Version, s.Domain, b.started, b.replica))
}

// Formats of record keys. A Recovery replaces the records of a process under their own
// keys; in the key of a slot that the process never reported, part is 0.
const (
	slotKey    = "slot %s %d %d %d %d %d %s" // exporter, version, domain, begin, part, start, replica
	summaryKey = "total %s %d %d %d %s"      // exporter, version, domain, start, replica
)

// name returns the exporter's address as a key has it.
func name(a netip.Addr) string {
	if !a.IsValid() {
		return "other"
	}
	return a.String()
}

// report returns a report of the stream without its slot or summary.
func (b *Book) report(s Stream) *flowpb.ExporterReport {
	return &flowpb.ExporterReport{
		Schema: schema, Replica: b.replica, StartedNs: b.started,
		Exporter: s.Exporter.AsSlice(), Version: uint32(s.Version), Domain: s.Domain,
	}
}

// schema is the version of the record format. A reader rejects all others.
const schema = 1

// record makes a record. Its key is text for readers of the topic; no program parses
// it.
func (b *Book) record(m *flowpb.ExporterReport, of *mark, key string, parts ...any) Report {
	value, err := proto.Marshal(m)
	if err != nil { // the name is not valid UTF-8, which package settings rejects
		m.GetSummary().Name, m.GetSummary().Site = "", ""
		value, _ = proto.Marshal(m)
	}
	return Report{Key: fmt.Appendf(nil, key, parts...), Value: value, of: of}
}
