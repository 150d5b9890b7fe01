package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// schema is the version of the tables in rows.go, stored as PRAGMA user_version. A change of the tables must
// increment it and add a step to upgrades.
const schema = 3

// upgrades holds the steps from each schema version to the next.
var upgrades = map[int]func(context.Context, *sql.Tx) error{1: upgradeFrom1, 2: upgradeFrom2}

// upgrade creates the tables, or upgrades the schema of an older file.
func (t *Table) upgrade(ctx context.Context) error {
	if version, err := t.firstLook(ctx); version == schema || err != nil {
		return err
	}
	return t.inTransaction(ctx, func(tx *sql.Tx) error {
		version, err := schemaOf(ctx, tx)
		if err != nil || version == schema { // another process upgraded the file
			return err
		}
		if version == 0 {
			err = execAll(ctx, tx, append(slices.Clip(create),
				fmt.Sprintf("PRAGMA application_id = %d", applicationID))...)
		}
		for from := version; from != 0 && from < schema && err == nil; from++ {
			err = upgrades[from](ctx, tx)
		}
		if err == nil {
			err = execAll(ctx, tx, fmt.Sprintf("PRAGMA user_version = %d", schema))
		}
		if err != nil {
			return fmt.Errorf("making the tables of schema %d from %d: %w", schema, version, err)
		}
		return nil
	})
}

// upgradeFrom1 adds the columns of flows and the table epochs of schema 2.
func upgradeFrom1(ctx context.Context, tx *sql.Tx) error {
	if err := moveAway(ctx, tx, "epochs", 2); err != nil {
		return err
	}
	if err := execAll(ctx, tx, createEpochs); err != nil {
		return err
	}
	return addColumns(ctx, tx, "flows", flowColumns2, 2)
}

// upgradeFrom2 adds the columns of connections of schema 3, and replaces the view talks unless the operator changed
// it.
func upgradeFrom2(ctx context.Context, tx *sql.Tx) error {
	if err := addColumns(ctx, tx, "connections", connectionColumns3, 3); err != nil {
		return err
	}
	var was string
	err := tx.QueryRowContext(ctx, "SELECT coalesce(sql, '') FROM sqlite_schema WHERE name = 'talks'").Scan(&was)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return execAll(ctx, tx, createTalks)
	case err != nil || was != createTalks2:
		return err
	}
	return execAll(ctx, tx, "DROP VIEW talks", createTalks)
}

// addColumns adds columns to a table in the given schema version. A column of that name that the operator added is
// used when it can hold any value. Otherwise, if it is generated or NOT NULL, it is renamed.
func addColumns(ctx context.Context, tx *sql.Tx, table string, columns []column, version int) error {
	writable := map[string]bool{} // by name in lower case: SQL ignores the case
	rows, err := tx.QueryContext(ctx, `SELECT name, hidden = 0 AND "notnull" = 0 FROM pragma_table_xinfo(?)`, table)
	if err != nil {
		return err
	}
	for rows.Next() {
		var name string
		var can bool
		if err := rows.Scan(&name, &can); err != nil {
			return errors.Join(err, rows.Close())
		}
		writable[strings.ToLower(name)] = can
	}
	if err := rows.Err(); err != nil {
		return err
	}
	for _, c := range columns {
		can, exists := writable[c.name]
		if can {
			continue
		}
		if exists {
			name := freeName(c.name, version, func(s string) bool { _, taken := writable[s]; return taken })
			err := execAll(ctx, tx, "ALTER TABLE "+table+" RENAME COLUMN "+c.name+" TO "+name)
			if err != nil {
				return err
			}
		}
		if err := execAll(ctx, tx, "ALTER TABLE "+table+" ADD COLUMN "+c.name+" "+c.declared); err != nil {
			return err
		}
	}
	return nil
}

// moveAway renames a table of the operator whose name schema version needs.
func moveAway(ctx context.Context, tx *sql.Tx, table string, version int) error {
	names, err := texts(ctx, tx, "SELECT lower(name) FROM sqlite_schema")
	if err != nil || !slices.Contains(names, table) {
		return err
	}
	to := freeName(table, version, func(s string) bool { return slices.Contains(names, s) })
	return execAll(ctx, tx, "ALTER TABLE "+table+" RENAME TO "+to)
}

// freeName returns a new name for something of the operator: NAME_before_VERSION, with a number if that is taken.
func freeName(name string, version int, taken func(string) bool) string {
	free := fmt.Sprintf("%s_before_%d", name, version)
	for i := 2; taken(free); i++ {
		free = fmt.Sprintf("%s_before_%d_%d", name, version, i)
	}
	return free
}

func execAll(ctx context.Context, tx *sql.Tx, statements ...string) error {
	for _, s := range statements {
		if _, err := tx.ExecContext(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// texts returns the rows of a query of a single column.
func texts(ctx context.Context, db querier, query string, args ...any) (list []string, err error) {
	rows, err := db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			return nil, errors.Join(err, rows.Close())
		}
		list = append(list, text)
	}
	return list, rows.Err()
}
