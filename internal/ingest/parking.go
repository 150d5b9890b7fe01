package ingest

import (
	"bytes"
	"sync"
	"time"

	"weir/internal/decode"
)

// parking holds data sets whose template is not known yet: bounded, for a short
// while. A template on its way through Kafka needs about 10 ms.
type parking struct {
	max  int           // octets
	wait time.Duration // how long a set waits

	mu     sync.Mutex
	sets   []parked // in order of arrival
	octets int
}

type parked struct {
	set decode.Set
	at  time.Time
}

// overhead is what a parked set costs beside its octets.
const overhead = 192

// put copies a set in; false when there is no room.
func (p *parking) put(s *decode.Set, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(s.Data) + overhead
	if p.octets+n > p.max {
		return false
	}
	kept := *s
	kept.Data = bytes.Clone(s.Data)
	p.sets = append(p.sets, parked{kept, now})
	p.octets += n
	return true
}

// take removes and returns the sets that ready accepts, in order of arrival,
// and those that have waited since or longer than their time; since is when
// waiting began to count for all (zero: it does not count yet).
func (p *parking) take(ready func(*decode.Set) bool, now, since time.Time) (known, expired []decode.Set) {
	p.mu.Lock()
	defer p.mu.Unlock()
	kept := p.sets[:0]
	for _, s := range p.sets {
		from := s.at
		if from.Before(since) {
			from = since
		}
		switch {
		case ready(&s.set):
			known = append(known, s.set)
		case !since.IsZero() && now.Sub(from) >= p.wait:
			expired = append(expired, s.set)
		default:
			kept = append(kept, s)
			continue
		}
		p.octets -= len(s.set.Data) + overhead
	}
	clear(p.sets[len(kept):])
	p.sets = kept
	return known, expired
}

// all removes and returns all sets.
func (p *parking) all() []decode.Set {
	known, _ := p.take(func(*decode.Set) bool { return true }, time.Time{}, time.Time{})
	return known
}

// held is what waits now.
func (p *parking) held() (sets, octets int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.sets), p.octets
}
