package ingest

import (
	"bytes"
	"context"
	"sync"
	"time"

	"weir/internal/bounded"
	"weir/internal/decode"
)

// A setBuffer holds data sets whose template is not known yet, for a bounded time and in bounded
// memory: a template that another replica received arrives through Kafka within about 10 ms. When a
// template of an exporter arrives, only the sets of that exporter are scanned.
//
// Receiving workers call put, which waits for mu. mu must not be held for more than scanChunk sets, nor
// while a template is looked up.
//
// Order of locks: removing, then mu. put takes mu alone, so that a long scan does not block receiving.
type setBuffer struct {
	max  int           // octets, overhead included
	wait time.Duration // time after which a set expires

	removing sync.Mutex // held while sets are scanned or removed; must be locked before mu

	mu     sync.Mutex            // guards the fields below
	by     map[[16]byte]*setList // by exporter; no list is empty
	all    setList               // all sets, in order of arrival
	scans  []*setList            // lists that removeReady scans, in turn
	sets   int
	octets int
}

const (
	// overhead is the memory of a buffered set besides its octets. It counts the description of the set,
	// its list links and its share of the maps.
	overhead = 256
	// scanChunk is the largest number of sets that are handled while mu is held.
	scanChunk = 64
	// maxScans is the largest number of sets that a call of removeReady scans. The next call scans
	// the others: sets forged in the name of an exporter must not make its templates expensive.
	maxScans = 8192
)

// A setList is a list of buffered sets in order of arrival: the sets of an exporter, or all sets. A scan
// survives changes of the list: remove moves at to the next set, and put appends behind it.
type setList struct {
	kind        int // index of bufferedSet.links
	first, last *bufferedSet

	scanning bool         // in setBuffer.scans
	again    bool         // a template arrived since the scan began: scan again from first
	at       *bufferedSet // the next set to scan
}

// The kinds of lists. Each set is in a list of each kind.
const (
	listAll = iota
	listExporter
	nLists
)

// A bufferedSet is a set in a setBuffer. set must not be modified. It is immutable, so that ready may read
// it without mu while removing is held.
type bufferedSet struct {
	set   decode.Set
	at    time.Time // of arrival
	of    *setList  // the list of its exporter
	links [nLists]struct{ next, prev *bufferedSet }
}

// add appends s. A scan under way will reach it.
func (l *setList) add(s *bufferedSet) {
	k := l.kind
	if s.links[k].prev = l.last; l.last != nil {
		l.last.links[k].next = s
	} else {
		l.first = s
	}
	l.last = s
}

