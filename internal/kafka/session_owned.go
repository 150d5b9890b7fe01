package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// An ownership is the set of partitions that the client owns, with the member id and the generation under which
// the group assigned them, as one snapshot. The client's goroutines write it, the session's goroutine reads it.
//
// The revocation callbacks are not sufficient: GroupTransactSession of franz-go (v1.22.3) calls neither of them
// a second time before the next End. A member that has nothing to commit would go on to own partitions that the
// group gave to others.
type ownership struct {
	mu         sync.Mutex // must not be held over I/O or a call of the Handler
	synced     []int32    // assigned by the last SyncGroup response
	member     string
	generation int32
	tenures    map[int32]*tenure
	revoked    bool // partitions were revoked since the last call of life.follow
	stale      bool // a new member id kept partitions without a fetch of their positions
}

// A tenure is the ownership of a partition from the fetch of its committed position until its loss. A partition
// that is lost and assigned again has a new tenure.
type tenure struct {
	at    Position
	epoch int32 // leader epoch committed with the position; noEpoch: none
}

// A syncBalancer is a GroupBalancer that copies the partitions of each SyncGroup response into an ownership. The
// client has no method that returns its assignment.
type syncBalancer struct {
	kgo.GroupBalancer
	topic string
	owned *ownership
}

// ParseSyncAssignment implements kgo.GroupBalancer.
func (b syncBalancer) ParseSyncAssignment(assignment []byte) (map[string][]int32, error) {
	topics, err := b.GroupBalancer.ParseSyncAssignment(assignment)
	if err == nil {
		b.owned.mu.Lock()
		b.owned.synced = slices.Clone(topics[b.topic])
		b.owned.mu.Unlock()
	}
	return topics, err
}

// assigned begins a generation. The client calls it once in each, after SyncGroup and before it fetches the
// positions of added partitions. The client does not join again before assigned returns, so GroupMetadata is
// that of the assignment.
func (l *life) assigned(_ context.Context, cl *kgo.Client, added map[string][]int32) {
	member, generation := cl.GroupMetadata()
	o := &l.ownership
	o.mu.Lock()
	defer o.mu.Unlock()
	if member != o.member {
		// A client that the group has removed joins it under another id, and keeps its positions of partitions
		// that it is assigned again. Another member may have committed newer positions meanwhile.
		kept := func(n int32) bool { return !slices.Contains(added[l.sc.Input], n) }
		o.stale = o.stale || o.member != "" && slices.ContainsFunc(o.synced, kept)
		clear(o.tenures)
	}
	o.member, o.generation = member, generation
	for n := range o.tenures {
		if !slices.Contains(o.synced, n) || slices.Contains(added[l.sc.Input], n) {
			delete(o.tenures, n)
		}
	}
}

// revoked ends the ownership of partitions. It is called for revoked partitions of a rebalance and for those that are
// lost with the membership. The Handler keeps their state until follow, which runs outside of transactions: a commit of
// the open transaction is refused by the group if the generation has ended.
func (l *life) revoked(_ context.Context, _ *kgo.Client, gone map[string][]int32) {
	o := &l.ownership
	o.mu.Lock()
	defer o.mu.Unlock()
	o.revoked = o.revoked || len(gone) > 0
	for _, n := range gone[l.sc.Input] {
		delete(o.tenures, n)
	}
}

// fetched begins the ownership of partitions at their committed positions. They are paused until the session has
// restored their state.
func (l *life) fetched(ctx context.Context, cl *kgo.Client, resp *kmsg.OffsetFetchResponse) error {
	// The positions may be of the new topic: this life would hand them on as those of the old topic.
	if _, again := l.recreatedID(ctx, cl); again {
		err := fmt.Errorf("topic %s was deleted and recreated", l.sc.Input)
		l.expire(err)
		return err
	}
	committed, epochs := l.positions(resp)
	positions, err := l.locate(ctx, cl, committed, epochs)
	if err != nil {
		return err
	}
	o := &l.ownership
	o.mu.Lock()
	defer o.mu.Unlock()
	var paused []int32
	for _, at := range positions {
		o.tenures[at.Partition] = &tenure{at, epochs[at.Partition]}
		paused = append(paused, at.Partition)
	}
	if len(paused) > 0 {
		cl.PauseFetchPartitions(map[string][]int32{l.sc.Input: paused})
	}
	return nil
}

