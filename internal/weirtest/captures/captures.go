// Package captures finds the captures that tests read.
package captures

import (
	"os"
	"path/filepath"
	"testing"
)

// Root returns the directory of the repository, a parent of the working directory.
func Root() string {
	dir, err := os.Getwd()
	if err != nil {
		panic(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			panic("no go.mod above the working directory")
		}
		dir = parent
	}
}

// File returns the path of a capture of the repository, which must exist.
func File(name string) string { return filepath.Join(Root(), "testdata", "captures", name) }

// Shared returns the path of a file in ../shared, which only some machines have. It skips the test where the file is
// absent.
func Shared(t testing.TB, name string) string {
	t.Helper()
	path := filepath.Join(Root(), "..", "shared", name)
	if _, err := os.Stat(path); err != nil {
		t.Skipf("SKIPPED: %s is absent, this test has shown nothing", path)
	}
	return path
}