// remove unlinks s in constant time. s must be in the list. A scan whose next set is s continues behind it.
func (l *setList) remove(s *bufferedSet) {
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

// put buffers a copy of a set. It returns false if there is no room. The copy is needed: s.Data is a part
// of the datagram's buffer, which is reused. A set without room must be appended to the undecoded topic by
// the caller.
func (p *setBuffer) put(s *decode.Set, now time.Time) bool {
	n := len(s.Data) + overhead
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.octets+n > p.max {
		return false
	}
	kept := &bufferedSet{set: *s, at: now}
	kept.set.Data = bytes.Clone(s.Data)
	exporter := decode.Map16(s.Meta.Exporter)
	if p.by == nil {
		p.by = map[[16]byte]*setList{}
	}
	kept.of = p.by[exporter]
	if kept.of == nil {
		kept.of = &setList{kind: listExporter}
		p.by[exporter] = kept.of
	}
	kept.of.add(kept)
	p.all.add(kept)
	p.sets++
	p.octets += n
	return true
}

// remove removes a set from both lists and returns it. The caller must hold removing and mu.
func (p *setBuffer) remove(s *bufferedSet) decode.Set {
	p.all.remove(s)
	if s.of.remove(s); s.of.first == nil {
		delete(p.by, decode.Map16(s.set.Meta.Exporter))
	}
	p.sets--
	p.octets -= len(s.set.Data) + overhead
	return s.set
}

// removeReady scans at most maxScans sets: first those that earlier calls left over, then those of the
// given exporters, or all sets. It removes and returns the sets for which ready returns true, in order of
// arrival for each exporter. ready is called without mu.
//
// Example: one exporter has 10 000 sets, another 10. A template of each arrives. A call scans 64 sets of
// each in turn, so that the 10 sets are found in the first round, and at most maxScans in total; the next
// call continues.
func (p *setBuffer) removeReady(exporters [][16]byte, all bool, ready func(*decode.Set) bool) (out []decode.Set) {
	p.removing.Lock()
	defer p.removing.Unlock()
	p.mu.Lock()
	if all {
		p.startScan(&p.all)
	}
	for _, e := range exporters {
		if l := p.by[e]; l != nil {
			p.startScan(l)
		}
	}
	p.mu.Unlock()
	chunk := make([]*bufferedSet, 0, scanChunk)
	for left := maxScans; left > 0; left -= len(chunk) {
		if chunk = p.next(chunk[:0], min(left, scanChunk)); len(chunk) == 0 {
			break
		}
		n := 0
		for _, s := range chunk {
			if ready(&s.set) { // safe without mu: sets are immutable, and removing is held
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

// startScan begins a scan of a list, or extends the scan under way. The caller must hold mu.
func (p *setBuffer) startScan(l *setList) {
	if l.scanning {
		l.again = true
		return
	}
	l.scanning, l.at = true, l.first
	p.scans = append(p.scans, l)
}

// next appends the next sets to scan to chunk, at most n and of the same list. It appends none if no scan
// is under way. Lists take turns by chunks: a list with many sets must not delay the others.
func (p *setBuffer) next(chunk []*bufferedSet, n int) []*bufferedSet {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.scans) > 0 && len(chunk) == 0 {
		l := p.scans[0]
		p.scans = p.scans[1:]
		for ; l.at != nil && len(chunk) < n; l.at = l.at.links[l.kind].next {
			chunk = append(chunk, l.at)
		}
		if l.at == nil && l.again {
			l.at, l.again = l.first, false
		}
		if l.scanning = l.at != nil; l.scanning {
			p.scans = append(p.scans, l)
		}
	}
	if len(p.scans) == 0 {
		p.scans = nil
	}
	return chunk
}

// removeExpired removes and returns the sets that have waited for p.wait. The wait of a set counts from its
// arrival, but not from before since; if since is zero, no set expires. since is the time at which the
// templates topic had been read to its end. Before it, a template may be on the topic and not applied yet,
// so that no set has waited in vain.
func (p *setBuffer) removeExpired(now, since time.Time) []decode.Set {
	if since.IsZero() {
		return nil
	}
	return p.removeWhile(func(s *bufferedSet) bool {
		from := s.at
		if from.Before(since) {
			from = since
		}
		return now.Sub(from) >= p.wait
	})
}

// removeWhile removes and returns sets, the oldest first, until is returns false. is is called with mu
// held.
func (p *setBuffer) removeWhile(is func(*bufferedSet) bool) (out []decode.Set) {
	p.removing.Lock()
	defer p.removing.Unlock()
	for more := true; more; {
		p.mu.Lock()
		for range scanChunk {
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

// drain removes and returns all sets. It is for the shutdown: the sets are appended to the undecoded topic.
func (p *setBuffer) drain() []decode.Set {
	return p.removeWhile(func(*bufferedSet) bool { return true })
}

// held returns the number of buffered sets and their octets, overhead included.
func (p *setBuffer) held() (sets, octets int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sets, p.octets
}

// changes collects the exporters of which a template arrived since the last call of takeAll. It is safe for
// concurrent use. It lets the goroutine that decodes buffered sets scan only the sets of exporters whose
// templates changed.
type changes struct {
	mu   sync.Mutex // guards the fields below
	some bounded.Map[[16]byte, struct{}]
	all  bool // more than maxChanges: any exporter may have changed
}

// maxChanges bounds the exporters in changes.some.
const maxChanges = 10_000

// newChanges returns a set of at most maxChanges exporters. Beyond that, all exporters count as changed.
func newChanges() changes { return changes{some: bounded.New[[16]byte, struct{}](maxChanges)} }

// add records that a template of an exporter arrived. The caller must then wake the goroutine (wakeBuffer).
func (c *changes) add(exporter [16]byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.some.PutOrRefuse(exporter, struct{}{}) {
		c.all = true
	}
}

// takeAll returns the exporters, or all if any may have changed, and empties c.
func (c *changes) takeAll() (exporters [][16]byte, all bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for e := range c.some.All() {
		exporters = append(exporters, e)
	}
	all = c.all
	c.some = bounded.New[[16]byte, struct{}](maxChanges)
	c.all = false
	return exporters, all
}

// bufferLoop decodes buffered sets when their template arrives and passes expired sets on, until ctx
// ends. It also drives the warnings of silence.
func (r *Replica) bufferLoop(ctx context.Context, run *running) error {
	w := r.worker(run, &r.accounts.shared)
	t := time.NewTicker(50 * time.Millisecond)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.bufferNow:
		case <-t.C:
			if len(r.c.Listen) > 0 {
				r.watch.tick(r.deps.Now())
			}
		}
		r.decodeBuffered(w, r.deps.Now())
	}
}
