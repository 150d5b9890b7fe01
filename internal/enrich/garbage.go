package enrich

import (
	"context"
	"time"
)

const (
	// garbageOctets is the garbage that may collect beside the pairing state. The runtime's default of 100 %
	// would let the heap grow to twice the state. The state has no pointers, so that a collection beside 4 GiB
	// of it takes no longer than beside little.
	garbageOctets = 256 << 20
	// garbageEvery is the interval at which limitGarbage follows the size of the state.
	garbageEvery = time.Second
	// minGCPercent bounds the number of collections with a large state.
	minGCPercent = 10
	maxGCPercent = 100
)

// gcPercent returns the value of GOGC at which garbageOctets of garbage start a collection, for a state of the
// given octets.
func gcPercent(state int64) int {
	if state <= garbageOctets {
		return maxGCPercent
	}
	return max(minGCPercent, int(100*garbageOctets/state))
}

// limitGarbage calls set (debug.SetGCPercent) with gcPercent of the state, at once and after each change, until ctx
// ends.
func limitGarbage(ctx context.Context, state func() int64, set func(percent int) int) {
	t := time.NewTicker(garbageEvery)
	defer t.Stop()
	for last := 0; ; {
		if percent := gcPercent(state()); percent != last {
			set(percent)
			last = percent
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}
