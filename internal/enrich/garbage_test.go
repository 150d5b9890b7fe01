package enrich

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// The wanted values are 25600 MiB / state, within 10 and 100.
func TestGarbageIsLimitedBesideALargeState(t *testing.T) {
	for _, tt := range []struct {
		state int64 // MiB
		want  int
	}{{0, 100}, {256, 100}, {512, 50}, {1024, 25}, {2560, 10}, {8192, 10}} {
		if got := gcPercent(tt.state << 20); got != tt.want {
			t.Errorf("%d MiB of state: want GOGC %d, got %d", tt.state, tt.want, got)
		}
	}
}

func TestTheLimitOfGarbageFollowsTheState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var state atomic.Int64
		var set []int
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			limitGarbage(ctx, state.Load, func(percent int) int { set = append(set, percent); return 100 })
		}()
		for _, mib := range []int64{0, 1024, 1025, 100} {
			state.Store(mib << 20)
			time.Sleep(2 * garbageEvery)
		}
		stop()
		<-ended
		if want := []int{100, 25, 24, 100}; !slices.Equal(set, want) {
			t.Errorf("want GOGC %v, got %v", want, set)
		}
	})
}
