// Prose counts habits of language and overlong lines in comments and documents, and holds the counts down.
//
//	go run ./tools/prose                         fails on a count that rose, or fell without being lowered
//	go run ./tools/prose -list UNIT              names each occurrence in a package or document
//	go run ./tools/prose -update [-moved OLD=NEW]...
//
// A unit is a directory of Go files (its comments, with those of its tests), or another file: a document, .proto, shell
// script, Makefile or YAML. Each has limits for its number of words (tools/source has the phrases). Units that are
// above a limit today stand in excess.tsv with their number, which may only fall.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"weir/tools/source"
)

const help = `usage: prose [-list UNIT] [-update [-moved OLD=NEW]...] [DIRECTORY]

Counts phrases and overlong lines in comments (Go, proto, shell, Make, YAML) and documents (Markdown outside code and
tables), per package and document. Fails if a count is above the limit and above its number in tools/prose/excess.tsv,
and if it is below its number.

-update lowers the numbers in excess.tsv to the counts of now, or makes the file if there is none. It never raises the
sum of a phrase. If text moved:
  - to a new package or document (git mv, a split): run -update, which carries the number over, as much as other
    units lost;
  - to a package or document that has a number already: run -update -moved internal/old=internal/new.

`

func main() {
	flag.Usage = func() {
		fmt.Fprint(flag.CommandLine.Output(), help)
		flag.PrintDefaults()
	}
	list := flag.String("list", "", "name each occurrence in this package or document, within its limit or not")
	update := flag.Bool("update", false, "lower the numbers in excess.tsv")
	moved := map[string][]string{}
	flag.Func("moved", "with -update: text moved from unit OLD to NEW (`OLD=NEW`, repeatable)", func(s string) error {
		from, to, ok := strings.Cut(s, "=")
		if !ok || from == "" || to == "" {
			return fmt.Errorf("%q, want OLD=NEW", s)
		}
		moved[to] = append(moved[to], from)
		return nil
	})
	flag.Parse()
	if flag.NArg() > 1 || len(moved) > 0 && !*update || *update && *list != "" {
		flag.Usage()
		os.Exit(2)
	}
	dir := "."
	if flag.NArg() == 1 {
		dir = flag.Arg(0)
	}
	ok, err := run(os.Stdout, dir, *list, *update, moved)
	if err != nil {
		fmt.Fprintf(os.Stderr, "prose: %v\n", err)
		os.Exit(1)
	}
	if !ok {
		os.Exit(1)
	}
}

// file holds the excesses, relative to the root of the tree.
const file = "tools/prose/excess.tsv"

// run reports whether all counts are as the file says.
func run(w io.Writer, dir, list string, update bool, moved map[string][]string) (bool, error) {
	tree, err := source.Load(dir)
	if err != nil {
		return false, err
	}
	found := measure(tree)
	if list != "" {
		return true, listUnit(w, found, filepath.ToSlash(filepath.Clean(list)))
	}
	path := filepath.Join(dir, file)
	now := excessesOf(found)
	old := now
	text, err := os.ReadFile(path)
	switch {
	case err == nil:
		if old, err = parseExcesses(string(text)); err != nil {
			return false, fmt.Errorf("%s: %w", file, err)
		}
	case !update || !errors.Is(err, fs.ErrNotExist):
		return false, err
	}
	if update {
		next, carried := lower(old, now, moved)
		for _, c := range carried {
			fmt.Fprintf(w, "%s: %d of %q carried to %s\n", c.from.unit, c.n, c.from.phrase, c.to.unit)
		}
		if err := os.WriteFile(path, []byte(next.String()), 0o644); err != nil {
			return false, err
		}
		old = next
	}
	return check(w, found, old, func() map[string]map[int]bool { return changedSince(dir, file) }), nil
}

func listUnit(w io.Writer, found map[key]*finding, unit string) error {
	known := false
	for _, k := range slices.SortedFunc(maps.Keys(found), compareKeys) {
		if k.unit != unit {
			continue
		}
		known = true
		f := found[k]
		if !f.atLeast {
			for _, p := range f.places {
				fmt.Fprintf(w, "%s:%d: %q: %s\n", p.file, p.line, p.text, f.instead)
			}
		}
		bound := "allowed"
		if f.atLeast {
			bound = "needed"
		}
		fmt.Fprintf(w, "%s: %s: %d, %s %d\n", unit, k.phrase, len(f.places), bound, f.allowed)
	}
	if !known {
		return fmt.Errorf("%s is no package or document of this tree", unit)
	}
	return nil
}

// shown bounds the occurrences that are printed of one unit and phrase.
const shown = 10

// check prints each difference between the counts and the file.
func check(w io.Writer, found map[key]*finding, old excesses, changes func() map[string]map[int]bool) bool {
	now := excessesOf(found)
	all := maps.Clone(old)
	maps.Copy(all, now)
	ok := true
	var changed map[string]map[int]bool
	fell := false
	for _, k := range slices.SortedFunc(maps.Keys(all), compareKeys) {
		n, was := now[k], old[k]
		if n == was {
			continue
		}
		if ok {
			ok = false
			changed = changes()
		}
		if n < was {
			fell = true
			fmt.Fprintf(w, "%s: %s fell from %d to %d\n", k.unit, k.phrase, was, n)
			continue
		}
		rose(w, k, found[k], was, changed)
	}
	if fell {
		fmt.Fprintf(w, "Lower the numbers: go run ./tools/prose -update, and commit %s.\n", file)
	}
	return ok
}

// rose prints the occurrences on lines that changed since the file of excesses did, or else the first.
func rose(w io.Writer, k key, f *finding, was int, changed map[string]map[int]bool) {
	if f.atLeast {
		fmt.Fprintf(w, "%s: %s: %d missing of %d for its words, %d before: %s\n", k.unit, k.phrase, f.excess(), f.allowed, was, f.instead)
		return
	}
	places := slices.DeleteFunc(slices.Clone(f.places), func(p place) bool { return !changed[p.file][p.line] })
	if len(places) == 0 {
		places = f.places
	}
	for _, p := range places[:min(len(places), shown)] {
		fmt.Fprintf(w, "%s:%d: %q: %s\n", p.file, p.line, p.text, f.instead)
	}
	fmt.Fprintf(w, "%s: %s: %d, allowed %d (go run ./tools/prose -list %s)\n", k.unit, k.phrase, len(f.places), max(was, f.allowed), k.unit)
}
