package loss

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"

	"weir/pkg/flowpb"
)

const (
	// openSlots is the number of slots of a stream that may still change. Older slots
	// are settled.
	openSlots = 18
	// maxBack is the number of consecutive reports of settled slots that prove that the
	// exporter's clock was set back.
	maxBack = 3
	// maxLives bounds the processes that are remembered per stream. Replicas that get a new name at each
	// start add up to many within the retention of a week.
	maxLives = 1000
	// maxParts bounds the reports of a slot.
	maxParts = 128
	// maxNoted bounds the noted reports of a stream.
	maxNoted = 128
	// streamMaxOctets bounds the memory of a stream.
	streamMaxOctets = 256 << 10
	// rateWindow is the time over which flows per second are averaged, minRateWindow the least time: a process
	// reports every 10 s.
	rateWindow    = time.Minute
	minRateWindow = 10 * time.Second
	// maxPast is the number of earlier reports of a process that are kept: those of rateWindow.
	maxPast = 7
)

// keepTurns is the silence, in turns of 10 s, after which a Cluster forgets a stream:
// the retention of the topic, 7 days.
const keepTurns = 7 * 24 * 360

// A Cluster holds the counts of all replicas, read from the topic netflow.exporters. It
// is safe for concurrent use.
//
// Its memory is bounded. When it is full, it forgets the newcomers that were reported
// longest ago if newcomers hold more than a quarter of it, else established streams
// keep fewer open slots. A stream without a report for 7 days is forgotten.
type Cluster struct {
	// Listed reports whether the operator listed an exporter: its streams are
	// established at once. Nil lists no exporter. MaxOctets bounds the memory. Both
	// must be set before the first use. Listed must not call the Cluster, whose lock
	// may be held.
	Listed    func(netip.Addr) bool
	MaxOctets int64

	mu          sync.Mutex // guards all fields below
	streams     map[Stream]*history
	turn        int64
	newcomers   list
	established list
}

// NewCluster returns an empty Cluster.
func NewCluster() *Cluster { return &Cluster{streams: map[Stream]*history{}, MaxOctets: clusterMax} }

// A list holds the streams of a class in order of their last report, the oldest first.
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

// A history holds the reports of a stream.
type history struct {
	of      Stream
	lives   []lived
	newest  newest
	flows   uint64     // sum over lives
	slots   []gathered // open slots in order of begin
	settled int64      // begin of the newest slot in loss; 0: none
	back    int        // consecutive reports of settled slots
	loss    loss       // of the settled slots
	noted   []noted    // the newest last

	octets        int64 // heap octets, from size
	heard         int64 // turn of the last report
	turns         int   // number of turns with reports
	established   bool
	before, after *history // neighbours in the list of its class
}

// A noted holds the units of a report that may be added to a settled slot: units of sets that were
// decoded late, or units that another replica recovered.
type noted struct {
	key   uint64 // hash of the record key
	units Units
}

// A lived holds the totals of a process of a replica.
type lived struct {
	replica                   string
	started                   int64
	first, last               int64 // receive times, ns since the epoch
	received                  Units
	octets, errors, undecoded uint64
	past                      []sample // earlier reports, the newest last; capacity maxPast
}

// A sample holds the flows that a process had received at its last datagram.
type sample struct {
	at    int64 // receive time, ns since the epoch
	flows uint64
}

// keepSample appends the last report of l to its past, before a newer one replaces it. The oldest sample is dropped.
func (l *lived) keepSample() []sample {
	switch {
	case l.past == nil:
		l.past = make([]sample, 0, maxPast)
	case len(l.past) == maxPast:
		l.past = slices.Delete(l.past, 0, 1)
	}
	return append(l.past, sample{l.last, l.received[Flows]})
}

// A newest holds the properties of the stream from its latest summary.
type newest struct {
	last       int64 // last receive time of the summary, ns since the epoch
	rate       uint64
	source     flowpb.SamplingSource
	name, site string
}

// A gathered is a slot with the reports of all replicas.
type gathered struct {
	begin int64 // s since the epoch
	parts []part
}

// A part is a replica's report of a slot. A later record with the same key replaces it.
type part struct {
	key       uint64 // hash of the record key
	process   uint64 // hash of the replica and its start
	recovered bool   // another replica wrote it, and the process itself reported nothing of the slot
	flows     uint64
	runs      runs
}

// partOf returns the part that a record with this key holds.
func partOf(key []byte, m *flowpb.ExporterReport, s *flowpb.ExporterSlot) part {
	process := xxhash.Sum64String(m.Replica) ^ uint64(m.StartedNs)
	whole := s.Recovered != nil && unitsFrom(s.Recovered) == unitsFrom(s.Received)
	return part{
		key: xxhash.Sum64(key), process: process, recovered: whole,
		flows: s.GetReceived().GetFlows(), runs: runsOf(s),
	}
}

// counted yields the parts that count. A paused replica may resume after another replica
// has recovered its account: then its own reports count and the recovered report does
// not, else datagrams would count twice.
func (g *gathered) counted(yield func(*part) bool) {
	for i := range g.parts {
		p := &g.parts[i]
		superseded := p.recovered && slices.ContainsFunc(g.parts, func(q part) bool {
			return q.process == p.process && !q.recovered
		})
		if !superseded && !yield(p) {
			return
		}
	}
}

