package ingest

import (
	"bytes"
	"sync"
	"time"

	"weir/internal/decode"
)

// parking holds data sets whose template is not known yet: bounded, for a short
// while. A template on its way through Kafka needs about 10 ms. What became
// known of one exporter costs a look at that exporter's sets alone.
type parking struct {
	max  int           // octets
	wait time.Duration // how long a set waits

	mu     sync.Mutex             // guards what follows
	by     map[[16]byte][]*parked // by exporter, in order of arrival
	fifo   []*parked              // all, in order of arrival; those taken are skipped
	sets   int
	octets int
}

type parked struct {
	set   decode.Set
	at    time.Time
	taken bool
}

// overhead is what a parked set costs beside its octets.
const overhead = 256

// put copies a set in; false when there is no room.
func (p *parking) put(s *decode.Set, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(s.Data) + overhead
	if p.octets+n > p.max {
		return false
	}
	kept := &parked{set: *s, at: now}
	kept.set.Data = bytes.Clone(s.Data)
	if p.by == nil {
		p.by = map[[16]byte][]*parked{}
	}
	exporter := decode.Map16(s.Meta.Exporter)
	p.by[exporter] = append(p.by[exporter], kept)
	p.fifo = append(p.fifo, kept)
	p.sets++
	p.octets += n
	return true
}

// ready removes and returns the sets of some exporters, or of all, that is
// accepts, in order of arrival for each.
func (p *parking) ready(exporters [][16]byte, all bool, is func(*decode.Set) bool) (out []decode.Set) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if all {
		exporters = exporters[:0]
		for e := range p.by {
			exporters = append(exporters, e)
		}
	}
	for _, e := range exporters {
		kept := p.by[e][:0]
		for _, s := range p.by[e] {
			if is(&s.set) {
				out = append(out, p.take(s))
			} else {
				kept = append(kept, s)
			}
		}
		p.keep(e, kept)
	}
	return out
}

// over removes and returns the sets that have waited since, or longer than, their
// time; since is when waiting began to count for all (zero: it does not count yet).
func (p *parking) over(now, since time.Time) (out []decode.Set) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, s := range p.fifo {
		from := s.at
		if from.Before(since) {
			from = since
		}
		if !s.taken && (since.IsZero() || now.Sub(from) < p.wait) {
			break
		}
		n++
		if s.taken {
			continue
		}
		out = append(out, p.take(s))
		e := decode.Map16(s.set.Meta.Exporter)
		list := p.by[e] // s is its first, as it is of all
		for len(list) > 0 && list[0].taken {
			list = list[1:]
		}
		p.keep(e, list)
	}
	clear(p.fifo[:n])
	if p.fifo = p.fifo[n:]; len(p.fifo) == 0 {
		p.fifo = nil
	}
	return out
}

// take notes that a set goes. mu is held.
func (p *parking) take(s *parked) decode.Set {
	s.taken = true
	p.sets--
	p.octets -= len(s.set.Data) + overhead
	return s.set
}

// keep leaves list as an exporter's. mu is held.
func (p *parking) keep(exporter [16]byte, list []*parked) {
	if len(list) == 0 {
		delete(p.by, exporter)
		return
	}
	p.by[exporter] = list
}

// all removes and returns all sets.
func (p *parking) all() []decode.Set {
	return p.ready(nil, true, func(*decode.Set) bool { return true })
}

// held is what waits now.
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
