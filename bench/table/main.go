// Command table reads the output of BenchmarkDecode, prints the medians with
// their ratios, and puts the same table between the markers of a document.
package main

import (
	"bufio"
	"cmp"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

const begin, end = "<!-- decode: written by make bench -->", "<!-- decode: end -->"

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: table BENCHMARK-OUTPUT DOCUMENT")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "table:", err)
		os.Exit(1)
	}
}

func run(from, to string) error {
	ns, cpu, err := read(from)
	if err != nil {
		return err
	}
	text := fmt.Sprintf("%s, %s, one core; medians of %d runs, ns a flow.\n\n", cmp.Or(cpu, "unknown CPU"), runtime.Version(), len(ns["weir/v5"])) +
		"| version | Weir | goflow2 2.2.6 | ratio | reading the fields alone | ratio |\n|---|---|---|---|---|---|\n"
	for _, v := range []string{"v5", "v9", "ipfix"} {
		weir, other, bound := median(ns["weir/"+v]), median(ns["goflow2/"+v]), median(ns["bound/"+v])
		if weir == 0 || other == 0 || bound == 0 {
			return fmt.Errorf("%s: no figures for %s of all three", from, v)
		}
		text += fmt.Sprintf("| %s | %.0f | %.0f | %.1f times faster | %.0f | %.1f times slower |\n", v, weir, other, other/weir, bound, weir/bound)
	}
	fmt.Print(text)
	doc, err := os.ReadFile(to)
	if err != nil {
		return err
	}
	head, rest, ok := strings.Cut(string(doc), begin)
	_, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		return fmt.Errorf("%s: want the lines %q and %q around the table", to, begin, end)
	}
	return os.WriteFile(to, []byte(head+begin+"\n"+text+end+tail), 0o644)
}

// read returns the ns a flow of each subject/version.
func read(path string) (ns map[string][]float64, cpu string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, "", err
	}
	defer f.Close()
	ns = map[string][]float64{}
	for lines := bufio.NewScanner(f); lines.Scan(); err = lines.Err() {
		if c, ok := strings.CutPrefix(lines.Text(), "cpu: "); ok {
			cpu = c
		}
		words := strings.Fields(lines.Text())
		if i := slices.Index(words, "ns/flow"); i > 0 && strings.HasPrefix(words[0], "BenchmarkDecode/") {
			v, err := strconv.ParseFloat(words[i-1], 64)
			if err != nil {
				return nil, "", fmt.Errorf("%s: %q: %w", path, lines.Text(), err)
			}
			name := strings.TrimPrefix(words[0], "BenchmarkDecode/")
			ns[name] = append(ns[name], v)
		}
	}
	return ns, cpu, err
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	return (v[len(v)/2] + v[(len(v)-1)/2]) / 2
}
