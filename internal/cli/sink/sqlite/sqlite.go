// Package sqlite stores the messages of a topic as rows of an SQLite database. Rows and offsets are written in one
// transaction, so that each message is stored exactly once, even when the process is killed.
package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"strings"
	"time"

	driver "modernc.org/sqlite"
	lib "modernc.org/sqlite/lib"

	"weir/internal/cli/sink"
)

// applicationID ("Weir") marks the file as a database of Weir, PRAGMA application_id.
const applicationID = 0x57656972

// A Table is a sink.Sink that stores the messages of a topic in a table.
type Table struct {
	db      *sql.DB
	kind    *kind
	topic   string
	maxSize int64
	keep    time.Duration
	next    map[int32]int64 // next offset of each partition, as stored in the file
	lock    *os.File        // lock of the writer

	reserve      reserve
	measureAfter time.Time // earliest time of the next measurement of ownOctets
}

// Open opens the database file o.Path and creates it if needed. It returns ErrLocked when another process has it open
// for the same topic. The caller must call Close.
func Open(ctx context.Context, o sink.Options) (*Table, error) {
	k, ok := kinds[o.Rows]
	if !ok {
		return nil, fmt.Errorf("%q: want flows or connections", o.Rows)
	}
	// A transaction takes the write lock when it begins and waits for it. With a write-ahead log it does
	// not wait for readers. auto_vacuum takes effect in a new file only; setting it in an existing file
	// would take the write lock.
	vacuum := ""
	if s, err := os.Stat(o.Path); err != nil || s.Size() == 0 {
		vacuum = "&_pragma=auto_vacuum(incremental)"
	}
	dsn := "file:" + strings.NewReplacer("%", "%25", "?", "%3f", "#", "%23").Replace(o.Path) +
		"?_txlock=immediate&_pragma=busy_timeout(10000)" + vacuum +
		"&_pragma=journal_mode(wal)&_pragma=synchronous(normal)" +
		"&_pragma=journal_size_limit(67108864)&_pragma=cache_size(-32768)"
	if err := makePrivate(o.Path); err != nil {
		return nil, err
	}
	db, err := sql.Open("sqlite", dsn)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", o.Path, err)
	}
	db.SetMaxOpenConns(1) // SQLite has one writer
	t := &Table{db: db, kind: k, topic: o.Topic, maxSize: o.MaxSize, keep: o.Keep}
	if err := t.upgrade(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", o.Path, err), db.Close())
	}
	if t.lock, err = lockWriter(o.Path, o.Topic); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", o.Path, err), db.Close())
	}
	if o.Keep > 0 || o.MaxSize > 0 {
		t.reserve.path = o.Path + "-" + o.Topic + ".reserve"
	}
	if err := t.reserve.fill(); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", o.Path, err), t.Close())
	}
	return t, nil
}

// makePrivate creates the file if it does not exist, with access for owner and group only, since the rows are
// personal data. SQLite creates its -wal and -shm files with the same mode.
func makePrivate(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o640)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("unable to open database file: %w", err)
	}
	return f.Close()
}

// firstLook returns the schema version of the file, without the write lock. It opens the connection, which switches
// the file to a write-ahead log. While another process does the same, SQLite fails at once instead of waiting for
// busy_timeout, so firstLook waits and tries again.
func (t *Table) firstLook(ctx context.Context) (int, error) {
	version, err := schemaOf(ctx, t.db)
	for try := 1; try < switchTries && isLocked(err); try++ {
		select {
		case <-ctx.Done():
			return 0, errors.Join(err, ctx.Err())
		case <-time.After(switchPause):
		}
		version, err = schemaOf(ctx, t.db)
	}
	return version, err
}

// switchTries and switchPause bound the wait for a file that another process switches to a write-ahead log: 10 s.
const (
	switchTries = 100
	switchPause = 100 * time.Millisecond
)

// schemaOf returns the schema version of the file, 0 for an empty file.
func schemaOf(ctx context.Context, db querier) (int, error) {
	var version, application, tables int
	err := db.QueryRowContext(ctx, "SELECT (SELECT user_version FROM pragma_user_version), "+
		"(SELECT application_id FROM pragma_application_id), (SELECT count(*) FROM sqlite_schema)").
		Scan(&version, &application, &tables)
	switch {
	case err != nil:
		return 0, err
	case application == applicationID && version > schema:
		return 0, fmt.Errorf("the file has schema version %d, this program supports up to %d: use a newer program",
			version, schema)
	case application == applicationID && version > 0:
		return version, nil
	case tables > 0:
		return 0, errors.New("the file is a database of another program")
	}
	return 0, nil
}

// patience is the number of attempts to take the write lock, of ten seconds each. A process that writes without a
// pause rarely releases it.
const patience = 6

// inTransaction calls do in a transaction, commits it, and rolls it back when do returns an error.
func (t *Table) inTransaction(ctx context.Context, do func(*sql.Tx) error) error {
	tx, err := t.db.BeginTx(ctx, nil)
	for try := 1; try < patience && isLocked(err); try++ {
		tx, err = t.db.BeginTx(ctx, nil)
	}
	if err != nil {
		return full(err)
	}
	if err := do(tx); err != nil {
		return errors.Join(full(err), rollback(tx))
	}
	return full(tx.Commit())
}

// rollback ends tx. SQLite itself rolls back a transaction that meets a full disk; that is no error.
func rollback(tx *sql.Tx) error {
	err := tx.Rollback()
	if e, ok := errors.AsType[*driver.Error](err); ok && e.Code() == lib.SQLITE_ERROR {
		return nil // no transaction is active
	}
	return err
}

