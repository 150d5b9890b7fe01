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

// A watch looks at every request that reaches a broker, and at every line that a member logs.
type watch struct {
	find func(kind, format string, args ...any)
	now  *atomic.Int64 // of the trace; nil: nobody looks

	pace pace // has a lock of its own: it sleeps without it

	mu         sync.Mutex
	generation int32                  // of the last assignment
	assigned   map[string][]int32     // of the last generation: partitions of flows, by member id
	requests   map[kmsg.Key]*window   // commits and aborts
	lines      map[int]*window        // by member
	heard      map[string]time.Time   // when a member id was last heard of
	cuts       map[int32][]endedEpoch // by partition of flows, in order
}

// A window counts in spans of hotFor.
type window struct {
	since time.Time
	n     int
	hot   bool
}

// Nothing may happen more often than this: transactions of all members in hotFor, and lines of one member.
// A transaction takes at least 200 ms, or 100 ms when it is full; a member says a few lines for each fault.
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

// add counts one and reports whether it is the first that is too many.
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
		// Brokers answer when there is something to read: waiting longer changes nothing but the number of requests.
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

// A pace gives requests that come at once after their answers the time of a round trip, which the simulated network
// does not take: otherwise a client that asks again at once, until a timer ends that, never lets fake time pass, and
// the run takes memory until the machine has none. kgo does so after FENCED_LEADER_EPOCH: docs/upstream.md.
type pace struct {
	mu    sync.Mutex
	since time.Time // start of the present window of paceWindow
	n     int       // requests in it
	paced window    // requests that were delayed
}

// Of paceWindow's requests those after the first paceFree are delayed by roundTrip each.
const (
	paceWindow = 100 * time.Millisecond
	paceFree   = 1000
	roundTrip  = 10 * time.Millisecond
	hotPaced   = 1000 // delayed requests in hotFor: half of it was spent on them
)

// request returns how long the request that came now is delayed, and whether there are too many delays.
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

// silence is how long nothing was heard of a member id.
func (o *watch) silence(member string) time.Duration {
	o.mu.Lock()
	defer o.mu.Unlock()
	return time.Since(o.heard[member])
}

// assignment notes what the leader of a generation gives to whom.
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

// commit checks that offsets are committed by whom the group gave the partition: a broker takes them from
// any living member of the current generation.
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

// counting is a handler of log lines that counts them.
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
