// Package conformance makes docs/conformance.md: which requirements of the RFCs
// on a collector are held by which test, and how what Weir decodes of real
// captures differs from what other decoders do.
package conformance

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"weir/internal/weirtest/tsv"
)

var update = flag.Bool("update", false, "rewrite the tables of docs/conformance.md and docs/vendors.md")

const document = "../../docs/conformance.md"

// The parts of the document, between markers: the second needs the corpus.
const (
	requirementsMark = "<!-- requirements: written by go test ./test/conformance -update -->"
	differencesMark  = "<!-- differences: written by go test ./test/conformance -update -->"
	endMark          = "<!-- end -->"
)

// between holds that the part of the document at mark is text, or writes it.
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
		t.Fatalf("%s: no part %q", document, mark)
	}
	if was == text {
		return
	}
	if !*update {
		t.Errorf("%s is not what the tests say: run go test ./test/conformance -update", document)
		return
	}
	if err := os.WriteFile(document, []byte(head+mark+"\n"+text+endMark+tail), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestEachRequirementIsHeldByATestThatExists(t *testing.T) {
	list := tsv.Read(t, "testdata/requirements.tsv")
	tests := regexp.MustCompile(`\b([a-z]+)\.((?:Test|Fuzz)\w+)(?:/([^;)]+))?`)
	sources := map[string]string{}
	source := func(pkg string) string {
		if s, ok := sources[pkg]; ok {
			return s
		}
		var b strings.Builder
		files, _ := filepath.Glob("../../internal/" + pkg + "/*_test.go")
		for _, f := range files {
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			b.Write(text)
		}
		sources[pkg] = b.String()
		return sources[pkg]
	}
	var text strings.Builder
	held, not := 0, 0
	rfc := ""
	for _, row := range list {
		r := row.Cells
		if r[0] != rfc {
			rfc = r[0]
			fmt.Fprintf(&text, "\n### RFC %s\n\n| section | level | requirement | held by |\n|---|---|---|---|\n", rfc)
		}
		named := tests.FindAllStringSubmatch(r[4], -1)
		unsupported := strings.HasPrefix(r[4], "not supported: ")
		holder := r[4]
		if !unsupported {
			holder = strings.ReplaceAll(holder, "; ", "<br>")
		}
		fmt.Fprintf(&text, "| %s | %s | %s | %s |\n", r[1], r[2], r[3], holder)
		if unsupported {
			not++
		} else {
			held++
		}
		if len(named) == 0 && !unsupported {
			t.Errorf("RFC %s section %s, %q: no test and no reason", r[0], r[1], r[3])
		}
		for _, n := range named {
			if !strings.Contains(source(n[1]), "func "+n[2]+"(") {
				t.Errorf("RFC %s section %s: there is no %s.%s", r[0], r[1], n[1], n[2])
			}
			if row := strings.TrimSpace(n[3]); row != "" && !strings.Contains(source(n[1]), `"`+row+`"`) {
				t.Errorf("RFC %s section %s: %s.%s has no row %q", r[0], r[1], n[1], n[2], row)
			}
		}
	}
	between(t, requirementsMark, fmt.Sprintf("\n%d requirements are held by tests, %d are not, each with its reason.\n%s\n", held, not, text.String()))
	if levels := []string{"MUST", "MUST NOT", "SHOULD", "SHOULD NOT", "MAY", "rule"}; slices.ContainsFunc(list, func(r tsv.Row) bool { return !slices.Contains(levels, r.At("level")) }) {
		t.Errorf("a level that is none of %v", levels)
	}
}
