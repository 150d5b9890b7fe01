package flowfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Options set the limits at which a Writer begins a new file.
type Options struct {
	Octets int64            // size of a file; 0: unlimited
	Every  time.Duration    // age of a file; 0: unlimited
	Now    func() time.Time // nil: time.Now
}

// A Writer writes lines into a file. At the limits of its Options it renames the file and begins a new one. It
// must not be used concurrently.
type Writer struct {
	path   string
	o      Options
	encode codec

	f       *os.File
	size    int64 // octets of complete blocks in f
	began   time.Time
	buf     []byte // lines of the next block
	lines   int    // number of lines in buf
	block   []byte
	stats   Stats
	damaged bool // f holds a partial block after size; it must be truncated
	full    bool // the file at path must be renamed before a new one is begun
	failed  bool // the last block could not be written; Flush retries
}

// Stats are the counters of a Writer.
type Stats struct {
	Files  int    // files begun
	Lines  uint64 // lines written
	Lost   uint64 // lines dropped because the buffer was full while writes failed
	Octets int64  // octets written, compressed
}

// blockOctets is the size of the uncompressed lines at which a block is written. maxHeld bounds the lines that are
// buffered while writes fail.
const (
	blockOctets = 256 << 10
	maxHeld     = 64 << 20
)

// Create begins a file. A file that exists at path is renamed as in a rotation, since its end may be damaged. The
// caller must call Close.
func Create(path string, o Options) (*Writer, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	w := &Writer{path: path, o: o}
	var err error
	if w.encode, err = codecOf(path); err != nil {
		return nil, err
	}
	switch s, err := os.Stat(path); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	case !s.Mode().IsRegular():
		return nil, fmt.Errorf("%s is not a regular file", path)
	case s.Size() > 0:
		if err := renameAside(path, s.ModTime()); err != nil {
			return nil, err
		}
	}
	return w, w.begin()
}

// fileMode is the mode of new files before the umask. Flows are personal data, so others must not read them.
const fileMode = 0o640

func (w *Writer) begin() error {
	f, err := os.OpenFile(w.path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, fileMode)
	if err != nil {
		return err
	}
	w.f, w.size, w.began = f, 0, w.o.Now()
	w.stats.Files++
	return nil
}

// renameAside renames a file: it inserts at before the first dot of the name, and a number if such a file exists.
func renameAside(path string, at time.Time) error {
	dir, name := filepath.Split(path)
	stem, ext, dotted := strings.Cut(name, ".")
	if dotted {
		ext = "." + ext
	}
	stem += at.UTC().Format("-20060102T150405Z")
	for i := 1; ; i++ {
		to := filepath.Join(dir, stem+ext)
		if i > 1 {
			to = filepath.Join(dir, fmt.Sprintf("%s-%d%s", stem, i, ext))
		}
		if _, err := os.Lstat(to); errors.Is(err, fs.ErrNotExist) {
			return os.Rename(path, to)
		}
	}
}

// Write adds a line, which must not contain a line end. After an error the lines remain buffered, and Flush
// retries. When the buffer is full, further lines are dropped and counted in Stats.Lost.
func (w *Writer) Write(line []byte) error {
	if len(w.buf)+len(line) >= maxHeld {
		w.stats.Lost++
		return nil
	}
	w.buf = append(append(w.buf, line...), '\n')
	w.lines++
	if len(w.buf) >= blockOctets && !w.failed {
		return w.flush()
	}
	return nil
}

// Flush writes the buffered lines as a block, and begins a new file when the current file has reached its age. It
// must be called about every second.
func (w *Writer) Flush() error {
	if err := w.flush(); err != nil {
		return err
	}
	if w.size > 0 && w.o.Every > 0 && w.o.Now().Sub(w.began) >= w.o.Every {
		return w.rotate()
	}
	return nil
}

func (w *Writer) flush() error {
	if len(w.buf) == 0 {
		return nil
	}
	err := w.writeBlock()
	if w.failed = err != nil; w.failed {
		return err
	}
	if w.o.Octets > 0 && w.size >= w.o.Octets {
		return w.rotate()
	}
	return nil
}

func (w *Writer) writeBlock() error {
	if w.f == nil { // a rotation closed the old file but could not open the new one
		if err := w.next(); err != nil {
			return err
		}
	}
	if w.damaged {
		if err := w.f.Truncate(w.size); err != nil {
			return err
		}
		if _, err := w.f.Seek(w.size, io.SeekStart); err != nil {
			return err
		}
		w.damaged = false
	}
	w.block = w.encode(w.block[:0], w.buf)
	if _, err := w.f.Write(w.block); err != nil {
		w.damaged = true
		return err
	}
	w.size += int64(len(w.block))
	w.stats.Octets += int64(len(w.block))
	w.stats.Lines += uint64(w.lines)
	w.buf, w.lines = w.buf[:0], 0
	return nil
}

// rotate closes the file, renames it and begins a new file.
func (w *Writer) rotate() error {
	if err := w.end(); err != nil {
		return err
	}
	w.full = true
	return w.next()
}

// next renames a full file and begins a new one.
func (w *Writer) next() error {
	if w.full {
		err := renameAside(w.path, w.began)
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // ErrNotExist: another process moved the file
			return err
		}
		w.full = false
	}
	return w.begin()
}

func (w *Writer) end() error {
	f := w.f
	w.f = nil
	return errors.Join(f.Sync(), f.Close())
}

// Stats returns the current counters.
func (w *Writer) Stats() Stats { return w.stats }

// Close writes the buffered lines and closes the file. Lines that cannot be written are counted in Stats.Lost.
func (w *Writer) Close() error {
	err := w.flush()
	w.stats.Lost += uint64(w.lines)
	w.buf, w.lines = nil, 0
	if w.f == nil {
		return err
	}
	return errors.Join(err, w.end())
}
