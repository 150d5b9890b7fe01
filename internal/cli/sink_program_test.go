package cli

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// weir sink sqlite runs in a foreign directory that has a module named weir and a program of the expected name.
func TestTheSinksProgramIsNeverTakenFromTheCurrentDirectory(t *testing.T) {
	strange, path := t.TempDir(), t.TempDir()
	write := func(name, text string, mode os.FileMode) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	write(filepath.Join(strange, "go.mod"), "module weir\n\ngo 1.26\n", 0o600)
	write(filepath.Join(strange, "cmd/weir-sqlite/main.go"), "package main\n\nfunc main() { println(\"strange\") }\n", 0o600)
	write(filepath.Join(strange, "weir-sqlite"), "#!/bin/sh\necho strange >&2\n", 0o700)
	for _, tt := range []struct {
		name, path string
		code       int
		want       string
	}{
		{"no program", os.Getenv("PATH"), 2, "go build -o bin/ ./cmd/weir ./cmd/weir-sqlite"},
		{"the current directory in PATH", ".:" + os.Getenv("PATH"), 2, "go build -o bin/ ./cmd/weir ./cmd/weir-sqlite"},
		{"a program in PATH", path, 7, "ours with talks.db --once\n"},
	} {
		write(filepath.Join(path, "weir-sqlite"), "#!/bin/sh\necho ours with $* >&2\nexit 7\n", 0o700)
		cmd := exec.CommandContext(t.Context(), os.Args[0], "sink", "sqlite", "talks.db", "--once")
		cmd.Dir = strange
		cmd.Env = append(os.Environ(), asWeir+"=1", "PATH="+tt.path, "GOFLAGS=-mod=mod", "GOWORK=off")
		out, _ := cmd.CombinedOutput() // the test checks the exit code
		if code := cmd.ProcessState.ExitCode(); code != tt.code || !strings.Contains(string(out), tt.want) || strings.Contains(string(out), "strange") {
			t.Errorf("%s: want exit code %d and %q, got %d: %s", tt.name, tt.code, tt.want, code, out)
		}
	}
}

// Windows cannot replace the program of a process: weir sink is the parent of weir-sqlite there.
func TestAChildsExitCodeIsReturned(t *testing.T) {
	dir := t.TempDir()
	for name, tt := range map[string]struct {
		script string
		code   int
		failed bool
	}{
		"done":    {"#!/bin/sh\nexit 0\n", 0, false},
		"wrong":   {"#!/bin/sh\n[ \"$1 $2\" = \"talks.db --once\" ] && exit 2\n", 2, false},
		"killed":  {"#!/bin/sh\nkill -9 $$\n", 1, true},
		"garbage": {"\x00", 1, true},
	} {
		program := filepath.Join(dir, name)
		if err := os.WriteFile(program, []byte(tt.script), 0o700); err != nil {
			t.Fatal(err)
		}
		code, err := runChild(program, []string{"talks.db", "--once"})
		if code != tt.code || (err != nil) != tt.failed {
			t.Errorf("%s: exit code %d, %v; want %d, an error: %v", name, code, err, tt.code, tt.failed)
		}
	}
}
