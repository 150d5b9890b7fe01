package loss

import (
	"cmp"
	"math"
	"net/netip"
	"slices"
	"time"

	"weir/pkg/flowpb"
)

// A Row is the report of a stream across all replicas.
type Row struct {
	Stream
	Name, Site     string
	First, Last    time.Time // receive times; zero: unknown
	Received       Units     // by all replicas since their starts
	Octets         uint64
	Errors         uint64 // parts of datagrams that could not be decoded
	Undecoded      uint64 // sets received before their template
	SamplingRate   uint64 // 0: unknown
	SamplingSource flowpb.SamplingSource
	Replicas       []string // replicas that received the stream, sorted

	FlowsPerSecond float64 // over the minute before Last, by receive times
	Loss           Loss
}

// View returns the rows of all streams in order of exporter, version and domain. It
// holds the lock for one row at a time, so the rows are not a snapshot.
func (c *Cluster) View() []Row {
	c.mu.Lock()
	all := make([]*history, 0, len(c.streams))
	for _, h := range c.streams {
		all = append(all, h)
	}
	c.mu.Unlock()
	rows := c.rows(all)
	slices.SortFunc(rows, func(a, b Row) int {
		return cmp.Or(a.Exporter.Compare(b.Exporter), cmp.Compare(a.Version, b.Version), cmp.Compare(a.Domain, b.Domain))
	})
	return rows
}

// Top returns the rows of at most most streams: listed exporters first, then the streams
// with most turns, then those with most flows. Newcomers appear only among the first
// fresh rows. The zero Stream is left out.
func (c *Cluster) Top(most, fresh int) []Row {
	type ranked struct {
		h      *history
		of     netip.Addr
		listed bool
		turns  int
		flows  uint64
	}
	c.mu.Lock()
	all := make([]ranked, 0, len(c.streams))
	for s, h := range c.streams {
		if s.Exporter.IsValid() {
			all = append(all, ranked{h: h, of: s.Exporter, turns: h.turns, flows: h.flows})
		}
	}
	c.mu.Unlock()
	for i := range all {
		all[i].listed = lists(c.Listed, all[i].of)
	}
	slices.SortFunc(all, func(a, b ranked) int {
		if a.listed != b.listed {
			if a.listed {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(b.turns, a.turns), cmp.Compare(b.flows, a.flows), a.of.Compare(b.of))
	})
	var chosen []*history
	for _, r := range all {
		if len(chosen) == most || len(chosen) >= fresh && !r.listed && r.turns < provenTurns {
			break
		}
		chosen = append(chosen, r.h)
	}
	return c.rows(chosen)
}

// rows computes the rows of streams. It holds the lock for one row at a time.
func (c *Cluster) rows(of []*history) []Row {
	rows := make([]Row, len(of))
	for i, h := range of {
		c.mu.Lock()
		rows[i] = h.row()
		c.mu.Unlock()
	}
	return rows
}

func (h *history) row() Row {
	n := &h.newest
	r := Row{
		Stream: h.of, FlowsPerSecond: h.rate(), Loss: h.lost(h.of.Version),
		SamplingRate: n.rate, SamplingSource: n.source, Name: n.name, Site: n.site,
	}
	for i := range h.lives {
		m := &h.lives[i]
		if first := time.Unix(0, m.first); r.First.IsZero() || first.Before(r.First) {
			r.First = first
		}
		if last := time.Unix(0, m.last); last.After(r.Last) {
			r.Last = last
		}
		r.Received.add(&m.received)
		r.Octets = saturatingSum(r.Octets, m.octets)
		r.Errors = saturatingSum(r.Errors, m.errors)
		r.Undecoded = saturatingSum(r.Undecoded, m.undecoded)
		r.Replicas = append(r.Replicas, m.replica)
	}
	slices.Sort(r.Replicas)
	r.Replicas = slices.Compact(r.Replicas)
	return r
}

// lost returns the Loss of settled and open slots. It works on a copy of h.loss: open
// slots may still change.
func (h *history) lost(version uint16) Loss {
	l := h.loss
	for i := range h.slots {
		l.add(h.slots[i].runs())
	}
	l.end()
	result := l.result(version)
	if result.Unknown == NoRuns && h.settled == 0 && len(h.slots) == 0 {
		result.Unknown = NoSlots
	}
	return result
}

// rate returns the flows per second of all replicas over the rateWindow before the last datagram. It is computed
// from receive times: an exporter's clock may be wrong or set back.
func (h *history) rate() float64 {
	first, last := int64(math.MaxInt64), int64(0)
	for i := range h.lives {
		first, last = min(first, h.lives[i].first), max(last, h.lives[i].last)
	}
	window := int64(min(rateWindow, max(minRateWindow, time.Duration(last-min(first, last)))))
	flows := 0.0
	for i := range h.lives {
		flows += max(0, h.lives[i].flowsUntil(last)-h.lives[i].flowsUntil(last-window))
	}
	return min(flows/time.Duration(window).Seconds(), math.MaxInt64)
}

// flowsUntil returns the number of flows that a process had received at an instant. Between its reports the flows are
// distributed evenly.
func (l *lived) flowsUntil(at int64) float64 {
	from := sample{at: l.first}
	for _, to := range append(slices.Clip(l.past), sample{l.last, l.received[Flows]}) {
		switch {
		case at < from.at:
			return float64(from.flows)
		case at < to.at:
			part := float64(at-from.at) / float64(to.at-from.at)
			return float64(from.flows) + part*(float64(to.flows)-float64(from.flows))
		}
		from = to
	}
	return float64(from.flows)
}
