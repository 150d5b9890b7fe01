// Command cost searches for the most expensive input of ingest: datagrams and TCP messages
// that take the most work, allocations, octets to Kafka and kept heap for each octet
// received. Go's fuzzer follows coverage; this search follows cost. It keeps, for each kind
// of cost and for each function of the code under test, the input for which that is the
// greatest, and mutates those.
//
// Work is counted in executed statements, by the counters that go build -cover puts into
// the code: the same on every machine. Bounds are ratios to honest datagrams of the same
// sizes, measured in the same run.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

func main() {
	os.Exit(run())
}

func run() int {
	seed := flag.Uint64("seed", 1, "seed of the random numbers; the same seed makes the same mutants")
	mutants := flag.Int("mutants", 0, "end after so many mutants; 0: no limit")
	lasts := flag.Duration("for", 10*time.Minute, "end after this time")
	processes := flag.Int("processes", 1, "searches at once: each has a seed of its own, from -seed on, and an equal part of the mutants")
	out := flag.String("out", ".cache/cost", "directory for the inputs that break a bound")
	known := flag.String("known", "", "kinds of cost, with commas, whose bounds are known to be broken: findings do not fail")
	replay := flag.String("replay", "", "measure the input in this file, and end")
	limits := flag.String("limits", "", "measure hostile input of every kind, and put the table into this document")
	flag.Parse()
	if *limits != "" {
		if err := writeLimits(*limits); err != nil {
			return fail(err)
		}
		return 0
	}
	if *processes > 1 {
		return parallel(*processes, *seed, *mutants / *processes, *out)
	}
	m, err := newMeter()
	if err != nil {
		return fail(err)
	}
	fmt.Printf("honest: %.0f statements a datagram and %.2f an octet; %.0f a minute\n", m.perDatagram, m.perOctet, m.perMinute)
	if *replay != "" {
		return again(m, *replay)
	}

	s := newSearch(m, *seed, os.Stdout)
	s.hangs = func(g *genome) {
		path := filepath.Join(*out, "endless.txt")
		err := save(path, &finding{genome: g})
		fmt.Printf("BROKEN: an input of %s takes longer than %v (%v)\n", path, endless, err)
		os.Exit(1)
	}
	err = s.run(func(s *search) bool {
		return *mutants > 0 && s.mutants >= *mutants || time.Since(s.begun) > *lasts
	})
	if err != nil {
		return fail(err)
	}
	for i, f := range s.sorted() {
		if err := s.shrink(f); err != nil {
			return fail(err)
		}
		path := filepath.Join(*out, fmt.Sprintf("%d-%s.txt", i+1, f.metric.name))
		if err := save(path, f); err != nil {
			return fail(err)
		}
		fmt.Printf("BROKEN after %d mutants, %.0f s: %s\n       %s\n", f.mutants, f.after.Seconds(), describe(f.metric, &f.cost), path)
	}
	return status(s.findings, strings.Split(*known, ","))
}

// parallel runs searches in processes of their own: a search measures the whole process. It
// returns the worst of their statuses.
func parallel(n int, seed uint64, mutants int, out string) int {
	running := make([]*exec.Cmd, n)
	for i := range running {
		of := strconv.FormatUint(seed+uint64(i), 10)
		args := append(slices.Clone(os.Args[1:]), "-processes", "1", "-seed", of, "-mutants", strconv.Itoa(mutants), "-out", filepath.Join(out, "seed-"+of))
		running[i] = exec.Command(os.Args[0], args...)
		running[i].Stdout, running[i].Stderr = os.Stdout, os.Stderr
		if err := running[i].Start(); err != nil {
			running = running[:i]
			fail(err)
			break
		}
	}
	worst := 0
	if len(running) < n {
		worst = 2
	}
	for _, c := range running {
		if err := c.Wait(); err != nil {
			worst = max(worst, c.ProcessState.ExitCode(), 1)
		}
	}
	return worst
}

// status returns 1 if a bound is broken that is not listed as known.
func status(findings map[place]*finding, known []string) int {
	for p := range findings {
		if !slices.Contains(known, p.metric) {
			return 1
		}
	}
	fmt.Printf("no input breaks a bound that is not known to be broken; findings of those: %d\n", len(findings))
	return 0
}

func fail(err error) int {
	fmt.Fprintln(os.Stderr, "cost:", err)
	return 2
}

// again measures the input in a file.
func again(m *meter, path string) int {
	packets, err := load(path)
	if err != nil {
		return fail(err)
	}
	c, err := m.explain(packets)
	if err != nil {
		return fail(err)
	}
	code := 0
	for i := range metrics {
		if metrics[i].score(&c) > 1 {
			code = 1
		}
		fmt.Println(describe(&metrics[i], &c))
	}
	return code
}
