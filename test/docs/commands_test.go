package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"weir/test/docs/shell"
)

// command recognises a command line for a shell.
var command = regexp.MustCompile(`^(\$ )?([A-Z_]+=\S+ )*(go|make|weir|bin/weir|ingest|enrich|docker|kubectl|kcat|curl|sqlite3|python3|pip|openssl|cosign|sha256sum|git) [^|]`)

// runners maps the name in a block's mark to the documents whose blocks that test runs.
var runners = map[string][]string{
	"test/docs":         nil, // any document: TestCommandsOfDocuments of test/docs/shell
	"make compose-test": {"docs/operations.md"},
	"make integration":  {"docs/consumers.md", "docs/security.md"},
}

func TestEveryCommandIsRunOrMarked(t *testing.T) {
	found := 0
	files, err := shell.Documents(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		list, outside, err := shell.Blocks(root, file)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range list {
			if b.Language != "sh" {
				if b.Language == "" && len(b.Lines) > 0 && command.MatchString(b.Lines[0]) {
					t.Errorf("%s: a block of commands must begin with ```sh", b)
				}
				continue
			}
			found++
			if reason, ok := strings.CutPrefix(b.Mark, "not run: "); ok && len(reason) > 10 {
				continue
			}
			runner, ok := strings.CutPrefix(b.Mark, "run: ")
			runner, _, _ = strings.Cut(runner, ", ")
			of, known := runners[runner]
			switch {
			case !ok || !known:
				t.Errorf("%s: commands need a mark in the line above: <!-- run: test/docs -->, or <!-- not run: and why -->, not %q", b, b.Mark)
			case of != nil && !slices.Contains(of, file):
				t.Errorf("%s: %s does not run the commands of this document", b, runner)
			}
		}
		for _, line := range outside {
			if l, ok := strings.CutPrefix(line, "    "); ok && command.MatchString(l) {
				t.Errorf("%s: %q must stand in a block that begins with ```sh", file, l)
			}
		}
	}
	if found < 20 {
		t.Errorf("found only %d blocks of commands", found)
	}
}

// make compose-test runs the commands of two sections of docs/operations.md. Blocks in other
// sections would not be run.
func TestComposeTestWalksTheSectionsOfMarkedCommands(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(root, "test/compose/check/*.go"))
	if err != nil {
		t.Fatal(err)
	}
	var walk strings.Builder
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(f, "_test.go") {
			walk.Write(text)
		}
	}
	n := 0
	list, _, err := shell.Blocks(root, "docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range list {
		if b.Mark != "run: make compose-test" {
			continue
		}
		n++
		if !strings.Contains(walk.String(), `"`+b.Section+`"`) {
			t.Errorf("%s: test/compose/check does not walk section %q", b, b.Section)
		}
	}
	if n == 0 {
		t.Error("no command of docs/operations.md is run")
	}
}
