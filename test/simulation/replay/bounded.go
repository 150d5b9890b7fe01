package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// An endless error names the bound that a process exceeded.
type endless struct{ bound string }

func (e *endless) Error() string { return "the process " + e.bound }

// describe returns the text of the finding, and writes the output of the process, with its stacks, to a file.
func (e *endless) describe(seed uint64, text []byte) string {
	path := filepath.Join(cache, fmt.Sprintf("endless-%d.txt", seed))
	if err := os.WriteFile(path, text, 0o600); err != nil {
		return fmt.Sprintf("%v; its stacks are not kept: %v", e, err)
	}
	return fmt.Sprintf("%v: does something ask again and again at one instant? Its stacks are in %s", e, path)
}

const (
	watchEvery = 200 * time.Millisecond
	quitWithin = 20 * time.Second // for the stacks of all goroutines
)

// bounded runs cmd and returns its output. A process that runs for longer than limit, or has more than memory
// octets resident, gets SIGQUIT, upon which Go prints the stacks of all goroutines; the error is then an
// *endless. When ctx ends, the process is killed.
func bounded(ctx context.Context, cmd *exec.Cmd, limit time.Duration, memory int64) ([]byte, error) {
	var printed bytes.Buffer
	cmd.Stdout, cmd.Stderr = &printed, &printed
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ended := make(chan struct{})
	var status error // of the process, once it has ended
	go func() {
		defer close(ended)
		status = cmd.Wait()
	}()
	over := time.After(limit)
	look := time.NewTicker(watchEvery)
	defer look.Stop()
	for {
		var bound string
		select {
		case <-ended:
			return printed.Bytes(), status
		case <-ctx.Done():
			_ = cmd.Process.Kill() // it may have ended
			<-ended
			return nil, ctx.Err()
		case <-over:
			bound = fmt.Sprintf("has not ended after %v", limit)
		case <-look.C:
			n := resident(cmd.Process.Pid)
			if n <= memory {
				continue
			}
			bound = fmt.Sprintf("has %d MiB of memory, of %d that it may have", n>>20, memory>>20)
		}
		quit(cmd.Process, ended)
		return printed.Bytes(), &endless{bound}
	}
}

// quit ends a process by SIGQUIT, or by SIGKILL if it does not react.
func quit(p *os.Process, ended <-chan struct{}) {
	_ = p.Signal(syscall.SIGQUIT) // it may have ended
	select {
	case <-ended:
	case <-time.After(quitWithin):
		_ = p.Kill()
		<-ended
	}
}

// resident returns the resident octets of a process: the second field of statm of proc(5), in pages. It is 0
// if there is no such file.
func resident(pid int) int64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0
	}
	fields := bytes.Fields(text)
	if len(fields) < 2 {
		return 0
	}
	pages, err := strconv.ParseInt(string(fields[1]), 10, 64)
	if err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}
