//go:build synctests

package simulation

import (
	"context"
	"math"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// A broker of kfake differs from Kafka in three ways that matter here (docs/upstream.md). Control functions
// answer in its place.

// A joinBarrier bounds the first phase of a rebalance. Kafka waits for members that do not join for the
// rebalance timeout, counted from the first JoinGroup; kfake counts from the last one, so that members that
// try again keep the group from ever becoming stable. While the barrier is overdue, further requests are
// refused, and kfake's timer expires.
type joinBarrier struct {
	timeout time.Duration
	since   time.Time // the first JoinGroup of this rebalance; zero: none
}

// synced ends the phase: members got their answers to JoinGroup.
func (b *joinBarrier) synced() { b.since = time.Time{} }

// refuse returns the answer to a request that comes too late, nil for one in time.
func (b *joinBarrier) refuse(r *kmsg.JoinGroupRequest) kmsg.Response {
	now := time.Now()
	if b.since.IsZero() || now.Sub(b.since) > 2*b.timeout {
		b.since = now
	}
	if now.Sub(b.since) < b.timeout {
		return nil
	}
	resp := r.ResponseKind().(*kmsg.JoinGroupResponse)
	resp.ErrorCode = kerr.CoordinatorLoadInProgress.Code
	return resp
}

// epochEnds answers OffsetForLeaderEpoch for a log that lost nothing: an epoch ends nowhere before what was
// read. kfake answers that it does not know the epoch before a leader moved, which clients take for data loss.
func epochEnds(r *kmsg.OffsetForLeaderEpochRequest) kmsg.Response {
	resp := r.ResponseKind().(*kmsg.OffsetForLeaderEpochResponse)
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

// phantomAfter is how long a member may be silent: longer than a rebalance and a session.
const phantomAfter = 3 * rebalanceTimeout

// evictPhantoms takes silent members out of the group. kfake starts a member's session timer only when it could
// write the answer to JoinGroup or SyncGroup, so one whose connection died meanwhile stays in the group for ever.
func (w *world) evictPhantoms(info *kfake.GroupInfo) {
	for _, m := range info.Members {
		if w.watch.silence(m.MemberID) < phantomAfter {
			continue
		}
		w.trace.printf("the broker does not notice that %s is gone", m.MemberID)
		req := kmsg.NewPtrLeaveGroupRequest()
		req.Group, req.MemberID = group, m.MemberID
		member := kmsg.NewLeaveGroupRequestMember()
		member.MemberID = m.MemberID
		req.Members = append(req.Members, member)
		if _, err := req.RequestWith(context.Background(), w.client); err != nil {
			w.trace.printf("LeaveGroup: %v", err)
		}
	}
}
