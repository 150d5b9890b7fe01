package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestThePatchSaysWhatItBreaks(t *testing.T) {
	about, profile, err := header("A stale owner commits\nwith a fresh generation.\n\nprofile: quiet\n\ndiff --git a/x b/x\n")
	if err != nil || about != "A stale owner commits with a fresh generation." || profile != "quiet" {
		t.Errorf("%q, %q, %v", about, profile, err)
	}
	for _, bad := range []string{"", "words alone", "diff --git a/x b/x\n"} {
		if _, _, err := header(bad); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

func TestTheFirstSeedWithAFindingIsTaken(t *testing.T) {
	for _, processes := range []int{1, 2, 8} {
		later := make(chan struct{})
		seed, f, err := firstFinding(100, processes, func(seed uint64) (finding, error) {
			switch {
			case seed == 18:
				close(later)
			case seed == 17 && processes > 1: // a later seed ends first
				<-later
			}
			if seed >= 17 {
				return finding{"twice", "x"}, nil
			}
			return finding{}, nil
		})
		if err != nil || seed != 17 || f.invariant != "twice" {
			t.Errorf("%d processes: seed %d, %v, %v: want 17", processes, seed, f, err)
		}
	}
	tried := 0
	if seed, _, err := firstFinding(30, 1, func(uint64) (finding, error) { tried++; return finding{}, nil }); seed != 0 || err != nil || tried != 30 {
		t.Errorf("seed %d, %v, %d tried: want none, 30", seed, err, tried)
	}
	if _, _, err := firstFinding(30, 2, func(uint64) (finding, error) { return finding{}, errors.New("no binary") }); err == nil {
		t.Error("no error")
	}
}

func TestAPatchAppliesToTheCopyAloneOrSaysSo(t *testing.T) {
	dir := t.TempDir()
	root := filepath.Join(dir, "mutant")
	if err := os.Mkdir(root, 0o750); err != nil {
		t.Fatal(err)
	}
	file := func(path, text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	file(filepath.Join(root, "a.go"), "package a\n\nconst kept = true\n")
	m := mutant{name: "m", path: filepath.Join(dir, "m.patch")}
	file(m.path, "It forgets.\n\ndiff --git a/a.go b/a.go\n--- a/a.go\n+++ b/a.go\n@@ -1,3 +1,3 @@\n package a\n \n-const kept = true\n+const kept = false\n")
	if err := m.apply(t.Context(), root); err != nil {
		t.Fatal(err)
	}
	if text, _ := os.ReadFile(filepath.Join(root, "a.go")); !strings.Contains(string(text), "kept = false") {
		t.Errorf("%s", text)
	}
	if err := m.apply(t.Context(), root); err == nil || !strings.Contains(err.Error(), "does not apply") {
		t.Errorf("a second time: %v", err)
	}
}

func TestTheTableIsWrittenBetweenItsMarks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "testing.md")
	if err := os.WriteFile(path, []byte("before\n\n"+tableBegin+"\nold\n"+tableEnd+"\nafter\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := writeTable(path, []hunt{{mutant: mutant{name: "stale-owner", about: "Two members own one partition."}, seed: 12, first: finding{"twice", "y"}}}); err != nil {
		t.Fatal(err)
	}
	want := "before\n\n" + tableBegin + "\n\n| mutant | what it breaks | invariant that fails | first seed |\n|---|---|---|---|\n" +
		"| `stale-owner` | Two members own one partition. | twice | 12 |\n\n" + tableEnd + "\nafter\n"
	if got, _ := os.ReadFile(path); string(got) != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
	if err := writeTable(path+"x", nil); err == nil {
		t.Error("no error")
	}
}

// A change of mended code must update the patch that undoes the mend.
func TestEveryMutantAppliesToTheTree(t *testing.T) {
	all, err := readMutants("../testdata/mutants", "")
	if err != nil {
		t.Fatal(err)
	}
	if len(all) == 0 {
		t.Error("there are no mutants")
	}
	for _, m := range all {
		path, err := filepath.Abs(m.path)
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), "git", "apply", "--check", path)
		cmd.Dir = "../../.."
		if text, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", m.name, err, text)
		}
	}
}
