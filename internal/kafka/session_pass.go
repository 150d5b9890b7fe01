package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kadm"
)

// Pass asks for a pass over a partition: from the committed offset to the end as
// of its start, then no further until it is asked again. What the Handler
// appends to the input meanwhile is for the next one. Each partition has one
// pass when it is assigned. It counts in a Session with Passes only, and may be
// called at any time, for a partition that is not owned too (it is in vain then).
func (s *Session) Pass(partition int32) {
	if !s.sc.Passes {
		return
	}
	s.mu.Lock()
	s.asked[partition] = true
	s.mu.Unlock()
}

// beginPasses begins those that were asked for, of owned partitions.
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
	adm := kadm.NewClient(l.gts.Client())
	starts, err := adm.ListStartOffsets(ctx, l.sc.Input)
	if err != nil {
		return // asked for still: tried again
	}
	ends, err := adm.ListCommittedOffsets(ctx, l.sc.Input)
	if err != nil {
		return
	}
	var read []int32
	for _, n := range begin {
		p, start, end := l.owned[n], starts[l.sc.Input][n], ends[l.sc.Input][n]
		if p == nil || start.Err != nil || end.Err != nil {
			continue
		}
		l.mu.Lock()
		delete(l.asked, n)
		l.mu.Unlock()
		if p.next = max(p.next, start.Offset); p.next < end.Offset {
			p.until = end.Offset
			read = append(read, n)
		}
	}
	l.resume(read)
}

// passed ends the pass of a partition that is read to its end.
func (l *life) passed(n int32, p *progress) {
	if p.until == 0 || p.next < p.until {
		return
	}
	p.until = 0
	l.gts.Client().PauseFetchPartitions(map[string][]int32{l.sc.Input: {n}})
}
