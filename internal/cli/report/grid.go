package report

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"weir/internal/cli/console"
)

// A grid prints rows of cells, one row a line. A column is as wide as its widest cell so far.
type grid struct {
	w       io.Writer
	columns []column
	widths  []int
	look    console.Look
}

// A column describes a column of a grid.
type column struct {
	name    string
	numeric bool   // aligned to the right
	colour  string // of the cells, on a terminal
	least   int    // minimum width, for rows that are printed before later rows are known
}

// Colours of a terminal (ECMA-48, select graphic rendition).
const (
	bold   = "\x1b[1m"
	dim    = "\x1b[2m"
	green  = "\x1b[32m"
	cyan   = "\x1b[36m"
	normal = "\x1b[0m"
)

func newGrid(w io.Writer, columns []column, l console.Look) *grid {
	g := &grid{w: w, columns: columns, widths: make([]int, len(columns)), look: l}
	for i, c := range columns {
		g.widths[i] = c.least
	}
	g.widen(g.names())
	return g
}

func (g *grid) names() []string {
	cells := make([]string, len(g.columns))
	for i, c := range g.columns {
		cells[i] = c.name
	}
	return cells
}

// widen makes each column at least as wide as its cell in cells.
func (g *grid) widen(cells []string) {
	for i, s := range cells {
		g.widths[i] = max(g.widths[i], utf8.RuneCountInString(s))
	}
}

// head prints the column names.
func (g *grid) head() error { return g.line(g.names(), true) }

// row prints cells.
func (g *grid) row(cells []string) error { return g.line(cells, false) }

func (g *grid) line(cells []string, head bool) error {
	for i, s := range cells {
		if !console.IsPrintable(s, "") { // cells quote text from the network themselves
			cells[i] = console.Escape(s)
		}
	}
	g.widen(cells)
	var b strings.Builder
	room := g.look.Width
	for i, s := range cells {
		pad := strings.Repeat(" ", g.widths[i]-utf8.RuneCountInString(s))
		if g.columns[i].numeric {
			s = pad + s
		} else {
			s += pad
		}
		if i > 0 {
			s = "  " + s
		}
		if i == len(cells)-1 {
			s = strings.TrimRight(s, " ")
		}
		if g.look.Width > 0 {
			s = console.Clip(s, room)
			room -= utf8.RuneCountInString(s)
		}
		switch colour := g.columns[i].colour; {
		case !g.look.Colours || strings.TrimSpace(s) == "":
			b.WriteString(s)
		case head:
			b.WriteString(bold + s + normal)
		case colour == "":
			b.WriteString(s)
		default:
			b.WriteString(colour + s + normal)
		}
	}
	_, err := fmt.Fprintln(g.w, strings.TrimRight(b.String(), " "))
	return err
}
