package sqlite

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// ErrLocked reports that another process stores the same topic in the same file. The process that holds the lock
// is not affected.
var ErrLocked = errors.New("another process writes this topic into this file: this process does not start")

// lockWriter takes the writer lock of a topic in a database file. The lock is a lock of the operating system on a
// file of its own beside the database: it ends with its process, however that ends. SQLite locks octets of the
// database file itself, and closing a second descriptor of that file would release them. The caller must close the
// returned file to release the lock; the file itself stays, since its removal would race with a third process.
func lockWriter(path, topic string) (*os.File, error) {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	f, err := os.OpenFile(path+"-"+topic+".lock", os.O_RDWR|os.O_CREATE, 0o640)
	if err != nil {
		return nil, fmt.Errorf("lock file of the writer: %w", err)
	}
	switch held, err := tryLock(f); {
	case err != nil:
		return nil, errors.Join(fmt.Errorf("locking %s: %w", f.Name(), err), f.Close())
	case held:
		return nil, errors.Join(ErrLocked, f.Close())
	}
	return f, nil
}
