// Package proxyproto parses the PROXY protocol header (versions 1 and 2 of the HAProxy project's
// specification) that a balancer puts in front of a datagram or at the start of a connection. It is
// pure. A datagram always holds its whole header. On a connection, the caller must read until Complete
// returns true, and then call Parse.
package proxyproto

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
)

const (
	begin1 = "PROXY "
	begin2 = "\r\n\r\n\x00\r\nQUIT\n"

	// max1 is the longest header of version 1 with its CRLF, octets.
	max1 = 107
	// fixed2 is the length of a version 2 header before the addresses, octets: signature (12),
	// version and command (1), family and transport (1), length of the remainder (2).
	fixed2 = 16
)

// ErrHeader is wrapped by all errors of Parse.
var ErrHeader = errors.New("PROXY header")

func bad(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrHeader, fmt.Errorf(format, args...))
}

// HasHeader reports whether a datagram begins with the signature of a PROXY header. No version of
// NetFlow or IPFIX begins with these octets.
func HasHeader(pkt []byte) bool {
	return bytes.HasPrefix(pkt, []byte(begin1)) || bytes.HasPrefix(pkt, []byte(begin2))
}

// Parse parses the header at the start of pkt. It returns the source address that the header names,
// unmapped and without zone, and the length of the header in octets. The source is invalid (IsValid is
// false) if the header names none, because the proxy sends on its own behalf: version 1 with UNKNOWN,
// version 2 with LOCAL or a family other than IP. Errors wrap ErrHeader.
func Parse(pkt []byte) (source netip.AddrPort, n int, err error) {
	switch {
	case bytes.HasPrefix(pkt, []byte(begin2)):
		return parse2(pkt)
	case bytes.HasPrefix(pkt, []byte(begin1)):
		return parse1(pkt)
	}
	return source, 0, bad("neither version 1 nor 2")
}

// Complete reports whether b, the first octets of a connection, is long enough for Parse: it holds a
// complete header, or it cannot become a header however many octets follow.
func Complete(b []byte) bool {
	begins := func(s string) bool { n := min(len(b), len(s)); return string(b[:n]) == s[:n] }
	switch {
	case begins(begin1):
		return len(b) >= max1 || bytes.Contains(b, []byte("\r\n"))
	case begins(begin2):
		return len(b) >= fixed2 && len(b) >= fixed2+int(binary.BigEndian.Uint16(b[14:]))
	}
	return true
}

// parse1 parses "PROXY TCP4 source destination sourceport destinationport\r\n". Version 1 has no word
// for UDP: balancers send TCP4 and TCP6 for it too.
func parse1(pkt []byte) (source netip.AddrPort, n int, err error) {
	end := bytes.Index(pkt[:min(len(pkt), max1)], []byte("\r\n"))
	if end < 0 {
		return source, 0, bad("version 1 has no end of line within %d octets", max1)
	}
	words := bytes.Split(pkt[len(begin1):end], []byte(" "))
	if family := string(words[0]); family == "UNKNOWN" {
		return source, end + 2, nil
	} else if family != "TCP4" && family != "TCP6" {
		return source, 0, bad("version 1 has family %.20q: want TCP4, TCP6 or UNKNOWN", family)
	}
	if len(words) != 5 {
		return source, 0, bad("version 1 has %d words: want two addresses and two ports after the family", len(words)+1)
	}
	from, err := endpoint(words[1], words[3])
	if err != nil {
		return source, 0, err
	}
	if _, err = endpoint(words[2], words[4]); err != nil {
		return source, 0, err
	}
	return from, end + 2, nil
}

func endpoint(addr, port []byte) (netip.AddrPort, error) {
	a, err := netip.ParseAddr(string(addr))
	if err != nil {
		return netip.AddrPort{}, bad("version 1: %w", err)
	}
	p, err := strconv.ParseUint(string(port), 10, 16)
	if err != nil {
		return netip.AddrPort{}, bad("version 1: port %.20q: want 0 to 65535", port)
	}
	return netip.AddrPortFrom(a.Unmap().WithZone(""), uint16(p)), nil
}

// parse2 parses the binary form of version 2. It skips the TLVs after the addresses.
func parse2(pkt []byte) (source netip.AddrPort, n int, err error) {
	if len(pkt) < fixed2 {
		return source, 0, bad("version 2 has %d octets: want at least %d", len(pkt), fixed2)
	}
	command, family := pkt[12], pkt[13]
	rest := int(binary.BigEndian.Uint16(pkt[14:]))
	if n = fixed2 + rest; n > len(pkt) {
		return source, 0, bad("version 2 states %d octets, the datagram has %d", n, len(pkt))
	}
	if command>>4 != 2 || command&15 > 1 {
		return source, 0, bad("version 2 with version and command %#02x: want 0x20 (LOCAL) or 0x21 (PROXY)", command)
	}
	if command&15 == 0 {
		return source, n, nil
	}
	size := map[byte]int{1: 4, 2: 16}[family>>4] // octets of an address; 1 is AF_INET, 2 AF_INET6
	if size == 0 {
		return source, n, nil
	}
	if want := 2*size + 4; rest < want {
		return source, 0, bad("version 2 has %d octets of addresses: want %d", rest, want)
	}
	a, _ := netip.AddrFromSlice(pkt[fixed2 : fixed2+size]) // cannot fail: size is 4 or 16
	return netip.AddrPortFrom(a.Unmap(), binary.BigEndian.Uint16(pkt[fixed2+2*size:])), n, nil
}
