package accounting

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"weir/pkg/flowpb"
)

const (
	// slotLife is how many gatherings a slot is kept that nothing comes for.
	slotLife = 6
	// maxSlots bounds the slots that a Book keeps, those among them that wait for
	// Kafka.
	maxSlots = 200_000
	// forgetAfter is how long a silent stream is remembered.
	forgetAfter = 24 * time.Hour
)

// A Book holds what one replica counted, and what of it is to be published. It is
// safe for use by several goroutines.
type Book struct {
	replica string
	started int64

	mu       sync.Mutex // guards what follows
	streams  map[Stream]*account
	unproven int
	slots    int
	turn     uint64 // gatherings
	dropped  uint64
}

// NewBook returns the book of a replica that started at the instant at.
func NewBook(replica string, at time.Time) *Book {
	return &Book{replica: replica, started: at.UnixNano(), streams: map[Stream]*account{}}
}

// A Report is one record of the topic.
type Report struct {
	Key, Value []byte

	dirty *bool // of what it is of
}

// Gather empties tallies into the book and returns what has changed since it was
// published. Each Report is to be given back to Published.
func (b *Book) Gather(now time.Time, tallies []*Tally) []Report {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.turn++
	for _, t := range tallies {
		for s, a := range t.take() {
			b.merge(s, a)
		}
	}
	var out []Report
	for s, a := range b.streams {
		if a.proven {
			out = b.due(out, s, a)
		}
		a.slots = slices.DeleteFunc(a.slots, func(s *slot) bool {
			old := (!s.dirty || !a.proven) && b.turn-s.touched >= slotLife
			if old {
				b.slots--
			}
			return old
		})
		if len(a.slots) == 0 && now.UnixNano()-a.last > int64(forgetAfter) {
			b.forget(s, a)
		}
	}
	return out
}

// Published notes the outcome of publishing a report.
func (b *Book) Published(r Report, err error) {
	if err == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	*r.dirty = true
}

// Dropped is how many datagrams no slot was left for: their sequence numbers count
// as lost.
func (b *Book) Dropped() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.dropped
}

// merge adds what a tally counted of a stream.
func (b *Book) merge(s Stream, more *account) {
	a := b.account(s, more.received[Records] > 0)
	if a == nil { // nothing was decoded of it, of many
		return
	}
	if a.first == 0 || more.first < a.first {
		a.first = more.first
	}
	a.last = max(a.last, more.last)
	a.received.add(&more.received)
	a.octets += more.octets
	a.errors += more.errors
	a.undecoded += more.undecoded
	if more.source != 0 || more.rate != 0 {
		a.rate, a.source = more.rate, more.source
	}
	if more.name != "" || more.site != "" {
		a.name, a.site = more.name, more.site
	}
	a.dirty = true
	b.dropped += more.unplaced
	if !a.proven && a.received[Records] > 0 {
		a.proven = true
		b.unproven--
	}
	for _, o := range more.slots {
		b.mergeSlot(a, o)
	}
}

func (b *Book) mergeSlot(a *account, o *slot) {
	for _, s := range a.slots {
		if s.begin != o.begin {
			continue
		}
		s.received.add(&o.received)
		s.octets += o.octets
		for i := range o.runs {
			s.runs.merge(&o.runs[i])
		}
		s.touched, s.dirty = b.turn, true
		return
	}
	if b.slots >= maxSlots {
		b.dropped += o.received[Datagrams]
		return
	}
	b.slots++
	o.part, o.touched, o.dirty = b.turn, b.turn, true
	a.slots = append(a.slots, o)
}

// account returns what a stream's datagrams are counted in, nil for nothing: it is
// one more of which nothing was decoded.
func (b *Book) account(s Stream, decoded bool) *account {
	a := b.streams[s]
	if a != nil {
		return a
	}
	if len(b.streams) >= maxStreams && s != (Stream{}) {
		return b.account(Stream{}, decoded)
	}
	if !decoded && b.unproven >= maxUnproven {
		return nil
	}
	b.unproven++
	a = &account{}
	b.streams[s] = a
	return a
}

func (b *Book) forget(s Stream, a *account) {
	delete(b.streams, s)
	if !a.proven {
		b.unproven--
	}
}

// due appends what has changed of a stream.
func (b *Book) due(out []Report, s Stream, a *account) []Report {
	for _, o := range a.slots {
		if !o.dirty {
			continue
		}
		o.dirty = false
		m := b.report(s)
		slot := &flowpb.ExporterSlot{Begin: o.begin, Received: o.received.proto(), Octets: o.octets}
		if s != (Stream{}) {
			for i := range o.runs {
				r := &o.runs[i]
				slot.Runs = append(slot.Runs, &flowpb.SequenceRun{Least: r.least, Greatest: r.greatest, Last: r.last.proto(), Received: r.received.proto(), Boot: r.boot})
			}
		}
		m.Report = &flowpb.ExporterReport_Slot{Slot: slot}
		out = append(out, b.record(m, &o.dirty, "slot %s %d %d %d %d %d %s", name(s.Exporter), s.Version, s.Domain, o.begin, o.part, b.started, b.replica))
	}
	if !a.dirty {
		return out
	}
	a.dirty = false
	m := b.report(s)
	m.Report = &flowpb.ExporterReport_Summary{Summary: &flowpb.ExporterSummary{
		FirstReceivedNs: a.first, LastReceivedNs: a.last, Received: a.received.proto(), Octets: a.octets, Errors: a.errors,
		UndecodedSets: a.undecoded, SamplingRate: a.rate, SamplingSource: a.source, Name: a.name, Site: a.site,
	}}
	return append(out, b.record(m, &a.dirty, "total %s %d %d %d %s", name(s.Exporter), s.Version, s.Domain, b.started, b.replica))
}

// name is an exporter in a key.
func name(a netip.Addr) string {
	if !a.IsValid() {
		return "other"
	}
	return a.String()
}

func (b *Book) report(s Stream) *flowpb.ExporterReport {
	return &flowpb.ExporterReport{
		Schema: schema, Replica: b.replica, StartedNs: b.started, Exporter: s.Exporter.AsSlice(), Version: uint32(s.Version), Domain: s.Domain,
	}
}

// schema is the version of a report's meaning.
const schema = 1

// record makes a record. Its key is text, for people who look at the topic; nobody
// parses it.
func (b *Book) record(m *flowpb.ExporterReport, dirty *bool, key string, of ...any) Report {
	value, err := proto.Marshal(m)
	if err != nil { // a name that is no UTF-8, which settings refuse
		m.GetSummary().Name, m.GetSummary().Site = "", ""
		value, _ = proto.Marshal(m)
	}
	return Report{Key: fmt.Appendf(nil, key, of...), Value: value, dirty: dirty}
}
