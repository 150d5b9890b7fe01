// Package proxyproto reads the PROXY protocol header (versions 1 and 2, as the
// HAProxy project specifies them) that a balancer puts in front of a datagram, or
// of a connection's first octets. It is pure. A datagram holds its header as a
// whole; on a connection Whole says whether to read on.
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

	// max1 is the longest header of version 1, its end of line included.
	max1 = 107
	// fixed2 is the part of version 2 before the addresses: signature, version
	// and command, family and transport, length.
	fixed2 = 16
)

// ErrHeader is wrapped by all errors of Parse.
var ErrHeader = errors.New("PROXY header")

func bad(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrHeader, fmt.Errorf(format, args...))
}

// Has reports whether a datagram begins as a PROXY header does. No version of
// NetFlow or IPFIX does.
func Has(pkt []byte) bool {
	return bytes.HasPrefix(pkt, []byte(begin1)) || bytes.HasPrefix(pkt, []byte(begin2))
}

// Parse reads the header in front of a datagram: its length in octets and the
// source that it names, unmapped and without zone. The source is not valid where
// the header names none (version 1: UNKNOWN; version 2: LOCAL, or a family that
// is not IP): the sender speaks for itself.
func Parse(pkt []byte) (source netip.AddrPort, n int, err error) {
	switch {
	case bytes.HasPrefix(pkt, []byte(begin2)):
		return parse2(pkt)
	case bytes.HasPrefix(pkt, []byte(begin1)):
		return parse1(pkt)
	}
	return source, 0, bad("neither version 1 nor 2")
}

// Whole reports whether what came over a connection so far holds all of a header,
// or none: more octets change nothing.
func Whole(b []byte) bool {
	begins := func(s string) bool { n := min(len(b), len(s)); return string(b[:n]) == s[:n] }
	switch {
	case begins(begin1):
		return len(b) >= max1 || bytes.Contains(b, []byte("\r\n"))
	case begins(begin2):
		return len(b) >= fixed2 && len(b) >= fixed2+int(binary.BigEndian.Uint16(b[14:]))
	}
	return true
}

// parse1 reads "PROXY TCP4 source destination port port\r\n". There is no word
// for UDP: balancers say TCP4 and TCP6 for it too.
func parse1(pkt []byte) (source netip.AddrPort, n int, err error) {
	end := bytes.Index(pkt[:min(len(pkt), max1)], []byte("\r\n"))
	if end < 0 {
		return source, 0, bad("version 1 has no end of line within %d octets", max1)
	}
	words := bytes.Split(pkt[len(begin1):end], []byte(" "))
	if family := string(words[0]); family == "UNKNOWN" {
		return source, end + 2, nil
	} else if family != "TCP4" && family != "TCP6" {
		return source, 0, bad("version 1 is of %.20q: want TCP4, TCP6 or UNKNOWN", family)
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

// parse2 reads the binary form; what follows the addresses (TLVs) is passed over.
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
	size := map[byte]int{1: 4, 2: 16}[family>>4] // of an address
	if size == 0 {
		return source, n, nil
	}
	if want := 2*size + 4; rest < want {
		return source, 0, bad("version 2 has %d octets of addresses: want %d", rest, want)
	}
	a, _ := netip.AddrFromSlice(pkt[fixed2 : fixed2+size]) // of one of the two sizes
	return netip.AddrPortFrom(a.Unmap(), binary.BigEndian.Uint16(pkt[fixed2+2*size:])), n, nil
}
