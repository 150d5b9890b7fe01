package query

import (
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"strconv"
	"strings"
)

// parseValue returns the value of a word or text. Of a network without a length, which a netmask must follow, the
// Prefix is not valid. The name of a service is returned as Text.
func parseValue(def property, t *token, inList bool) (v Value, err error) {
	s := t.text
	switch def.form {
	case formAddress, formHost:
		return parseHost(def, t, inList)
	case formNetwork:
		v.Prefix, err = parseNetwork(s, inList)
		return v, err
	case formProtocol:
		if n, ok := protocolNumbers()[strings.ToLower(s)]; ok {
			return Value{Number: n, Last: n}, nil
		}
		if v.Number, err = parseNumber(s, nil, def.most); err != nil {
			err = fmt.Errorf("%w; want a protocol's number, 0 to 255, or name, such as tcp", err)
		}
	case formPort:
		return parsePort(s, def.most)
	case formFlags:
		return parseFlagsValue(s)
	case formMAC:
		v.Number, err = parseMAC(s)
	case formDuration:
		v.Number, err = parseNumber(s, durations, def.most)
	case formRate:
		v.Number, err = parseNumber(s, rates, def.most)
	case formDirection:
		switch strings.ToLower(s) {
		case "ingress", "0":
		case "egress", "1":
			v.Number = 1
		default:
			err = errors.New("want ingress (0) or egress (1)")
		}
	case formText:
		if s == "" {
			return v, errors.New("want a text that is not empty")
		}
		return Value{Text: s}, nil
	case formInterface:
		if s != "" && (t.kind == quoted || s[0] < '0' || s[0] > '9') && s[0] != '-' {
			return Value{Text: s}, nil
		}
		v.Number, err = parseNumber(s, powers, def.most)
	default:
		v.Number, err = parseNumber(s, powers, def.most)
	}
	v.Last = v.Number
	return v, err
}

// parseHost returns an address, a network in a list, or the pattern of a name.
func parseHost(def property, t *token, inList bool) (v Value, err error) {
	if a, err := parseAddress(t.text); err == nil && t.kind == word {
		v.Prefix = netip.PrefixFrom(a, a.BitLen())
		return v, nil
	}
	if inList && strings.Contains(t.text, "/") {
		v.Prefix, err = parseNetwork(t.text, true)
		return v, err
	}
	// A name has a letter, and an IPv6 address a colon.
	isName := t.kind == quoted || strings.ContainsFunc(t.text, func(r rune) bool {
		return r == '*' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= 0x80
	})
	switch {
	case def.form == formHost && isName && t.text != "" && !strings.ContainsAny(t.text, ":/"):
		return Value{Text: t.text}, nil
	case strings.Contains(t.text, "/"):
		return v, fmt.Errorf("%q is a network: want net %s", t.text, t.text)
	}
	return v, fmt.Errorf("%q is not an address", t.text)
}

// parseAddress parses an address without a zone. IPv4 in the form of IPv6 is IPv4.
func parseAddress(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err == nil && a.Zone() != "" {
		return a, errors.New("a zone has no meaning here")
	}
	return a.Unmap(), err
}

// parseNetwork parses ADDRESS/LENGTH. Of an IPv4 address trailing octets of 0 may be left out, and host bits may be
// set. An address without a length gives a Prefix that is not valid, and in a list that of the host.
func parseNetwork(s string, inList bool) (p netip.Prefix, err error) {
	text, length, ok := strings.Cut(s, "/")
	if !strings.Contains(text, ":") {
		for range 3 - strings.Count(text, ".") {
			text += ".0"
		}
	}
	a, err := parseAddress(text)
	switch {
	case err != nil:
		return p, fmt.Errorf("%q is not a network: want ADDRESS/LENGTH", s)
	case !ok && inList:
		return netip.PrefixFrom(a, a.BitLen()), nil
	case !ok && a.Is4() && strings.Count(s, ".") == 3:
		return p, nil
	case !ok:
		return p, fmt.Errorf("want the length of the prefix after the address: %s/LENGTH", s)
	}
	n, err := strconv.ParseUint(length, 10, 8)
	if err != nil || int(n) > a.BitLen() {
		return p, fmt.Errorf("%q is not the length of a prefix: want 0 to %d", length, a.BitLen())
	}
	return netip.PrefixFrom(a, int(n)).Masked(), nil
}

// withNetmask returns the network of an IPv4 address and a netmask.
func withNetmask(a netip.Addr, mask string) (netip.Prefix, error) {
	m, err := netip.ParseAddr(mask)
	if err != nil || !m.Is4() || !a.Is4() {
		return netip.Prefix{}, errors.New("want the length of the prefix, ADDRESS/LENGTH, or a netmask")
	}
	octets := m.As4()
	n := uint32(octets[0])<<24 | uint32(octets[1])<<16 | uint32(octets[2])<<8 | uint32(octets[3])
	ones := bits.LeadingZeros32(^n)
	if n<<ones != 0 {
		return netip.Prefix{}, fmt.Errorf("%s is not a netmask: its ones must come first", mask)
	}
	return netip.PrefixFrom(a, ones).Masked(), nil
}

// parsePort returns a port, a range of ports, or the name of a service as Text.
func parsePort(s string, most uint64) (v Value, err error) {
	if s == "" || s[0] < '0' || s[0] > '9' {
		if s == "" || s[0] == '-' {
			return v, fmt.Errorf("%q is not a port", s)
		}
		return Value{Text: s}, nil
	}
	first, last, isRange := strings.Cut(s, "-")
	if v.Number, err = parseNumber(first, powers, most); err != nil {
		return v, err
	}
	v.Last = v.Number
	if isRange {
		if v.Last, err = parseNumber(last, powers, most); err == nil && v.Last < v.Number {
			err = fmt.Errorf("%s is not a range: the first port is greater", s)
		}
	}
	return v, err
}

// parseFlagsValue returns flags that must be set, the exact flags of a number, or those of LETTERS/LETTERS: of the
// flags after the stroke those before it must be set, and no others.
func parseFlagsValue(s string) (v Value, err error) {
	if s != "" && s[0] >= '0' && s[0] <= '9' {
		v.Number, err = parseNumber(s, nil, 0xff)
		v.Last = exactFlags
		return v, err
	}
	set, of, ok := strings.Cut(s, "/")
	var known bool
	if v.Number, known = parseFlags(set); !known && (!ok || set != "") {
		return v, fmt.Errorf("%q are not TCP flags: want letters of %s, X for the first six, or a number", s, flagsInOrder)
	}
	v.Last = v.Number
	if ok {
		if v.Last, known = parseFlags(of); !known || v.Number&^v.Last != 0 {
			return v, fmt.Errorf("%q are not TCP flags: want SET/OF, such as S/SA, with all of SET among OF", s)
		}
	}
	return v, nil
}

// parseMAC returns the number of six octets, separated by colons.
func parseMAC(s string) (n uint64, err error) {
	parts := strings.Split(s, ":")
	for _, p := range parts {
		octet, err := strconv.ParseUint(p, 16, 8)
		if err != nil || len(p) > 2 || len(parts) != 6 {
			return 0, fmt.Errorf("%q is not a MAC address: want 00:11:22:33:44:55", s)
		}
		n = n<<8 | octet
	}
	return n, nil
}
