package rdns

import "weir/pkg/flowpb"

// Stats holds totals since New, and the current state.
type Stats struct {
	Wanted     uint64 // calls of Want
	Hits       uint64 // of these: answered by a valid answer in the cache
	Suppressed uint64 // of these: no server may be asked
	Dropped    uint64 // of these: the queue was full
	Questions  uint64 // sent to servers, including second tries and verification
	Failures   uint64 // without a usable response
	Truncated  uint64 // repeated over TCP
	Silent     uint64 // addresses not looked up, since the servers of their zone do not answer
	Answers    map[flowpb.NameStatus]uint64
	// Pending and the fields below are the current state; the fields above are totals since New.
	Pending int // addresses queued or being looked up
	Cached  int // addresses in the cache
	Servers int // servers in use
	Down    int // of these: no query was answered for 10 s, so that they are asked once a second
}

// Stats returns the current statistics.
// It may be called from any goroutine. The counters are read one after another, not as one snapshot.
func (r *Resolver) Stats() Stats {
	s := Stats{
		Wanted: r.wanted.Load(), Hits: r.hits.Load(), Suppressed: r.suppressed.Load(), Dropped: r.dropped.Load(),
		Questions: r.counters.questions.Load(), Failures: r.counters.failures.Load(),
		Truncated: r.counters.truncated.Load(), Silent: r.counters.silent.Load(),
		Answers: make(map[flowpb.NameStatus]uint64, len(r.answers)),
	}
	for i := range r.answers {
		if n := r.answers[i].Load(); n > 0 {
			s.Answers[flowpb.NameStatus(i)] = n
		}
	}
	// Without DNS_ENABLED there is no cache.
	if r.enabled {
		r.mu.Lock()
		s.Pending, s.Cached = r.cache.pending, r.cache.cached
		r.mu.Unlock()
	}
	for _, l := range []*upstream{r.public, r.private} {
		if l != nil {
			s.Servers += len(l.servers)
			s.Down += countOpen(l.servers)
		}
	}
	return s
}
