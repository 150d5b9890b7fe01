package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"weir/internal/cli/sink"
)

// trimBatch is the number of rows that a transaction of Trim deletes at most.
const trimBatch = 5000

// Trim implements sink.Sink. It deletes the oldest rows of its own topic until the limits of age and size hold, then
// returns free pages to the file system. Rows of the other topic in the file are neither deleted nor counted. On a full
// disk it uses the room of the reserve.
func (t *Table) Trim(ctx context.Context, now time.Time) (deleted int64, err error) {
	deleted, err = t.trim(ctx, now)
	if errors.Is(err, sink.ErrFull) {
		if err := t.reserve.release(); err != nil {
			return deleted, err
		}
		var n int64
		n, err = t.trim(ctx, now)
		deleted += n
		if err == nil { // free pages of the first attempt
			err = t.shrink(ctx)
		}
		if err == nil { // the file itself becomes shorter at a checkpoint
			_, err = t.db.ExecContext(ctx, "PRAGMA wal_checkpoint(PASSIVE)")
			err = full(err)
		}
	}
	if err == nil {
		err = t.reserve.fill()
	}
	return deleted, err
}

func (t *Table) trim(ctx context.Context, now time.Time) (deleted int64, err error) {
	if t.keep > 0 {
		n, err := t.trimAge(ctx, now.Add(-t.keep))
		if deleted += n; err != nil {
			return deleted, err
		}
	}
	if t.maxSize > 0 {
		n, err := t.trimSize(ctx, now)
		if deleted += n; err != nil {
			return deleted, err
		}
	}
	if deleted > 0 {
		return deleted, t.shrink(ctx)
	}
	return deleted, nil
}

// trimAge deletes the rows that were published before oldest.
func (t *Table) trimAge(ctx context.Context, oldest time.Time) (deleted int64, err error) {
	statement := t.kind.deleteOldest("WHERE " + t.kind.age + " < ?")
	for {
		n, batch, err := t.deleteBatch(ctx, func(tx *sql.Tx, batch int) (sql.Result, error) {
			return tx.ExecContext(ctx, statement, oldest.UnixNano(), batch)
		})
		if deleted += n; err != nil || n < int64(batch) {
			return deleted, err
		}
	}
}

// trimSize deletes the oldest rows of the own topic until these rows and their indexes have at most t.maxSize octets.
func (t *Table) trimSize(ctx context.Context, now time.Time) (deleted int64, err error) {
	file, err := usedOctets(ctx, t.db)
	if err != nil || file <= t.maxSize || now.Before(t.measureAfter) {
		return 0, err
	}
	own, err := t.ownOctets(ctx, file, now)
	statement := t.kind.deleteOldest("")
	for err == nil && own > t.maxSize {
		var freed, n int64
		n, _, err = t.deleteBatch(ctx, func(tx *sql.Tx, batch int) (sql.Result, error) {
			// The transaction has the write lock: no other process changes the size meanwhile.
			before, err := usedOctets(ctx, tx)
			if err != nil {
				return nil, err
			}
			done, err := tx.ExecContext(ctx, statement, batch)
			if err != nil {
				return nil, err
			}
			after, err := usedOctets(ctx, tx)
			freed = before - after
			return done, err
		})
		deleted, own = deleted+n, own-freed
		if n == 0 {
			break
		}
	}
	return deleted, err
}

// A querier is a database or a transaction.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// usedOctets returns the size of the file without its free pages.
func usedOctets(ctx context.Context, db querier) (n int64, err error) {
	err = db.QueryRowContext(ctx, "SELECT (page_count - freelist_count) * page_size "+
		"FROM pragma_page_count, pragma_freelist_count, pragma_page_size").Scan(&n)
	return n, err
}

// measureShare bounds the share of time in which ownOctets reads the file: 1/measureShare.
const measureShare = 20

// ownOctets returns the size of the rows and indexes of the own topic. file is the size of the used part of the file.
// When the other table has rows too, the pages of the own table are counted, which reads all of them: the next
// measurement then waits so that measuring takes a twentieth of the time at most.
func (t *Table) ownOctets(ctx context.Context, file int64, now time.Time) (n int64, err error) {
	other := kinds["flows"].name
	if t.kind.name == other {
		other = kinds["connections"].name
	}
	var shared bool
	err = t.db.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM "+other+")").Scan(&shared)
	if err != nil || !shared {
		return file, err
	}
	// The table and its indexes.
	names, err := texts(ctx, t.db, "SELECT name FROM sqlite_schema WHERE tbl_name = ? AND rootpage > 0", t.kind.name)
	began := time.Now()
	for _, name := range names {
		var pages sql.NullInt64
		if err == nil {
			err = t.db.QueryRowContext(ctx, "SELECT sum(pgsize) FROM dbstat WHERE aggregate = 1 AND name = ?", name).
				Scan(&pages)
		}
		n += pages.Int64
	}
	t.measureAfter = now.Add(measureShare * time.Since(began))
	return n, err
}

// deleteBatch calls remove in a transaction with the number of rows to delete at most, and returns the number of
// deleted rows and that bound. A transaction needs room in the write-ahead log: on a full disk deleteBatch tries
// fewer rows.
func (t *Table) deleteBatch(
	ctx context.Context, remove func(tx *sql.Tx, batch int) (sql.Result, error),
) (n int64, batch int, err error) {
	for batch = trimBatch; ; batch /= 10 {
		err = t.inTransaction(ctx, func(tx *sql.Tx) error {
			done, err := remove(tx, batch)
			if err == nil {
				n, err = done.RowsAffected()
			}
			return err
		})
		switch {
		case err == nil:
			return n, batch, nil
		case batch < 10 || !errors.Is(err, sink.ErrFull):
			return 0, batch, err
		}
	}
}

// shrinkPages is the number of pages that one transaction of shrink moves and frees at most. The pages that it moves
// are copied to the write-ahead log.
const shrinkPages = 2000

// shrink returns free pages to the file system.
func (t *Table) shrink(ctx context.Context) error {
	for last := int64(-1); ; {
		rows, err := t.db.QueryContext(ctx, fmt.Sprintf("PRAGMA incremental_vacuum(%d)", shrinkPages))
		if err != nil {
			return full(err)
		}
		for rows.Next() { // each step frees a page
			continue
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			return full(err)
		}
		var free int64
		err = t.db.QueryRowContext(ctx, "SELECT freelist_count FROM pragma_freelist_count").Scan(&free)
		if err != nil || free == 0 || free == last {
			return err
		}
		last = free
	}
}
