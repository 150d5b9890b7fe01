package query

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"weir/internal/spelling"
)

// Bounds of an expression.
const (
	maxLength = 1 << 20 // octets: lists of addresses may be long
	maxDepth  = 100     // of parentheses and negations
)

// A Filter is a parsed expression for messages of a Schema.
type Filter struct {
	Root   Node
	schema *Schema
}

// String returns the expression in its canonical form.
func (f *Filter) String() string { return f.Root.String() }

// A parser is a recursive descent parser: not binds tightest, then and, then or.
type parser struct {
	schema *Schema
	tokens []token
	at     int
	depth  int
}

// Parse parses an expression. The error is a *SyntaxError.
func Parse(schema *Schema, expression string) (*Filter, error) {
	if len(expression) > maxLength {
		return nil, &SyntaxError{maxLength, fmt.Sprintf("the expression is longer than %d characters", maxLength)}
	}
	tokens, err := lex(expression)
	if err != nil {
		return nil, err
	}
	p := &parser{schema: schema, tokens: tokens}
	n, err := p.or()
	if err != nil {
		return nil, err
	}
	if t := p.peek(); t.kind != end {
		return nil, p.errorf(t, "%s is too much: want and, or, or the end", describe(t))
	}
	f := &Filter{n, schema}
	if _, err := f.Compile(NewReader(schema)); err != nil {
		return nil, err
	}
	return f, nil
}

func (p *parser) peek() *token { return &p.tokens[p.at] }

func (p *parser) next() *token {
	t := p.peek()
	if t.kind != end {
		p.at++
	}
	return t
}

// accept consumes the next token if it is one of texts.
func (p *parser) accept(texts ...string) bool {
	if !p.peek().is(texts...) {
		return false
	}
	p.at++
	return true
}

func (p *parser) errorf(t *token, format string, args ...any) error {
	return &SyntaxError{t.offset, fmt.Sprintf(format, args...)}
}

// describe returns a token for a message.
func describe(t *token) string {
	if t.kind == end {
		return "the end"
	}
	if r := []rune(t.text); len(r) > 40 {
		return fmt.Sprintf("%q", string(r[:40])+"…")
	}
	return fmt.Sprintf("%q", t.text)
}

func (p *parser) or() (Node, error) {
	l, err := p.and()
	for err == nil && p.accept("or", "||") {
		var r Node
		if r, err = p.and(); err == nil {
			l = Or{l, r}
		}
	}
	return l, err
}

func (p *parser) and() (Node, error) {
	l, err := p.unary()
	for err == nil && p.accept("and", "&&") {
		var r Node
		if r, err = p.unary(); err == nil {
			l = And{l, r}
		}
	}
	return l, err
}

func (p *parser) unary() (n Node, err error) {
	if p.depth++; p.depth > maxDepth {
		return nil, p.errorf(p.peek(), "more than %d parentheses and negations lie within each other", maxDepth)
	}
	defer func() { p.depth-- }()
	switch t := p.peek(); {
	case p.accept("not", "!"):
		if n, err = p.unary(); err == nil {
			n = Not{n}
		}
		return n, err
	case p.accept("("):
		if n, err = p.or(); err != nil {
			return nil, err
		}
		if !p.accept(")") {
			return nil, p.errorf(p.peek(), "want ) for the ( at character %d", t.offset+1)
		}
		return n, nil
	case p.accept("any"):
		return All{}, nil
	case t.kind == end:
		return nil, p.errorf(t, "a condition is missing, such as port 443")
	case t.kind != word:
		return nil, p.errorf(t, "%s stands where a condition begins, such as port 443", describe(t))
	}
	return p.condition()
}

// sides are the words that may stand before a property. in and out name interfaces.
var sides = map[string]Side{
	"src": Source, "source": Source, "initiator": Source, "in": Source,
	"dst": Destination, "dest": Destination, "destination": Destination, "responder": Destination, "out": Destination,
}

