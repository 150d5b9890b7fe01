package console

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Text from outside (datagrams, topics, name servers, files and their names) may hold escape sequences of a
// terminal, line ends that forge lines, and marks that turn the direction of writing. All of it must be
// escaped before it is printed: by Quote as a value, by Escape as a cell, by Linef and Progress as an argument
// of a message, by EscapeLines as a whole text.

// Escape returns s with each character that is not graphic (Unicode) escaped as in a Go string: \x1b, \n,
// \u202e. Octets that are not UTF-8 are escaped too: an 8-bit terminal reads 0x9b as the start of a control
// sequence (ECMA-48 section 5.4).
func Escape(s string) string { return escapeExcept(s, "") }

// EscapeLines escapes like Escape, but keeps line feeds and tabs, for text of several lines.
func EscapeLines(s string) string { return escapeExcept(s, "\n\t") }

// escapeExcept escapes like Escape, but keeps the characters in but.
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

// IsPrintable reports whether each character of s is graphic or contained in but.
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

// A Literal is an argument of a message whose line feeds are intended. It must not hold text from outside
// that was not escaped.
type Literal string

// message formats a message for people. Strings among the arguments are escaped, line feeds included; errors
// keep their line feeds, since they may join several.
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

// EscapeJSON returns the JSON text b with each character that is not graphic as \uXXXX (RFC 8259 section 7).
// b must be valid JSON in UTF-8: such characters are within strings then.
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
		case r > 0xffff: // a surrogate pair, RFC 8259 section 7
			r -= 0x10000
			out = fmt.Appendf(out, `\u%04x\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
	}
	return out
}

// Linef formats a message and prints it to w as a line. String arguments are escaped as by Escape. A failed
// write is ignored: Linef is for standard error and for buffered writers that report it on Flush.
func Linef(w io.Writer, format string, args ...any) {
	_, _ = fmt.Fprintln(w, message(format, args))
}

// Quote returns s unchanged when it is a single printable word without =, otherwise as a quoted Go string.
func Quote(s string) string {
	if s == "" || strings.ContainsAny(s, ` "=`) || !IsPrintable(s, "") {
		return strconv.QuoteToGraphic(s)
	}
	return s
}

// QuoteOrDash quotes like Quote, but returns "-" for an empty text.
func QuoteOrDash(s string) string {
	if s == "" {
		return "-"
	}
	return Quote(s)
}

// Clip shortens s to at most n characters, the last of which is … when s was longer.
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
