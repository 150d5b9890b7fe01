package sqlite

import (
	"errors"
	"io/fs"
	"os"
)

// reserveOctets is the size of the reserve: a deletion of trimBatch rows writes their pages and those of their indexes
// to the write-ahead log, and the checkpoint writes them to the database.
const reserveOctets = 8 << 20

// A reserve is a file that occupies room on the disk, for the deletion of rows when the disk is full: a deletion itself
// needs room, in the write-ahead log. An empty path is no reserve.
type reserve struct{ path string }

// fill creates the file if it is absent. On a disk without that much room there is no reserve, which is no error.
func (r reserve) fill() error {
	if r.path == "" {
		return nil
	}
	f, err := os.OpenFile(r.path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o640)
	if err != nil { // it exists, or there is no room for its name
		return nil
	}
	// Zeros are written, since a file of that length without data would occupy no room.
	zeros := make([]byte, 1<<20)
	for n := 0; n < reserveOctets && err == nil; n += len(zeros) {
		_, err = f.Write(zeros)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return r.release()
	}
	return nil
}

// release removes the file.
func (r reserve) release() error {
	if r.path == "" {
		return nil
	}
	if err := os.Remove(r.path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
