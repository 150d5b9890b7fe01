package main

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const header = "//go:build integration\n\npackage %\n\nimport (\n\t\"os\"\n\t\"os/exec\"\n\t\"strconv\"\n\t\"testing\"\n)\n\n" +
	"var _, _, _ = os.Args, exec.Command, strconv.Itoa\n\n"

// tree is a module with tests that hang, fail, panic, pass and skip, and packages that must not run.
var tree = map[string]string{
	"go.mod": "module example.org/tree\n\ngo 1.26\n",
	"a/a_test.go": header + `
func TestHangs(t *testing.T) {
	child := exec.Command("sleep", "3600")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("pid", []byte(strconv.Itoa(child.Process.Pid)), 0o600); err != nil {
		t.Fatal(err)
	}
	select {}
}

func TestAfterTheHang(t *testing.T) {}
`,
	"b/b_test.go": header + `
func TestFails(t *testing.T) { t.Error("as it must") }
func TestPanics(t *testing.T) { panic("as it must") }
func TestSkips(t *testing.T) { t.Skip("as it must") }
func TestPasses(t *testing.T) {}
`,
	"c/c_test.go": header + "func TestDoesNotCompile(t *testing.T) { return 1 }\n",
	"d/d_test.go": strings.Replace(header, "//go:build integration", "", 1) + "func TestWithoutTheTag(t *testing.T) { t.Error(1) }\n",
	"e/e.go":      "package e\n",
	"f/f_test.go": header + "func TestOfTheLastPackage(t *testing.T) {}\n",
	"g/g_test.go": "//go:build integration\n\npackage %\n\nimport (\n\t\"syscall\"\n\t\"testing\"\n)\n\n" +
		"func TestEndsItsProcess(t *testing.T) { syscall.Exit(0) }\n",
}

func makeTree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range tree {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(strings.Replace(text, "package %", "package "+filepath.Base(filepath.Dir(path)), 1)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestAHangingTestIsNamedAndTheOthersRun(t *testing.T) {
	dir := makeTree(t)
	var out strings.Builder
	r := runner{out: &out, dir: dir, pattern: ".", bound: 5 * time.Second}
	failed, err := r.run(t.Context(), nil)
	if !failed || err != nil {
		t.Errorf("failed %v, %v, want true and no error", failed, err)
	}
	_, summary, _ := strings.Cut(out.String(), "=== tests\n")
	got := strings.Split(strings.TrimSpace(regexp.MustCompile(` \(\d+ s\)`).ReplaceAllString(summary, "")), "\n")
	want := []string{
		"HANG  example.org/tree/a TestHangs",
		"ok    example.org/tree/a TestAfterTheHang",
		"FAIL  example.org/tree/b TestFails",
		"FAIL  example.org/tree/b TestPanics",
		"skip  example.org/tree/b TestSkips",
		"ok    example.org/tree/b TestPasses",
		"FAIL  example.org/tree/c",
		"ok    example.org/tree/f TestOfTheLastPackage",
		"FAIL  example.org/tree/g TestEndsItsProcess",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s\nin\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"), out.String())
	}
	text, err := os.ReadFile(filepath.Join(dir, "a", "pid"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(string(text))
	if err != nil {
		t.Fatal(err)
	}
	// Its parent is gone: whoever adopts it reaps it, at once or later. A zombie is dead.
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		state, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		if !strings.Contains(string(state), ") Z ") && len(state) > 0 {
			t.Errorf("the child of the hanging test lives: %v, %s", err, state)
		}
	}
}

func TestNoFailure(t *testing.T) {
	r := runner{out: t.Output(), dir: makeTree(t), pattern: "Passes|Skips", bound: time.Minute}
	if failed, err := r.run(t.Context(), []string{"./b", "./f"}); failed || err != nil {
		t.Errorf("failed %v, %v, want false and no error", failed, err)
	}
}

func TestNoPackageIsAnError(t *testing.T) {
	r := runner{out: t.Output(), dir: makeTree(t), pattern: ".", bound: time.Minute}
	if failed, err := r.run(t.Context(), []string{"./d", "./e"}); !failed || err == nil {
		t.Errorf("failed %v, %v, want an error", failed, err)
	}
	r.pattern = "NoSuchTest"
	if failed, err := r.run(t.Context(), []string{"./a"}); !failed || err == nil {
		t.Errorf("a pattern without a test: failed %v, %v, want an error", failed, err)
	}
}
