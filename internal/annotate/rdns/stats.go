package rdns

import "weir/pkg/flowpb"

// Stats are totals since New, and the state of now.
type Stats struct {
	Wanted     uint64 // calls of Want
	Hits       uint64 // of them: known and in force
	Suppressed uint64 // of them: nobody may be asked
	Dropped    uint64 // of them: the queue was full
	Questions  uint64 // put to servers, the second try and those for verification too
	Failures   uint64 // questions without a usable reply
	Truncated  uint64 // questions repeated over TCP
	Silent     uint64 // addresses not asked for, since their zone's servers do not answer
	Answers    map[flowpb.NameStatus]uint64
	Pending    int // addresses queued or being asked
	Cached     int // addresses remembered, about
	Servers    int // servers in use
	Down       int // of them: asked once a second only, since no question was answered for 10 s
}

// Stats returns the totals.
func (r *Resolver) Stats() Stats {
	s := Stats{
		Wanted: r.wanted.Load(), Hits: r.hits.Load(), Suppressed: r.suppressed.Load(), Dropped: r.dropped.Load(),
		Questions: r.counters.questions.Load(), Failures: r.counters.failures.Load(), Truncated: r.counters.truncated.Load(), Silent: r.counters.silent.Load(),
		Answers: make(map[flowpb.NameStatus]uint64, len(r.answers)),
	}
	for i := range r.answers {
		if n := r.answers[i].Load(); n > 0 {
			s.Answers[flowpb.NameStatus(i)] = n
		}
	}
	r.mu.RLock()
	s.Pending = len(r.pending)
	r.mu.RUnlock()
	if r.cache != nil {
		s.Cached = r.cache.EstimatedSize()
	}
	for _, l := range []*lane{r.public, r.private} {
		if l != nil {
			s.Servers += len(l.servers)
			s.Down += down(l.servers)
		}
	}
	return s
}
