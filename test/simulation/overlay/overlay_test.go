package overlay

import (
	"encoding/json"
	"errors"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestEveryEditFitsThisGoVersion(t *testing.T) {
	out, err := exec.Command("go", "env", "GOROOT", "GOVERSION").Output()
	if err != nil {
		t.Fatal(err)
	}
	goroot, version, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	if _, err := os.Stat(filepath.Join(goroot, "src/runtime/rand.go")); err != nil {
		t.Skipf("SKIPPED: no source of the runtime: %v", err)
	}
	path, err := Write(goroot, version, t.TempDir())
	if err != nil {
		if os.Getenv("CI") == "" {
			t.Skipf("SKIPPED, replay of simulated runs does not work with this Go: %v", err)
		}
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var list struct{ Replace map[string]string }
	if err := json.Unmarshal(text, &list); err != nil {
		t.Fatal(err)
	}
	if len(list.Replace) != 11 {
		t.Errorf("%d files are replaced, want 11", len(list.Replace))
	}
	for from, to := range list.Replace {
		if _, err := parser.ParseFile(token.NewFileSet(), to, nil, parser.SkipObjectResolution); err != nil {
			t.Errorf("the copy of %s: %v", from, err)
		}
	}
}

func TestAnEditThatDoesNotFitIsNamed(t *testing.T) {
	file := func(without string, twice string) func(string) (string, error) {
		return func(name string) (string, error) {
			var text strings.Builder
			for _, e := range edits {
				if e.file != name || e.about == without {
					continue
				}
				for range max(e.times, 1) {
					text.WriteString(e.old)
				}
				if e.about == twice {
					text.WriteString(e.old)
				}
			}
			return text.String(), nil
		}
	}
	if _, err := apply("go1.99", file("", "")); err != nil {
		t.Fatalf("all texts are there: %v", err)
	}
	for _, c := range []struct{ without, twice, want string }{
		{without: "no time slices", want: "is there 0 times, want 1"},
		{twice: "no starving mutexes: whether a wait was long depends on the clock", want: "is there 2 times, want 1"},
	} {
		_, err := apply("go1.99", file(c.without, c.twice))
		if !errors.Is(err, ErrDoesNotFit) {
			t.Fatalf("%+v: %v", c, err)
		}
		for _, want := range []string{"go1.99", c.without + c.twice, c.want, "test/simulation/overlay/edits.go"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%v: want %q in it", err, want)
			}
		}
	}
}

func TestAFileThatIsGoneIsNamed(t *testing.T) {
	_, err := Write(t.TempDir(), "go1.99", t.TempDir())
	if !errors.Is(err, ErrDoesNotFit) || !strings.Contains(err.Error(), "src/internal/sync/mutex.go") {
		t.Errorf("%v", err)
	}
	if _, err := apply("go1.99", func(string) (string, error) { return "", fs.ErrNotExist }); err == nil {
		t.Error("no error")
	}
}
