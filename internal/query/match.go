package query

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"

	"weir/internal/flowkey"
)

// A Match reports whether a Row matches.
type Match func(*Row) bool

// A compiler makes a Match of an expression.
type compiler struct {
	schema *Schema
	reader *Reader
}

// Compile returns a function that reports whether a Row of r matches. The fields that it needs are added to r. It does
// not allocate when it is called.
func (f *Filter) Compile(r *Reader) (Match, error) {
	c := compiler{f.schema, r}
	return c.compile(f.Root)
}

func (c *compiler) compile(n Node) (Match, error) {
	switch n := n.(type) {
	case All:
		return func(*Row) bool { return true }, nil
	case Not:
		x, err := c.compile(n.X)
		return func(r *Row) bool { return !x(r) }, err
	case And:
		l, err := c.compile(n.L)
		if err != nil {
			return nil, err
		}
		r, err := c.compile(n.R)
		return func(row *Row) bool { return l(row) && r(row) }, err
	case Or:
		l, err := c.compile(n.L)
		if err != nil {
			return nil, err
		}
		r, err := c.compile(n.R)
		return func(row *Row) bool { return l(row) || r(row) }, err
	case Compare:
		return c.compare(&n)
	}
	panic(fmt.Sprintf("query: unexpected node %T", n)) // cannot happen: the types of nodes are those above
}

// compare compiles a comparison.
func (c *compiler) compare(n *Compare) (Match, error) {
	def, listed := properties[n.Property]
	switch n.Property {
	case "flows":
		if c.schema == Flows() {
			test := numberTest(n)
			return negated(n.Op == Unequal, func(*Row) bool { return test(1) }), nil
		}
	case "ipv4", "ipv6":
		return c.family(n, n.Property == "ipv4")
	case "sampled":
		rate, err := c.slots(n, []string{"sampling_rate"})
		if err != nil {
			return nil, err
		}
		return func(r *Row) bool { return r.Uint(rate[0]) > 1 }, nil
	}
	if !listed {
		f, ok := c.schema.Lookup(n.Property)
		if !ok {
			return nil, &SyntaxError{n.offset, fmt.Sprintf("%s is no property of a %s", n.Property, c.schema.Name)}
		}
		return c.field(n, f)
	}
	name := n.Property
	if name == "net" || name == "host" && c.schema == Flows() {
		name = "ip"
	}
	e, ok := c.schema.ends[name]
	if !ok {
		return nil, &SyntaxError{n.offset, fmt.Sprintf("a %s has no %s", c.schema.Name, n.Property)}
	}
	source, err := c.end(n, def, e.source, e.sourceNames)
	if err != nil {
		return nil, err
	}
	if !def.sided || len(e.destination) == 0 {
		if n.Side == Destination || n.Side == Both {
			return nil, &SyntaxError{n.offset, fmt.Sprintf("the %s of a %s do not differ by side", n.Property, c.schema.Name)}
		}
		return c.guard(n, negated(n.Op == Unequal, source)), nil
	}
	if n.Side == Either && (name == "packets" || name == "octets" || name == "tos") {
		if c.schema == Connections() && name != "tos" { // the sum of both directions
			source, err = c.end(n, def, []string{name}, nil)
		}
		return negated(n.Op == Unequal, source), err
	}
	destination, err := c.end(n, def, e.destination, e.destinationNames)
	if err != nil {
		return nil, err
	}
	return negated(n.Op == Unequal, sided(n.Side, source, destination)), nil
}

// sided combines the Matches of both ends.
func sided(s Side, source, destination Match) Match {
	switch s {
	case Source:
		return source
	case Destination:
		return destination
	case Both:
		return func(r *Row) bool { return source(r) && destination(r) }
	case Either:
	}
	return func(r *Row) bool { return source(r) || destination(r) }
}

func negated(negate bool, m Match) Match {
	if negate {
		return func(r *Row) bool { return !m(r) }
	}
	return m
}

