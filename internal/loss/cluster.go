package loss

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/cespare/xxhash/v2"

	"weir/pkg/flowpb"
)

const (
	// openSlots is how many slots of a stream may still change.
	openSlots = 18
	// maxBack is how many slots in a row may lie before those that are settled,
	// until the exporter's clock is taken to have been set back.
	maxBack = 3
	// maxLives bounds the processes that are remembered of a stream: replicas that are
	// named anew at each start are many in a week.
	maxLives = 1000
	// maxParts bounds the reports of one slot.
	maxParts = 128
	// maxNoted bounds the noted reports of a stream.
	maxNoted = 128
	// streamMaxOctets bounds one stream.
	streamMaxOctets = 256 << 10
	// rateSlots is over how many slots flows per second are told.
	rateSlots = 6
)

// keepTurns is the silence, in turns of 10 s, after which a Cluster forgets a stream:
// the retention of the topic.
const keepTurns = 7 * 24 * 360

// A Cluster holds what all replicas together counted, read from the topic. It is safe
// for use by several goroutines.
//
// Its memory is bounded. When it is full, the newcomers that were reported longest
// ago are forgotten as long as they hold more than a quarter of it, else established
// streams keep fewer open slots. A stream that nobody reports for 7 days is forgotten.
type Cluster struct {
	// Listed reports whether an exporter is one that the operator knows: its streams
	// are established at once. Nil: none is. MaxOctets bounds the memory. Both must be
	// set before the first use.
	Listed    func(netip.Addr) bool
	MaxOctets int64

	mu          sync.Mutex // guards what follows
	streams     map[Stream]*history
	turn        int64
	newcomers   list
	established list
}

// NewCluster returns a Cluster that has read nothing.
func NewCluster() *Cluster { return &Cluster{streams: map[Stream]*history{}, MaxOctets: clusterMax} }

// A list holds the streams of one class, the one reported longest ago first.
type list struct {
	first, last *history
	n           int
	octets      int64
}

func (l *list) push(h *history) {
	h.before, h.after = l.last, nil
	if l.last == nil {
		l.first = h
	} else {
		l.last.after = h
	}
	l.last = h
	l.n++
	l.octets += h.octets
}

func (l *list) remove(h *history) {
	if h.before == nil {
		l.first = h.after
	} else {
		h.before.after = h.after
	}
	if h.after == nil {
		l.last = h.before
	} else {
		h.after.before = h.before
	}
	h.before, h.after = nil, nil
	l.n--
	l.octets -= h.octets
}

// A history is one stream.
type history struct {
	of      Stream
	lives   []lived
	newest  newest
	flows   uint64     // of all lives
	slots   []gathered // open, by begin
	settled int64      // slots up to this one are in loss; 0: none
	back    int
	loss    loss
	noted   []noted // the newest last

	octets        int64 // of all this
	heard         int64 // turn of the last report
	turns         int   // turns with reports
	established   bool
	before, after *history // in the list of its class
}

// A noted report is one of a slot that can come after the slot is in the account.
type noted struct {
	key   uint64 // hash of the record's
	units Units
}

// lived holds what one process of a replica counted in its life.
type lived struct {
	replica                   string
	started                   int64
	first, last               int64 // receive times, ns since the epoch
	received                  Units
	octets, errors, undecoded uint64
}

// newest holds what the latest summary says of the stream itself.
type newest struct {
	last       int64 // its receive time, ns since the epoch
	rate       uint64
	source     flowpb.SamplingSource
	name, site string
}

// A gathered slot is what the replicas said of it.
type gathered struct {
	begin int64
	parts []part
}

// A part is what one replica said of a slot, under one key.
type part struct {
	key       uint64 // hash of the record's
	process   uint64 // hash of the replica and its start
	recovered bool   // another replica wrote it, and the process reported nothing of the slot
	flows     uint64
	runs      runs
}

func partOf(key []byte, m *flowpb.ExporterReport, s *flowpb.ExporterSlot) part {
	process := xxhash.Sum64String(m.Replica) ^ uint64(m.StartedNs)
	whole := s.Recovered != nil && unitsFrom(s.Recovered) == unitsFrom(s.Received)
	return part{key: xxhash.Sum64(key), process: process, recovered: whole, flows: s.GetReceived().GetFlows(), runs: runsOf(s)}
}

