package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"weir/test/simulation/overlay"
)

// Bounds of a run that does not end: in a busy loop no simulated time passes, and no memory is freed.
const (
	runLimit  = 5 * time.Minute
	runMemory = 2 << 30 // octets that are resident
)

// A binary is the test binary of test/simulation, built with the overlay.
type binary struct{ path, dir string }

// build compiles test/simulation of the tree at root.
func build(ctx context.Context, root, to string) (binary, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOROOT", "GOVERSION").Output()
	if err != nil {
		return binary{}, fmt.Errorf("go env: %w", err)
	}
	goroot, version, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	list, err := overlay.Write(goroot, version, filepath.Join(cache, "overlay"))
	if err != nil {
		return binary{}, err
	}
	if to, err = filepath.Abs(to); err != nil {
		return binary{}, err
	}
	cmd := exec.CommandContext(ctx, "go", "test", "-overlay", list, "-tags", "synctests", "-trimpath", "-c", "-o", to, "./test/simulation")
	cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return binary{}, fmt.Errorf("%s: %w\n%s", cmd, err, text)
	}
	return binary{path: to, dir: filepath.Join(root, "test/simulation")}, nil
}

// A run is a seed, or the steps of a case, in a process of its own.
type run struct {
	seed    uint64
	profile string
	plan    string // file for the plan; empty: none
	steps   string // file of a case to run in place of the seed's plan
	log     string // file for the trace
}

// A finding is a broken invariant of a run.
type finding struct{ invariant, text string }

func (f finding) String() string { return f.invariant + ": " + f.text }

// An outcome is the parsed output of a run.
type outcome struct {
	hash     string
	lines    int
	findings []finding
}

// has reports whether an invariant was broken.
func (o outcome) has(invariant string) bool {
	for _, f := range o.findings {
		if f.invariant == invariant {
			return true
		}
	}
	return false
}

// run runs r to its end.
func (b binary) run(ctx context.Context, r run) (outcome, error) {
	args := []string{"-test.run", "^TestReplay$", "-test.timeout", "0", "-first", strconv.FormatUint(r.seed, 10)}
	if r.profile != "" {
		args = append(args, "-profile", r.profile)
	}
	for name, file := range map[string]string{"-plan": r.plan, "-case": r.steps, "-trace": r.log} {
		if file == "" {
			continue
		}
		path, err := filepath.Abs(file)
		if err != nil {
			return outcome{}, err
		}
		args = append(args, name+"="+path)
	}
	cmd := exec.Command(b.path, args...)
	cmd.Dir, cmd.Env = b.dir, overlay.Environment(r.seed)
	text, err := bounded(ctx, cmd, runLimit, runMemory)
	var end *endless
	switch {
	case errors.As(err, &end):
		return outcome{findings: []finding{{"endless", end.describe(r.seed, text)}}}, nil
	case ctx.Err() != nil:
		return outcome{}, fmt.Errorf("seed %d: %w", r.seed, ctx.Err())
	}
	o := parse(text)
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && len(o.findings) == 0:
		// After a panic, or a deadlock of the bubble, the test prints no findings.
		o.findings = []finding{{"crash", lastLines(text, 30)}}
	case err != nil && exit == nil:
		return o, fmt.Errorf("%s: %w", b.path, err)
	case err == nil && o.hash == "":
		return o, fmt.Errorf("seed %d: no TRACE line: is the test's name or its output another?\n%s", r.seed, lastLines(text, 10))
	}
	return o, nil
}

var (
	traceLine   = regexp.MustCompile(`(?m)^TRACE seed \d+: \d+ bytes, (\d+) lines, ([0-9a-f]{64})`)
	findingLine = regexp.MustCompile(`(?m)^FINDING (\w+): (.*)$`)
	// pointers matches pointers, which depend on the machine's number of threads and are left out of the
	// hash.
	pointers = regexp.MustCompile(`0x[0-9a-f]{8,}`)
)

// parse parses the output of the test binary.
func parse(text []byte) outcome {
	var o outcome
	if m := traceLine.FindSubmatch(text); m != nil {
		o.hash = string(m[2])
		o.lines, _ = strconv.Atoi(string(m[1])) // digits
	}
	for _, m := range findingLine.FindAllSubmatch(text, -1) {
		o.findings = append(o.findings, finding{string(m[1]), string(m[2])})
	}
	return o
}

func lastLines(text []byte, n int) string {
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// firstDifference returns the first line in which two traces differ.
func firstDifference(a, b string) (string, error) {
	var lines [2][][]byte
	for i, path := range []string{a, b} {
		text, err := os.ReadFile(path)
		if err != nil {
			return "", err
		}
		lines[i] = bytes.Split(pointers.ReplaceAll(text, []byte("PTR")), []byte("\n"))
	}
	for i := range max(len(lines[0]), len(lines[1])) {
		at := [2]string{"(end)", "(end)"}
		for k := range lines {
			if i < len(lines[k]) {
				at[k] = string(lines[k][i])
			}
		}
		if at[0] != at[1] {
			return fmt.Sprintf("line %d: %q, %q", i+1, at[0], at[1]), nil
		}
	}
	return "the traces are equal, their hashes are not", nil
}
