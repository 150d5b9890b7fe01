//go:build unix

package flowfile

import (
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// Others must not be able to read files of flows, whatever the umask, also after a rotation. A stricter umask
// applies, and an existing file keeps its mode.
func TestFilesAreNotReadableForOthers(t *testing.T) {
	for _, tt := range []struct {
		umask int
		want  fs.FileMode
	}{{0, 0o640}, {0o022, 0o640}, {0o077, 0o600}} {
		dir := t.TempDir()
		before := syscall.Umask(tt.umask)
		w, err := Create(filepath.Join(dir, "flows.jsonl"), Options{Octets: 1})
		if err == nil {
			err = w.Write([]byte(`{"a":1}`))
		}
		if err == nil {
			err = w.Flush() // rotates
		}
		syscall.Umask(before)
		if err != nil {
			t.Fatal(err)
		}
		files, err := os.ReadDir(dir)
		if err != nil || len(files) != 2 {
			t.Fatalf("want two files, got %v, %v", files, err)
		}
		for _, f := range files {
			if s, err := f.Info(); err != nil || s.Mode().Perm() != tt.want {
				t.Errorf("umask %03o: want %v, got %v, %v", tt.umask, tt.want, s.Mode(), err)
			}
		}
	}
	own := filepath.Join(t.TempDir(), "flows.jsonl")
	if err := os.WriteFile(own, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Create(own, Options{}); err != nil {
		t.Fatal(err)
	}
	if s, err := os.Stat(own); err != nil || s.Mode().Perm() != 0o600 {
		t.Errorf("want the operator's own 0600, got %v, %v", s.Mode(), err)
	}
}
