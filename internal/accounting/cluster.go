package accounting

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"time"

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
	// rateSlots is over how many slots flows per second are told.
	rateSlots = 6
)

// A Cluster is what all replicas together counted, read from the topic. It is safe
// for use by several goroutines.
type Cluster struct {
	mu      sync.Mutex // guards what follows
	streams map[Stream]*history
}

// NewCluster returns a Cluster that has read nothing.
func NewCluster() *Cluster { return &Cluster{streams: map[Stream]*history{}} }

// A history is one stream.
type history struct {
	lives   map[life]*flowpb.ExporterSummary
	slots   []*gathered // open, by begin
	settled int64       // slots up to this one are in loss; 0: none
	back    int
	loss    loss
}

// A life is one process of a replica.
type life struct {
	replica string
	started int64
}

// A gathered slot is what the replicas said of it.
type gathered struct {
	begin int64
	parts []part
}

// A part is what one replica said of a slot, under one key.
type part struct {
	key   uint64 // hash of the record's
	flows uint64
	runs  runs
}

func partOf(key []byte, s *flowpb.ExporterSlot) part {
	p := part{key: xxhash.Sum64(key), flows: s.GetReceived().GetFlows()}
	for _, r := range s.Runs {
		p.runs = append(p.runs, run{least: r.Least, greatest: r.Greatest, last: unitsFrom(r.Last), received: unitsFrom(r.Received), boot: r.Boot})
	}
	return p
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
		h = &history{lives: map[life]*flowpb.ExporterSummary{}}
		c.streams[s] = h
	}
	switch r := m.Report.(type) {
	case *flowpb.ExporterReport_Summary:
		h.summary(life{m.Replica, m.StartedNs}, r.Summary)
	case *flowpb.ExporterReport_Slot:
		h.slot(key, r.Slot)
	}
	return nil
}

// summary takes what a process counted in its life; of too many the one that ended
// first is forgotten.
func (h *history) summary(l life, s *flowpb.ExporterSummary) {
	if _, known := h.lives[l]; !known && len(h.lives) >= maxLives {
		oldest := l
		for o, is := range h.lives {
			if oldest == l || is.LastReceivedNs < h.lives[oldest].LastReceivedNs {
				oldest = o
			}
		}
		delete(h.lives, oldest)
	}
	h.lives[l] = s
}

func (h *history) slot(key []byte, s *flowpb.ExporterSlot) {
	if h.settled != 0 && s.Begin <= h.settled {
		if s.GetReceived().GetDatagrams() == 0 { // sets that were decoded late
			h.loss.late(s)
			return
		}
		if h.back++; h.back < maxBack {
			return
		}
		h.settle(0) // the exporter's clock was set back
		h.loss.end()
		h.settled = 0
	}
	h.back = 0
	i, found := slices.BinarySearchFunc(h.slots, s.Begin, func(g *gathered, begin int64) int { return cmp.Compare(g.begin, begin) })
	if !found {
		h.slots = slices.Insert(h.slots, i, &gathered{begin: s.Begin})
	}
	g, p := h.slots[i], partOf(key, s)
	if j := slices.IndexFunc(g.parts, func(q part) bool { return q.key == p.key }); j >= 0 {
		g.parts[j] = p
	} else {
		g.parts = append(g.parts, p)
	}
	h.settle(openSlots)
}

// settle takes all but the newest slots into the account.
func (h *history) settle(open int) {
	for len(h.slots) > open {
		h.settled = h.slots[0].begin
		h.loss.add(h.slots[0].runs())
		h.slots = slices.Delete(h.slots, 0, 1)
	}
}

// runs merges what the replicas said, the least first: which replica said what
// makes no difference.
func (g *gathered) runs() (rs runs) {
	var all runs
	for i := range g.parts {
		all = append(all, g.parts[i].runs...)
	}
	slices.SortFunc(all, func(a, b run) int { return cmp.Or(cmp.Compare(a.least, b.least), cmp.Compare(a.greatest, b.greatest)) })
	for i := range all {
		rs.merge(&all[i])
	}
	return rs
}

// A Row is what is known of one stream.
type Row struct {
	Stream
	Name, Site     string
	First, Last    time.Time // receive times; zero: not known
	Received       Units     // of all replicas, in their lives
	Octets         uint64
	Errors         uint64 // parts of datagrams that could not be decoded
	Undecoded      uint64 // sets whose template was not known at once
	SamplingRate   uint64 // 0: unknown
	SamplingSource flowpb.SamplingSource
	Replicas       []string // that saw it, sorted

	FlowsPerSecond float64 // over the last minute that is known, of the exporter's time
	Loss           Loss
}

// View returns the rows of all streams, by exporter, version and domain.
func (c *Cluster) View() []Row {
	c.mu.Lock()
	defer c.mu.Unlock()
	rows := make([]Row, 0, len(c.streams))
	for s, h := range c.streams {
		rows = append(rows, h.row(s))
	}
	slices.SortFunc(rows, func(a, b Row) int {
		return cmp.Or(a.Exporter.Compare(b.Exporter), cmp.Compare(a.Version, b.Version), cmp.Compare(a.Domain, b.Domain))
	})
	return rows
}

func (h *history) row(s Stream) Row {
	r := Row{Stream: s, FlowsPerSecond: h.rate(), Loss: h.lost(s.Version)}
	newest := int64(0)
	for l, m := range h.lives {
		if first := time.Unix(0, m.FirstReceivedNs); r.First.IsZero() || first.Before(r.First) {
			r.First = first
		}
		u := unitsFrom(m.Received)
		r.Received.add(&u)
		r.Octets = saturatingSum(r.Octets, m.Octets)
		r.Errors = saturatingSum(r.Errors, m.Errors)
		r.Undecoded = saturatingSum(r.Undecoded, m.UndecodedSets)
		if m.LastReceivedNs >= newest {
			newest = m.LastReceivedNs
			r.Last = time.Unix(0, newest)
			r.SamplingRate, r.SamplingSource, r.Name, r.Site = m.SamplingRate, m.SamplingSource, m.Name, m.Site
		}
		r.Replicas = append(r.Replicas, l.replica)
	}
	slices.Sort(r.Replicas)
	r.Replicas = slices.Compact(r.Replicas)
	return r
}

// lost is the account with the slots that are open.
func (h *history) lost(version uint16) Loss {
	l := h.loss
	for _, g := range h.slots {
		l.add(g.runs())
	}
	l.end()
	return l.told(version)
}

// rate is flows per second over the last slots; the newest may not be full.
func (h *history) rate() float64 {
	slots := h.slots
	if len(slots) > 1 {
		slots = slots[:len(slots)-1]
	}
	slots = slots[max(0, len(slots)-rateSlots):]
	if len(slots) == 0 {
		return 0
	}
	flows := uint64(0)
	for _, g := range slots {
		for i := range g.parts {
			flows = saturatingSum(flows, g.parts[i].flows)
		}
	}
	return float64(flows) / float64(slots[len(slots)-1].begin-slots[0].begin+slotSeconds)
}
