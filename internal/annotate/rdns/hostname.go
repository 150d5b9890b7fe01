package rdns

import (
	"cmp"
	"slices"
	"strings"
)

// specialNames are top-level names that mean something in one network only, or
// nothing at all (RFC 6761 and its registry). Such a name is believed only of a
// resolver for special-use addresses: everybody could put it into a public
// reverse zone.
var specialNames = []string{
	"local", "invalid", "test", "onion", "alt", "home.arpa", "in-addr.arpa", "ip6.arpa",
}

// hostname makes a host name of a PTR's target in presentation form. Whoever
// holds the reverse zone chooses that text freely (markup, terminal control
// sequences, another address), so what is not a plain host name is refused, never repaired.
//
// ok means: at most 253 octets; at least two labels of 1 to 63 letters, digits,
// '-' and '_', neither begun nor ended by '-' (RFC 1123 section 2.1, and '_',
// which is common); the last label not numeric, so that no address looks like a
// name; not below localhost; below another special-use name only when
// fromPrivate. Punycode is left as it is: decoded, it could imitate other names.
func hostname(target string, fromPrivate bool) (name string, ok bool) {
	target = strings.TrimSuffix(target, ".")
	if target == "" || len(target) > 253 {
		return "", false
	}
	labels, numeric := 0, false
	for label := range strings.SplitSeq(target, ".") {
		labels++
		if len(label) < 1 || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return "", false
		}
		numeric = true
		for i := range len(label) {
			c := label[i]
			digit := c >= '0' && c <= '9'
			if !digit && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && c != '-' && c != '_' {
				return "", false
			}
			numeric = numeric && digit
		}
	}
	// Only now: some letters outside ASCII have a lower case inside it.
	name = strings.ToLower(target)
	if labels < 2 || numeric || under(name, "localhost") {
		return "", false
	}
	if !fromPrivate && slices.ContainsFunc(specialNames, func(zone string) bool { return under(name, zone) }) {
		return "", false
	}
	return name, true
}

// under reports whether name is zone or below it.
func under(name, zone string) bool {
	head, ok := strings.CutSuffix(name, zone)
	return ok && (head == "" || head[len(head)-1] == '.')
}

// candidates are the host names among several PTR targets, the shortest first,
// then alphabetically: resolvers rotate answers, and rotation must not show.
func candidates(targets []string, fromPrivate bool) []string {
	var list []string
	for _, t := range targets {
		if n, ok := hostname(t, fromPrivate); ok {
			list = append(list, n)
		}
	}
	slices.SortFunc(list, func(a, b string) int {
		return cmp.Or(cmp.Compare(len(a), len(b)), strings.Compare(a, b))
	})
	return slices.Compact(list)
}
