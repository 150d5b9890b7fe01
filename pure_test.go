package weir_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

// pure are the packages that do no I/O and read no clock: the same calls give the same results. This list, the rule
// "pure" of depguard in .golangci.yml and the kinds in ARCHITECTURE.md must be equal.
var pure = []string{
	"internal/annotate/cryptopan",
	"internal/atomicmap",
	"internal/bounded",
	"internal/cli/pynetflow",
	"internal/cli/report",
	"internal/cli/retime",
	"internal/decode",
	"internal/doctor",
	"internal/failure",
	"internal/flowkey",
	"internal/ie",
	"internal/ingest/budget",
	"internal/ipfix",
	"internal/kafka/framing",
	"internal/kafka/recordbatch",
	"internal/loss",
	"internal/pair",
	"internal/query",
	"internal/saturating",
	"internal/services",
	"internal/spelling",
	"internal/templates/text",
	"internal/transport/proxyproto",
	"internal/wire",
	"pkg/netflow",
}

// clockInjected are packages whose callers give the clock. Each uses the functions of package time that are named here.
var clockInjected = map[string][]string{
	"internal/templates": {"time.Now"}, // the default of Options.Now
	"pkg/netflow":        {"time.Now"}, // the default of the argument of New
}

// clockFuncs are the functions of package time that read the clock or wait.
var clockFuncs = []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker"}

// A depguardRule is a rule of depguard in .golangci.yml.
type depguardRule struct {
	Files []string
	Deny  []struct{ Pkg string }
}

func pureRule(t *testing.T) depguardRule {
	t.Helper()
	text, err := os.ReadFile(".golangci.yml")
	if err != nil {
		t.Fatal(err)
	}
	var config struct {
		Linters struct {
			Settings struct {
				Depguard struct{ Rules map[string]depguardRule }
			}
		}
	}
	if err := yaml.Unmarshal(text, &config); err != nil {
		t.Fatal(err)
	}
	rule := config.Linters.Settings.Depguard.Rules["pure"]
	if len(rule.Files) == 0 || len(rule.Deny) == 0 {
		t.Fatal(".golangci.yml: depguard has no rule pure")
	}
	return rule
}

var tableRow = regexp.MustCompile("(?m)^\\| (`[^|]*`) \\| [^|]* \\| ([^|]*) \\|$")

// kinds reads the table of packages in ARCHITECTURE.md: the kind of each package.
func kinds(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(text), "| package | one sentence | kind |")
	table, _, _ = strings.Cut(table, "\n\n")
	out := map[string]string{}
	for _, row := range tableRow.FindAllStringSubmatch(table, -1) {
		names, kind := strings.Split(row[1], ", "), strings.Split(row[2], ", ")
		if len(kind) != 1 && len(kind) != len(names) {
			t.Errorf("ARCHITECTURE.md: %s: %d packages and %d kinds", row[1], len(names), len(kind))
			continue
		}
		for i, n := range names {
			out[strings.Trim(n, "`")] = kind[min(i, len(kind)-1)]
		}
	}
	return out
}

func TestOneListOfPurePackages(t *testing.T) {
	of := kinds(t)
	for _, l := range layers {
		for _, p := range l {
			p = strings.TrimPrefix(p, "weir/")
			if !strings.HasPrefix(p, "cmd/") && p != "testdata" && of[p] == "" {
				t.Errorf("%s has no row in the table of ARCHITECTURE.md", p)
			}
		}
	}
	for p := range of {
		if !strings.HasPrefix(p, "proto/") && layerOf("weir/"+p) < 0 {
			t.Errorf("ARCHITECTURE.md: %s has no place in the layers of arch_test.go", p)
		}
	}
	maps.DeleteFunc(of, func(_, kind string) bool { return kind != "pure" })
	if table := slices.Sorted(maps.Keys(of)); !slices.Equal(table, pure) {
		t.Errorf("pure in ARCHITECTURE.md:\n%q\nwant\n%q", table, pure)
	}
	var guarded []string
	for _, f := range pureRule(t).Files {
		if f == "!$test" {
			continue
		}
		p, ok := strings.CutPrefix(f, "**/")
		p, ends := strings.CutSuffix(p, "/*.go")
		if !ok || !ends {
			t.Errorf(".golangci.yml: %q, want **/PACKAGE/*.go", f)
		}
		guarded = append(guarded, p)
	}
	slices.Sort(guarded)
	if !slices.Equal(guarded, pure) {
		t.Errorf("pure in .golangci.yml:\n%q\nwant\n%q", guarded, pure)
	}
}

