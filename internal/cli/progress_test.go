package cli

import (
	"strings"
	"testing"
)

func TestProgressWithoutATerminalHasNoControlCharacters(t *testing.T) {
	var b strings.Builder
	p := newProgress(&b)
	p.step("reading")
	p.count("reading: %d", 1)
	p.step("reading")
	p.step("pairing")
	p.clear()
	if got, want := b.String(), "reading\npairing\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestProgressOnATerminalWritesOverTheWholeOldText(t *testing.T) {
	var b strings.Builder
	p := &progress{w: &b, terminal: true}
	p.step("a long text")
	p.count("short")
	p.count("short")
	p.clear()
	if got, want := b.String(), "\ra long text"+"\rshort      "+"\r     \r"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
