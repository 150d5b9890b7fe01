package main

import (
	"strings"
	"testing"

	"weir/test/accuracy/score"
)

func TestReplaceSection(t *testing.T) {
	const doc = "a\n<!-- accuracy, x/y: written by make accuracy -->\nold\n<!-- accuracy, x/y: end -->\nb\n"
	got, ok := replaceSection(doc, "x/y", "new")
	const want = "a\n<!-- accuracy, x/y: written by make accuracy -->\n\nnew\n<!-- accuracy, x/y: end -->\nb\n"
	if !ok || got != want {
		t.Errorf("got %q, %v", got, ok)
	}
	if _, ok := replaceSection(doc, "x/z", "new"); ok {
		t.Error("a section was found that is not there")
	}
}

// 59 of 60 are 98.33 %, rounded down 98.3.
func TestCheckFloors(t *testing.T) {
	r := result{setting: setting{name: "ref9"}}
	r.tallies.TCP = score.Tally{Conversations: 60, Right: 59}
	for _, c := range []struct{ floors, want string }{
		{"ref9\ttcp-right\t98.3\n", ""},
		{"# comment\n\nref9\ttcp-right\t98.4\n", "ref9 tcp-right: 98.3 %, the floor is 98.4 %"},
		{"ref9\tudp-right\t0\n", "of 0 conversations, want at least 50"},
		{"ref5\ttcp-right\t0\n", "of 0 conversations, want at least 50"},
	} {
		floors, err := parseFloors(c.floors)
		if err != nil {
			t.Fatal(err)
		}
		err = checkFloors(floors, []result{r})
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want %q", c.floors, err, c.want)
		}
	}
}

func TestParseFloorsRejects(t *testing.T) {
	for _, text := range []string{"", "ref9\ttcp-right\n", "ref9\tspeed\t1\n", "ref9\ttcp-right\tmany\n"} {
		if _, err := parseFloors(text); err == nil {
			t.Errorf("%q was read", text)
		}
	}
}

func TestEverySettingHasANameOfItsOwn(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range settings() {
		if seen[s.name] {
			t.Errorf("two settings %s", s.name)
		}
		seen[s.name] = true
	}
	floors, err := readFloors("floors.tsv")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range floors {
		if !seen[f.setting] {
			t.Errorf("floors.tsv: no setting %s", f.setting)
		}
	}
}
