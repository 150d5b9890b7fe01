//go:build unix

package sqlite

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"weir/internal/cli/sink"
)

// Others must not be able to read the database and its -wal, -shm and -lock files.
func TestFilesAreNotReadableForOthers(t *testing.T) {
	dir := t.TempDir()
	before := syscall.Umask(0)
	s := open(t, filepath.Join(dir, "talks.db"), "connections", sink.Options{})
	begin(t, s, "id", map[int32]int64{0: 0})
	write(t, s, sink.Record{})
	syscall.Umask(before)
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 4 {
		t.Fatalf("want the file, its log, its index and the lock, got %v, %v", files, err)
	}
	for _, f := range files {
		if i, err := f.Info(); err != nil || i.Mode().Perm() != 0o640 {
			t.Errorf("%s: want 0640, got %v, %v", f.Name(), i.Mode(), err)
		}
	}
}
