// Command replay works with the deterministic build of test/simulation: a test binary with the runtime of
// test/simulation/overlay, whose runs with one seed are equal.
//
//	replay check -seeds 1,2        runs each seed twice and compares log lines and records
//	replay shrink -seed 7          removes steps from a failing seed's plan, and writes the rest as a case
//	replay mutants                 undoes mends, one at a time, and counts the seeds until the search finds each
//
// It is run from the root of the repository: make simulation-replay, simulation-shrink, simulation-mutants.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"weir/test/simulation/overlay"
)

// cache is the directory of binaries, logs and shrunk cases.
const cache = ".cache/simulation"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command(ctx, os.Args[1:])
	stop()
	switch {
	case err == nil:
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	case errors.Is(err, overlay.ErrDoesNotFit) && os.Getenv("CI") == "":
		fmt.Fprintf(os.Stderr, "SKIPPED: simulated runs cannot be repeated bit for bit with this Go:\n%v\n", err)
	default:
		fmt.Fprintln(os.Stderr, "replay:", err)
		os.Exit(1)
	}
}

func command(ctx context.Context, args []string) error {
	usage := errors.New("want a command: check, search, shrink or mutants")
	if len(args) == 0 {
		return usage
	}
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	profile := flags.String("profile", "", "profile of the simulation; empty: the test's default")
	switch args[0] {
	case "check":
		seeds := flags.String("seeds", "1,2", "comma separated")
		runs := flags.Int("runs", 2, "runs of each seed")
		if err := flags.Parse(args[1:]); err != nil {
			return err
		}
		list, err := parseSeeds(*seeds)
		if err != nil {
			return err
		}
		return check(ctx, *profile, list, *runs)
	case "search":
		o := searchOptions{profile: profile}
		flags.IntVar(&o.seeds, "seeds", 300, "how many")
		flags.Uint64Var(&o.first, "first", 1, "the first seed")
		flags.IntVar(&o.processes, "processes", 2, "runs at once")
		if err := flags.Parse(args[1:]); err != nil {
			return err
		}
		return search(ctx, o)
	case "shrink":
		seed := flags.Uint64("seed", 0, "a seed with a finding")
		tries := flags.Int("tries", 1000, "runs at most")
		name := flags.String("name", "", "name of the case; empty: made of the finding and the seed")
		if err := flags.Parse(args[1:]); err != nil {
			return err
		}
		return shrinkSeed(ctx, *profile, *seed, *tries, *name)
	case "mutants":
		seeds := flags.Int("seeds", 500, "seeds tried for each mutant")
		only := flags.String("only", "", "names of mutants, comma separated; empty: all")
		doc := flags.String("doc", "", "document whose table of mutants is written")
		processes := flags.Int("processes", 2, "runs at once")
		if err := flags.Parse(args[1:]); err != nil {
			return err
		}
		return mutants(ctx, mutantOptions{seeds: *seeds, only: *only, doc: *doc, processes: *processes})
	default:
		return usage
	}
}

// parseSeeds reads a list of seeds.
func parseSeeds(s string) ([]uint64, error) {
	var all []uint64
	for text := range strings.SplitSeq(s, ",") {
		n, err := strconv.ParseUint(strings.TrimSpace(text), 10, 64)
		if err != nil {
			return nil, fmt.Errorf("-seeds %s: %q is not a number", s, text)
		}
		all = append(all, n)
	}
	return all, nil
}

// check runs each seed several times and compares the hashes of its traces.
func check(ctx context.Context, profile string, seeds []uint64, runs int) error {
	b, err := build(ctx, ".", filepath.Join(cache, "simulation.test"))
	if err != nil {
		return err
	}
	var errs []error
	for _, seed := range seeds {
		same, err := b.same(ctx, run{seed: seed, profile: profile}, runs)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		fmt.Printf("seed %d: %d runs are equal: %d log lines and records, SHA-256 %s\n", seed, runs, same.lines, same.hash)
		for _, f := range same.findings {
			fmt.Printf("seed %d: %v\n", seed, f)
		}
	}
	return errors.Join(errs...)
}

// same runs r n times and returns the common outcome, or an error with the first line that differs.
func (b binary) same(ctx context.Context, r run, n int) (outcome, error) {
	var first outcome
	for i := range n {
		r.log = filepath.Join(cache, fmt.Sprintf("log-%d", r.seed)) // equal for all: the length of arguments moves the heap
		o, err := b.run(ctx, r)
		if err != nil {
			return first, err
		}
		kept := fmt.Sprintf("%s.%d", r.log, i+1)
		if err := os.Rename(r.log, kept); err != nil {
			return first, err
		}
		switch {
		case i == 0:
			first = o
		case o.hash != first.hash:
			line, err := firstDifference(r.log+".1", kept)
			if err != nil {
				return first, err
			}
			return first, fmt.Errorf("seed %d: runs 1 and %d differ (%s.1, %s): %s", r.seed, i+1, r.log, kept, line)
		default:
			_ = os.Remove(kept) // it is equal to the first
		}
	}
	return first, nil
}
