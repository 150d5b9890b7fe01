// Package tsv reads tables of tests: tab-separated text with a line of names.
package tsv

import (
	"encoding/csv"
	"os"
	"strconv"
	"testing"
)

// A Row is one line of a table.
type Row struct {
	Cells  []string // in order
	column map[string]int
}

// Read returns the rows of the table at path; without it the test fails.
func Read(t testing.TB, path string) (rows []Row) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }() // read only
	r := csv.NewReader(f)
	r.Comma, r.LazyQuotes = '\t', true
	lines, err := r.ReadAll()
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	column := map[string]int{}
	for i, name := range lines[0] {
		column[name] = i
	}
	for _, cells := range lines[1:] {
		rows = append(rows, Row{cells, column})
	}
	return rows
}

// At returns the cell of a column; it panics when the table has none of that name.
func (r Row) At(name string) string {
	i, ok := r.column[name]
	if !ok {
		panic("tsv: no column " + name)
	}
	return r.Cells[i]
}

// Int is At for a number; anything else fails the test.
func (r Row) Int(t testing.TB, name string) int {
	t.Helper()
	n, err := strconv.Atoi(r.At(name))
	if err != nil {
		t.Fatal(err)
	}
	return n
}