func TestPurePackagesDoNoIO(t *testing.T) {
	rule := pureRule(t)
	denied := func(path string) bool {
		return slices.ContainsFunc(rule.Deny, func(d struct{ Pkg string }) bool {
			exact, is := strings.CutSuffix(d.Pkg, "$") // as depguard reads it: else a prefix
			return path == exact || !is && strings.HasPrefix(path, d.Pkg)
		})
	}
	for _, must := range []string{"os", "os/exec", "net", "net/http", "context", "log", "log/slog", "io/fs", "syscall", "github.com/twmb/franz-go/pkg/kgo"} {
		if !denied(must) {
			t.Errorf(".golangci.yml: the rule pure allows %s", must)
		}
	}
	var patterns []string
	for _, p := range pure {
		patterns = append(patterns, "./"+p)
	}
	for _, p := range list(t, patterns...) {
		for _, i := range p.Imports {
			if denied(i) {
				t.Errorf("%s imports %s", p.ImportPath, i)
			}
		}
	}
}

func TestPurePackagesReadNoClock(t *testing.T) {
	for _, dir := range slices.Concat(pure, slices.Collect(maps.Keys(clockInjected))) {
		used, err := clockUses(os.DirFS("."), dir)
		if err != nil {
			t.Fatal(err)
		}
		for place, name := range used {
			if !slices.Contains(clockInjected[dir], name) {
				t.Errorf("%s: %s in a package without a clock", place, name)
			}
		}
		for _, name := range clockInjected[dir] {
			if !slices.Contains(slices.Collect(maps.Values(used)), name) {
				t.Errorf("%s no longer uses %s: delete the exception", dir, name)
			}
		}
	}
}

// clockUses gives the uses of clockFuncs in the package in dir without its tests, by place. A call and a function value
// both count.
func clockUses(fsys fs.FS, dir string) (map[string]string, error) {
	names, err := fs.Glob(fsys, dir+"/*.go")
	if err != nil || len(names) == 0 {
		return nil, fmt.Errorf("%s: no Go files: %w", dir, err)
	}
	used := map[string]string{}
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		text, err := fs.ReadFile(fsys, name)
		if err != nil {
			return nil, err
		}
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, filepath.ToSlash(name), text, 0)
		if err != nil {
			return nil, err
		}
		local := ""
		for _, i := range f.Imports {
			if i.Path.Value == `"time"` {
				local = "time"
				if i.Name != nil {
					local = i.Name.Name
				}
			}
		}
		ast.Inspect(f, func(n ast.Node) bool {
			s, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if x, ok := s.X.(*ast.Ident); ok && local != "" && x.Name == local && slices.Contains(clockFuncs, s.Sel.Name) {
				used[fset.Position(s.Pos()).String()] = "time." + s.Sel.Name
			}
			return true
		})
	}
	return used, nil
}

func TestAClockUnderAnotherNameIsFound(t *testing.T) {
	dir := t.TempDir()
	text := "package p\n\nimport clock \"time\"\n\nvar now, zero = clock.Now, clock.Time{}\n\nfunc f() { <-clock.After(1) }\n"
	if err := os.MkdirAll(filepath.Join(dir, "p"), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "p", "p.go"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := clockUses(os.DirFS(dir), "p")
	want := map[string]string{"p/p.go:5:17": "time.Now", "p/p.go:7:14": "time.After"}
	if err != nil || !maps.Equal(got, want) {
		t.Errorf("%v, %v, want %v", got, err, want)
	}
}