// guard restricts flags to TCP, and types and codes to ICMP and ICMPv6.
func (c *compiler) guard(n *Compare, m Match) Match {
	switch n.Property {
	case "flags", "icmp-type", "icmp-code":
	default:
		return m
	}
	slots, _ := c.slots(n, []string{"proto"})
	proto := slots[0]
	if n.Property == "flags" {
		return func(r *Row) bool { return r.Uint(proto) == flowkey.TCP && m(r) }
	}
	return func(r *Row) bool {
		p := r.Uint(proto)
		return (p == flowkey.ICMP || p == flowkey.ICMPv6) && m(r)
	}
}

func (c *compiler) slots(n *Compare, names []string) ([]Slot, error) {
	slots := make([]Slot, len(names))
	for i, name := range names {
		f, ok := c.schema.Lookup(name)
		if !ok {
			return nil, &SyntaxError{n.offset, fmt.Sprintf("a %s has no %s", c.schema.Name, name)}
		}
		slots[i] = c.reader.Slot(f)
	}
	return slots, nil
}

// end compiles the comparison with the fields of an end. It matches if any of the fields does.
func (c *compiler) end(n *Compare, def property, fields, names []string) (Match, error) {
	slots, err := c.slots(n, fields)
	if err != nil {
		return nil, err
	}
	var all []Match
	for _, s := range slots {
		if n.Property == "state" {
			for _, v := range n.Values {
				if _, err := enumNumber(n, s.Field.enum, v.Text); err != nil {
					return nil, err
				}
			}
		}
		all = append(all, valueMatch(n, def.form, s))
	}
	if patterns := patternsOf(n); len(patterns) > 0 && def.form != formText && n.Property != "state" {
		if len(names) == 0 {
			msg := fmt.Sprintf("%q: a %s has no names of %s: want an address or number", patterns[0], c.schema.Name, n.Property)
			return nil, &SyntaxError{n.offset, msg}
		}
		texts, err := c.slots(n, names)
		if err != nil {
			return nil, err
		}
		for _, s := range texts {
			all = append(all, textMatch(patterns, s))
		}
	}
	if len(all) == 1 {
		return all[0], nil
	}
	return func(r *Row) bool {
		for _, m := range all {
			if m(r) {
				return true
			}
		}
		return false
	}, nil
}

// family compiles ipv4 and ipv6: the family of the addresses.
func (c *compiler) family(n *Compare, v4 bool) (Match, error) {
	name := "src_addr"
	if c.schema == Connections() {
		name = "initiator.address"
	}
	slots, err := c.slots(n, []string{name})
	if err != nil {
		return nil, err
	}
	length := 16
	if v4 {
		length = 4
	}
	return func(r *Row) bool { return len(r.Octets(slots[0])) == length }, nil
}

// field compiles the comparison with a field by its own name. A message without the field does not match.
func (c *compiler) field(n *Compare, f *Field) (Match, error) {
	s := c.reader.Slot(f)
	if f.enum != nil {
		numbers := *n
		numbers.Values = nil
		for _, v := range n.Values {
			if v.Text != "" {
				number, err := enumNumber(n, f.enum, v.Text)
				if err != nil {
					return nil, err
				}
				v = Value{Number: number, Last: number}
			}
			numbers.Values = append(numbers.Values, v)
		}
		n = &numbers
	}
	m := negated(n.Op == Unequal, valueMatch(n, fieldProperty(f).form, s))
	return func(r *Row) bool { return r.Has(s) && m(r) }, nil
}

// enumNumber returns the number of an enumeration's value by its name, with or without the prefix of the enumeration.
func enumNumber(n *Compare, e protoreflect.EnumDescriptor, name string) (uint64, error) {
	var names []string
	for i := range e.Values().Len() {
		v := e.Values().Get(i)
		full := string(v.Name())
		suffix := "_" + name
		if strings.EqualFold(full, name) ||
			len(full) > len(name) && strings.EqualFold(full[len(full)-len(suffix):], suffix) {
			return uint64(v.Number()), nil
		}
		names = append(names, full)
	}
	return 0, &SyntaxError{n.offset, fmt.Sprintf("%q is none of %s", name, strings.Join(names, ", "))}
}

