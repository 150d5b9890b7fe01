//go:build synctests

package simulation

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/internal/kafka"
)

// A watch checks every request that reaches a broker and every line that a member logs.
type watch struct {
	find func(kind, format string, args ...any)
	now  *atomic.Int64 // of the trace; nil: not needed

	pace pace // has its own lock: request sleeps without holding that of the watch

	mu         sync.Mutex
	generation int32                  // of the last assignment
	assigned   map[string][]int32     // of the last generation: partitions of flows, by member id
	requests   map[kmsg.Key]*window   // commits and aborts
	lines      map[int]*window        // by member
	heard      map[string]time.Time   // time of the last request of a member ID
	cuts       map[int32][]endedEpoch // by partition of flows, in order
}

// A window counts events in spans of hotFor.
type window struct {
	since time.Time
	n     int
	hot   bool
}

// Bounds of frequency: transactions of all members in hotFor, and log lines of a member. A transaction takes
// at least 200 ms, or 100 ms if it is full; a member logs a few lines for each fault.
const (
	hotFor          = 20 * time.Second
	hotTransactions = 1200
	hotLines        = 300
)

func (o *watch) count(x *window, most int, what string) {
	if x.add(time.Now(), most) {
		o.find(findHot, "%s: more than %d in %v", what, most, hotFor)
	}
}

// add counts an event. It returns true for the first event beyond most in a window.
func (x *window) add(now time.Time, most int) bool {
	if now.Sub(x.since) > hotFor {
		*x = window{since: now, hot: x.hot}
	}
	x.n++
	first := x.n > most && !x.hot
	x.hot = x.hot || first
	return first
}

// request is a kfake control function for all requests.
func (o *watch) request(r kmsg.Request) (kmsg.Response, error, bool) {
	now := time.Now()
	if o.now != nil {
		o.now.Store(now.UnixNano())
	}
	delay, hot := o.pace.request(now)
	if hot {
		o.find(findHot, "requests: clients send them at the pace of the answers, for more than %d in %v; the last one: %s", hotPaced, hotFor, kmsg.NameForKey(r.Key()))
	}
	time.Sleep(delay) // zero: returns at once
	o.mu.Lock()
	defer o.mu.Unlock()
	switch r := r.(type) {
	case *kmsg.FetchRequest:
		// A fetch is answered when there are records: a longer wait changes only the number of requests.
		r.MaxWaitMillis = max(r.MaxWaitMillis, fetchMaxWait)
	case *kmsg.EndTxnRequest:
		if o.requests[kmsg.EndTxn] == nil {
			o.requests[kmsg.EndTxn] = &window{}
		}
		o.count(o.requests[kmsg.EndTxn], hotTransactions, "ends of transactions")
	case *kmsg.HeartbeatRequest:
		o.heard[r.MemberID] = time.Now()
	case *kmsg.JoinGroupRequest:
		o.heard[r.MemberID] = time.Now()
	case *kmsg.SyncGroupRequest:
		o.heard[r.MemberID] = time.Now()
		o.assignment(r)
	case *kmsg.TxnOffsetCommitRequest:
		o.commit(r)
	}
	return nil, nil, false
}

const fetchMaxWait = 3000

// A pace delays requests that follow their answers at once by the time of a round trip, which the simulated
// network does not take. Otherwise a client that repeats a request at once until a timer ends this would
// never let fake time pass, and the run would use up the memory of the machine. kgo does so after
// FENCED_LEADER_EPOCH: docs/upstream.md.
type pace struct {
	mu    sync.Mutex
	since time.Time // start of the present window of paceWindow
	n     int       // requests in it
	paced window    // requests that were delayed
}

// Of the requests in a paceWindow, those after the first paceFree are delayed by roundTrip each.
const (
	paceWindow = 100 * time.Millisecond
	paceFree   = 1000
	roundTrip  = 10 * time.Millisecond
	hotPaced   = 1000 // delayed requests in hotFor: half of it was spent on them
)

// request returns the delay for a request at now, and whether there were too many delays.
func (p *pace) request(now time.Time) (delay time.Duration, hot bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now.Sub(p.since) >= paceWindow {
		p.since, p.n = now, 0
	}
	if p.n++; p.n <= paceFree {
		return 0, false
	}
	return roundTrip, p.paced.add(now, hotPaced)
}

// silence returns the time since the last request of a member ID.
func (o *watch) silence(member string) time.Duration {
	o.mu.Lock()
	defer o.mu.Unlock()
	return time.Since(o.heard[member])
}

// assignment records the assignment by the leader of a generation.
func (o *watch) assignment(r *kmsg.SyncGroupRequest) {
	if len(r.GroupAssignment) == 0 || r.Group != group || r.Generation < o.generation {
		return
	}
	o.generation, o.assigned = r.Generation, map[string][]int32{}
	for _, m := range r.GroupAssignment {
		var a kmsg.ConsumerMemberAssignment
		if err := a.ReadFrom(m.MemberAssignment); err != nil {
			continue
		}
		for _, t := range a.Topics {
			if t.Topic == topicPrefix+string(kafka.Flows) {
				o.assigned[m.MemberID] = t.Partitions
			}
		}
	}
}

// commit checks that a member commits offsets only for partitions that the group assigned to it: a broker
// accepts them from any member of the current generation.
func (o *watch) commit(r *kmsg.TxnOffsetCommitRequest) {
	if r.Group != group || r.Generation != o.generation {
		return // the broker refuses it
	}
	for _, t := range r.Topics {
		for _, p := range t.Partitions {
			if owned, known := o.assigned[r.MemberID]; known && !slices.Contains(owned, p.Partition) {
				o.find(findOwnership, "%s commits offset %d of partition %d, generation %d gives it %v", r.MemberID, p.Offset, p.Partition, r.Generation, owned)
			}
		}
	}
}

// counting is a log handler that counts lines.
type counting struct {
	slog.Handler
	watch  *watch
	member int
}

// Handle implements slog.Handler.
func (c *counting) Handle(ctx context.Context, r slog.Record) error {
	c.watch.mu.Lock()
	if c.watch.lines[c.member] == nil {
		c.watch.lines[c.member] = &window{}
	}
	c.watch.count(c.watch.lines[c.member], hotLines, fmt.Sprintf("log lines of member %d", c.member))
	c.watch.mu.Unlock()
	return c.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (c *counting) WithAttrs(a []slog.Attr) slog.Handler {
	return &counting{c.Handler.WithAttrs(a), c.watch, c.member}
}

// WithGroup implements slog.Handler.
func (c *counting) WithGroup(name string) slog.Handler {
	return &counting{c.Handler.WithGroup(name), c.watch, c.member}
}
