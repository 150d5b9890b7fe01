package main

import (
	"context"
	"fmt"
	"path/filepath"
	"sync/atomic"
)

type searchOptions struct {
	profile   *string
	seeds     int
	first     uint64
	processes int
}

// progressEvery is after how many seeds a search says how far it is.
const progressEvery = 50

// search runs each seed once in the repeatable build and fails at the first finding: the
// same commit gives the same answer on every machine.
func search(ctx context.Context, o searchOptions) error {
	if o.seeds < 1 || o.processes < 1 {
		return fmt.Errorf("-seeds %d -processes %d: want at least 1", o.seeds, o.processes)
	}
	b, err := build(ctx, ".", filepath.Join(cache, "simulation.test"))
	if err != nil {
		return err
	}
	var done atomic.Int64
	n, found, err := firstFinding(o.seeds, o.processes, func(n uint64) (finding, error) {
		got, err := b.run(ctx, run{seed: o.first + n - 1, profile: *o.profile})
		if k := done.Add(1); k%progressEvery == 0 || k == int64(o.seeds) {
			fmt.Printf("%d of %d seeds\n", k, o.seeds)
		}
		if err != nil || len(got.findings) == 0 {
			return finding{}, err
		}
		return got.findings[0], nil
	})
	if err == nil && n != 0 {
		seed := o.first + n - 1
		return fmt.Errorf("seed %d: %v\nmake simulation-shrink SEED=%d PROFILE=%s removes steps while that finding stays", seed, found, seed, *o.profile)
	}
	return err
}