// counted returns the parts that count. A replica that was paused may go on after another
// one has recovered its account: what it says itself counts.
func (g *gathered) counted(yield func(*part) bool) {
	for i := range g.parts {
		p := &g.parts[i]
		again := p.recovered && slices.ContainsFunc(g.parts, func(q part) bool { return q.process == p.process && !q.recovered })
		if !again && !yield(p) {
			return
		}
	}
}

// Take reads a record of the topic. The caller may reuse key and value afterwards.
// A tombstone changes nothing. An error says why the record is no report of this
// schema; such a record changes nothing either.
func (c *Cluster) Take(key, value []byte) error {
	if len(value) == 0 {
		return nil
	}
	m, s, err := parseReport(value)
	if err != nil {
		return fmt.Errorf("exporter report: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.streams[s]
	if h == nil {
		h = &history{of: s, heard: -1}
		c.streams[s] = h
	} else {
		c.class(h).remove(h)
	}
	if h.heard != c.turn {
		h.heard = c.turn
		h.turns++
	}
	switch r := m.Report.(type) {
	case *flowpb.ExporterReport_Summary:
		h.summary(m, r.Summary)
	case *flowpb.ExporterReport_Slot:
		err = h.slot(key, m, r.Slot)
	}
	h.shrink(streamMaxOctets)
	h.octets = h.size()
	c.establish(h)
	c.class(h).push(h)
	c.shrink(h)
	return err
}

// Turn notes that 10 s have passed. It is to be called that often by whoever goes on
// reading.
func (c *Cluster) Turn() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.turn++
	for _, l := range []*list{&c.newcomers, &c.established} {
		for l.first != nil && c.turn-l.first.heard > keepTurns {
			c.forget(l.first)
		}
	}
}

// Octets returns the memory that the cluster takes, by its own account.
func (c *Cluster) Octets() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.newcomers.octets + c.established.octets
}

func (c *Cluster) class(h *history) *list {
	if h.established {
		return &c.established
	}
	return &c.newcomers
}

func (c *Cluster) forget(h *history) {
	c.class(h).remove(h)
	delete(c.streams, h.of)
}

// establishedOctets is the part of the memory that newcomers cannot take.
func (c *Cluster) establishedOctets() int64 { return c.MaxOctets / 4 * 3 }

// establish makes a newcomer established, which is in no list now, when it has been
// reported for long enough and there is room. Streams that were not reported for
// idleTurns make room.
func (c *Cluster) establish(h *history) {
	if h.established || !lists(c.Listed, h.of.Exporter) && h.of != (Stream{}) && h.turns < provenTurns {
		return
	}
	for c.established.octets+h.octets > c.establishedOctets() {
		if f := c.established.first; f == nil || c.turn-f.heard < idleTurns {
			return
		}
		c.forget(c.established.first)
	}
	h.established = true
}

// shrink makes room after a report of h.
func (c *Cluster) shrink(h *history) {
	if h.established && c.established.octets > c.establishedOctets() {
		c.established.remove(h)
		h.shrink(c.establishedOctets() / int64(c.established.n+1))
		h.octets = h.size()
		c.established.push(h)
	}
	for c.newcomers.octets+c.established.octets > c.MaxOctets {
		if l := &c.newcomers; l.octets > c.MaxOctets-c.establishedOctets() || l.n > 0 && c.established.n == 0 {
			c.forget(l.first)
		} else if c.established.first != nil {
			c.forget(c.established.first)
		}
	}
}

// size returns the octets of h.
func (h *history) size() int64 {
	n := int64(historyOctets + len(h.newest.name) + len(h.newest.site) + len(h.noted)*notedOctets)
	for i := range h.lives {
		n += int64(lifeOctets + len(h.lives[i].replica))
	}
	for i := range h.slots {
		n += gatheredOctets
		for j := range h.slots[i].parts {
			n += partOctets + int64(len(h.slots[i].parts[j].runs))*runOctets
		}
	}
	return n
}

// shrink settles the oldest slots and forgets the oldest lives until h has at most so
// many octets. It leaves one of each.
func (h *history) shrink(most int64) {
	size := h.size()
	for size > most && len(h.slots) > 1 {
		h.settle(max(1, len(h.slots)-1))
		size = h.size()
	}
	for size > most && len(h.lives) > 1 {
		h.forgetLife()
		size = h.size()
	}
}

