package kafka

import "context"

// Pass asks for a pass over a partition: it is read from its position to the end of the log as of the begin of
// the pass, and then paused until the next pass. Records that the Handler appends to the input meanwhile belong
// to the next pass. A partition has one pass when it is assigned. Pass has an effect in a Session with Passes
// only. It may be called at any time by any goroutine; it has no effect on a partition that is not owned.
func (s *Session) Pass(partition int32) {
	if !s.sc.Passes {
		return
	}
	s.mu.Lock()
	s.asked[partition] = true
	s.mu.Unlock()
}

// beginPasses begins the requested passes of owned partitions. The end of a pass is the last stable offset at its
// begin: records of a transaction that is still open belong to the next pass.
func (l *life) beginPasses(ctx context.Context) {
	if !l.sc.Passes {
		return
	}
	var begin []int32
	l.mu.Lock()
	for n := range l.asked {
		if p := l.owned[n]; p != nil && p.until == 0 {
			begin = append(begin, n)
		}
	}
	l.mu.Unlock()
	if len(begin) == 0 {
		return
	}
	logs, err := listBounds(ctx, l.gts.Client(), l.sc.Input, begin, readCommitted)
	if err != nil {
		return // the request stays, and is tried again
	}
	var read []int32
	for _, n := range begin {
		p := l.owned[n]
		log, ok := logs[n]
		if p == nil || !ok {
			continue
		}
		l.mu.Lock()
		delete(l.asked, n)
		l.mu.Unlock()
		if p.next = max(p.next, log.first); p.next < log.end {
			p.until = log.end
			read = append(read, n)
		}
	}
	l.resume(read)
}

// passed pauses a partition that is read to the end of its pass. A record after the end may have been passed to the
// Handler with the fetch that reached it.
func (l *life) passed(n int32, p *progress) {
	if p.until == 0 || p.next < p.until {
		return
	}
	p.until = 0
	l.gts.Client().PauseFetchPartitions(map[string][]int32{l.sc.Input: {n}})
}
