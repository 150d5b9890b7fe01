package enrich

import (
	"fmt"
	"sync/atomic"
	"time"
)

const (
	// maxBehind is how far the wall clock may be behind the brokers'. Beyond it the
	// worker is not ready: a clock that is synchronised is not a second wrong.
	maxBehind = time.Minute
	// allAheadFor is for how long every flow may be received in the future before the
	// worker is not ready, from the first to the last one: one flow says little.
	allAheadFor = time.Minute
)

// A clockCheck finds out that the wall clock is wrong, or that of every ingest. Flows that
// are received in the future move no stream time, so that nothing ends; see maxAhead.
type clockCheck struct {
	// When the first and the last transaction were, ns since the epoch, since which every
	// flow is received in the future; 0: not.
	ahead, last atomic.Int64
}

// committed notes the flows of a transaction, and how many of them were received in the
// future.
func (c *clockCheck) committed(flows, ahead uint64, now time.Time) {
	switch {
	case flows == 0:
	case ahead < flows:
		c.ahead.Store(0)
	default:
		c.ahead.CompareAndSwap(0, now.UnixNano())
		c.last.Store(now.UnixNano())
	}
}

// wrong returns why the clocks are wrong, nil when they are not. The wall clock is behind
// that of the brokers by behind; 0: it is not, or that is not known.
func (c *clockCheck) wrong(behind time.Duration) error {
	if behind > maxBehind {
		return fmt.Errorf("this host's clock is %v behind that of the Kafka brokers: synchronise it (NTP)", behind.Round(time.Second))
	}
	since := c.ahead.Load()
	if since == 0 || time.Duration(c.last.Load()-since) < allAheadFor {
		return nil
	}
	return fmt.Errorf("every flow since %s was received more than %v in the future, so that no connection ends: "+
		"the clock of this host is slow, or that of every ingest is fast: synchronise them (NTP)",
		time.Unix(0, since).UTC().Format(time.RFC3339), maxAhead)
}

// latest returns the latest receive time of a flow that may move stream time. A wall clock
// that is behind the brokers' is not believed.
func (w *Worker) latest() time.Time {
	return w.deps.Now().Add(w.session.Behind() + maxAhead)
}