// summary takes what a process counted in its life; of too many the one that ended
// first is forgotten.
func (h *history) summary(m *flowpb.ExporterReport, s *flowpb.ExporterSummary) {
	l := lived{
		replica: clip(m.Replica), started: m.StartedNs, first: s.FirstReceivedNs, last: s.LastReceivedNs, received: unitsFrom(s.Received),
		octets: s.Octets, errors: s.Errors, undecoded: s.UndecodedSets,
	}
	i := slices.IndexFunc(h.lives, func(o lived) bool { return o.started == l.started && o.replica == l.replica })
	switch {
	case i >= 0:
		h.lives[i] = l
	case len(h.lives) >= maxLives:
		h.forgetLife()
		fallthrough
	default:
		h.lives = append(h.lives, l)
	}
	if l.last >= h.newest.last {
		h.newest = newest{last: l.last, rate: s.SamplingRate, source: s.SamplingSource, name: clip(s.Name), site: clip(s.Site)}
	}
	h.flows = 0
	for i := range h.lives {
		h.flows = saturatingSum(h.flows, h.lives[i].received[Flows])
	}
}

func (h *history) forgetLife() {
	oldest := 0
	for i := range h.lives {
		if h.lives[i].last < h.lives[oldest].last {
			oldest = i
		}
	}
	h.lives = slices.Delete(h.lives, oldest, oldest+1)
}

// slot takes what a replica counted in a slot. An error says that there are too many
// reports of the slot.
func (h *history) slot(key []byte, m *flowpb.ExporterReport, s *flowpb.ExporterSlot) error {
	settled := h.settled != 0 && s.Begin <= h.settled
	if more := late(s); more != nil {
		fresh := h.note(xxhash.Sum64(key), unitsFrom(more))
		if settled { // the slot's other datagrams are in the account
			h.loss.late(&fresh)
			return nil
		}
	}
	if settled {
		if h.back++; h.back < maxBack {
			return nil
		}
		h.settle(0) // the exporter's clock was set back
		h.loss.end()
		h.settled = 0
	}
	h.back = 0
	i, found := slices.BinarySearchFunc(h.slots, s.Begin, func(g gathered, begin int64) int { return cmp.Compare(g.begin, begin) })
	if !found {
		h.slots = slices.Insert(h.slots, i, gathered{begin: s.Begin})
	}
	g, p := &h.slots[i], partOf(key, m, s)
	if j := slices.IndexFunc(g.parts, func(q part) bool { return q.key == p.key }); j >= 0 {
		g.parts[j] = p
	} else if len(g.parts) >= maxParts {
		return fmt.Errorf("exporter report: the slot at %d has %d reports already", s.Begin, maxParts)
	} else {
		g.parts = append(g.parts, p)
	}
	h.settle(openSlots)
	return nil
}

// late returns what a report says of a slot that can still be added once the slot is in
// the account: what another replica recovered, or sets that were decoded late. Nil: nothing.
func late(s *flowpb.ExporterSlot) *flowpb.ExportUnits {
	switch {
	case s.Recovered != nil:
		return s.Recovered
	case s.GetReceived().GetDatagrams() == 0:
		return s.Received
	}
	return nil
}

// note notes what the report under a key has that can come late, and returns how much of
// it no report under that key had before: reports are read more than once, and several
// replicas recover the same account.
func (h *history) note(key uint64, u Units) (fresh Units) {
	i := slices.IndexFunc(h.noted, func(n noted) bool { return n.key == key })
	if i < 0 {
		if len(h.noted) >= maxNoted {
			h.noted = slices.Delete(h.noted, 0, 1)
		}
		i = len(h.noted)
		h.noted = append(h.noted, noted{key: key})
	}
	n := &h.noted[i]
	for x := range u {
		if u[x] > n.units[x] {
			fresh[x], n.units[x] = u[x]-n.units[x], u[x]
		}
	}
	return fresh
}

// settle takes all but the newest slots into the account.
func (h *history) settle(open int) {
	n := len(h.slots) - open
	if n <= 0 {
		return
	}
	for i := range h.slots[:n] {
		h.settled = h.slots[i].begin
		h.loss.add(h.slots[i].runs())
	}
	h.slots = slices.Delete(h.slots, 0, n)
}

// runs merges what the replicas said, the least first: which replica said what
// makes no difference.
func (g *gathered) runs() (rs runs) {
	var all runs
	for p := range g.counted {
		all = append(all, p.runs...)
	}
	slices.SortFunc(all, func(a, b run) int {
		return cmp.Or(cmp.Compare(a.least, b.least), cmp.Compare(a.greatest, b.greatest))
	})
	for i := range all {
		rs.merge(&all[i], true)
	}
	return rs
}
