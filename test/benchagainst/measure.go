package main

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// run runs the benchmarks of a pattern for a number of iterations. It returns their output and the
// CPU time of the process.
func (b binary) run(ctx context.Context, pattern string, iterations int) (out string, cpu time.Duration, err error) {
	cmd := exec.CommandContext(ctx, b.path, "-test.run", "^$", "-test.bench", pattern, "-test.count", "1",
		"-test.cpu", "1", "-test.benchtime", strconv.Itoa(iterations)+"x")
	cmd.Dir = b.dir
	text, err := cmd.CombinedOutput()
	if err != nil {
		return "", 0, fmt.Errorf("%s -test.bench %s: %w: %s", b.path, pattern, err, text)
	}
	return string(text), cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), nil
}

var resultLine = regexp.MustCompile(`(?m)^(Benchmark\S+)\s+\d+\s`)

// names returns the benchmarks with results in an output.
func names(out string) (all []string) {
	for _, m := range resultLine.FindAllStringSubmatch(out, -1) {
		all = append(all, m[1])
	}
	return all
}

// exactly returns the pattern that matches only this benchmark.
func exactly(name string) string {
	parts := strings.Split(name, "/")
	for i := range parts {
		parts[i] = "^" + regexp.QuoteMeta(parts[i]) + "$"
	}
	return strings.Join(parts, "/")
}

// cpu returns the CPU time of n iterations, without the time before the first.
func (p *pair) cpu(ctx context.Context, b binary, n int) (time.Duration, error) {
	_, whole, err := b.run(ctx, p.pattern, n)
	if err != nil {
		return 0, err
	}
	_, before, err := b.run(ctx, p.pattern, 1)
	return whole - before, err
}

// calibrate returns the number of iterations that take about d.
func (p *pair) calibrate(ctx context.Context, d time.Duration) (n int, err error) {
	for n = 100; n < 1<<30; n *= 10 {
		cpu, err := p.cpu(ctx, p.of[1], n)
		if err != nil {
			return 0, err
		}
		if cpu > d/5 {
			return max(1, int(float64(n)*float64(d)/float64(cpu))), nil
		}
	}
	return n, nil
}

// A result holds the ratios of the rounds, this tree to the base, in ascending order.
type result struct {
	ratios []float64
	item   float64 // median CPU time of an item in this tree, ns
}

// measure compares a benchmark in rounds, in which the trees take turns at being first. An
// undecided benchmark gets more rounds.
func (p *pair) measure(ctx context.Context, o options) (r result, err error) {
	n, err := p.calibrate(ctx, o.per)
	if err != nil {
		return r, err
	}
	var items []float64
	for round := 0; round < o.rounds || round < o.most && r.verdict(o.limit) == undecided; round++ {
		var cpu [2]time.Duration
		for turn := range 2 {
			side := (round + turn) % 2
			if cpu[side], err = p.cpu(ctx, p.of[side], n); err != nil {
				return r, err
			}
		}
		if cpu[0] <= 0 || cpu[1] <= 0 { // the run of one iteration was disturbed
			continue
		}
		r.ratios = append(r.ratios, float64(cpu[1])/float64(cpu[0]))
		items = append(items, float64(cpu[1])/float64(n))
		slices.Sort(r.ratios)
	}
	if len(items) > 0 {
		slices.Sort(items)
		r.item = items[len(items)/2]
	}
	return r, nil
}

// interval returns the bounds that contain the median of the ratios with a probability of at least
// 95 %. They are order statistics of the binomial distribution, so that single disturbed rounds do
// not count. With fewer than 10 usable rounds, as on a busy machine, it returns no bounds.
func (r *result) interval() (low, high float64) {
	n := len(r.ratios)
	if n < 10 {
		return 0, math.Inf(1)
	}
	rank := 0 // of the lower bound, from 0
	for tail, p := 0.0, math.Pow(0.5, float64(n)); ; rank++ {
		tail += p // P(at most rank ratios are below the median)
		if tail > 0.025 {
			break
		}
		p *= float64(n-rank) / float64(rank+1)
	}
	return r.ratios[rank-1], r.ratios[n-rank]
}

const (
	ok        = "ok"
	undecided = "undecided"
	tooSlow   = "SLOWER"
)

// verdict compares the interval with a limit, percent.
func (r *result) verdict(limit float64) string {
	low, high := r.interval()
	switch most := 1 + limit/100; {
	case low > most:
		return tooSlow
	case high <= most:
		return ok
	}
	return undecided
}

func (r *result) line(name string, limit float64) string {
	low, high := r.interval()
	if len(r.ratios) == 0 {
		return fmt.Sprintf("%-40s no usable round  %s", name, undecided)
	}
	percent := func(ratio float64) float64 { return 100 * (ratio - 1) }
	var b bytes.Buffer
	fmt.Fprintf(&b, "%-40s %9.0f ns  %+6.1f %%  (%+.1f to %+.1f, %d rounds)  %s", name, r.item,
		percent(r.ratios[len(r.ratios)/2]), percent(low), percent(high), len(r.ratios), r.verdict(limit))
	return b.String()
}
