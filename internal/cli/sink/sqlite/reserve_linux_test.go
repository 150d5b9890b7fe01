package sqlite

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"weir/internal/cli/sink"
)

// On a file system without a free block the deletion itself has no room: the write-ahead log cannot grow, and the
// checkpoint cannot write into a longer file.
func TestRowsAreDeletedFromAFullFileSystem(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=17m"); err != nil {
		t.Skipf("SKIPPED: a small file system needs the right to mount: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, 0) })
	s, err := Open(t.Context(), sink.Options{
		Path: filepath.Join(dir, "f.db"), Rows: "flows", Topic: "netflow.flows", Keep: time.Hour,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	begin(t, s, "id", map[int32]int64{0: 0})
	const each = 2000
	n := 0
	for round := range 2 { // the reserve must be filled again
		start := n
		for err = nil; err == nil && n < start+100*each; n += each {
			_, _, err = s.Write(t.Context(), flowRecords(t, n, each))
		}
		if !errors.Is(err, sink.ErrFull) {
			t.Fatalf("round %d: want ErrFull, got %v", round, err)
		}
		n -= each
		if deleted, err := s.Trim(t.Context(), at.Add(time.Duration(n)*time.Second)); err != nil || deleted < each {
			t.Fatalf("round %d: %d rows deleted: %v", round, deleted, err)
		}
		if _, _, err := s.Write(t.Context(), flowRecords(t, n, each)); err != nil {
			t.Fatalf("round %d: write after the deletion: %v", round, err)
		}
		n += each
	}
	// An hour of rows, a second apart, was left before the last write.
	want := []string{fmt.Sprintf("%d|%d|%d", 3600+each, n-each-3600, n-1)}
	if d := cmp.Diff(want, query(t, s, "SELECT count(*), min(domain), max(domain) FROM flows")); d != "" {
		t.Errorf("rows: -want +got\n%s", d)
	}
}