// valueMatch returns the Match of a slot's value with the values of a comparison; of != that of =.
func valueMatch(n *Compare, f form, s Slot) Match {
	if n.Property == "state" {
		numbers := map[uint64]bool{}
		for _, v := range n.Values {
			if number, err := enumNumber(n, s.Field.enum, v.Text); err == nil {
				numbers[number] = true
			}
		}
		return func(r *Row) bool { return numbers[r.Uint(s)] }
	}
	switch f {
	case formAddress, formHost, formNetwork:
		set := newPrefixSet(n.Values)
		if n.Property == "next ip" || n.Property == "bgpnext ip" { // as nfdump: absent is 0.0.0.0
			none := set.contains(make([]byte, 4))
			return func(r *Row) bool {
				octets := r.Octets(s)
				return len(octets) == 0 && none || set.contains(octets)
			}
		}
		return func(r *Row) bool { return set.contains(r.Octets(s)) }
	case formText:
		return textMatch(patternsOf(n), s)
	case formFlags:
		return flagsMatch(n.Values, s)
	case formDirection:
		egress := n.Values[0].Number == 1
		const reported = 2 // FLOW_DIRECTION_EGRESS; none is ingress
		return func(r *Row) bool { return (r.Uint(s) == reported) == egress }
	default:
	}
	test := numberTest(n)
	if s.Field.Kind == Signed {
		return func(r *Row) bool { v := r.Uint(s); return int64(v) >= 0 && test(v) }
	}
	return func(r *Row) bool { return test(r.Uint(s)) }
}

func flagsMatch(values []Value, s Slot) Match {
	return func(r *Row) bool {
		flags := r.Uint(s)
		for _, v := range values {
			if v.Last == exactFlags && flags == v.Number || v.Last != exactFlags && flags&v.Last == v.Number {
				return true
			}
		}
		return false
	}
}

// numberTest returns the test of a number; of != that of =.
func numberTest(n *Compare) func(uint64) bool {
	values := make([]Value, 0, len(n.Values))
	for _, v := range n.Values {
		if v.Text == "" {
			values = append(values, v)
		}
	}
	if len(values) == 0 {
		return func(uint64) bool { return false }
	}
	limit := values[0].Number
	switch n.Op {
	case Less:
		return func(x uint64) bool { return x < limit }
	case LessOrEqual:
		return func(x uint64) bool { return x <= limit }
	case Greater:
		return func(x uint64) bool { return x > limit }
	case GreaterOrEqual:
		return func(x uint64) bool { return x >= limit }
	case Equal, Unequal:
	}
	if len(values) == 1 {
		last := values[0].Last
		return func(x uint64) bool { return x >= limit && x <= last }
	}
	const few = 8
	if len(values) <= few {
		return func(x uint64) bool {
			for _, v := range values {
				if x >= v.Number && x <= v.Last {
					return true
				}
			}
			return false
		}
	}
	set := newRanges(values)
	return set.contains
}

// patternsOf returns the texts of a comparison.
func patternsOf(n *Compare) (patterns []string) {
	for _, v := range n.Values {
		if v.Text != "" {
			patterns = append(patterns, strings.ToLower(v.Text))
		}
	}
	return patterns
}

// textMatch compares texts with patterns, without regard to the case of ASCII letters.
func textMatch(patterns []string, s Slot) Match {
	if s.Field.text != nil {
		return func(r *Row) bool {
			text := r.Text(s)
			for _, p := range patterns {
				if glob(p, text) {
					return true
				}
			}
			return false
		}
	}
	return func(r *Row) bool {
		octets := r.Octets(s)
		for _, p := range patterns {
			if glob(p, octets) {
				return true
			}
		}
		return false
	}
}

// glob reports whether text matches a pattern in lower case, in which * stands for any octets and ? for one.
func glob[T ~string | ~[]byte](pattern string, text T) bool {
	p, star, mark := 0, -1, 0
	for t := 0; t < len(text); {
		switch c := text[t]; {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, t
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == lower(c)):
			p++
			t++
		case star >= 0:
			mark++
			p, t = star+1, mark
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}

func lower(c byte) byte {
	if c >= 'A' && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}