// side parses the words before a property. Words of the first are kept for messages and for the check of initiator.
func (p *parser) side() (s Side, first *token, err error) {
	first = p.peek()
	s, ok := sides[strings.ToLower(first.text)]
	if first.kind != word || !ok {
		return Either, nil, nil
	}
	p.at++
	if name := strings.ToLower(first.text); (name == "initiator" || name == "responder") && p.schema == Flows() {
		return s, first, p.errorf(first, "a flow has no %s: want src or dst, or a question about connections", name)
	}
	joint := p.peek()
	if !joint.is("and", "or") || !p.tokens[p.at+1].is("src", "dst", "in", "out") {
		if first.is("in", "out") && p.accept("src", "dst") { // nfdump's in src mac
			s = sides[strings.ToLower(p.tokens[p.at-1].text)]
		}
		return s, first, nil
	}
	p.at++
	if other := p.next(); sides[strings.ToLower(other.text)] == s {
		return s, first, p.errorf(other, "%s is named twice", other.text)
	}
	if joint.is("and") {
		return Both, first, nil
	}
	return Either, first, nil
}

// condition parses a comparison.
func (p *parser) condition() (Node, error) {
	side, sideWord, err := p.side()
	if err != nil {
		return nil, err
	}
	t := p.next()
	if t.kind != word {
		return nil, p.errorf(t, "want a property, such as port, in place of %s", describe(t))
	}
	name, def, err := p.property(t)
	if err != nil {
		return nil, err
	}
	if name == "proto" && !t.is("proto", "protocol") {
		return p.bareProtocol(t, def.most, sideWord)
	}
	if name == "mac" && sideWord != nil && sideWord.is("in", "out") && !p.tokens[p.at-2].is("src", "dst") {
		side = Either // both addresses of the frame
	}
	if sideWord != nil && !def.sided {
		return nil, p.errorf(t, "%s does not differ by %s", t.text, sideWord.text)
	}
	c := Compare{Side: side, Property: name, offset: t.offset}
	if def.form == formBare {
		return c, nil
	}
	if name == "if" || name == "vrf" { // if in 3, as well as in if 3
		if s, ok := sides[strings.ToLower(p.peek().text)]; ok && !p.tokens[p.at+1].is("[") {
			c.Side = s
			p.at++
		}
	}
	if p.accept("in") {
		c.Values, err = p.list(def)
		return c, err
	}
	err = p.comparison(&c, t, def)
	return c, err
}

// bareProtocol parses what follows a protocol that stands alone, as in tcpdump: nothing, or a condition.
func (p *parser) bareProtocol(t *token, number uint64, sideWord *token) (Node, error) {
	if sideWord != nil {
		return nil, p.errorf(t, "%s is a protocol: want a property, such as port, after %s", t.text, sideWord.text)
	}
	n := Compare{Property: "proto", Values: []Value{{Number: number, Last: number}}, offset: t.offset}
	if next := p.peek(); next.kind != word || next.is("and", "or") {
		return n, nil
	}
	rest, err := p.unary()
	return And{n, rest}, err
}

// comparison parses an operator and a value into c, whose property the word t names.
func (p *parser) comparison(c *Compare, t *token, def property) (err error) {
	op := p.peek()
	c.Op = p.operator()
	if c.Op > Unequal && !ordered(def.form) {
		return p.errorf(op, "%s cannot be ordered: want = or !=", t.text)
	}
	if c.Values, err = p.value(def, false); err != nil {
		return err
	}
	if first := &c.Values[0]; c.Op > Unequal && (len(c.Values) > 1 || first.Text != "" || first.Last != first.Number) {
		return p.errorf(op, "%s needs a single number after it", op.text)
	}
	return nil
}

// ordered reports whether values of a form have an order.
func ordered(f form) bool {
	switch f {
	case formNumber, formPort, formDuration, formRate, formInterface, formProtocol:
		return true
	default:
		return false
	}
}

