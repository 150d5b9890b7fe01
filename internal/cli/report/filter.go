package report

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	"weir/internal/cli/console"
	"weir/internal/query"
	"weir/internal/services"
	"weir/pkg/flowpb"
)

// A Filter selects connections or flows by address, port, protocol, number of packets, and by an expression. It must
// not be used concurrently.
type Filter struct {
	Expression string // of --filter; "": none

	reader *query.Reader // of the messages that the expression asks about; nil: no expression
	match  query.Match
	wire   []byte

	hosts      []netip.Prefix // must contain an endpoint's address before or after NAT; empty: any
	port       *uint16        // of either endpoint; 0: any
	protocol   int            // -1: any
	MinPackets uint64         // sum of both directions; MatchesConnection ignores it
}

// NewFilter returns a filter that matches everything.
func NewFilter() *Filter { return &Filter{port: new(uint16), protocol: -1} }

// FilterFlags adds the flags of a filter. noun names the filtered records in the help text, least is the default
// of -p, and usage describes that default in the help text.
func FilterFlags(f *console.Flags, noun string, least uint64, usage string) *Filter {
	o := NewFilter()
	o.MinPackets = least
	host := func(s string) error {
		p, err := hostPrefix(s)
		o.hosts = append(o.hosts, p)
		return err
	}
	f.Func("host", "only "+noun+" of the `ADDRESS`, in any of its textual forms, or prefix; may be repeated", host)
	f.Func("match-host", "same as --host `ADDRESS`", host)
	o.port = console.PortFlag(f, "port", "only "+noun+" with port `N` at either end")
	f.Func("proto", "only "+noun+" of the protocol `NAME` or number", func(s string) error {
		for n := range 256 {
			if strings.EqualFold(services.Protocol(uint32(n)), s) || strconv.Itoa(n) == s {
				o.protocol = n
				return nil
			}
		}
		return fmt.Errorf("%q is no protocol: want a name as printed in the table, or a number up to 255", s)
	})
	packets := func(s string) (err error) {
		if o.MinPackets, err = strconv.ParseUint(s, 10, 64); err != nil {
			return fmt.Errorf("%q: want a number of packets, 0 or more", s)
		}
		return nil
	}
	f.StringVar(&o.Expression, "filter", "", "only "+noun+" that match the `EXPRESSION`, "+
		"such as 'src net 10/8 and port 443' "+
		"(docs/filter.md); with --host, --port, --proto and -p both must match")
	f.Func("p", "hide "+noun+" with fewer than `N` packets; "+usage, packets)
	f.Func("packets", "as -p `N`", packets)
	return o
}

// Compile parses the expression, if there is one, for messages of schema. It must be called once, before the first
// message. The error names the place in the expression, on further lines.
func (o *Filter) Compile(schema *query.Schema) error {
	parsed, err := o.parse(schema)
	if parsed == nil || err != nil {
		return err
	}
	o.reader = query.NewReader(schema)
	o.match, err = parsed.Compile(o.reader)
	return err
}

// parse returns the parsed expression; nil: there is none.
func (o *Filter) parse(schema *query.Schema) (*query.Filter, error) {
	if strings.TrimSpace(o.Expression) == "" {
		return nil, nil
	}
	parsed, err := query.Parse(schema, o.Expression)
	if err != nil {
		return nil, expressionError(o.Expression, err)
	}
	return parsed, nil
}

