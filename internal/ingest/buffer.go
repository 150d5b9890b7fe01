package ingest

import (
	"bytes"
	"sync"
	"time"

	"weir/internal/decode"
)

// parking holds data sets whose template is not known yet: bounded, for a short
// while. A template on its way through Kafka needs about 10 ms. What becomes known
// of one exporter costs a look at the sets of that exporter alone.
//
// Receivers call put, which waits for mu. mu is never held for more than lookChunk
// sets, nor while a template is looked up.
type parking struct {
	max  int           // octets
	wait time.Duration // how long a set waits

	removing sync.Mutex // held by whoever looks at sets or removes them; locked before mu

	mu     sync.Mutex // guards what follows
	by     map[[16]byte]*lane
	all    lane    // all sets, in order of arrival
	looks  []*lane // those that ready looks at, in turn
	sets   int
	octets int
}

const (
	// overhead is what a parked set costs beside its octets.
	overhead = 256
	// lookChunk is the number of sets that are taken while mu is held.
	lookChunk = 64
	// maxLooks is the number of sets that one call of ready looks at. The others are
	// for the next call: a template must not cost more for all the sets that somebody
	// sent under the address of its exporter.
	maxLooks = 8192
)

// A lane is a list of parked sets in order of arrival: those of an exporter, or all.
type lane struct {
	kind        int // index of parked.links
	first, last *parked

	looking bool    // in parking.looks
	again   bool    // something became known since its look began
	at      *parked // the next one to look at
}

const (
	laneAll = iota
	laneExporter
	nLanes
)

type parked struct {
	set   decode.Set
	at    time.Time
	of    *lane // of its exporter
	links [nLanes]struct{ next, prev *parked }
}

func (l *lane) add(s *parked) {
	k := l.kind
	if s.links[k].prev = l.last; l.last != nil {
		l.last.links[k].next = s
	} else {
		l.first = s
	}
	l.last = s
}

func (l *lane) remove(s *parked) {
	k := l.kind
	next, prev := s.links[k].next, s.links[k].prev
	if l.at == s {
		l.at = next
	}
	if prev != nil {
		prev.links[k].next = next
	} else {
		l.first = next
	}
	if next != nil {
		next.links[k].prev = prev
	} else {
		l.last = prev
	}
}

// put copies a set in; false when there is no room.
func (p *parking) put(s *decode.Set, now time.Time) bool {
	n := len(s.Data) + overhead
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.octets+n > p.max {
		return false
	}
	kept := &parked{set: *s, at: now}
	kept.set.Data = bytes.Clone(s.Data)
	exporter := decode.Map16(s.Meta.Exporter)
	if p.by == nil {
		p.by = map[[16]byte]*lane{}
	}
	kept.of = p.by[exporter]
	if kept.of == nil {
		kept.of = &lane{kind: laneExporter}
		p.by[exporter] = kept.of
	}
	kept.of.add(kept)
	p.all.add(kept)
	p.sets++
	p.octets += n
	return true
}

// remove takes a set out. mu and removing are held.
func (p *parking) remove(s *parked) decode.Set {
	p.all.remove(s)
	if s.of.remove(s); s.of.first == nil {
		delete(p.by, decode.Map16(s.set.Meta.Exporter))
	}
	p.sets--
	p.octets -= len(s.set.Data) + overhead
	return s.set
}

// ready looks at the sets of some exporters, or at all, and at those that a call
// before left; maxLooks at most. It removes and returns the sets that is accepts, in
// order of arrival for each exporter.
func (p *parking) ready(exporters [][16]byte, all bool, is func(*decode.Set) bool) (out []decode.Set) {
	p.removing.Lock()
	defer p.removing.Unlock()
	p.mu.Lock()
	if all {
		p.look(&p.all)
	}
	for _, e := range exporters {
		if l := p.by[e]; l != nil {
			p.look(l)
		}
	}
	p.mu.Unlock()
	chunk := make([]*parked, 0, lookChunk)
	for left := maxLooks; left > 0; left -= len(chunk) {
		if chunk = p.next(chunk[:0], min(left, lookChunk)); len(chunk) == 0 {
			break
		}
		n := 0
		for _, s := range chunk {
			if is(&s.set) { // a set does not change, and nobody else removes it
				chunk[n], n = s, n+1
			}
		}
		p.mu.Lock()
		for _, s := range chunk[:n] {
			out = append(out, p.remove(s))
		}
		p.mu.Unlock()
	}
	return out
}

// look begins to look at the sets of a lane. mu is held.
func (p *parking) look(l *lane) {
	if l.looking {
		l.again = true
		return
	}
	l.looking, l.at = true, l.first
	p.looks = append(p.looks, l)
}

// next appends the sets to be looked at next, of one lane and at most n; none when
// no look is under way.
func (p *parking) next(chunk []*parked, n int) []*parked {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.looks) > 0 && len(chunk) == 0 {
		l := p.looks[0]
		p.looks = p.looks[1:]
		for ; l.at != nil && len(chunk) < n; l.at = l.at.links[l.kind].next {
			chunk = append(chunk, l.at)
		}
		if l.at == nil && l.again {
			l.at, l.again = l.first, false
		}
		if l.looking = l.at != nil; l.looking {
			p.looks = append(p.looks, l)
		}
	}
	if len(p.looks) == 0 {
		p.looks = nil
	}
	return chunk
}

// over removes and returns the sets that have waited since, or longer than, their
// time; since is when waiting began to count for all (zero: it does not count yet).
func (p *parking) over(now, since time.Time) []decode.Set {
	if since.IsZero() {
		return nil
	}
	return p.while(func(s *parked) bool {
		from := s.at
		if from.Before(since) {
			from = since
		}
		return now.Sub(from) >= p.wait
	})
}

// while removes and returns sets, the oldest first, as long as is accepts them.
func (p *parking) while(is func(*parked) bool) (out []decode.Set) {
	p.removing.Lock()
	defer p.removing.Unlock()
	for more := true; more; {
		p.mu.Lock()
		for range lookChunk {
			s := p.all.first
			if more = s != nil && is(s); !more {
				break
			}
			out = append(out, p.remove(s))
		}
		p.mu.Unlock()
	}
	return out
}

// drain removes and returns all sets.
func (p *parking) drain() []decode.Set { return p.while(func(*parked) bool { return true }) }

// held returns the number of sets that wait, and their octets.
func (p *parking) held() (sets, octets int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sets, p.octets
}

// changes are the exporters of whom something became known since they were
// looked at.
type changes struct {
	mu   sync.Mutex // guards what follows
	some map[[16]byte]struct{}
	all  bool // more than are remembered
}

// maxChanges bounds the exporters that are remembered.
const maxChanges = 10_000

func (c *changes) add(exporter [16]byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.some) >= maxChanges {
		c.all = true
		return
	}
	if c.some == nil {
		c.some = map[[16]byte]struct{}{}
	}
	c.some[exporter] = struct{}{}
}

// take returns them and begins anew.
func (c *changes) take() (exporters [][16]byte, all bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for e := range c.some {
		exporters = append(exporters, e)
	}
	all = c.all
	c.some, c.all = nil, false
	return exporters, all
}
