//go:build synctests

package simulation

import (
	"context"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// phantomAfter is the silence after which a member is evicted: longer than a rebalance and a session.
const phantomAfter = 3 * rebalanceTimeout

// evictPhantoms removes silent members from a group. kfake starts a member's session timer only after it has
// written the answer to JoinGroup or SyncGroup, so that a member whose connection broke before stays in the
// group for ever.
func (w *world) evictPhantoms(group string, info *kfake.GroupInfo) {
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