// Query returns all conditions of the filter, those of the flags included, as one filter of messages of schema. The
// error is that of Compile.
func (o *Filter) Query(schema *query.Schema) (*query.Filter, error) {
	var parts []string
	if len(o.hosts) > 0 {
		list := make([]string, len(o.hosts))
		for i, p := range o.hosts {
			list[i] = p.String()
		}
		in := " in [" + strings.Join(list, ", ") + "]"
		host := "ip" + in
		if schema == query.Flows() {
			host += " or post_nat_src_addr" + in + " or post_nat_dst_addr" + in
		}
		parts = append(parts, "("+host+")")
	}
	if *o.port != 0 {
		parts = append(parts, "port "+strconv.Itoa(int(*o.port)))
	}
	if o.protocol >= 0 {
		parts = append(parts, "proto "+strconv.Itoa(o.protocol))
	}
	if o.MinPackets > 0 {
		parts = append(parts, "packets >= "+strconv.FormatUint(o.MinPackets, 10))
	}
	parsed, err := query.Parse(schema, cmp.Or(strings.Join(parts, " and "), "any"))
	if err != nil {
		return nil, err // cannot happen: the flags were checked
	}
	asked, err := o.parse(schema)
	if asked != nil {
		parsed.Root = query.And{L: parsed.Root, R: asked.Root}
	}
	return parsed, err
}

// expressionError returns the error of an expression with the expression and a mark below the place.
func expressionError(expression string, err error) error {
	var syntax *query.SyntaxError
	if !errors.As(err, &syntax) {
		return err
	}
	shown := strings.ReplaceAll(syntax.Show(expression), "\n", "\n  ")
	return fmt.Errorf("--filter: the expression is wrong at character %d:\n  %s", syntax.Offset+1, shown)
}

// matchesExpression reports whether m matches the expression. A message that protobuf cannot encode does not match.
func (o *Filter) matchesExpression(m proto.Message) bool {
	if o.reader == nil {
		return true
	}
	var err error
	if o.wire, err = (proto.MarshalOptions{}).MarshalAppend(o.wire[:0], m); err != nil {
		return false
	}
	row, err := o.reader.Read(o.wire)
	return err == nil && o.match(row)
}

// hostPrefix parses an address or a prefix. IPv4 may be written as IPv4-mapped IPv6, brackets are allowed, and a
// zone is ignored.
func hostPrefix(s string) (netip.Prefix, error) {
	text := s
	if inner, ok := strings.CutPrefix(s, "["); ok && strings.HasSuffix(inner, "]") {
		text = strings.TrimSuffix(inner, "]")
	}
	if a, err := netip.ParseAddr(text); err == nil {
		a = a.Unmap().WithZone("")
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(text)
	switch {
	case err != nil:
		return p, fmt.Errorf("%q: want an address or a prefix (192.0.2.0/24)", s)
	case p.Addr().Is4In6() && p.Bits() >= 96:
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked(), nil
}

// MatchesConnection reports whether c matches, regardless of its number of packets.
func (o *Filter) MatchesConnection(c *flowpb.Connection) bool {
	a, z := c.GetInitiator(), c.GetResponder()
	return o.matches(c.GetProtocol(), a.GetPort(), z.GetPort(),
		a.GetAddress(), z.GetAddress(), a.GetNatAddress(), z.GetNatAddress()) && o.matchesExpression(c)
}

// MatchesFlow reports whether m matches, its number of packets included.
func (o *Filter) MatchesFlow(m *flowpb.FlowMessage) bool {
	return m.GetPackets()+m.GetReversePackets() >= o.MinPackets &&
		o.matches(m.GetProto(), m.GetSrcPort(), m.GetDstPort(),
			m.GetSrcAddr(), m.GetDstAddr(), m.GetPostNatSrcAddr(), m.GetPostNatDstAddr()) && o.matchesExpression(m)
}

func (o *Filter) matches(proto, port1, port2 uint32, addresses ...[]byte) bool {
	if o.protocol >= 0 && int(proto) != o.protocol ||
		*o.port != 0 && port1 != uint32(*o.port) && port2 != uint32(*o.port) {
		return false
	}
	return len(o.hosts) == 0 || slices.ContainsFunc(addresses, func(b []byte) bool {
		addr, ok := netip.AddrFromSlice(b)
		return ok && slices.ContainsFunc(o.hosts, func(p netip.Prefix) bool { return p.Contains(addr.Unmap()) })
	})
}
