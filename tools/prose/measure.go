package main

import (
	"fmt"
	"maps"
	"math"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"weir/tools/source"
)

// A key is a unit of text and something that is limited in it. The unit is the directory of Go files, or the path of
// another file.
type key struct{ unit, phrase string }

func compareKeys(a, b key) int {
	if c := strings.Compare(a.unit, b.unit); c != 0 {
		return c
	}
	return strings.Compare(a.phrase, b.phrase)
}

// A place is where a phrase occurs.
type place struct {
	file string
	line int
	text string
}

// A finding is how often a phrase occurs in a unit.
type finding struct {
	limit
	allowed int // atLeast: needed
	places  []place
}

// excess gives the number that the file of excesses must hold: 0 within the limit, else the occurrences, and for
// atLeast the occurrences that are missing.
func (f *finding) excess() int {
	switch {
	case f.atLeast:
		return max(f.allowed-len(f.places), 0)
	case len(f.places) <= f.allowed:
		return 0
	}
	return len(f.places)
}

// A limit is what a phrase or a measure is called, and what to do about it.
type limit struct {
	name    string
	instead string
	atLeast bool
}

// The columns of lines: product code, tests, and documents outside tables and code.
const (
	productColumns  = 120
	testColumns     = 160
	documentColumns = 140
)

// measure counts all units of a tree.
func measure(t *source.Tree) map[key]*finding {
	type unit struct {
		prose   []*source.File
		words   int
		lines   int
		product bool
	}
	units := map[string]*unit{}
	out := map[key]*finding{}
	for _, f := range t.Files {
		name := f.Path
		if f.AST != nil {
			name = f.Package()
		}
		u := units[name]
		if u == nil {
			u = &unit{}
			units[name] = u
		}
		u.prose = append(u.prose, f)
		u.words += source.Words(f.Comment)
		u.lines += len(f.Comment)
		u.product = u.product || f.Kind == source.Product
		columns(out, name, f)
	}
	for name, u := range units {
		for _, p := range source.Phrases {
			if p.AtLeast && !u.product {
				continue
			}
			f := &finding{limit: limit{p.Name, p.Instead, p.AtLeast}, allowed: p.Allowed(u.words, u.lines)}
			for _, file := range u.prose {
				for _, m := range p.Find(file.Comment) {
					f.places = append(f.places, place{file.Path, m.Line, m.Text})
				}
			}
			out[key{name, p.Name}] = f
		}
	}
	return out
}

// columns counts the lines of a file that are too long and can be broken. A tab is one column, as in lll.
func columns(out map[key]*finding, unit string, f *source.File) {
	name, most := "columns", productColumns
	switch f.Kind {
	case source.Config:
		return
	case source.Test:
		name, most = "test-columns", testColumns
	case source.Document:
		most = documentColumns
	case source.Product:
	}
	k := key{unit, name}
	if out[k] == nil {
		out[k] = &finding{limit: limit{name: name, instead: "break the line at " + strconv.Itoa(most) + " columns"}}
	}
	add := func(n int, l string) {
		if c := utf8.RuneCountInString(l); c > most {
			out[k].places = append(out[k].places, place{f.Path, n, strconv.Itoa(c) + " columns"})
		}
	}
	if f.Kind != source.Document {
		for i, l := range f.Lines {
			if !f.Unbreakable(i + 1) {
				add(i+1, l)
			}
		}
		return
	}
	for _, l := range f.Comment {
		add(l.Number, f.Lines[l.Number-1])
	}
}

// excesses are the numbers above zero.
type excesses map[key]int

func excessesOf(found map[key]*finding) excesses {
	e := excesses{}
	for k, f := range found {
		if n := f.excess(); n > 0 {
			e[k] = n
		}
	}
	return e
}

