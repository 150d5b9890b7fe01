package exporters

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// maxName bounds names and sites, in octets: every flow carries them.
const maxName = 255

// Parse reads a file of exporters: YAML with one key, exporters, a list of
// entries.
//
//	exporters:
//	  - address: 192.0.2.1        # or a prefix, 192.0.2.0/24; IPv4 or IPv6
//	    name: edge-1
//	    site: fra
//	    address_plan: corp        # network in which a private address is unique; default: the site
//	    sampling_default: 1000    # 1 in N if the exporter reports no rate
//	    sampling_override: 500    # 1 in N in place of the rate that the exporter reports
//	    interfaces: {1: ge-0/0/1, 2: ge-0/0/2}
//	    allow: true               # false: its datagrams are dropped and counted
//
// All keys except address are optional. An error lists every mistake with its line and
// key.
func Parse(text []byte) (*Table, error) {
	f, err := parser.ParseBytes(text, 0)
	if err != nil {
		return nil, err
	}
	p := reader{table: &Table{}}
	for i, d := range f.Docs {
		switch {
		case d.Body == nil || d.Body.Type() == ast.NullType:
		case i > 0:
			p.bad(d.Body, "document", "want one document")
		default:
			p.file(d.Body)
		}
	}
	if err := errors.Join(p.errs...); err != nil {
		return nil, err
	}
	return p.table, nil
}

// A reader builds a table and collects mistakes.
type reader struct {
	table *Table
	errs  []error
}

// bad records a mistake at node n.
func (p *reader) bad(n ast.Node, key, format string, args ...any) {
	p.errs = append(p.errs, fmt.Errorf("line %d: %s: %s", line(n), key, fmt.Sprintf(format, args...)))
}

func line(n ast.Node) int {
	if t := n.GetToken(); t != nil && t.Position != nil {
		return t.Position.Line
	}
	return 0
}

// pairs returns the keys and values of a mapping. A repeated key is a mistake and left
// out. key names the mapping in mistakes.
func (p *reader) pairs(n ast.Node, key string) (all []*ast.MappingValueNode) {
	switch m := n.(type) {
	case *ast.MappingNode:
		all = m.Values
	case *ast.MappingValueNode:
		all = []*ast.MappingValueNode{m}
	default:
		p.bad(n, key, "want keys and values, got %s", n.Type())
		return nil
	}
	seen := map[string]bool{}
	return slices.DeleteFunc(slices.Clone(all), func(v *ast.MappingValueNode) bool {
		k := keyOf(v)
		if seen[k] {
			p.bad(v.Key, k, "the key is there twice")
			return true
		}
		seen[k] = true
		return false
	})
}

func keyOf(v *ast.MappingValueNode) string { return v.Key.GetToken().Value }

func (p *reader) file(n ast.Node) {
	for _, v := range p.pairs(n, "file") {
		if k := keyOf(v); k != "exporters" {
			p.bad(v.Key, k, "unknown key: want exporters")
			continue
		}
		list, ok := v.Value.(*ast.SequenceNode)
		if !ok {
			if v.Value.Type() != ast.NullType {
				p.bad(v.Value, "exporters", "want a list of entries, got %s", v.Value.Type())
			}
			continue
		}
		for _, e := range list.Values {
			p.entry(e)
		}
	}
}

func (p *reader) entry(n ast.Node) {
	e, before := &Entry{}, len(p.errs)
	var prefix netip.Prefix
	for _, v := range p.pairs(n, "entry") {
		k := keyOf(v)
		switch k {
		case "address":
			prefix = p.prefix(v)
		case "name":
			e.Name = p.text(v.Value, k)
		case "site":
			e.Site = p.text(v.Value, k)
		case "address_plan":
			e.AddressPlan = p.text(v.Value, k)
		case "sampling_default":
			e.SamplingDefault = p.rate(v)
		case "sampling_override":
			e.SamplingOverride = p.rate(v)
		case "interfaces":
			e.Interfaces = p.interfaces(v)
		case "allow":
			if b, ok := v.Value.(*ast.BoolNode); ok {
				e.Denied = !b.Value
			} else {
				p.bad(v.Value, k, "%s: want true or false", shown(v.Value))
			}
		default:
			p.bad(v.Key, k, "unknown key: want address, name, site, address_plan, "+
				"sampling_default, sampling_override, interfaces or allow")
		}
	}
	if len(p.errs) > before {
		return
	}
	if !prefix.IsValid() {
		p.bad(n, "address", "is missing")
		return
	}
	if err := p.table.add(prefix, e); err != nil {
		p.bad(n, "address", "%v", err)
	}
}

func (p *reader) prefix(v *ast.MappingValueNode) netip.Prefix {
	s := shown(v.Value)
	prefix, err := netip.ParsePrefix(s)
	if err != nil {
		a, err := netip.ParseAddr(s)
		if err != nil || a.Zone() != "" {
			p.bad(v.Value, "address", "%q: want an IPv4 or IPv6 address or prefix, such as 192.0.2.1 or 2001:db8::/32", s)
			return netip.Prefix{}
		}
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen())
	}
	if prefix != prefix.Masked() {
		p.bad(v.Value, "address", "%s has bits beyond its length: want %s", s, prefix.Masked())
	}
	if prefix.Addr().Is4In6() {
		p.bad(v.Value, "address", "%s: want the IPv4 prefix itself", s)
	}
	return prefix
}

// text returns a name. A number stands for its own text.
func (p *reader) text(n ast.Node, key string) string {
	s, ok := scalar(n)
	switch {
	case !ok || s == "":
		p.bad(n, key, "want text")
	case len(s) > maxName:
		p.bad(n, key, "%d octets: want at most %d", len(s), maxName)
	case !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }):
		p.bad(n, key, "%q: want UTF-8 text without control characters", s)
	}
	return s
}

func (p *reader) rate(v *ast.MappingValueNode) uint64 {
	s := shown(v.Value)
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n == 0 {
		p.bad(v.Value, keyOf(v), "%q: want N of 1 in N, 1 to %d", s, uint32(math.MaxUint32))
	}
	return n
}

func (p *reader) interfaces(v *ast.MappingValueNode) map[uint32]string {
	m := map[uint32]string{}
	for _, i := range p.pairs(v.Value, "interfaces") {
		k := keyOf(i)
		n, err := strconv.ParseUint(k, 10, 32)
		if err != nil {
			p.bad(i.Key, "interfaces", "%q: want an ifIndex, 0 to %d", k, uint32(math.MaxUint32))
			continue
		}
		m[uint32(n)] = p.text(i.Value, "interfaces "+k)
	}
	return m
}

// scalar returns the text of a node as written, without quotes. ok is false for lists,
// mappings and null.
func scalar(n ast.Node) (s string, ok bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return n.Value.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		return n.GetToken().Value, true
	}
	return "", false
}

// shown returns the text of a scalar for an error, and the type of any other node.
func shown(n ast.Node) string {
	if s, ok := scalar(n); ok {
		return s
	}
	return n.Type().String()
}
