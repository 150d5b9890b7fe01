// Census prints how a source tree is built and worded: packages and imports, comment density, long functions and
// lines, and phrases per 1 000 words. The figures are comparable between trees and revisions.
//
//	go run ./tools/census [-v] [DIRECTORY]
//	go run ./tools/census -compare REVISION [DIRECTORY]
//
// With -compare it prints the figures of the revision beside those of the directory, which must be in a Git work tree.
// The revision is checked out into a temporary directory, which is removed.
package main

import (
	"cmp"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"weir/tools/source"
)

func main() {
	flag.Usage = func() {
		fmt.Fprint(flag.CommandLine.Output(), "usage: census [-v] [-compare REVISION] [DIRECTORY]\n\nPrints counts of a source tree.\n\n")
		flag.PrintDefaults()
	}
	compare := flag.String("compare", "", "print the counts of this `REVISION` before those of the directory")
	verbose := flag.Bool("v", false, "name each function and assignment that is counted")
	flag.Parse()
	if flag.NArg() > 1 {
		flag.Usage()
		os.Exit(2)
	}
	dir := cmp.Or(flag.Arg(0), ".")
	if err := run(os.Stdout, dir, *compare, *verbose); err != nil {
		fmt.Fprintf(os.Stderr, "census: %v\n", err)
		os.Exit(1)
	}
}

func run(w io.Writer, dir, revision string, verbose bool) error {
	columns := []string{"now"}
	now, err := countDir(dir)
	if err != nil {
		return err
	}
	counts := []*Counts{now}
	if revision != "" {
		before, err := countRevision(dir, revision)
		if err != nil {
			return err
		}
		columns, counts = []string{revision, "now"}, []*Counts{before, now}
	}
	if err := table(w, columns, counts); err != nil {
		return err
	}
	if verbose {
		names(w, now)
	}
	return nil
}

func countDir(dir string) (*Counts, error) {
	t, err := source.Load(dir)
	if err != nil {
		return nil, err
	}
	return Count(t), nil
}

// countRevision counts a revision of the repository to which dir belongs, below the same directory.
func countRevision(dir, revision string) (_ *Counts, err error) {
	prefix, err := git(dir, "rev-parse", "--show-prefix")
	if err != nil {
		return nil, err
	}
	tmp, err := os.MkdirTemp("", "census")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	work := filepath.Join(tmp, "tree")
	if _, err := git(dir, "worktree", "add", "--quiet", "--detach", work, revision); err != nil {
		return nil, err
	}
	defer func() {
		if _, e := git(dir, "worktree", "remove", "--force", work); err == nil {
			err = e
		}
	}()
	return countDir(filepath.Join(work, prefix))
}

func git(dir string, args ...string) (string, error) {
	cmd := exec.Command("git", append([]string{"-C", dir}, args...)...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("git %s: %w: %s", args[0], err, strings.TrimSpace(stderr.String()))
	}
	return strings.TrimSpace(string(out)), nil
}

// table prints a row a figure and a column a tree.
func table(w io.Writer, columns []string, counts []*Counts) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name string, figure func(*Counts) string) {
		fmt.Fprint(tw, name)
		for _, c := range counts {
			fmt.Fprint(tw, "\t", figure(c))
		}
		fmt.Fprintln(tw)
	}
	number := func(name string, figure func(*Counts) int) {
		row(name, func(c *Counts) string { return strconv.Itoa(figure(c)) })
	}
	fmt.Fprintln(tw, "\t"+strings.Join(columns, "\t"))
	number("packages", func(c *Counts) int { return c.Packages })
	number("import edges", func(c *Counts) int { return c.Edges })
	number("functions", func(c *Counts) int { return len(c.Functions) })
	number("functions above 80 lines", func(c *Counts) int { return len(c.long()) })
	number("functions with cyclomatic above 25", func(c *Counts) int { return len(c.branched()) })
	number("functions named by a preposition or everyday verb", func(c *Counts) int { return len(c.Named) })
	number("assignments of three and more values", func(c *Counts) int { return len(c.Assignments) })
	for kind, name := range []string{"product", "tests", "documents"} {
		number("lines, "+name, func(c *Counts) int { return c.Lines[kind] })
		number("  above 120 columns", func(c *Counts) int { return c.Over120[kind] })
		number("  above 140 columns", func(c *Counts) int { return c.Over140[kind] })
	}
	for kind, name := range []string{"comments", "documents"} {
		number("words, "+name, func(c *Counts) int { return c.Words[kind] })
		for _, p := range source.Phrases {
			unit, of := "per 1 000 words", func(c *Counts) float64 { return 1000 / float64(c.Words[kind]) }
			if p.PerLine {
				unit, of = "% of lines", func(c *Counts) float64 { return 100 / float64(c.ProseLines[kind]) }
			}
			row("  "+p.Name+", "+unit, func(c *Counts) string {
				if c.Words[kind] == 0 {
					return "-"
				}
				return fmt.Sprintf("%.2f", float64(c.Phrases[kind][p.Name])*of(c))
			})
		}
	}
	row("comment lines ÷ code lines", func(c *Counts) string { return fmt.Sprintf("%.2f", c.whole().Ratio()) })
	for _, p := range packages(counts) {
		row("  "+p, func(c *Counts) string {
			if d, ok := c.Density[p]; ok {
				return fmt.Sprintf("%.2f", d.Ratio())
			}
			return "-"
		})
	}
	return tw.Flush()
}

func packages(counts []*Counts) []string {
	all := map[string]bool{}
	for _, c := range counts {
		for p := range c.Density {
			all[p] = true
		}
	}
	return slices.Sorted(maps.Keys(all))
}

func (c *Counts) whole() (sum Density) {
	for _, d := range c.Density {
		sum.Code += d.Code
		sum.Comment += d.Comment
	}
	return sum
}

func (c *Counts) long() []Function {
	return slices.DeleteFunc(slices.Clone(c.Functions), func(f Function) bool { return f.Lines <= 80 })
}

func (c *Counts) branched() []Function {
	return slices.DeleteFunc(slices.Clone(c.Functions), func(f Function) bool { return f.Cyclomatic <= 25 })
}

func names(w io.Writer, c *Counts) {
	for _, f := range c.long() {
		fmt.Fprintf(w, "%s %s: %d lines\n", f.File, f.Name, f.Lines)
	}
	for _, f := range c.branched() {
		fmt.Fprintf(w, "%s %s: cyclomatic %d\n", f.File, f.Name, f.Cyclomatic)
	}
	for _, n := range c.Named {
		fmt.Fprintf(w, "%s: name\n", n)
	}
	for _, a := range c.Assignments {
		fmt.Fprintf(w, "%s: assignment of three and more values\n", a)
	}
}