// parseExcesses reads lines of unit, phrase and number, separated by tabs. Lines that begin with # are comments.
func parseExcesses(text string) (excesses, error) {
	e := excesses{}
	n := 0
	for line := range strings.Lines(text) {
		n++
		line = strings.TrimRight(line, "\r\n")
		if line == "" || line[0] == '#' {
			continue
		}
		f := strings.Split(line, "\t")
		if len(f) != 3 {
			return nil, fmt.Errorf("line %d: %q, want unit, phrase and number, separated by tabs", n, line)
		}
		number, err := strconv.Atoi(f[2])
		if err != nil || number < 1 || number > math.MaxInt32 {
			return nil, fmt.Errorf("line %d: %q, want a number from 1", n, f[2])
		}
		k := key{f[0], f[1]}
		if _, twice := e[k]; twice {
			return nil, fmt.Errorf("line %d: %s %s is there twice", n, k.unit, k.phrase)
		}
		e[k] = number
	}
	return e, nil
}

const head = `# Counts above the limits of tools/prose: unit, phrase, number. A number may only fall.
# go run ./tools/prose -update lowers the numbers; resolve a merge conflict with either side, then -update.
`

func (e excesses) String() string {
	var b strings.Builder
	b.WriteString(head)
	for _, k := range slices.SortedFunc(maps.Keys(e), compareKeys) {
		fmt.Fprintf(&b, "%s\t%s\t%d\n", k.unit, k.phrase, e[k])
	}
	return b.String()
}

// A carry is a number that moved from one unit to another with its text. From is empty if the text can be of several.
type carry struct {
	from, to key
	n        int
}

// lower gives the numbers to be written: those of now, but none above its old one. A unit may only rise by what another
// lost at the same time, so the sum of a phrase never rises: by what OLD lost if moved has OLD → the unit, and by what
// any lost if the unit had no number of the phrase.
func lower(old, now excesses, moved map[string][]string) (next excesses, carried []carry) {
	next = excesses{}
	lost := map[key]int{}
	for k, n := range old {
		if m := min(n, now[k]); m > 0 {
			next[k] = m
		}
		lost[k] = n - min(n, now[k])
	}
	keys := slices.SortedFunc(maps.Keys(now), compareKeys)
	give := func(from, to key) {
		if n := min(lost[from], now[to]-next[to]); n > 0 {
			lost[from] -= n
			next[to] += n
			carried = append(carried, carry{from, to, n})
		}
	}
	for _, k := range keys {
		for _, from := range moved[k.unit] {
			give(key{from, k.phrase}, k)
		}
	}
	losers := slices.SortedFunc(maps.Keys(lost), compareKeys)
	for _, k := range keys {
		if _, had := old[k]; had {
			continue
		}
		for _, from := range losers {
			if from.phrase == k.phrase {
				give(from, k)
			}
		}
	}
	return next, carried
}

// changedSince gives the lines of each file that were added since the commit that last changed path, or nil if that is
// not known.
func changedSince(dir, path string) map[string]map[int]bool {
	base, err := exec.Command("git", "-C", dir, "log", "-1", "--format=%H", "--", path).Output()
	if err != nil || len(base) == 0 {
		return nil
	}
	diff, err := exec.Command("git", "-C", dir, "diff", "-U0", "-M", "--no-color", "--no-ext-diff", "--relative",
		"--src-prefix=a/", "--dst-prefix=b/", strings.TrimSpace(string(base))).Output()
	if err != nil {
		return nil
	}
	return addedLines(string(diff))
}

// addedLines reads a unified diff without context.
func addedLines(diff string) map[string]map[int]bool {
	out := map[string]map[int]bool{}
	file := ""
	for line := range strings.Lines(diff) {
		if name, ok := strings.CutPrefix(line, "+++ b/"); ok {
			file = strings.TrimSpace(name)
			out[file] = map[int]bool{}
			continue
		}
		if !strings.HasPrefix(line, "@@ ") {
			continue
		}
		_, added, ok := strings.Cut(line, " +")
		if !ok || out[file] == nil {
			continue
		}
		added, _, _ = strings.Cut(added, " ")
		from, count, ranged := strings.Cut(added, ",")
		first, _ := strconv.Atoi(from)
		n := 1
		if ranged {
			n, _ = strconv.Atoi(count)
		}
		for i := range n {
			out[file][first+i] = true
		}
	}
	return out
}
