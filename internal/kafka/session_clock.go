package kafka

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	// compareClocksEvery is how often the brokers are asked for their time.
	compareClocksEvery = 30 * time.Second
	// compareClocksWithin bounds the question: a transaction waits for it.
	compareClocksWithin = time.Second
)

// Behind returns by how much SessionConfig.Now is behind the brokers' clock, at least. It
// is 0 while that is not known, and when it is not behind. The brokers' time is the start
// of the session's own transaction, as its coordinator noted it (DescribeTransactions,
// KIP-664, Kafka 3.0): the timestamps of records are their producers'.
func (s *Session) Behind() time.Duration { return time.Duration(max(0, s.behind.Load())) }

// compareClocks notes how far the brokers' clock is ahead, in an open transaction that has
// records. It asks rarely, and changes nothing without an answer.
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
		// The transaction began before the answer came: the brokers' clock shows more now.
		if kerr.ErrorForCode(t.ErrorCode) == nil && t.StartTimestamp > 0 {
			l.behind.Store(int64(time.UnixMilli(t.StartTimestamp).Sub(l.sc.Now())))
		}
	}
}