// property returns the property that a word names: one of the list, a protocol (its number in most), or a field.
func (p *parser) property(t *token) (name string, def property, err error) {
	name = strings.ToLower(t.text)
	if s, ok := synonyms[name]; ok {
		name = s
	}
	if (name == "next ip" || t.is("prev")) && p.accept("as") {
		return strings.ToLower(t.text) + " as", properties[strings.ToLower(t.text)+" as"], nil
	}
	if name == "next ip" || name == "bgpnext ip" || name == "exporter" && t.is("router") {
		if !p.accept("ip", "host") && t.is("next", "router") {
			return "", def, p.errorf(p.peek(), "want ip after %s", t.text)
		}
	}
	if def, ok := properties[name]; ok {
		return name, def, nil
	}
	if n, ok := protocolNumbers()[name]; ok {
		return "proto", property{most: n}, nil
	}
	f, ok := p.schema.Lookup(t.text)
	if !ok {
		return "", def, p.errorf(t, "%s is no property of a %s%s", describe(t), p.schema.Name, p.similar(name))
	}
	return f.Name, fieldProperty(f), nil
}

// fieldProperty returns the property that a field is.
func fieldProperty(f *Field) property {
	switch f.Kind {
	case Address:
		return property{form: formAddress}
	case MAC:
		return property{form: formMAC}
	case Text:
		return property{form: formText}
	default:
	}
	if f.enum != nil {
		return property{form: formInterface, most: 1<<64 - 1} // a number or name
	}
	return property{form: formNumber, most: 1<<64 - 1}
}

// similar returns a hint with the property whose name is nearest to name; "": none is near.
func (p *parser) similar(name string) string {
	const longest = 40 // of names with a hint: the distance takes time with the length
	if len(name) > longest {
		return ""
	}
	best, least := "", 3
	try := func(s string) {
		d := spelling.Distance(name, s)
		if strings.HasPrefix(s, name) && len(name) > 1 {
			d = 0 // the rest is missing
		}
		if d < least || d == least && d < 3 && s < best {
			best, least = s, d
		}
	}
	for s := range properties {
		try(s)
	}
	for s := range synonyms {
		try(s)
	}
	if best == "" {
		return ""
	}
	return ": is " + best + " meant?"
}

// operator parses an optional comparison; without one it is =.
func (p *parser) operator() Op {
	for op, texts := range [...][]string{
		Equal: {"=", "==", "eq"}, Unequal: {"!=", "<>", "ne"}, Less: {"<", "lt"}, LessOrEqual: {"<=", "le"},
		Greater: {">", "gt"}, GreaterOrEqual: {">=", "ge"},
	} {
		if p.accept(texts...) {
			return Op(op)
		}
	}
	return Equal
}

// list parses values in brackets, separated by spaces or commas.
func (p *parser) list(def property) (values []Value, err error) {
	if !p.accept("[") {
		return nil, p.errorf(p.peek(), "want a list in brackets after in, such as in [80, 443]")
	}
	for {
		more, err := p.value(def, true)
		if err != nil {
			return nil, err
		}
		values = append(values, more...)
		if p.accept("]") {
			return slices.Compact(values), nil
		}
		p.accept(",")
	}
}

// value parses a value, which the name of a service turns into several.
func (p *parser) value(def property, inList bool) ([]Value, error) {
	t := p.next()
	if t.kind != word && t.kind != quoted || t.kind == word && t.is("and", "or", "not") {
		return nil, p.errorf(t, "want a value in place of %s", describe(t))
	}
	v, err := parseValue(def, t, inList)
	if err != nil {
		return nil, p.errorf(t, "%s", err)
	}
	if def.form == formNetwork && !v.Prefix.IsValid() {
		mask := p.next()
		a, _ := netip.ParseAddr(t.text)
		if v.Prefix, err = withNetmask(a, mask.text); err != nil {
			return nil, p.errorf(mask, "%s", err)
		}
	}
	if def.form == formPort && v.Text != "" {
		ports := portsOf(v.Text)
		if len(ports) == 0 {
			return nil, p.errorf(t, "%s is neither a port nor the name of a service", describe(t))
		}
		return ports, nil
	}
	return []Value{v}, nil
}
