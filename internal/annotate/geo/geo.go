// Package geo looks up the AS number and the country of an address in files of MaxMind's format, which are read
// again when they change.
package geo

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync/atomic"
	"time"

	"github.com/oschwald/maxminddb-golang/v2"
)

// Files is a list of databases. A field that a database does not have is looked up in the next. Lookup may be
// called by any goroutine at any time; Reload must be called by one goroutine at a time.
type Files struct {
	files   []*file
	readers atomic.Pointer[[]*maxminddb.Reader]
}

// A file is a database and the state of its file when it was read.
type file struct {
	path   string
	size   int64
	mtime  time.Time
	text   []byte
	reader *maxminddb.Reader
}

// Open reads the files at paths. An error names its file.
func Open(paths []string) (*Files, error) {
	f := &Files{}
	for _, p := range paths {
		f.files = append(f.files, &file{path: p})
	}
	f.readers.Store(&[]*maxminddb.Reader{})
	_, err := f.Reload()
	return f, err
}

// Reload reads the files that have changed and returns their paths. On an error, which names the file, the
// former database stays in use.
func (f *Files) Reload() (changed []string, err error) {
	var errs []error
	for _, x := range f.files {
		again, err := x.reload()
		if err != nil {
			errs = append(errs, fmt.Errorf("MaxMind file %s: %w", x.path, err))
		} else if again {
			changed = append(changed, x.path)
		}
	}
	if len(changed) > 0 {
		var all []*maxminddb.Reader
		for _, x := range f.files {
			if x.reader != nil {
				all = append(all, x.reader)
			}
		}
		f.readers.Store(&all)
	}
	return changed, errors.Join(errs...)
}

// reload reads the whole file into memory. A memory map would change, or end, while a file is overwritten in
// place.
func (x *file) reload() (changed bool, err error) {
	info, err := os.Stat(x.path)
	if err != nil {
		return false, errors.Unwrap(err)
	}
	if info.Size() == x.size && info.ModTime().Equal(x.mtime) {
		return false, nil
	}
	text, err := os.ReadFile(x.path)
	if err != nil {
		return false, errors.Unwrap(err)
	}
	if bytes.Equal(text, x.text) {
		x.size, x.mtime = info.Size(), info.ModTime()
		return false, nil
	}
	r, err := maxminddb.OpenBytes(text)
	if err != nil {
		return false, err
	}
	// A database of another kind has neither field.
	if !bytes.Contains(text, []byte("autonomous_system_number")) && !bytes.Contains(text, []byte("iso_code")) {
		kind := r.Metadata.DatabaseType
		return false, fmt.Errorf("a database of type %q, which knows neither ASNs nor countries", kind)
	}
	x.size, x.mtime, x.text, x.reader = info.Size(), info.ModTime(), text, r
	return true, nil
}

// Lookup returns the AS number of an address, 0 if unknown, and the ISO 3166-1 alpha-2 code of its country, ""
// if unknown.
func (f *Files) Lookup(a netip.Addr) (asn uint32, country string) {
	readers := *f.readers.Load()
	if len(readers) == 0 {
		return 0, ""
	}
	return lookup(readers, a)
}

// lookup is separate from Lookup, since its results escape to the heap.
func lookup(readers []*maxminddb.Reader, a netip.Addr) (asn uint32, country string) {
	a = a.Unmap().WithZone("")
	for _, r := range readers {
		found := r.Lookup(a)
		if !found.Found() {
			continue
		}
		if asn == 0 {
			_ = found.DecodePath(&asn, "autonomous_system_number") // absent: stays 0
		}
		if country == "" {
			_ = found.DecodePath(&country, "country", "iso_code")
		}
		if country == "" {
			_ = found.DecodePath(&country, "registered_country", "iso_code")
		}
	}
	return asn, country
}
