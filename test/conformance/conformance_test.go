// Package conformance checks and, with -update, writes the tables of docs/conformance.md and
// docs/vendors.md: the requirements of the RFCs on a collector with the tests that verify them, the
// differences between Weir and other decoders over real captures by cause, and each vendor's elements.
package conformance

import (
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"weir/internal/ingest"
	"weir/internal/settings"
	"weir/internal/weirtest/tsv"
)

var update = flag.Bool("update", false, "rewrite the tables of docs/conformance.md and docs/vendors.md")

const document = "../../docs/conformance.md"

// Markers of the document's tables. A table begins after its marker and ends at endMark. All but the
// requirements need the corpus.
const (
	requirementsMark = "<!-- requirements: written by go test ./test/conformance -update -->"
	differencesMark  = "<!-- differences: written by go test ./test/conformance -update -->"
	endMark          = "<!-- end -->"
)

// fold returns names as the cell of a table, collapsed if there are more than three.
func fold(names []string) string {
	if len(names) < 4 {
		return strings.Join(names, "<br>")
	}
	return fmt.Sprintf("<details><summary>%d captures</summary>%s</details>", len(names), strings.Join(names, "<br>"))
}

// between checks that the document's table at mark is text. With -update it writes the table.
func between(t *testing.T, mark, text string) {
	t.Helper()
	betweenIn(t, document, mark, text)
}

// betweenIn is between for any document.
func betweenIn(t *testing.T, document, mark, text string) {
	t.Helper()
	doc, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok := strings.Cut(string(doc), mark+"\n")
	was, tail, ok2 := strings.Cut(rest, endMark)
	if !ok || !ok2 {
		t.Fatalf("%s: want the marker %q, and %q after it", document, mark, endMark)
	}
	if was == text {
		return
	}
	if !*update {
		t.Errorf("%s is out of date at %q: run go test ./test/conformance -update", document, mark)
		return
	}
	if err := os.WriteFile(document, []byte(head+mark+"\n"+text+endMark+tail), 0o644); err != nil {
		t.Fatal(err)
	}
}

// testSources returns the text of all test files, by package name without _test.
func testSources(t *testing.T) map[string]string {
	t.Helper()
	sources := map[string]string{}
	for _, dir := range []string{"../../internal", "../../pkg", "../../test/conformance"} {
		err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, "_test.go") {
				return err
			}
			text, err := os.ReadFile(path)
			pkg := packageClause.FindSubmatch(text)
			if err != nil || pkg == nil {
				return fmt.Errorf("%s has no package clause: %w", path, err)
			}
			sources[strings.TrimSuffix(string(pkg[1]), "_test")] += string(text)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return sources
}

var packageClause = regexp.MustCompile(`(?m)^package (\w+)`)

// docs/conformance.md lists SCTP and DTLS as unsupported. A transport would be enabled by a setting, so
// there must be none for them.
func TestNoSettingListensOverSCTPOrDTLS(t *testing.T) {
	listens := 0
	for _, v := range settings.Variables[ingest.Config]() {
		switch {
		case strings.Contains(v.Name, "SCTP"), strings.Contains(v.Name, "DTLS"):
			t.Errorf("%s is a setting, but docs/conformance.md lists its transport as not supported", v.Name)
		case strings.HasPrefix(v.Name, "LISTEN_"):
			listens++
		}
	}
	if listens != 3 {
		t.Errorf("%d settings LISTEN_…: a new transport needs its requirements in testdata/requirements.tsv", listens)
	}
}

func TestEachRequirementIsHeldByATestThatExists(t *testing.T) {
	list := tsv.Read(t, "testdata/requirements.tsv")
	tests := regexp.MustCompile(`\b([a-z]+)\.((?:Test|Fuzz)\w+)(?:/([^;)]+))?`)
	sources := testSources(t)
	var text, open strings.Builder // all requirements by RFC; those not supported
	held, not := 0, 0
	rfc := ""
	for _, row := range list {
		r := row.Cells
		if r[0] != rfc {
			rfc = r[0]
			fmt.Fprintf(&text, "\n### RFC %s\n\n| section | level | requirement | verified by |\n|---|---|---|---|\n", rfc)
		}
		named := tests.FindAllStringSubmatch(r[4], -1)
		unsupported := strings.HasPrefix(r[4], "not supported: ")
		holder := strings.ReplaceAll(r[4], "; ", "<br>")
		if unsupported {
			holder = "not supported, see above"
		}
		fmt.Fprintf(&text, "| %s | %s | %s | %s |\n", r[1], r[2], r[3], holder)
		if unsupported {
			not++
			fmt.Fprintf(&open, "| %s, %s | %s | %s | %s |\n", r[0], r[1], r[2], r[3], strings.TrimPrefix(r[4], "not supported: "))
		} else {
			held++
		}
		if len(named) == 0 {
			t.Errorf("RFC %s section %s, %q: want the name of a test that shows the behaviour", r[0], r[1], r[3])
		}
		if unsupported && !strings.Contains(r[4], " (") {
			t.Errorf("RFC %s section %s, %q: want a reason before the test's name", r[0], r[1], r[3])
		}
		for _, n := range named {
			if !strings.Contains(sources[n[1]], "func "+n[2]+"(") {
				t.Errorf("RFC %s section %s: there is no %s.%s", r[0], r[1], n[1], n[2])
			}
			if row := strings.TrimSpace(n[3]); row != "" && !strings.Contains(sources[n[1]], `"`+row+`"`) {
				t.Errorf("RFC %s section %s: %s.%s has no row %q", r[0], r[1], n[1], n[2], row)
			}
		}
	}
	between(t, requirementsMark, fmt.Sprintf("\n%d requirements are supported and verified by tests. %d are not supported; the named test shows Weir's behaviour:\n\n"+
		"| RFC, section | level | requirement | reason and test |\n|---|---|---|---|\n%s%s\n", held, not, open.String(), text.String()))
	if levels := []string{"MUST", "MUST NOT", "SHOULD", "SHOULD NOT", "MAY", "rule"}; slices.ContainsFunc(list, func(r tsv.Row) bool { return !slices.Contains(levels, r.At("level")) }) {
		t.Errorf("testdata/requirements.tsv: want each level to be one of %v", levels)
	}
}
