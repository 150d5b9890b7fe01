package shell

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	_ "weir/internal/cli" // a cached result must not outlive a change of the program
)

const root = "../../.."

// TestCommandsOfDocuments runs the blocks marked "run: test/docs" as they are written, in
// a directory that has testdata/ and a capture my.pcap. "go run ./cmd/weir" runs a binary
// that the README's own command has built. A block marked "run: test/docs, output below"
// must print the lines of the block that follows it.
func TestCommandsOfDocuments(t *testing.T) {
	dir := t.TempDir()
	abs, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{
		"testdata": filepath.Join(abs, "testdata"),
		"my.pcap":  filepath.Join(abs, "testdata/captures/softflowd_v9_synth_adj.pcap"),
	} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	const build = "go build -o bin/ ./cmd/..."
	rewrite := strings.NewReplacer(
		build, "go build -C '"+abs+"' -o '"+dir+"/bin/' ./cmd/...",
		"go run ./cmd/weir ", "weir ")
	run := func(script string) (output string, err error) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		c := exec.CommandContext(ctx, "sh", "-ec", rewrite.Replace(script))
		c.Dir = dir
		c.Env = append(os.Environ(), "PATH="+filepath.Join(dir, "bin")+":"+os.Getenv("PATH"), "TZ=UTC")
		b, err := c.CombinedOutput()
		return string(b), err
	}
	if out, err := run(build); err != nil {
		t.Fatalf("%s: %v\n%s", build, err, out)
	}
	ran := 0
	files, err := Documents(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		list, _, err := Blocks(root, file)
		if err != nil {
			t.Fatal(err)
		}
		for i, b := range list {
			mark, below := strings.CutSuffix(b.Mark, ", output below")
			if b.Language != "sh" || mark != "run: test/docs" {
				continue
			}
			ran++
			out, err := run(strings.Join(b.Lines, "\n"))
			if err != nil {
				t.Errorf("%s: %v\n%s", b, err, out)
				continue
			}
			if !below {
				continue
			}
			if i+1 == len(list) || list[i+1].Language != "" {
				t.Errorf("%s: no block of output follows", b)
				continue
			}
			for _, line := range list[i+1].Lines {
				if !printed(out, line) {
					t.Errorf("%s: the document shows a line that the command does not print:\n%s\n--- it prints\n%s", b, line, out)
				}
			}
		}
	}
	if ran < 5 {
		t.Errorf("%d blocks prove nothing", ran)
	}
}

var (
	moment = regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+`)
	took   = regexp.MustCompile(`took: +[\d.]+m?s`)
)

// printed reports whether output has a line with the parts of want, in order; an ellipsis
// in want stands for anything. Moments and run times of a command may differ, and so may
// the width of columns.
func printed(output, want string) bool {
	same := func(s string) string {
		s = took.ReplaceAllString(moment.ReplaceAllString(s, "MOMENT"), "took: TIME")
		return strings.Join(strings.Fields(s), " ")
	}
	parts := strings.Split(same(want), "…")
	return slices.ContainsFunc(strings.Split(output, "\n"), func(line string) bool {
		line = same(line)
		for _, part := range parts {
			_, after, ok := strings.Cut(line, strings.TrimSpace(part))
			if !ok {
				return false
			}
			line = after
		}
		return true
	})
}