// Take adds a record of the topic. It keeps neither key nor value. It ignores tombstones. If the record
// is not a valid report of this schema, Take returns an error and changes nothing. It also returns an
// error for a slot with too many reports.
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

// Turn advances the clock of the Cluster by 10 s. The reader of the topic must call it
// every 10 s; it must not stop while the topic is idle.
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

// Octets returns the heap octets of the cluster, as estimated by the constants in
// octets.go.
func (c *Cluster) Octets() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.newcomers.octets + c.established.octets
}

// class returns the list that holds h. It must be called with the same h.established
// for push and remove.
func (c *Cluster) class(h *history) *list {
	if h.established {
		return &c.established
	}
	return &c.newcomers
}

// forget deletes a stream that is in the list of its class.
func (c *Cluster) forget(h *history) {
	c.class(h).remove(h)
	delete(c.streams, h.of)
}

// establishedOctets returns the part of the memory that newcomers cannot use.
func (c *Cluster) establishedOctets() int64 { return c.MaxOctets / 4 * 3 }

// establish makes a newcomer established if it is listed or was reported for long
// enough, and there is room. Streams without a report for idleTurns make room. h must be
// in no list.
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

// shrink brings the memory below its bounds after a report of h.
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

// size returns the heap octets of h, an estimate.
func (h *history) size() int64 {
	n := int64(historyOctets + len(h.newest.name) + len(h.newest.site) + len(h.noted)*notedOctets)
	for i := range h.lives {
		n += int64(lifeOctets + len(h.lives[i].replica) + cap(h.lives[i].past)*sampleOctets)
	}
	for i := range h.slots {
		n += gatheredOctets
		for j := range h.slots[i].parts {
			n += partOctets + int64(len(h.slots[i].parts[j].runs))*runOctets
		}
	}
	return n
}

// shrink settles the oldest slots and forgets the oldest lives until h has at most most
// octets. It leaves the newest slot and the newest life.
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

// summary stores the totals of a process. Beyond maxLives the process that ended first
// is forgotten.
func (h *history) summary(m *flowpb.ExporterReport, s *flowpb.ExporterSummary) {
	l := lived{
		replica: clip(m.Replica), started: m.StartedNs, first: s.FirstReceivedNs, last: s.LastReceivedNs,
		received: unitsFrom(s.Received), octets: s.Octets, errors: s.Errors, undecoded: s.UndecodedSets,
	}
	i := slices.IndexFunc(h.lives, func(o lived) bool { return o.started == l.started && o.replica == l.replica })
	switch {
	case i >= 0:
		if l.past = h.lives[i].past; l.last > h.lives[i].last {
			l.past = h.lives[i].keepSample()
		}
		h.lives[i] = l
	case len(h.lives) >= maxLives:
		h.forgetLife()
		fallthrough
	default:
		h.lives = append(h.lives, l)
	}
	if l.last >= h.newest.last {
		h.newest = newest{
			last: l.last, rate: s.SamplingRate, source: s.SamplingSource, name: clip(s.Name), site: clip(s.Site),
		}
	}
	h.flows = 0
	for i := range h.lives {
		h.flows = saturatingSum(h.flows, h.lives[i].received[Flows])
	}
}

// forgetLife forgets the process with the oldest last datagram.
func (h *history) forgetLife() {
	oldest := 0
	for i := range h.lives {
		if h.lives[i].last < h.lives[oldest].last {
			oldest = i
		}
	}
	h.lives = slices.Delete(h.lives, oldest, oldest+1)
}

// slot adds a replica's report of a slot. It returns an error if the slot has maxParts
// reports already.
func (h *history) slot(key []byte, m *flowpb.ExporterReport, s *flowpb.ExporterSlot) error {
	settled := h.settled != 0 && s.Begin <= h.settled
	if more := lateUnits(s); more != nil {
		fresh := h.note(xxhash.Sum64(key), unitsFrom(more))
		if settled { // the other datagrams of the slot are in h.loss
			h.loss.addLate(&fresh)
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
	i, found := slices.BinarySearchFunc(h.slots, s.Begin, func(g gathered, begin int64) int {
		return cmp.Compare(g.begin, begin)
	})
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

// lateUnits returns the units of a report that can be added to a settled slot: those
// that another replica recovered, or those of sets that were decoded late. It returns
// nil for all other reports.
func lateUnits(s *flowpb.ExporterSlot) *flowpb.ExportUnits {
	switch {
	case s.Recovered != nil:
		return s.Recovered
	case s.GetReceived().GetDatagrams() == 0:
		return s.Received
	}
	return nil
}

// note remembers the late units of the report with a key and returns the part of them
// that is new. A report may be read more than once, and several replicas may recover
// the same account.
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

// settle moves all but the newest open slots into h.loss.
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

// runs merges the runs of all replicas in order of sequence number, so that the result
// does not depend on the replica that received a datagram.
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
