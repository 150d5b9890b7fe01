package capture

import (
	"encoding/binary"
	"testing"

	"github.com/gopacket/gopacket/layers"
)

// ipv6 returns a packet 2001:db8::1 → 2001:db8::2 with extension headers in content.
func ipv6(next byte, content []byte) []byte {
	b := make([]byte, 40)
	b[0], b[6], b[7] = 0x60, next, 64
	binary.BigEndian.PutUint16(b[4:], uint16(len(content)))
	copy(b[8:], "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01")
	copy(b[24:], "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02")
	return append(b, content...)
}

func join(parts ...[]byte) []byte {
	var b []byte
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

func TestParseFrame(t *testing.T) {
	var (
		v4  = ipv4(nil, udp(2055, "data"))
		v6  = ipv6(protoUDP, udp(2055, "data"))
		mod = func(b []byte, at int, to byte) []byte { b = append([]byte(nil), b...); b[at] = to; return b }
		ext = func(next byte, units byte, size int) []byte {
			b := make([]byte, size)
			b[0], b[1] = next, units
			return b
		}
		frag = func(next byte, offset uint16) []byte {
			return []byte{next, 0, byte(offset >> 8), byte(offset), 0, 0, 0, 9}
		}
	)
	tests := []struct {
		name string
		link layers.LinkType
		in   []byte
		want verdict
	}{
		{"Ethernet, IPv4", 1, join(ether(0x0800), v4), isUDP},
		{"Ethernet, IPv6", 1, join(ether(0x86dd), v6), isUDP},
		{"one VLAN tag", 1, join(ether(0x8100), []byte{0, 7, 8, 0}, v4), isUDP},
		{"stacked VLAN tags", 1, join(ether(0x88a8), []byte{0, 7, 0x81, 0}, []byte{0, 8, 0x86, 0xdd}, v6), isUDP},
		{"three VLAN tags of old types", 1, join(ether(0x9200), []byte{0, 7, 0x91, 0}, []byte{0, 8, 0x81, 0}, []byte{0, 9, 8, 0}, v4), isUDP},
		{"a VLAN tag that is cut", 1, join(ether(0x8100), []byte{0, 7, 8}), isCut},
		{"ARP", 1, join(ether(0x0806), make([]byte, 28)), isOther},
		{"an Ethernet header that is cut", 1, ether(0x0800)[:13], isCut},
		{"Linux cooked", 113, join(make([]byte, 14), []byte{8, 0}, v4), isUDP},
		{"Linux cooked, IPv6", 113, join(make([]byte, 14), []byte{0x86, 0xdd}, v6), isUDP},
		{"Linux cooked with a VLAN tag", 113, join(make([]byte, 14), []byte{0x81, 0, 0, 7, 8, 0}, v4), isUDP},
		{"Linux cooked, cut", 113, make([]byte, 15), isCut},
		{"Linux cooked version 2", 276, join([]byte{8, 0}, make([]byte, 18), v4), isUDP},
		{"Linux cooked version 2 with a VLAN tag", 276, join([]byte{0x81, 0}, make([]byte, 18), []byte{0, 7, 0x86, 0xdd}, v6), isUDP},
		{"Linux cooked version 2, cut", 276, join([]byte{8, 0}, make([]byte, 17)), isCut},
		{"BSD loopback of a little-endian machine", 0, join([]byte{2, 0, 0, 0}, v4), isUDP},
		{"BSD loopback of a big-endian machine", 0, join([]byte{0, 0, 0, 2}, v4), isUDP},
		{"macOS loopback, IPv6", 0, join([]byte{30, 0, 0, 0}, v6), isUDP},
		{"OpenBSD loopback, IPv6", 108, join([]byte{0, 0, 0, 24}, v6), isUDP},
		{"BSD loopback of another family", 0, join([]byte{7, 0, 0, 0}, v4), isOther},
		{"raw IPv4", 101, v4, isUDP},
		{"raw IPv6", 101, v6, isUDP},
		{"raw, DLT_RAW as it is", 12, v4, isUDP},
		{"raw IPv4 by its own link type", 228, v4, isUDP},
		{"raw IPv6 by its own link type", 229, v6, isUDP},
		{"raw and empty", 101, nil, isCut},
		{"raw of IP version 5", 101, mod(v4, 0, 0x55), isOther},
		{"an unknown link type", 105, v4, isOtherLink},

		{"IPv4 with options", 101, ipv4([]byte{1, 1, 1, 0, 1, 1, 1, 0}, udp(2055, "data")), isUDP},
		{"IPv4 with an Ethernet trailer", 101, append(append([]byte(nil), v4...), 0, 0, 0), isUDP},
		{"IPv4 of total length 0 is as long as the frame", 101, mod(v4, 3, 0), isUDP},
		{"IPv4 with don't fragment", 101, mod(v4, 6, 0x40), isUDP},
		{"IPv4 header length below 20", 101, mod(v4, 0, 0x44), isMalformed},
		{"IPv4 total length within the header", 101, mod(v4, 3, 19), isMalformed},
		{"IPv4 first fragment", 101, mod(v4, 6, 0x20), isFragment},
		{"IPv4 later fragment", 101, mod(v4, 7, 1), isFragment},
		{"IPv4 longer than the frame", 101, v4[:len(v4)-1], isCut},
		{"IPv4 header that is cut", 101, v4[:19], isCut},
		{"TCP", 101, mod(v4, 9, 6), isOther},
		{"UDP header beyond the packet", 101, ipv4(nil, udp(1, "")[:7]), isMalformed},
		{"UDP length below 8", 101, mod(v4, 25, 7), isMalformed},
		{"UDP length above the packet", 101, mod(v4, 25, 13), isMalformed},
		{"UDP length 0 is as long as the packet", 101, mod(v4, 25, 0), isUDP},

		{"IPv6 with an Ethernet trailer", 101, append(append([]byte(nil), v6...), 0, 0), isUDP},
		{"IPv6 of length 0 is as long as the frame", 101, mod(v6, 5, 0), isUDP},
		{"hop-by-hop and destination options", 101, ipv6(0, join(ext(60, 0, 8), ext(17, 1, 16), udp(2055, "data"))), isUDP},
		{"a routing header", 101, ipv6(43, join(ext(17, 2, 24), udp(2055, "data"))), isUDP},
		{"an authentication header counts in 4 octets", 101, ipv6(51, join(ext(17, 4, 24), udp(2055, "data"))), isUDP},
		{"an atomic fragment is whole", 101, ipv6(44, join(frag(17, 0), udp(2055, "data"))), isUDP},
		{"IPv6 first fragment", 101, ipv6(44, join(frag(17, 1), udp(2055, "data"))), isFragment},
		{"IPv6 later fragment", 101, ipv6(44, join(frag(17, 8), []byte("rest"))), isFragment},
		{"fragments of TCP are none of UDP", 101, ipv6(44, join(frag(6, 8), []byte("rest"))), isOther},
		{"an extension header beyond the packet", 101, ipv6(60, ext(17, 9, 16)), isMalformed},
		{"IPv6 longer than the frame", 101, v6[:len(v6)-1], isCut},
		{"ICMPv6", 101, ipv6(58, make([]byte, 8)), isOther},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var d Datagram
			if got := parseFrame(tt.link, tt.in, &d); got != tt.want {
				t.Fatalf("want verdict %d, got %d", tt.want, got)
			}
			if tt.want != isUDP {
				return
			}
			if d.Src.Port() != 4000 || d.Dst.Port() != 2055 || string(d.Payload) != "data" {
				t.Errorf("want 4000 → 2055 with %q, got %v → %v with %q", "data", d.Src, d.Dst, d.Payload)
			}
			if want := map[bool]string{true: "192.0.2.1", false: "2001:db8::1"}[d.Src.Addr().Is4()]; d.Src.Addr().String() != want {
				t.Errorf("want source %s, got %s", want, d.Src.Addr())
			}
		})
	}
}

func FuzzParseFrame(f *testing.F) {
	f.Add(uint16(1), join(ether(0x8100), []byte{0, 7, 8, 0}, ipv4(nil, udp(1, "a"))))
	f.Add(uint16(276), join([]byte{8, 0}, make([]byte, 18), ipv4(make([]byte, 8), udp(1, "a"))))
	f.Add(uint16(0), join([]byte{30, 0, 0, 0}, ipv6(44, join([]byte{17, 0, 0, 0, 0, 0, 0, 1}, udp(1, "a")))))
	f.Add(uint16(101), ipv6(0, join([]byte{51, 0, 0, 0, 0, 0, 0, 0}, []byte{17, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, udp(1, "a"))))
	f.Fuzz(func(t *testing.T, link uint16, b []byte) {
		var d Datagram
		v := parseFrame(layers.LinkType(link), b, &d)
		if v == isUDP && (len(d.Payload)+28 > len(b) || !d.Src.IsValid() || !d.Dst.IsValid()) {
			t.Fatalf("%d octets of payload from %d octets, %v → %v", len(d.Payload), len(b), d.Src, d.Dst)
		}
		if v != isUDP && d.Payload != nil {
			t.Fatalf("verdict %d with a payload", v)
		}
	})
}
