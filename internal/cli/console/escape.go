package console

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

// What comes from outside (datagrams, topics, name servers, files and their names) may
// hold escape sequences of a terminal, line ends that forge lines, and marks that turn
// the direction of writing. All of it passes plain on its way to people: quoted does for
// a value, the grid for a cell, tell and progress for a message, printable for a line.

// Escape is s with each character that is not to be seen written as Go writes it: \x1b,
// \n, \u202e. Octets that are not UTF-8 are among them: a terminal of 8 bits takes 0x9b
// for the begin of a sequence (ECMA-48 section 5.4).
func Escape(s string) string { return escapeExcept(s, "") }

// EscapeLines is plain for a whole text: line ends and tabs, of which it is made, stay.
func EscapeLines(s string) string { return escapeExcept(s, "\n\t") }

// escapeExcept is plain but for the characters of but.
func escapeExcept(s, but string) string {
	if IsPrintable(s, but) {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		_, n := utf8.DecodeRuneInString(s)
		if c := s[:n]; IsPrintable(c, but) {
			b.WriteString(c)
		} else {
			q := strconv.QuoteToGraphic(c)
			b.WriteString(q[1 : len(q)-1])
		}
		s = s[n:]
	}
	return b.String()
}

// IsPrintable reports whether all of s is to be seen, or one of but.
func IsPrintable(s, but string) bool {
	for i := 0; i < len(s); {
		if c := s[i]; ' ' <= c && c <= '~' {
			i++
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && n == 1 || !strconv.IsGraphic(r) && !strings.ContainsRune(but, r) {
			return false
		}
		i += n
	}
	return true
}

// A Literal is a text of our own, in which line ends are meant.
type Literal string

// message formats what is told to people. Arguments that are text have no line ends
// of their own in it; errors may have, since they join others.
func message(format string, args []any) string {
	var clean []any // a copy, if it is needed
	for i, a := range args {
		if s, ok := a.(string); ok && !IsPrintable(s, "") {
			if clean == nil {
				clean = append([]any(nil), args...)
			}
			clean[i] = Escape(s)
		}
	}
	if clean == nil {
		clean = args
	}
	return EscapeLines(fmt.Sprintf(format, clean...))
}

// EscapeJSON is a JSON text in which characters that are not to be seen are escaped as
// JSON has it. They can be in its strings only.
func EscapeJSON(b []byte) []byte {
	s := string(b)
	if IsPrintable(s, "\n") {
		return b
	}
	out := make([]byte, 0, len(b)+64)
	for _, r := range s { // encoding/json writes UTF-8
		switch {
		case r == '\n' || strconv.IsGraphic(r):
			out = utf8.AppendRune(out, r)
		case r > 0xffff: // two halves, RFC 8259 section 7
			r -= 0x10000
			out = fmt.Appendf(out, `\u%04x\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
	}
	return out
}

// Linef prints a line of which nobody can be told that it could not be printed. What is
// not to be seen in its arguments is escaped, see message.
func Linef(w io.Writer, format string, args ...any) {
	_, _ = fmt.Fprintln(w, message(format, args))
}

// Quote is s for a terminal and for the eye: as it is when it is one plain
// word, else quoted, control characters escaped.
func Quote(s string) string {
	if s == "" || strings.ContainsAny(s, ` "=`) || !IsPrintable(s, "") {
		return strconv.QuoteToGraphic(s)
	}
	return s
}

// QuoteOrDash is a text from outside for a cell.
func QuoteOrDash(s string) string {
	if s == "" {
		return "-"
	}
	return Quote(s)
}

// Clip is s in at most n characters; that something is missing is shown.
func Clip(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	if n <= 0 {
		return ""
	}
	r := []rune(s)
	return string(r[:n-1]) + "…"
}
