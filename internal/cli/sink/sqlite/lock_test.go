package sqlite

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weir/internal/cli/sink"
	"weir/internal/weirtest/locked"
)

// The first writer must go on, and a writer that was killed must not block its successor.
func TestASecondWriterOfATopicIsRefusedAtItsStart(t *testing.T) {
	cl := onBroker(t)
	path := filepath.Join(t.TempDir(), "f.db")
	putFlows(t, cl, 0, 0, 3)
	out := &locked.Buffer{}
	first := exec.CommandContext(t.Context(), os.Args[0], path, "--topic", "flows")
	first.Env = append(os.Environ(), asProgram+"=1")
	first.Stderr = out
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	wait := func(want string) {
		t.Helper()
		for began := time.Now(); rowsAndDistinct(t, path) != want; time.Sleep(10 * time.Millisecond) {
			if time.Since(began) > 30*time.Second {
				t.Fatalf("want %s rows, got %s: %s", want, rowsAndDistinct(t, path), out.String())
			}
		}
	}
	wait("3|3")
	link := filepath.Join(t.TempDir(), "link.db")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{path, link} {
		var errout bytes.Buffer
		code := program([]string{p, "--topic", "flows", "--once"}, io.Discard, &errout)
		if want := "another process writes this topic into this file"; code != 1 || !strings.Contains(errout.String(), want) {
			t.Errorf("%s: exit code %d, want 1 and %q: %s", p, code, want, errout.String())
		}
	}
	var errout bytes.Buffer
	if code := program([]string{path, "--once"}, io.Discard, &errout); code != 0 { // the other topic
		t.Errorf("connections: exit code %d: %s", code, errout.String())
	}
	putFlows(t, cl, 0, 3, 5)
	wait("5|5")
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = first.Wait()
	errout.Reset()
	if code := program([]string{path, "--topic", "flows", "--once"}, io.Discard, &errout); code != 0 {
		t.Errorf("after the end of the first: exit code %d: %s", code, errout.String())
	}
}

func TestTheLockIsReleasedByClose(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.db")
	o := sink.Options{Path: path, Rows: "connections", Topic: "netflow.connections"}
	a, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), o); !errors.Is(err, ErrLocked) {
		t.Errorf("want ErrLocked, got %v", err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}
