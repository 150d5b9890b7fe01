package console

import (
	"strings"
	"testing"
)

func TestProgressWithoutATerminalHasNoControlCharacters(t *testing.T) {
	var b strings.Builder
	p := NewProgress(&b)
	p.Step("reading")
	p.Count("reading: %d", 1)
	p.Step("reading")
	p.Step("pairing")
	p.Clear()
	if got, want := b.String(), "reading\npairing\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestProgressOnATerminalWritesOverTheWholeOldText(t *testing.T) {
	var b strings.Builder
	p := &Progress{w: &b, terminal: true}
	p.Step("a long text")
	p.Count("short")
	p.Count("short")
	p.Clear()
	if got, want := b.String(), "\ra long text"+"\rshort      "+"\r     \r"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