// positions returns the committed positions in an OffsetFetch response, and their leader epochs. Topics are the form of
// versions 0 to 7, Groups that of version 8 and later; from version 10 on a topic has an id and no name.
func (l *life) positions(resp *kmsg.OffsetFetchResponse) (at []Position, epochs map[int32]int32) {
	epochs = map[int32]int32{}
	add := func(topic string, p int32, offset int64, epoch int32, metadata *string) {
		if _, seen := epochs[p]; seen || topic != "" && topic != l.sc.Input {
			return // the client repeats the response in the form of older versions
		}
		epochs[p] = epoch
		pos := Position{Partition: p, Offset: offset}
		if metadata != nil {
			pos.Metadata = *metadata
		}
		at = append(at, pos)
	}
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			add(t.Topic, p.Partition, p.Offset, p.LeaderEpoch, p.Metadata)
		}
	}
	for _, g := range resp.Groups {
		for _, t := range g.Topics {
			for _, p := range t.Partitions {
				add(t.Topic, p.Partition, p.Offset, p.LeaderEpoch, p.Metadata)
			}
		}
	}
	return at, epochs
}

// errForgotten is the reason of a new life after the group removed this member, for example because it did not send a
// heartbeat within the session timeout.
var errForgotten = errors.New("the group forgot this member and gave it partitions under another id: " +
	"their positions have to be fetched again")

// follow takes over the client's ownership: the session drops lost partitions, and commits under this member id
// and generation until the next call. A broker refuses commits in a generation that has ended, so that a member
// cannot commit for a partition before it knows of its loss. It must not be called within a transaction. After
// an error the client's positions must not be used.
func (l *life) follow() error {
	o := &l.ownership
	o.mu.Lock()
	l.member, l.generation = o.member, o.generation
	l.revocation = l.revocation || o.revoked
	o.revoked = false
	stale := o.stale
	var gone []int32
	for n, p := range l.owned {
		if o.tenures[n] != p.tenure {
			gone = append(gone, n)
		}
	}
	o.mu.Unlock()
	slices.Sort(gone)
	l.drop(gone)
	if stale {
		return errForgotten
	}
	return nil
}

// stillOwns reports whether the client still owns the partitions, in the generation of the last follow.
func (l *life) stillOwns(partitions []int32) bool {
	o := &l.ownership
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.member != l.member || o.generation != l.generation {
		return false
	}
	for _, n := range partitions {
		if p := l.owned[n]; p == nil || o.tenures[n] != p.tenure {
			return false
		}
	}
	return true
}

// drop removes lost partitions and notifies the Handler.
func (l *life) drop(gone []int32) {
	if len(gone) == 0 {
		return
	}
	for _, n := range gone {
		delete(l.owned, n)
		l.refusals.forget(n, math.MaxInt64)
	}
	l.noteAbort(nil) // their uncommitted input belongs to another member
	l.h.Lost(gone)
}

// restore lets the Handler restore the state of newly assigned partitions and, after an abort, of all owned
// partitions.
func (l *life) restore(ctx context.Context) error {
	var at []Position
	if l.void {
		for _, n := range slices.Sorted(maps.Keys(l.owned)) {
			at = append(at, l.owned[n].committed)
		}
	}
	added := l.added()
	for _, n := range slices.Sorted(maps.Keys(added)) {
		at = append(at, added[n].at)
	}
	if len(at) == 0 {
		l.void = false
		return nil
	}
	l.restoring(len(at))
	defer l.restoring(0)
	if err := l.h.Assigned(ctx, l.partitions, at); err != nil {
		return fmt.Errorf("the state of %d partitions is not restored: %w", len(at), err)
	}
	l.void = false
	now := l.sc.Now()
	for n, t := range added {
		l.owned[n] = &progress{
			tenure: t, committed: t.at, committedEpoch: t.epoch, next: max(t.at.Offset, 0), epoch: t.epoch,
			since: now, rest: now,
		}
		l.Pass(n)
	}
	if len(added) > 0 {
		l.sc.Log.Info("partitions assigned", "group", l.sc.Group, "topic", l.sc.Input, "partitions", len(added))
		if !l.sc.Passes {
			l.resume(slices.Collect(maps.Keys(added)))
		}
	}
	return nil
}

// added returns the tenures whose state is not restored yet. A partition that was lost and assigned again is not
// among them until follow has dropped it: the Handler must not get Assigned for a partition before Lost.
func (l *life) added() map[int32]*tenure {
	o := &l.ownership
	o.mu.Lock()
	defer o.mu.Unlock()
	added := map[int32]*tenure{}
	for n, t := range o.tenures {
		if l.owned[n] == nil {
			added[n] = t
		}
	}
	return added
}

// resume begins to fetch partitions, except those that were lost, or lost and assigned again, since their state
// was restored. The lock is held during the client's call, which only sets a flag: it must not resume a partition that
// fetched has just paused.
func (l *life) resume(partitions []int32) {
	o := &l.ownership
	o.mu.Lock()
	defer o.mu.Unlock()
	still := slices.DeleteFunc(slices.Clone(partitions), func(n int32) bool {
		return l.owned[n] == nil || o.tenures[n] != l.owned[n].tenure
	})
	if len(still) > 0 {
		l.gts.Client().ResumeFetchPartitions(map[string][]int32{l.sc.Input: still})
	}
}
