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

// A Datagram is a received export message, or a buffered Set that was decoded after
// its template arrived. Such a Set has no datagram in its Units, since that was counted
// on receipt.
type Datagram struct {
	Stream    Stream
	Received  int64 // ns since the epoch
	Export    int64 // export time of the header, ns since the epoch
	Boot      int64 // export time minus uptime, s since the epoch; 0: unknown
	Sequence  uint32
	Sequenced bool // Sequence has a meaning, and the transport may lose datagrams
	Units     Units
	Octets    int
	Errors    int    // parts that could not be decoded
	Undecoded int    // sets without a known template
	Flow      []byte // a flow of the datagram, protobuf wire format; nil: it has none
}

// Of returns the Datagram of a message with header h and these numbers of flows,
// options data records and templates. The receiver must set the remaining fields:
// Received, Octets, Errors, Undecoded, Flow and Units[Datagrams]; it clears Sequenced
// for a transport that loses nothing.
func Of(exporter netip.Addr, h *decode.Header, flows, options, templates int) Datagram {
	records := uint64(flows + options)
	d := Datagram{
		Stream:   Stream{Exporter: exporter, Version: h.Version, Domain: h.Domain},
		Export:   h.Export,
		Sequence: h.Sequence, Sequenced: h.Version != 1,
		Units: Units{Flows: uint64(flows), Records: records, All: records + uint64(templates)},
	}
	if h.Version != 10 {
		d.Boot = h.Export/int64(time.Second) - int64(h.Uptime/1000)
	}
	return d
}

// maxTallySlots bounds the slots of a stream between two gatherings: export times can
// be forged.
const maxTallySlots = 16

// A Tally counts the datagrams of one receiving goroutine until a Book empties it. The
// zero Tally is ready to use; Book.Attach bounds it together with other tallies. Its
// lock is contended only during a gathering.
type Tally struct {
	mu        sync.Mutex // guards all fields below
	streams   map[Stream]*account
	last      *account // of lastOf, the stream of the last datagram
	lastOf    Stream
	room      *room // nil: not used yet
	octets    int64 // reserved in room
	newcomers int64 // part of octets that newcomers hold
}

// An account holds the counts of a stream: in a Tally those since the last gathering,
// in a Book those since the start of the process.
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
	unplaced       uint64 // datagrams for which no slot was left

	// Used by a Tally only:
	newcomer bool
	shared   bool // the account of the zero Stream

	// Used by a Book only:
	mark
	proven      bool // a record was decoded
	reported    bool // a summary was made
	established bool
	turn        uint64 // last gathering in which the stream was active
	turns       int    // number of gatherings in which the stream was active
	octets      int64  // of the slots
}

// A slot holds the counts of slotSeconds of export time.
type slot struct {
	begin    int64 // s since the epoch
	received Units
	octets   uint64
	runs     runs

	// Used by a Book only:
	part    uint64 // gathering in which it was made; part of the key: a deleted slot of the same time may exist
	touched uint64 // last gathering that changed it
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

// account returns the account of a stream, or that of the zero Stream if there is no
// room. t.mu must be held.
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
	if len(t.streams) >= maxStreams || !t.reserve(a, accountOctets+slotOctets+runOctets, true) {
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

// reserve reserves octets of the room for a stream; base: for one of its first two
// slots. It returns false if there is no room.
func (t *Tally) reserve(a *account, octets int64, base bool) bool {
	n := needExtra
	switch {
	case a.newcomer:
		n = needNewcomer
	case base:
		n = needBase
	}
	if !t.room.reserve(octets, n) {
		return false
	}
	t.octets += octets
	if a.newcomer {
		t.newcomers += octets
	}
	return true
}

// empty returns the accounts since the last call, which the caller owns, and returns
// their memory to the room.
func (t *Tally) empty() map[Stream]*account {
	t.mu.Lock()
	defer t.mu.Unlock()
	streams := t.streams
	if t.room != nil {
		t.room.release(t.octets, t.newcomers)
	}
	t.streams, t.last, t.octets, t.newcomers = nil, nil, 0, 0
	return streams
}

// add counts a datagram in a. t.mu must be held.
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
		a.unplaced += d.Units[Datagrams] // 0 for a buffered Set: its datagram was counted on receipt
		return
	}
	if d.Flow != nil && s.received[Flows] == 0 && !a.shared { // once per slot
		a.describe(d.Flow)
	}
	s.octets += uint64(d.Octets)
	if d.Sequenced && !a.shared {
		if !s.runs.extend(d.Sequence, d.Boot, &d.Units) {
			n := len(s.runs) // the memory of the first run was reserved with the slot
			s.runs.begin(d.Sequence, d.Boot, &d.Units, n == 0 || n < maxRuns && t.reserve(a, runOctets, false))
		}
	}
	s.received.add(&d.Units)
}

// floor returns the start of the slot that contains a time, both in seconds since the epoch. It rounds
// down, also for times before the epoch.
func floor(seconds int64) int64 {
	return seconds - (seconds%slotSeconds+slotSeconds)%slotSeconds
}

// slot returns the slot of an account that starts at begin. It creates the slot if it does not exist,
// and returns nil if there is no room for it.
func (t *Tally) slot(a *account, begin int64) *slot {
	for _, s := range slices.Backward(a.slots) { // export time mostly advances
		if s.begin == begin {
			return s
		}
	}
	// The memory of the first slot was reserved with the account.
	if n := len(a.slots); n >= maxTallySlots || n > 0 && !a.shared && !t.reserve(a, slotOctets+runOctets, n == 1) {
		return nil
	}
	s := &slot{begin: begin}
	a.slots = append(a.slots, s)
	return s
}

// describe copies the sampling rate, the exporter's name and its site from a flow.
func (a *account) describe(flow []byte) {
	var m flowpb.FlowMessage
	if proto.Unmarshal(flow, &m) != nil {
		return // unreachable: the decoder made the message
	}
	a.rate, a.source = m.GetSamplingRate(), m.GetSamplingSource()
	a.name, a.site = clip(m.GetExporterName()), clip(m.GetSite())
}

// maxText bounds names, in octets.
const maxText = 256

// clip cuts a text to maxText octets. A cut text is a copy, so that it does not keep
// the long text in memory.
func clip(s string) string {
	if len(s) <= maxText {
		return s
	}
	return strings.Clone(strings.ToValidUTF8(s[:maxText], ""))
}
