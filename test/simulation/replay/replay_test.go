package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestShrinkKeepsWhatTheFailureNeeds(t *testing.T) {
	var all []int
	for i := range 100 {
		all = append(all, i)
	}
	for _, c := range []struct {
		name string
		need []int
	}{
		{"one step", []int{42}},
		{"the first and the last", []int{0, 99}},
		{"neighbours and one far away", []int{13, 14, 77}},
		{"nothing: it fails without steps", nil},
		{"all", all},
	} {
		t.Run(c.name, func(t *testing.T) {
			calls := 0
			got, err := shrink(slices.Clone(all), func(steps []int) (bool, error) {
				calls++
				for _, n := range c.need {
					if !slices.Contains(steps, n) {
						return false, nil
					}
				}
				return true, nil
			}, 10_000)
			if err != nil || !slices.Equal(got, c.need) {
				t.Errorf("%v, %v: want %v", got, err, c.need)
			}
			if calls > 400 {
				t.Errorf("%d runs for 100 steps", calls)
			}
		})
	}
}

// Either of two steps is sufficient: shrinking must leave one of them.
func TestShrinkStopsWhereNoSingleStepCanGo(t *testing.T) {
	got, err := shrink([]string{"a", "cut", "b", "c", "kill", "d", "e"}, func(steps []string) (bool, error) {
		return slices.Contains(steps, "cut") || slices.Contains(steps, "kill"), nil
	}, 100)
	if err != nil || len(got) != 1 || got[0] != "kill" && got[0] != "cut" {
		t.Errorf("%v, %v", got, err)
	}
}

func TestShrinkEndsAfterItsTriesAndAtAnError(t *testing.T) {
	calls := 0
	got, err := shrink(make([]int, 64), func([]int) (bool, error) { calls++; return false, nil }, 7)
	if err != nil || calls != 7 || len(got) != 64 {
		t.Errorf("%d calls, %d steps, %v: want 7, 64", calls, len(got), err)
	}
	broken := errors.New("the binary is gone")
	if _, err := shrink(make([]int, 4), func([]int) (bool, error) { return false, broken }, 7); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
}

func TestAPlanIsReadAsItIsWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "case.json")
	for _, steps := range [][]json.RawMessage{{}, {json.RawMessage(`{"kind":"cut","for":3}`)}, {json.RawMessage(`{"kind":"flows"}`), json.RawMessage(`{"kind":"kill"}`)}} {
		want := plan{Name: "quiet", About: `says "twice"`, Seed: 7, Setup: json.RawMessage(`{"Members":2}`), Steps: steps}
		if err := want.write(path); err != nil {
			t.Fatal(err)
		}
		got, err := readPlan(path)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%+v, %v: want %+v", got, err, want)
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if lines := strings.Count(string(text), "\n"); lines != len(steps)+2 {
			t.Errorf("%d lines for %d steps:\n%s", lines, len(steps), text)
		}
	}
}

func TestOutputIsParsed(t *testing.T) {
	hash := strings.Repeat("0123456789abcdef", 4)
	o := parse([]byte("FINDING twice: id ab12: version 2 after 2\nFINDING missing: 3 flows\n--- FAIL: TestReplay\nTRACE seed 7: 4096 bytes, 33 lines, " + hash + "\nFAIL\n"))
	want := outcome{hash: hash, lines: 33, findings: []finding{{"twice", "id ab12: version 2 after 2"}, {"missing", "3 flows"}}}
	if !reflect.DeepEqual(o, want) {
		t.Errorf("%+v: want %+v", o, want)
	}
	if !o.has("missing") || o.has("hot") {
		t.Error("has is wrong")
	}
	if o := parse([]byte("panic: deadlock\n")); o.hash != "" || o.findings != nil {
		t.Errorf("%+v", o)
	}
}

func TestTheFirstDifferentLineIsShown(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	a := file("a", "one\nat 0xc000123456\nthree\nfour")
	for _, c := range []struct{ name, text, want string }{
		{"changed", "one\nat 0xc000999999\ntwo\nfour", `line 3: "three", "two"`},
		{"shorter", "one\nat 0xc000123456\nthree", `line 4: "four", "(end)"`},
	} {
		if got, err := firstDifference(a, file(c.name, c.text)); err != nil || got != c.want {
			t.Errorf("%s: %s, %v: want %s", c.name, got, err, c.want)
		}
	}
}

func TestSeedsAreParsed(t *testing.T) {
	if got, err := parseSeeds("3, 18446744073709551615"); err != nil || !slices.Equal(got, []uint64{3, 1<<64 - 1}) {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"", "1,", "-1", "a"} {
		if _, err := parseSeeds(bad); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}
