package broker

import (
	"math"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/internal/bounded"
)

// Mend adds control functions to a cluster that work around two defects of kfake: see docs/upstream.md. Start
// calls it. A test that makes its own cluster must call it if the cluster has consumer groups or moves leaders.
// Control functions that must answer first must be added before the call.
func Mend(c *kfake.Cluster) {
	b := newJoinBarriers()
	c.ControlKey(int16(kmsg.JoinGroup), func(r kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		req, ok := r.(*kmsg.JoinGroupRequest)
		if !ok || !b.refuses(req, time.Now()) {
			return nil, nil, false
		}
		resp := req.ResponseKind().(*kmsg.JoinGroupResponse) // the kind belongs to the request
		resp.ErrorCode = kerr.CoordinatorLoadInProgress.Code
		return resp, nil, true
	})
	c.ControlKey(int16(kmsg.SyncGroup), func(r kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if req, ok := r.(*kmsg.SyncGroupRequest); ok {
			b.end(req.Group)
		}
		return nil, nil, false
	})
	c.ControlKey(int16(kmsg.OffsetForLeaderEpoch), func(r kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		req, ok := r.(*kmsg.OffsetForLeaderEpochRequest)
		if !ok {
			return nil, nil, false
		}
		return epochEnds(req), nil, true
	})
}

// A joinBarrier bounds the first phase of a group's rebalance. Kafka waits for members that do not join for the
// rebalance timeout, counted from the first JoinGroup. kfake counts from the last JoinGroup, so that members
// that retry keep a group with a dead member from ever becoming stable. Once the phase has lasted for the
// timeout, further requests are refused with an error that clients retry, and kfake's timer expires.
type joinBarrier struct {
	first, last time.Time     // JoinGroup requests of this phase that reached kfake; zero: none
	timeout     time.Duration // the greatest rebalance timeout among the requests
}

// joinBarriers holds the barriers of all groups.
type joinBarriers struct {
	mu     sync.Mutex
	groups bounded.Map[string, *joinBarrier]
}

func newJoinBarriers() *joinBarriers {
	return &joinBarriers{groups: bounded.New[string, *joinBarrier](maxGroups)}
}

// maxGroups bounds the groups; at the limit all are forgotten.
const maxGroups = 1000

// refuses reports whether a request must not reach kfake.
func (b *joinBarriers) refuses(r *kmsg.JoinGroupRequest, now time.Time) bool {
	if r.MemberID == "" && r.InstanceID == nil {
		return false // kfake answers with a member id and starts no timer
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	g := b.groups.Get(r.Group)
	if g == nil {
		g = &joinBarrier{}
		b.groups.PutOrForget(r.Group, g)
	}
	g.timeout = max(g.timeout, time.Duration(r.RebalanceTimeoutMillis)*time.Millisecond)
	if g.first.IsZero() || now.Sub(g.last) >= g.timeout { // kfake's timer has expired, if it ran
		g.first = now
	}
	if now.Sub(g.first) >= g.timeout {
		return true
	}
	g.last = now
	return false
}

// end ends the phase of a group: kfake has answered a JoinGroup.
func (b *joinBarriers) end(group string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if g := b.groups.Get(group); g != nil {
		g.first = time.Time{}
	}
}

// epochEnds answers OffsetForLeaderEpoch for a log that never loses records: no epoch ends before the records
// that were read in it. kfake does not know an epoch without a later batch, as after a leader moved, and clients
// take that for a loss.
func epochEnds(r *kmsg.OffsetForLeaderEpochRequest) kmsg.Response {
	resp := r.ResponseKind().(*kmsg.OffsetForLeaderEpochResponse) // the kind belongs to the request
	for _, t := range r.Topics {
		rt := kmsg.NewOffsetForLeaderEpochResponseTopic()
		rt.Topic = t.Topic
		for _, p := range t.Partitions {
			rp := kmsg.NewOffsetForLeaderEpochResponseTopicPartition()
			rp.Partition, rp.LeaderEpoch, rp.EndOffset = p.Partition, p.LeaderEpoch, math.MaxInt64
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return resp
}
