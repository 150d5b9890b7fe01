package query

import (
	"net/netip"
	"strconv"
	"strings"
)

// A Node is a part of an expression. Its String parses to an equal Node.
type Node interface{ String() string }

type (
	// All matches everything: any.
	All struct{}
	// Not negates X.
	Not struct{ X Node }
	// And is the conjunction of L and R.
	And struct{ L, R Node }
	// Or is the disjunction of L and R.
	Or struct{ L, R Node }
	// A Compare compares a property with values. It matches if any value matches.
	Compare struct {
		Side     Side
		Property string
		Op       Op
		Values   []Value

		offset int // in the expression, for errors
	}
)

// A Side says to which of the two ends of a flow, or of its two interfaces, a Compare refers.
type Side uint8

// The sides.
const (
	Either      Side = iota // at least one of both
	Source                  // also the initiator and the input interface
	Destination             // also the responder and the output interface
	Both
)

// An Op is a comparison.
type Op uint8

// The comparisons.
const (
	Equal Op = iota
	Unequal
	Less
	LessOrEqual
	Greater
	GreaterOrEqual
)

// A Value is the right side of a comparison; its form depends on the property.
type Value struct {
	Number uint64       // with a range: the first number of it
	Last   uint64       // last number of a range, or Number; for flags: the mask
	Prefix netip.Prefix // of an address or network
	Text   string       // name or pattern; "": the value is none
}

var sideNames = map[Side]string{Source: "src ", Destination: "dst ", Both: "src and dst "}

var opNames = [...]string{Equal: "=", Unequal: "!=", Less: "<", LessOrEqual: "<=", Greater: ">", GreaterOrEqual: ">="}

func (All) String() string   { return "any" }
func (n Not) String() string { return "not " + nested(n.X) }
func (n And) String() string { return nested(n.L) + " and " + nested(n.R) }
func (n Or) String() string  { return nested(n.L) + " or " + nested(n.R) }

// nested returns a Node in parentheses, if it needs them as a part of another.
func nested(n Node) string {
	switch n.(type) {
	case And, Or:
		return "(" + n.String() + ")"
	}
	return n.String()
}

func (c Compare) String() string {
	var b strings.Builder
	b.WriteString(sideNames[c.Side])
	b.WriteString(c.Property)
	form := properties[c.Property].form
	if form == formBare {
		return b.String()
	}
	if len(c.Values) > 1 {
		b.WriteString(" in [")
		for i, v := range c.Values {
			if i > 0 {
				b.WriteString(", ")
			}
			b.WriteString(v.text(form))
		}
		b.WriteString("]")
		return b.String()
	}
	if c.Op != Equal {
		b.WriteString(" " + opNames[c.Op])
	}
	b.WriteString(" " + c.Values[0].text(form))
	return b.String()
}

// text returns a value as it is written in an expression.
func (v *Value) text(form form) string {
	switch {
	case v.Text != "":
		return quote(v.Text)
	case v.Prefix.IsValid() && v.Prefix.IsSingleIP() && form != formNetwork:
		return v.Prefix.Addr().String()
	case v.Prefix.IsValid():
		return v.Prefix.String()
	case form == formFlags && v.Last == exactFlags:
		return strconv.FormatUint(v.Number, 10)
	case form == formFlags && v.Last == v.Number:
		return flagLetters(v.Number)
	case form == formFlags:
		return flagLetters(v.Number) + "/" + flagLetters(v.Last)
	case form == formMAC:
		return formatMAC(v.Number)
	case v.Last != v.Number:
		return strconv.FormatUint(v.Number, 10) + "-" + strconv.FormatUint(v.Last, 10)
	}
	return strconv.FormatUint(v.Number, 10)
}

// quote returns a text as a word if it reads as a name, else in quotation marks.
func quote(s string) string {
	c := s[0]
	isName := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' || c == '*'
	for i := range len(s) {
		isName = isName && isWord(s[i]) && s[i] != ':' && s[i] != '/'
	}
	switch strings.ToLower(s) {
	case "and", "or", "not":
		isName = false
	}
	if !isName {
		return `"` + s + `"`
	}
	return s
}

func formatMAC(n uint64) string {
	var b strings.Builder
	for i := 5; i >= 0; i-- {
		const digits = "0123456789abcdef"
		octet := byte(n >> (8 * i))
		b.WriteByte(digits[octet>>4])
		b.WriteByte(digits[octet&15])
		if i > 0 {
			b.WriteByte(':')
		}
	}
	return b.String()
}
