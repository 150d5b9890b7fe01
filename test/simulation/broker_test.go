//go:build synctests

package simulation

import (
	"context"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// phantomAfter is how long a member may be silent: longer than a rebalance and a session.
const phantomAfter = 3 * rebalanceTimeout

// evictPhantoms takes silent members out of a group. kfake starts a member's session timer only when it could
// write the answer to JoinGroup or SyncGroup, so one whose connection died meanwhile stays in the group for ever.
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
