package exporters

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"sync/atomic"

	"weir/internal/decode"
)

// A File is a file of exporters and the Table in force. Table and Exporter may be called
// concurrently with all methods; Reload must be called by one goroutine at a time.
type File struct {
	path  string
	text  []byte
	table atomic.Pointer[Table]
}

// Open reads the file. An empty path means no file: the table is empty and stays so.
func Open(path string) (*File, error) {
	f := &File{path: path}
	f.table.Store(&Table{})
	if path == "" {
		return f, nil
	}
	_, err := f.Reload()
	return f, err
}

// Reload reads the file again. changed reports whether another table is in force now. On
// an error, which names the file and its wrong lines, the old table stays in force.
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

// Exporter returns the entry of an address as the decoder takes it, nil if there is none.
func (f *File) Exporter(a netip.Addr) *decode.Exporter {
	if e := f.Table().Lookup(a); e != nil {
		return &e.Exporter
	}
	return nil
}
