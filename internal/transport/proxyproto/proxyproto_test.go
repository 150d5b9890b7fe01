package proxyproto

import (
	"encoding/hex"
	"errors"
	"net/netip"
	"strings"
	"testing"
)

const signature = "0d0a0d0a000d0a515549540a"

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestHeaders has rows for sections 2.1 and 2.2 of the PROXY protocol's specification.
func TestHeaders(t *testing.T) {
	for _, tt := range []struct {
		name   string
		pkt    []byte
		source string // "": the header names no source
		n      int
		fails  bool
	}{
		{"version 1, IPv4", []byte("PROXY TCP4 192.0.2.1 198.51.100.2 40000 2055\r\n\x00\x05"), "192.0.2.1:40000", 46, false},
		{"version 1, IPv6", []byte("PROXY TCP6 2001:db8::1 2001:db8::2 40000 2055\r\n"), "[2001:db8::1]:40000", 47, false},
		{"version 1, IPv4 in IPv6", []byte("PROXY TCP6 ::ffff:192.0.2.1 ::ffff:198.51.100.2 1 2\r\n"), "192.0.2.1:1", 53, false},
		{"version 1, unknown", []byte("PROXY UNKNOWN\r\nx"), "", 15, false},
		{"version 1, unknown with addresses", []byte("PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n"), "", 59, false},
		{"version 1, UDP4 is not a family of it", []byte("PROXY UDP4 192.0.2.1 198.51.100.2 40000 2055\r\n"), "", 0, true},
		{"version 1, no end", []byte("PROXY TCP4 192.0.2.1 198.51.100.2 40000 2055"), "", 0, true},
		{"version 1, an end beyond 107 octets", []byte("PROXY UNKNOWN " + strings.Repeat("x", 92) + "\r\n"), "", 0, true},
		{"version 1, the longest", []byte("PROXY UNKNOWN " + strings.Repeat("x", 91) + "\r\n"), "", 107, false},
		{"version 1, a port too large", []byte("PROXY TCP4 192.0.2.1 198.51.100.2 65536 2055\r\n"), "", 0, true},
		{"version 1, a name", []byte("PROXY TCP4 router 198.51.100.2 40000 2055\r\n"), "", 0, true},
		{"version 1, a word too many", []byte("PROXY TCP4 192.0.2.1 198.51.100.2 40000 2055 x\r\n"), "", 0, true},
		{"version 1, the beginning alone", []byte("PROXY "), "", 0, true},
		{"version 2, UDP over IPv4", unhex(t, signature+"21 12 000c c0000201 c6336402 9c40 0807 0005"), "192.0.2.1:40000", 28, false},
		{
			"version 2, UDP over IPv6",
			unhex(t, signature+"21 22 0024 20010db8000000000000000000000001 20010db8000000000000000000000002 9c40 0807"),
			"[2001:db8::1]:40000", 52, false,
		},
		{"version 2, with a TLV behind the addresses", unhex(t, signature+"21 12 0011 c0000201 c6336402 9c40 0807 0400020000 0005"), "192.0.2.1:40000", 33, false},
		{"version 2, local", unhex(t, signature+"20 00 0000 0005"), "", 16, false},
		{"version 2, local: addresses do not count", unhex(t, signature+"20 12 000c c0000201 c6336402 9c40 0807"), "", 28, false},
		{"version 2, a family that is not IP", unhex(t, signature+"21 00 0003 aabbcc"), "", 19, false},
		{"version 2, longer than the datagram", unhex(t, signature+"21 12 000d c0000201 c6336402 9c40 0807"), "", 0, true},
		{"version 2, shorter than its addresses", unhex(t, signature+"21 12 000b c0000201 c6336402 9c40 08"), "", 0, true},
		{"version 2, a version to come", unhex(t, signature+"31 12 000c c0000201 c6336402 9c40 0807"), "", 0, true},
		{"version 2, an unknown command", unhex(t, signature+"22 12 000c c0000201 c6336402 9c40 0807"), "", 0, true},
		{"version 2, the signature alone", unhex(t, signature), "", 0, true},
		{"NetFlow", unhex(t, "0005000100000000"), "", 0, true},
		{"nothing", nil, "", 0, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var want netip.AddrPort
			if tt.source != "" {
				want = netip.MustParseAddrPort(tt.source)
			}
			source, n, err := Parse(tt.pkt)
			if source != want || n != tt.n || errors.Is(err, ErrHeader) != tt.fails {
				t.Errorf("want %v, %d octets, failure %v; got %v, %d, %v", want, tt.n, tt.fails, source, n, err)
			}
		})
	}
}

// FuzzParse checks that a header lies within its datagram, and that a source is bare: neither mapped
// nor with a zone.
func FuzzParse(f *testing.F) {
	f.Add([]byte("PROXY TCP4 192.0.2.1 198.51.100.2 40000 2055\r\n"))
	f.Add([]byte("PROXY TCP6 fe80::1%eth0 2001:db8::2 40000 2055\r\n"))
	f.Add(unhex(f, signature+"21 12 000c c0000201 c6336402 9c40 0807"))
	f.Add(unhex(f, signature+"21 22 0024 00000000000000000000ffffc0000201 20010db8000000000000000000000002 9c40 0807"))
	f.Fuzz(func(t *testing.T, pkt []byte) {
		source, n, err := Parse(pkt)
		switch {
		case err != nil && (n != 0 || source.IsValid()):
			t.Errorf("%v, %d octets, and the failure %v", source, n, err)
		case err == nil && (n < 15 || n > len(pkt) || !HasHeader(pkt)):
			t.Errorf("a header of %d octets in %d", n, len(pkt))
		case source.IsValid() && (source.Addr().Is4In6() || source.Addr().Zone() != ""):
			t.Errorf("source %v", source)
		}
	})
}

func BenchmarkParse(b *testing.B) {
	for name, pkt := range map[string][]byte{
		"v1": []byte("PROXY TCP4 192.0.2.1 198.51.100.2 40000 2055\r\n"),
		"v2": unhex(b, signature+"21 12 000c c0000201 c6336402 9c40 0807"),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := Parse(pkt); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
