package loss

import (
	"net/netip"
	"slices"
	"strings"
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

// maxTallySlots bounds the slots that one stream's export times can make between two
// gatherings.
const maxTallySlots = 16

// A Tally is filled by one goroutine and emptied by a Book. The zero Tally is ready
// to use; Book.Attach bounds it together with others.
type Tally struct {
	mu        sync.Mutex // guards what follows
	streams   map[Stream]*account
	last      *account // of lastOf
	lastOf    Stream
	room      *room // nil: not used yet
	octets    int64 // taken from room
	newcomers int64 // of these
}

// An account is what was counted of one stream.
type account struct {
	first, last    int64 // receive times, ns since the epoch
	received       Units
	octetsReceived uint64
	errors         uint64
	undecoded      uint64
	rate           uint64
	source         flowpb.SamplingSource
	name, site     string
	slots          []*slot
	unplaced       uint64 // datagrams that no slot was left for

	// A Tally's:
	newcomer bool
	shared   bool // of all streams beyond the bound

	// A Book's:
	mark
	proven      bool // something was decoded
	reported    bool // a summary was made
	established bool
	turn        uint64 // the last gathering in which it was active
	turns       int    // gatherings in which it was active
	octets      int64  // of its slots
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
	mark
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
	t.add(a, d)
}

// account returns the account of a stream, or that of all streams beyond the bound.
func (t *Tally) account(s *Stream) *account {
	a := t.streams[*s]
	if a != nil {
		return a
	}
	if t.room == nil {
		t.room = &room{}
	}
	a = &account{newcomer: true}
	if _, ok := t.room.established.Load(*s); ok {
		a.newcomer = false
	}
	of := *s
	if len(t.streams) >= maxStreams || !t.take(a, accountOctets+slotOctets+runOctets, true) {
		of = Stream{}
		if other := t.streams[of]; other != nil {
			return other
		}
		a = &account{}
	}
	a.shared = of == Stream{}
	if t.streams == nil {
		t.streams = map[Stream]*account{}
	}
	t.streams[of] = a
	return a
}

// take takes octets for a stream from the room; base: for one of its first slots.
func (t *Tally) take(a *account, octets int64, base bool) bool {
	n := needExtra
	switch {
	case a.newcomer:
		n = needNewcomer
	case base:
		n = needBase
	}
	if !t.room.take(octets, n) {
		return false
	}
	t.octets += octets
	if a.newcomer {
		t.newcomers += octets
	}
	return true
}

// empty returns what was counted and begins anew.
func (t *Tally) empty() map[Stream]*account {
	t.mu.Lock()
	defer t.mu.Unlock()
	streams := t.streams
	if t.room != nil {
		t.room.give(t.octets, t.newcomers)
	}
	t.streams, t.last, t.octets, t.newcomers = nil, nil, 0, 0
	return streams
}

func (t *Tally) add(a *account, d *Datagram) {
	if a.first == 0 || d.Received < a.first {
		a.first = d.Received
	}
	a.last = max(a.last, d.Received)
	a.received.add(&d.Units)
	a.octetsReceived += uint64(d.Octets)
	a.errors += uint64(d.Errors)
	a.undecoded += uint64(d.Undecoded)
	s := t.slot(a, floor(d.Export/1e9))
	if s == nil {
		a.unplaced += d.Units[Datagrams] // a late set is of a datagram that was counted
		return
	}
	if d.Flow != nil && s.received[Flows] == 0 && !a.shared { // once a slot
		a.describe(d.Flow)
	}
	s.octets += uint64(d.Octets)
	if d.Sequenced && !a.shared {
		if !s.runs.extend(d.Sequence, d.Boot, &d.Units) {
			n := len(s.runs) // the memory of the first run was taken with the slot
			s.runs.begin(d.Sequence, d.Boot, &d.Units, n == 0 || n < maxRuns && t.take(a, runOctets, false))
		}
	}
	s.received.add(&d.Units)
}

// floor is when the slot of a time begins.
func floor(seconds int64) int64 {
	return seconds - (seconds%slotSeconds+slotSeconds)%slotSeconds
}

// slot returns the slot of an account that begins at begin, nil when there are too
// many.
func (t *Tally) slot(a *account, begin int64) *slot {
	for _, s := range slices.Backward(a.slots) { // mostly the last one
		if s.begin == begin {
			return s
		}
	}
	// The memory of the first slot was taken with the account.
	if n := len(a.slots); n >= maxTallySlots || n > 0 && !a.shared && !t.take(a, slotOctets+runOctets, n == 1) {
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
	a.rate, a.source, a.name, a.site = m.GetSamplingRate(), m.GetSamplingSource(), clip(m.GetExporterName()), clip(m.GetSite())
}

// maxText bounds names, octets.
const maxText = 256

// clip returns the first maxText octets of a text at most, a copy where it is cut.
func clip(s string) string {
	if len(s) <= maxText {
		return s
	}
	return strings.Clone(strings.ToValidUTF8(s[:maxText], ""))
}
