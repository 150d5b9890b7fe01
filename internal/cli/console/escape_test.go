package console

import (
	"testing"
)

func TestPlain(t *testing.T) {
	for in, want := range map[string]string{
		"":                        "",
		"plain, with Ümläuts → …": "plain, with Ümläuts → …",
		"a\x1b[31mb":              `a\x1b[31mb`,
		"a\nb\tc\r":               `a\nb\tc\r`,
		"\u202e\u200b\u009b":      `\u202e\u200b\u009b`,
		"\x9b31m":                 `\x9b31m`,
		"\U000e0041":              `\U000e0041`,
	} {
		if got := Escape(in); got != want {
			t.Errorf("%q: want %q, got %q", in, want, got)
		}
	}
}
