package enrich

import (
	"fmt"
	"sync/atomic"
	"time"
)

const (
	// maxBehind limits the lag of the wall clock behind the brokers' clocks. Beyond it the
	// worker is not ready: a synchronised clock is less than a second wrong.
	maxBehind = time.Minute
	// allAheadFor limits the time during which every flow has a receive time in the future,
	// from the first to the last of these flows. After it the worker is not ready. A span is
	// required because a single flow is weak evidence.
	allAheadFor = time.Minute
)

// A clockCheck detects a wrong wall clock, of this host or of every ingest. Flows received in
// the future do not advance stream time, so connections would never end; see maxAhead.
//
// Example: the host is 10 min slow and the brokers' time is not known. Every flow is received 10 min in the future,
// more than maxAhead: stream time stands still, and after a minute of such flows /readyz answers 503.
type clockCheck struct {
	// ahead and last are the times of the first and the last transaction in an unbroken run
	// of transactions all of whose flows were received in the future; ns since the epoch, 0
	// without such a run. Written by the session's goroutine, read by /readyz.
	ahead, last atomic.Int64
}

// committed updates the run of ahead and last after a committed transaction with this number of flows, of which ahead
// were received more than maxAhead in the future. A transaction without flows changes nothing. Only committed
// transactions count, since the flows of an aborted transaction are read again.
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

// wrong returns an error that names the wrong clock, or nil. The wall clock lags the brokers' by behind; 0 if it does
// not, or if the lag is unknown. It is called by /readyz, concurrently with committed: a value read between the two
// stores of committed delays the error by at most a transaction.
func (c *clockCheck) wrong(behind time.Duration) error {
	if behind > maxBehind {
		return fmt.Errorf("this host's clock is %v behind that of the Kafka brokers: synchronise it (NTP)",
			behind.Round(time.Second))
	}
	since := c.ahead.Load()
	if since == 0 || time.Duration(c.last.Load()-since) < allAheadFor {
		return nil
	}
	return fmt.Errorf("every flow since %s was received more than %v in the future, so that no connection ends: "+
		"the clock of this host is slow, or that of every ingest is fast: synchronise them (NTP)",
		time.Unix(0, since).UTC().Format(time.RFC3339), maxAhead)
}

// latest returns the greatest receive time that may advance stream time. It corrects a wall clock that lags the
// brokers', which would reject correct flows. It may decrease when the lag to the brokers is measured anew; stream time
// never does.
func (w *Worker) latest() time.Time {
	return w.deps.Now().Add(w.session.Behind() + maxAhead)
}
