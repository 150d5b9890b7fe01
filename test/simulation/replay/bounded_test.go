package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestMain also runs the processes of the tests below: this binary, with a variable that names the behaviour.
func TestMain(m *testing.M) {
	switch os.Getenv("WEIR_TEST_BOUNDED") {
	case "loop":
		for {
			time.Sleep(time.Millisecond)
		}
	case "allocate":
		var all [][]byte
		for {
			b := make([]byte, 1<<20)
			for i := range b {
				b[i] = 1 // a page that nothing was written to is not resident
			}
			all = append(all, b)
			time.Sleep(time.Millisecond * time.Duration(len(all)/1000)) // slower once it is beyond every bound
		}
	case "end":
		_, _ = os.Stdout.WriteString("TRACE\n")
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func TestAProcessThatDoesNotEndIsEndedWithItsStacks(t *testing.T) {
	for _, c := range []struct {
		does, want string
		limit      time.Duration
		memory     int64
	}{
		{"loop", "has not ended after 100ms", 100 * time.Millisecond, 1 << 40},
		{"allocate", "of 200 that it may have", time.Hour, 200 << 20},
	} {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "WEIR_TEST_BOUNDED="+c.does)
		text, err := bounded(t.Context(), cmd, c.limit, c.memory)
		var end *endless
		if !errors.As(err, &end) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v: want an error with %q", c.does, err, c.want)
		}
		// Go has no stack of a goroutine that runs on another thread at that moment, but names it.
		if !strings.Contains(string(text), "SIGQUIT") || !strings.Contains(string(text), "\ngoroutine 1 ") {
			t.Errorf("%s: goroutine 1 is not in:\n%s", c.does, text)
		}
	}
}

func TestAProcessThatEndsIsNotEndless(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "WEIR_TEST_BOUNDED=end")
	text, err := bounded(t.Context(), cmd, time.Hour, 1<<40)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 || string(text) != "TRACE\n" {
		t.Errorf("%q, %v: want the output of the process, and status 1", text, err)
	}
}

func TestAProcessEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "WEIR_TEST_BOUNDED=loop")
	var end *endless
	if _, err := bounded(ctx, cmd, time.Hour, 1<<40); err == nil || errors.As(err, &end) {
		t.Errorf("%v: want the process killed", err)
	}
}
