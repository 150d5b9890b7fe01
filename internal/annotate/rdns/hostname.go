package rdns

import (
	"cmp"
	"slices"
	"strings"
)

// specialNames are top-level names that have a meaning in a single network, or none at all (RFC 6761 and its
// registry). Such a name is accepted only from a resolver for special-use addresses: anybody could put it into a
// public reverse zone.
var specialNames = []string{
	"local", "invalid", "test", "onion", "alt", "home.arpa", "in-addr.arpa", "ip6.arpa",
}

// hostname returns the target of a PTR record as a host name. The holder of the reverse zone chooses the text
// freely (markup, terminal control sequences, another address), so a target that is not a plain host name is
// refused, never repaired.
//
// ok means: at most 253 octets; at least two labels of 1 to 63 letters, digits, '-' and '_', which neither begin
// nor end with '-' (RFC 1123 section 2.1, and '_', which is common); the last label not numeric, so that no
// address looks like a name; not below localhost; below another special-use name only if fromPrivate. Punycode
// is not decoded: the result could imitate other names.
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
	// After the check of the characters: some letters outside of ASCII have a lower case within it.
	name = strings.ToLower(target)
	if labels < 2 || numeric || inDomain(name, "localhost") {
		return "", false
	}
	if !fromPrivate && slices.ContainsFunc(specialNames, func(zone string) bool { return inDomain(name, zone) }) {
		return "", false
	}
	return name, true
}

// inDomain reports whether name is zone or lies below it.
func inDomain(name, zone string) bool {
	head, ok := strings.CutSuffix(name, zone)
	return ok && (head == "" || head[len(head)-1] == '.')
}

// candidates returns the valid host names among several PTR targets, the shortest first, then in alphabetical
// order: resolvers rotate answers, and the result must not depend on that.
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
