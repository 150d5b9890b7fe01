package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

const tag = "integration"

// grace is the time after the bound in which a test's own time-out must have ended its process.
const grace = 20 * time.Second

// A runner runs tests in sequence.
type runner struct {
	out     io.Writer
	dir     string // of the module
	pattern string // of the names of tests, as go test -run
	bound   time.Duration
}

// An outcome is the end of a test, or of the build of a package.
type outcome struct {
	name  string // package and test
	state string // ok, skip, FAIL or HANG
	took  time.Duration
}

// run runs the tests of packages, and reports whether any failed. An error says why tests could not be run at all.
func (r *runner) run(ctx context.Context, packages []string) (failed bool, err error) {
	found, err := r.tagged(ctx, packages)
	if err != nil {
		return true, err
	}
	if len(found) == 0 {
		return true, fmt.Errorf("no package has tests with build tag %s", tag)
	}
	tmp, err := os.MkdirTemp("", "integration")
	if err != nil {
		return true, err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	var all []outcome
	for _, p := range found {
		all = append(all, r.runPackage(ctx, p, tmp)...)
	}
	if len(all) == 0 {
		return true, fmt.Errorf("no test with build tag %s matches %q", tag, r.pattern)
	}
	fmt.Fprintln(r.out, "\n=== tests")
	for _, o := range all {
		fmt.Fprintf(r.out, "%-4s  %s (%.0f s)\n", o.state, o.name, o.took.Seconds())
		failed = failed || o.state != "ok" && o.state != "skip"
	}
	return failed, ctx.Err()
}

// A pkg is the part of the output of go list that a runner uses.
type pkg struct {
	ImportPath   string
	Dir          string
	TestGoFiles  []string
	XTestGoFiles []string
}

// tagged returns the packages with test files that need the build tag.
func (r *runner) tagged(ctx context.Context, packages []string) ([]pkg, error) {
	if len(packages) == 0 {
		packages = []string{"./..."}
	}
	// -e: without the tag, a package may have no file at all.
	without, err := r.list(ctx, append([]string{"-e"}, packages...))
	if err != nil {
		return nil, err
	}
	files := map[string]int{}
	for _, p := range without {
		files[p.ImportPath] = len(p.TestGoFiles) + len(p.XTestGoFiles)
	}
	with, err := r.list(ctx, append([]string{"-tags", tag}, packages...))
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(with, func(p pkg) bool {
		return len(p.TestGoFiles)+len(p.XTestGoFiles) == files[p.ImportPath]
	}), nil
}

func (r *runner) list(ctx context.Context, args []string) (all []pkg, err error) {
	cmd := exec.CommandContext(ctx, "go", append([]string{"list", "-json=ImportPath,Dir,TestGoFiles,XTestGoFiles"}, args...)...)
	cmd.Dir = r.dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	text, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w: %s", err, bytes.TrimSpace(stderr.Bytes()))
	}
	for dec := json.NewDecoder(bytes.NewReader(text)); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, fmt.Errorf("go list: %w", err)
		}
		all = append(all, p)
	}
}

// runPackage builds the tests of a package and runs each that the pattern selects.
func (r *runner) runPackage(ctx context.Context, p pkg, tmp string) (all []outcome) {
	began := time.Now()
	failed := func(err error, output []byte) []outcome {
		fmt.Fprintf(r.out, "%s: %v\n%s", p.ImportPath, err, output)
		return []outcome{{p.ImportPath, "FAIL", time.Since(began)}}
	}
	binary := filepath.Join(tmp, strings.ReplaceAll(p.ImportPath, "/", "_")+".test")
	build := exec.CommandContext(ctx, "go", "test", "-c", "-tags", tag, "-o", binary, p.ImportPath)
	build.Dir = r.dir
	if output, err := build.CombinedOutput(); err != nil {
		return failed(err, output)
	}
	list := exec.CommandContext(ctx, binary, "-test.list", r.pattern)
	list.Dir = p.Dir
	names, err := list.CombinedOutput()
	if err != nil {
		return failed(err, names)
	}
	for name := range strings.FieldsSeq(string(names)) {
		if !strings.HasPrefix(name, "Test") || ctx.Err() != nil {
			continue // an example, a benchmark or a fuzz target; or interrupted
		}
		all = append(all, r.runTest(ctx, p, binary, name))
	}
	return all
}

// runTest runs a test in a process group of its own, and kills what is left of the group afterwards: a test that
// panics at its bound leaves Kafka's nodes and the services that it started.
func (r *runner) runTest(ctx context.Context, p pkg, binary, name string) outcome {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, r.bound+grace)
	defer cancel()
	var output bytes.Buffer
	cmd := exec.CommandContext(ctx, binary, "-test.run", "^"+name+"$", "-test.v", "-test.count", "1", "-test.timeout", r.bound.String())
	cmd.Dir = p.Dir
	cmd.Stdout = io.MultiWriter(r.out, &output)
	cmd.Stderr = cmd.Stdout
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = time.Second // its children may hold the pipe open
	killGroup := func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.Cancel = killGroup
	err := cmd.Run()
	if cmd.Process != nil {
		_ = killGroup() // ESRCH: nothing is left
	}
	state := "ok"
	switch {
	case bytes.Contains(output.Bytes(), []byte("panic: test timed out after ")) || ctx.Err() != nil:
		state = "HANG"
	case err != nil && !errors.Is(err, exec.ErrWaitDelay), !passed(output.Bytes(), name): // status 0 of the process is not enough
		state = "FAIL"
	case bytes.Contains(output.Bytes(), []byte("--- SKIP: "+name+" ")):
		state = "skip"
	}
	if state != "ok" && state != "skip" {
		why := cmp.Or(ctx.Err(), err, errors.New("its process ended before the test"))
		fmt.Fprintf(r.out, "%s %s: %v\n", p.ImportPath, name, why)
	}
	return outcome{p.ImportPath + " " + name, state, time.Since(began)}
}

// passed reports whether the output says that the test ended well.
func passed(output []byte, name string) bool {
	return bytes.Contains(output, []byte("--- PASS: "+name+" ")) || bytes.Contains(output, []byte("--- SKIP: "+name+" "))
}
