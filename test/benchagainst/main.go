// Benchagainst compares the CPU time per item of the benchmarks of the hot paths
// between this tree and another commit:
//
//	go run ./test/benchagainst -base b879fb6
//
// The benchmark binaries of both are built, then run in turn, a process at a
// time, for at least 10 rounds. An item is one iteration of the benchmark; its
// CPU time is the user and system time of the whole process, all threads, for a
// fixed number of iterations, less that of a run of one iteration. A verdict
// comes from the 95 % interval of the median of the ratios of the rounds.
//
// The exit code is 1 when any benchmark is slower than the limit, 2 when the
// comparison could not be run, else 0; a benchmark whose interval holds the limit
// is undecided, and said to be.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

// A suite holds the compared benchmarks of a package.
type suite struct {
	module, pkg string // directories: the module's below the tree, the package's below the module
	bench       string // pattern of benchmark names
	lend        string // file of this tree that an older tree may lack
}

// suites are the hot paths: decoding, receiving, producing, pairing.
var suites = []suite{
	{".", "internal/decode", "^(BenchmarkWire|BenchmarkWireMany|BenchmarkWireVariable)$", ""},
	{".", "internal/templates", "^BenchmarkPlan$", ""},
	{".", "internal/templates", "^BenchmarkPlanOfMany$/^1000$", ""},
	{".", "internal/ingest", "^BenchmarkReceive$", "receive_bench_test.go"},
	{".", "internal/kafka", "^BenchmarkProduce$", ""},
	{".", "internal/pair", "^BenchmarkObserve$/^10000_held$", ""},
	{".", "internal/enrich", "^(BenchmarkReadFlow|BenchmarkAppendConnection)$", ""},
	{"bench", ".", "^BenchmarkIngest$", ""},
}

type options struct {
	base      string
	limit     float64 // percent
	rounds    int
	most      int
	per       time.Duration
	only      *regexp.Regexp
	tree, tmp string
}

func main() {
	o := options{}
	flag.StringVar(&o.base, "base", "", "commit to compare with (required)")
	flag.Float64Var(&o.limit, "limit", 3, "how much slower a benchmark may be, percent")
	flag.IntVar(&o.rounds, "rounds", 12, "rounds for each benchmark, at least 10")
	flag.IntVar(&o.most, "most", 36, "rounds at most, for a benchmark that is undecided")
	flag.DurationVar(&o.per, "time", 300*time.Millisecond, "CPU time of one measurement")
	only := flag.String("only", ".", "regular expression of the benchmarks to compare")
	flag.Parse()
	var err error
	if o.only, err = regexp.Compile(*only); err != nil || o.base == "" || o.rounds < 10 || flag.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "benchagainst: want -base COMMIT, -rounds of 10 or more, and -only a regular expression")
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	slower, err := compare(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "benchagainst:", err)
		os.Exit(2)
	}
	if slower {
		os.Exit(1)
	}
}

// compare builds both trees and prints a line per benchmark.
func compare(ctx context.Context, o options) (slower bool, err error) {
	if o.tree, err = git(ctx, ".", "rev-parse", "--show-toplevel"); err != nil {
		return false, err
	}
	commit, err := git(ctx, o.tree, "rev-parse", "--short", "--verify", o.base+"^{commit}")
	if err != nil {
		return false, fmt.Errorf("no commit %s in this clone: %w", o.base, err)
	}
	if o.tmp, err = os.MkdirTemp("", "benchagainst-"); err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(o.tmp)) }()
	old := filepath.Join(o.tmp, "tree")
	if _, err := git(ctx, o.tree, "worktree", "add", "--detach", "--force", old, commit); err != nil {
		return false, err
	}
	defer func() { // ctx may have ended
		_, e := git(context.WithoutCancel(ctx), o.tree, "worktree", "remove", "--force", old)
		err = errors.Join(err, e)
	}()
	fmt.Printf("CPU per item against %s; limit %g %%, median of at least %d rounds, 95 %% interval\n", commit, o.limit, o.rounds)
	verdicts := map[string]int{}
	for _, s := range suites {
		pairs, err := build(ctx, o, s, old)
		if err != nil {
			return false, err
		}
		for _, p := range pairs {
			r, err := p.measure(ctx, o)
			if err != nil {
				return false, err
			}
			fmt.Println(r.line(p.name, o.limit))
			verdicts[r.verdict(o.limit)]++
		}
	}
	fmt.Printf("%d ok, %d undecided, %d slower\n", verdicts[ok], verdicts[undecided], verdicts[tooSlow])
	if verdicts[ok]+verdicts[undecided]+verdicts[tooSlow] == 0 {
		return false, errors.New("no benchmark matches")
	}
	return verdicts[tooSlow] > 0, nil
}

func git(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("git %s: %w: %s", args[0], err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

// A binary is the test binary of a package in a tree.
type binary struct{ path, dir string }

// A pair is a benchmark in both trees, the base first.
type pair struct {
	name    string // as printed
	pattern string // that matches it alone
	of      [2]binary
}

// build makes the test binaries of a suite and returns the benchmarks that both
// trees have.
func build(ctx context.Context, o options, s suite, old string) ([]*pair, error) {
	name := strings.ReplaceAll(filepath.Join(s.module, s.pkg), "/", "_")
	var of [2]binary
	var benchmarks [2][]string
	for i, tree := range []string{old, o.tree} {
		module := filepath.Join(tree, s.module)
		b := binary{filepath.Join(o.tmp, fmt.Sprint(name, i, ".test")), filepath.Join(module, s.pkg)}
		if i == 0 && s.lend != "" {
			if err := lend(filepath.Join(o.tree, s.module, s.pkg, s.lend), b.dir); err != nil {
				return nil, err
			}
		}
		cmd := exec.CommandContext(ctx, "go", "test", "-c", "-o", b.path, "./"+s.pkg)
		cmd.Dir = module
		if out, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("go test -c %s in %s: %w: %s", s.pkg, module, err, out)
		}
		if _, err := os.Stat(b.path); err != nil {
			return nil, fmt.Errorf("%s in %s has no tests: %w", s.pkg, module, err)
		}
		of[i] = b
		out, _, err := b.run(ctx, s.bench, 1)
		if err != nil {
			return nil, err
		}
		benchmarks[i] = names(out)
	}
	var pairs []*pair
	for _, n := range benchmarks[1] {
		full := strings.TrimPrefix(filepath.Join(s.module, s.pkg), "internal/") + " " + strings.TrimPrefix(n, "Benchmark")
		switch {
		case !o.only.MatchString(full):
		case !slices.Contains(benchmarks[0], n):
			fmt.Printf("%-44s not in the base\n", full)
		default:
			pairs = append(pairs, &pair{name: full, pattern: exactly(n), of: of})
		}
	}
	return pairs, nil
}

// lend copies a benchmark file to a tree that lacks it.
func lend(from, dir string) error {
	to := filepath.Join(dir, filepath.Base(from))
	if _, err := os.Stat(to); err == nil {
		return nil
	}
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o600)
}
