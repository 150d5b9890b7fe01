package exporters

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"sync/atomic"

	"weir/internal/decode"
)

// A File is a file of exporters and what it said last. Lookup may be called at
// any time; Reload by one goroutine at a time.
type File struct {
	path  string
	text  []byte
	table atomic.Pointer[Table]
}

// Open reads the file. An empty path is no file: nothing is said of any exporter.
func Open(path string) (*File, error) {
	f := &File{path: path}
	f.table.Store(&Table{})
	if path == "" {
		return f, nil
	}
	_, err := f.Reload()
	return f, err
}

// Reload reads the file again. changed tells whether another table is in force
// now; on an error, which names the file and its lines, the old one stays.
func (f *File) Reload() (changed bool, err error) {
	if f.path == "" {
		return false, nil
	}
	text, err := os.ReadFile(f.path)
	if err != nil {
		return false, fmt.Errorf("exporters file: %w", err)
	}
	if f.text != nil && bytes.Equal(text, f.text) {
		return false, nil
	}
	table, err := Parse(text)
	if err != nil {
		return false, fmt.Errorf("exporters file %s: %w", f.path, err)
	}
	f.text = text
	f.table.Store(table)
	return true, nil
}

// Table returns the table in force, never nil.
func (f *File) Table() *Table { return f.table.Load() }

// Exporter is Lookup for a decoder.
func (f *File) Exporter(a netip.Addr) *decode.Exporter {
	if e := f.Table().Lookup(a); e != nil {
		return &e.Exporter
	}
	return nil
}
