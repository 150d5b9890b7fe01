package accounting

import (
	"net/netip"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"weir/internal/decode"
	"weir/pkg/flowpb"
)

// A Datagram is one export message as it was received, or a set of one that was
// decoded later.
type Datagram struct {
	Stream    Stream
	Received  int64 // ns since the epoch
	Export    int64 // export time, ns since the epoch
	Boot      int64 // export time less uptime, s since the epoch; 0: not known
	Sequence  uint32
	Sequenced bool // Sequence means something, and datagrams may get lost
	Units     Units
	Octets    int
	Errors    int    // parts that could not be decoded
	Undecoded int    // sets whose template is not known yet
	Flow      []byte // one of its flows, plain protobuf; nil: none
}

// Of is what a message under a header says to an account: its flows, options
// records and templates. What else a Datagram has its receiver adds.
func Of(exporter netip.Addr, h *decode.Header, flows, options, templates int) Datagram {
	records := uint64(flows + options)
	d := Datagram{
		Stream: Stream{Exporter: exporter, Version: h.Version, Domain: h.Domain}, Export: h.Export,
		Sequence: h.Sequence, Sequenced: h.Version != 1,
		Units: Units{Flows: uint64(flows), Records: records, All: records + uint64(templates)},
	}
	if h.Version != 10 {
		d.Boot = h.Export/int64(time.Second) - int64(h.Uptime/1000)
	}
	return d
}

const (
	// maxStreams bounds the streams that are told apart; the rest is one.
	maxStreams = 10_000
	// maxUnproven bounds those of which nothing was decoded yet, forged ones say.
	maxUnproven = 1_000
	// maxTallySlots bounds what one stream's export times can cost between two
	// gatherings.
	maxTallySlots = 16
)

// A Tally is filled by one goroutine and emptied by a Book.
type Tally struct {
	mu      sync.Mutex // guards what follows
	streams map[Stream]*account
	last    *account // of lastOf
	lastOf  Stream
}

// An account is what was counted of one stream.
type account struct {
	first, last int64 // receive times, ns since the epoch
	received    Units
	octets      uint64
	errors      uint64
	undecoded   uint64
	rate        uint64
	source      flowpb.SamplingSource
	name, site  string
	slots       []*slot
	unplaced    uint64 // datagrams that no slot was left for

	// A Book's:
	proven bool // something was decoded
	dirty  bool
}

// A slot is ten seconds of export time.
type slot struct {
	begin    int64 // s since the epoch
	received Units
	octets   uint64
	runs     runs

	// A Book's:
	part    uint64 // tells it from earlier ones of the same time
	touched uint64
	dirty   bool
}

// Add counts a datagram.
func (t *Tally) Add(d *Datagram) {
	t.mu.Lock()
	defer t.mu.Unlock()
	a := t.last
	if a == nil || t.lastOf != d.Stream {
		a = t.account(&d.Stream)
		t.last, t.lastOf = a, d.Stream
	}
	a.add(d)
}

func (t *Tally) account(s *Stream) *account {
	a := t.streams[*s]
	if a != nil {
		return a
	}
	of := *s
	if len(t.streams) >= maxStreams {
		of = Stream{}
		if a = t.streams[of]; a != nil {
			return a
		}
	}
	if t.streams == nil {
		t.streams = map[Stream]*account{}
	}
	a = &account{}
	t.streams[of] = a
	return a
}

// take empties the tally.
func (t *Tally) take() map[Stream]*account {
	t.mu.Lock()
	defer t.mu.Unlock()
	streams := t.streams
	t.streams, t.last = nil, nil
	return streams
}

func (a *account) add(d *Datagram) {
	if a.first == 0 || d.Received < a.first {
		a.first = d.Received
	}
	a.last = max(a.last, d.Received)
	a.received.add(&d.Units)
	a.octets += uint64(d.Octets)
	a.errors += uint64(d.Errors)
	a.undecoded += uint64(d.Undecoded)
	s := a.slot(floor(d.Export / 1e9))
	if s == nil {
		a.unplaced += d.Units[Datagrams] // a late set is of a datagram that was counted
		return
	}
	if d.Flow != nil && s.received[Flows] == 0 { // once a slot
		a.describe(d.Flow)
	}
	s.octets += uint64(d.Octets)
	if d.Sequenced {
		s.runs.add(d.Sequence, d.Boot, &d.Units)
	}
	s.received.add(&d.Units)
}

// floor is when the slot of a time begins.
func floor(seconds int64) int64 {
	return seconds - (seconds%slotSeconds+slotSeconds)%slotSeconds
}

// slot returns the slot that begins at begin, nil when there are too many.
func (a *account) slot(begin int64) *slot {
	for _, s := range slices.Backward(a.slots) { // mostly the last one
		if s.begin == begin {
			return s
		}
	}
	if len(a.slots) >= maxTallySlots {
		return nil
	}
	s := &slot{begin: begin}
	a.slots = append(a.slots, s)
	return s
}

// describe takes from a flow what holds for the stream.
func (a *account) describe(flow []byte) {
	var m flowpb.FlowMessage
	if proto.Unmarshal(flow, &m) != nil {
		return // never: it is the decoder's own
	}
	a.rate, a.source, a.name, a.site = m.GetSamplingRate(), m.GetSamplingSource(), m.GetExporterName(), m.GetSite()
}
