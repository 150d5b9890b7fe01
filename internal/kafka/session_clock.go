package kafka

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	// compareClocksEvery is the interval of compareClocks.
	compareClocksEvery = 30 * time.Second
	// compareClocksWithin bounds the request: a transaction waits for it.
	compareClocksWithin = time.Second
)

// Behind returns the least amount by which SessionConfig.Now is behind the brokers' clock; 0 while that is not
// known or Now is not behind. The brokers' time is the start of the session's own transaction, as its
// coordinator noted it (DescribeTransactions, KIP-664, Kafka 3.0). The timestamps of records are of no use:
// their producers set them.
func (s *Session) Behind() time.Duration { return time.Duration(max(0, s.behind.Load())) }

// compareClocks stores the offset of the brokers' clock. It must be called in an open transaction that has
// records: before the first of them the coordinator has no start time. It sends a request at most every
// compareClocksEvery, and keeps the old value without a response.
func (l *life) compareClocks(ctx context.Context) {
	now := l.sc.Now()
	if since := now.Sub(l.compared); !l.compared.IsZero() && since >= 0 && since < compareClocksEvery {
		return
	}
	l.compared = now
	ctx, cancel := context.WithTimeout(ctx, compareClocksWithin)
	defer cancel()
	req := kmsg.NewPtrDescribeTransactionsRequest()
	req.TransactionalIDs = []string{l.sc.Group + "-" + l.sc.Member}
	resp, err := req.RequestWith(ctx, l.gts.Client())
	if err != nil {
		return
	}
	for _, t := range resp.TransactionStates {
		// The timestamp is older than the response, so the difference is a lower bound of the clock offset.
		if kerr.ErrorForCode(t.ErrorCode) == nil && t.StartTimestamp > 0 {
			l.behind.Store(int64(time.UnixMilli(t.StartTimestamp).Sub(l.sc.Now())))
		}
	}
}
