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

// Options say when a Writer begins another file.
type Options struct {
	Octets int64            // once the file has as many; 0: never
	Every  time.Duration    // once the file is as old; 0: never
	Now    func() time.Time // nil: time.Now
}

// A Writer writes lines into one file, and puts it aside for another one. It is
// for one goroutine.
type Writer struct {
	path   string
	o      Options
	encode codec

	f       *os.File
	size    int64 // octets of whole blocks
	began   time.Time
	buf     []byte // lines of the block to come
	lines   int    // of buf
	block   []byte
	stats   Stats
	damaged bool // behind size stands part of a block
	full    bool // what is at path is to be put aside
	failed  bool // the last block was not taken: Flush tries again
}

// Stats say what a Writer did.
type Stats struct {
	Files  int    // begun
	Lines  uint64 // written
	Lost   uint64 // lines that found no room while the disk did not take them
	Octets int64  // written
}

// blockOctets are the lines of a block, uncompressed: it is written then at the
// latest. While the disk takes nothing, maxHeld are kept.
const (
	blockOctets = 256 << 10
	maxHeld     = 64 << 20
)

// Create begins a file. What is at path already is put aside as rotation does,
// since its end may be damaged.
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
		return nil, fmt.Errorf("%s is no regular file", path)
	case s.Size() > 0:
		if err := aside(path, s.ModTime()); err != nil {
			return nil, err
		}
	}
	return w, w.begin()
}

// fileMode is that of new files: flows are personal data, and none of others' business.
// The umask may take more.
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

// aside renames a file: a time before the first dot of its name.
func aside(path string, at time.Time) error {
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

// Write adds a line, which has no end of its own. An error says why the file does
// not take what there is: it is kept, and Flush tries again. It is kept as far as
// there is room; then lines are lost, and counted.
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

// Flush writes what there is as a block, and begins another file when it is time.
// It is to be called every second or so.
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
	if w.f == nil { // a rotation failed half way
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
	w.stats.Lines += uint64(w.lines) // a count
	w.buf, w.lines = w.buf[:0], 0
	return nil
}

// rotate puts the file aside and begins another.
func (w *Writer) rotate() error {
	if err := w.end(); err != nil {
		return err
	}
	w.full = true
	return w.next()
}

// next puts a full file aside and begins another.
func (w *Writer) next() error {
	if w.full {
		if err := aside(w.path, w.began); err != nil && !errors.Is(err, fs.ErrNotExist) { // someone took it away
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

// Stats returns what was done so far.
func (w *Writer) Stats() Stats { return w.stats }

// Close writes what there is and ends the file. What the file does not take is
// lost, and counted.
func (w *Writer) Close() error {
	err := w.flush()
	w.stats.Lost += uint64(w.lines) // a count
	w.buf, w.lines = nil, 0
	if w.f == nil {
		return err
	}
	return errors.Join(err, w.end())
}