// full adds sink.ErrFull to an error of a full disk.
func full(err error) error {
	if e, ok := errors.AsType[*driver.Error](err); ok && e.Code()&0xff == lib.SQLITE_FULL {
		return fmt.Errorf("%w: %w", sink.ErrFull, err)
	}
	return err
}

func isLocked(err error) bool {
	e, ok := errors.AsType[*driver.Error](err)
	return ok && e.Code()&0xff == lib.SQLITE_BUSY
}

// Epochs implements sink.Sink. An epoch is valid only together with the offset that it was written with: a program
// of schema 1 that has the file open updates the offset and not the epoch.
func (t *Table) Epochs(ctx context.Context) (map[int32]int32, error) {
	rows, err := t.db.QueryContext(ctx, "SELECT partition, epoch FROM epochs "+
		"JOIN offsets USING (topic, partition, next) WHERE topic = ?", t.topic)
	if err != nil {
		return nil, err
	}
	epochs := map[int32]int32{}
	for rows.Next() {
		var p, epoch int32
		if err := rows.Scan(&p, &epoch); err != nil {
			return nil, errors.Join(err, rows.Close())
		}
		epochs[p] = epoch
	}
	return epochs, rows.Err()
}

// Begin implements sink.Sink. A topic is read from the offset after the stored rows. If the topic ends before that
// offset, or was truncated there and grew again, Kafka lost records that are stored here. The topic is then read
// from the point of truncation: an earlier start would store the remaining records twice.
func (t *Table) Begin(ctx context.Context, topic sink.Topic) (b sink.Beginning, err error) {
	id := topic.ID
	t.next = map[int32]int64{}
	err = t.inTransaction(ctx, func(tx *sql.Tx) error {
		rows, err := tx.QueryContext(ctx, "SELECT topic_id, partition, next FROM offsets WHERE topic = ?", t.topic)
		if err != nil {
			return err
		}
		known := map[int32]int64{}
		for rows.Next() {
			var was string
			var p int32
			var next int64
			if err := rows.Scan(&was, &p, &next); err != nil {
				return errors.Join(err, rows.Close())
			}
			if b.Anew = b.Anew || was != id; was == id {
				known[p] = next
			}
		}
		if err := rows.Err(); err != nil {
			return err
		}
		// Remove the offsets of a deleted topic of that name, which may have had more partitions.
		if _, err := tx.ExecContext(ctx, "DELETE FROM offsets WHERE topic = ? AND topic_id <> ?", t.topic, id); err != nil {
			return err
		}
		if b.Anew {
			if _, err := tx.ExecContext(ctx, "DELETE FROM epochs WHERE topic = ?", t.topic); err != nil {
				return err
			}
		}
		for p, o := range topic.First {
			if next, ok := known[p]; ok {
				end := topic.End[p]
				if cut, ok := topic.EpochEnds[p]; ok {
					end = min(end, cut)
				}
				end = max(o, end)
				b.Missed += max(0, o-next)
				b.Lost += max(0, next-end)
				o = min(max(o, next), end)
			}
			t.next[p] = o
			_, err := tx.ExecContext(ctx, "INSERT INTO offsets (topic, partition, topic_id, next) VALUES (?, ?, ?, ?) "+
				"ON CONFLICT DO UPDATE SET topic_id = excluded.topic_id, next = excluded.next", t.topic, p, id, o)
			if err != nil {
				return err
			}
		}
		return nil
	})
	b.From = maps.Clone(t.next)
	return b, err
}

// ErrOther reports that another process wrote messages of the same topic into the same file.
var ErrOther = errors.New("another process writes this topic into this file: stop one of the two")

// Write implements sink.Sink. It returns ErrOther when the stored offset is not the offset of the last write.
func (t *Table) Write(ctx context.Context, records []sink.Record) (rows, bad int, err error) {
	next, epochs := map[int32]int64{}, map[int32]int32{}
	err = t.inTransaction(ctx, func(tx *sql.Tx) error {
		insert, err := tx.PrepareContext(ctx, t.kind.insert)
		if err != nil {
			return err
		}
		for _, r := range records {
			next[r.Partition], epochs[r.Partition] = r.Offset+1, r.Epoch
			for _, m := range r.Messages {
				values, ok := t.kind.row(m, r.Time)
				if !ok {
					bad++
					continue
				}
				if _, err := insert.ExecContext(ctx, values...); err != nil {
					return err
				}
				rows++
			}
		}
		for p, o := range next {
			done, err := tx.ExecContext(ctx,
				"UPDATE offsets SET next = ? WHERE topic = ? AND partition = ? AND next = ?", o, t.topic, p, t.next[p])
			if err != nil {
				return err
			}
			if n, err := done.RowsAffected(); err != nil || n != 1 {
				return errors.Join(ErrOther, err)
			}
			_, err = tx.ExecContext(ctx, "INSERT INTO epochs (topic, partition, next, epoch) VALUES (?, ?, ?, ?) "+
				"ON CONFLICT DO UPDATE SET next = excluded.next, epoch = excluded.epoch", t.topic, p, o, epochs[p])
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		maps.Copy(t.next, next)
	}
	return rows, bad, err
}

// closeWait is the time in ms that Close waits for other processes: a reader that stays must not delay the end.
// The log is then left beside the file, and the next process that opens the file reads it.
const closeWait = 0

// Close checkpoints the write-ahead log, closes the file and releases the lock of the writer. It does not wait for
// readers.
func (t *Table) Close() error {
	_, err := t.db.Exec(fmt.Sprintf("PRAGMA busy_timeout = %d", closeWait))
	if err == nil {
		// With a reader the checkpoint is incomplete, which is no error.
		if _, err = t.db.Exec("PRAGMA wal_checkpoint(TRUNCATE)"); isLocked(err) {
			err = nil
		}
	}
	return errors.Join(err, t.db.Close(), t.lock.Close())
}
