package query

import (
	"fmt"
	"strings"
)

// A SyntaxError is an error in an expression.
type SyntaxError struct {
	Offset int // of the place in the expression, octets
	Msg    string
}

func (e *SyntaxError) Error() string { return fmt.Sprintf("at character %d: %s", e.Offset+1, e.Msg) }

// Show returns the error with the expression's line and a mark below the place.
func (e *SyntaxError) Show(expression string) string {
	start := strings.LastIndexByte(expression[:e.Offset], '\n') + 1
	line := expression[start:]
	if end := strings.IndexByte(line, '\n'); end >= 0 {
		line = line[:end]
	}
	const most = 100 // octets of the line before the place
	before := []rune(expression[start:e.Offset])
	if len(before) > most {
		line = "…" + string(before[len(before)-most+1:]) + expression[e.Offset:start+len(line)]
		before = before[len(before)-most:]
	}
	if shown := []rune(line); len(shown) > len(before)+most {
		line = string(shown[:len(before)+most-1]) + "…"
	}
	line = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, line)
	return line + "\n" + strings.Repeat(" ", len(before)) + "^ " + e.Msg
}

// A tokenKind is the kind of a token.
type tokenKind uint8

const (
	end tokenKind = iota
	word
	quoted
	operator // ( ) [ ] , = == != <> < <= > >= && || !
)

// A token is a word, a text in quotation marks, or an operator.
type token struct {
	kind   tokenKind
	text   string
	offset int
}

// is reports whether the token is a word or operator, in any case.
func (t *token) is(texts ...string) bool {
	if t.kind != word && t.kind != operator {
		return false
	}
	for _, s := range texts {
		if strings.EqualFold(t.text, s) {
			return true
		}
	}
	return false
}

// isWord reports whether an octet belongs to a word. Octets of UTF-8 beyond ASCII do.
func isWord(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c >= 0x80 ||
		strings.IndexByte("._:/*?-+@", c) >= 0
}

// lex splits an expression into tokens. The last has the kind end.
func lex(s string) (tokens []token, err error) {
	for i := 0; i < len(s); {
		c := s[i]
		switch {
		case c == ' ' || c == '\t' || c == '\n' || c == '\r':
			i++
		case c == '#': // a comment, to the end of the line
			for i < len(s) && s[i] != '\n' {
				i++
			}
		case c == '"':
			length := strings.IndexByte(s[i+1:], '"')
			if length < 0 {
				return nil, &SyntaxError{i, `a text begins here, and its closing '"' is missing`}
			}
			tokens = append(tokens, token{quoted, s[i+1 : i+1+length], i})
			i += length + 2
		case isWord(c):
			j := i
			for j < len(s) && isWord(s[j]) {
				j++
			}
			tokens = append(tokens, token{word, s[i:j], i})
			i = j
		default:
			t := operatorAt(s[i:])
			if t == "" {
				return nil, &SyntaxError{i, fmt.Sprintf("%q has no meaning here", s[i:i+1])}
			}
			tokens = append(tokens, token{operator, t, i})
			i += len(t)
		}
	}
	return append(tokens, token{kind: end, offset: len(s)}), nil
}

// operatorAt returns the operator with which s begins; "": none.
func operatorAt(s string) string {
	for _, t := range [...]string{"&&", "||", "==", "!=", "<>", "<=", ">=", "(", ")", "[", "]", ",", "=", "<", ">", "!"} {
		if strings.HasPrefix(s, t) {
			return t
		}
	}
	return ""
}
