package main

import (
	"os"
	"slices"
	"testing"
)

func TestTheCommandsOfASectionAreThoseOfItsShellBlocks(t *testing.T) {
	const text = "# T\n```sh\nno\n```\n## A b\n```sh\none  # said\ntwo\n```\ntext\n```yaml\nno\n```\n```sh\nthree\n```\n## B\n```sh\nno\n```\n## C\nnone\n## D\n```sh\nopen\n"
	got, err := commands(text, "A b")
	if err != nil || !slices.Equal(got, []string{"one  # said", "two", "three"}) {
		t.Errorf("got %q, %v", got, err)
	}
	for _, section := range []string{"A", "C", "D"} { // there is none, without commands, does not end
		if got, err := commands(text, section); err == nil {
			t.Errorf("%s: want an error, got %q", section, got)
		}
	}
}

// What the test of the stack walks through is there, and does what it looks for.
func TestTheDocumentStartsScalesAndUpgrades(t *testing.T) {
	text, err := os.ReadFile("../../../" + operations)
	if err != nil {
		t.Fatal(err)
	}
	for section, want := range map[string]int{"A stack on one host": 0, "Scale, kill, upgrade": 2} {
		lines, err := commands(string(text), section)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, l := range lines {
			if scales.MatchString(l) {
				n++
			}
		}
		if n != want {
			t.Errorf("%s: want %d lines that scale ingest, got %d of %q", section, want, n, lines)
		}
	}
}
